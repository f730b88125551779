// Playwright, unmodified, over connectOverCDP.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

import { leavesNothingBehind, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile();

/** A new session with Playwright on it; released at the end, whatever happens. */
async function withPlaywright(run) {
  const session = await server.create();
  const browser = await chromium.connectOverCDP(session.connectUrl);
  try {
    return await run(browser.contexts()[0].pages()[0], browser, session);
  } finally {
    await browser.close();
    await server.delete(session.id);
  }
}

test("connects right after create, though no container and no browser runs yet", async () => {
  await withPlaywright(async (page, browser, session) => {
    assert.equal(browser.contexts().length, 1);
    assert.equal(browser.contexts()[0].pages().length, 1, "a fresh browser has one page");
    await page.goto(server.pages.url);
    assert.equal(await page.title(), "Front page");
    const now = await server.get(session.id);
    assert.equal(now.status, "active");
    assert.equal(now.activeConnections, 1);
  });
});

test("navigates, types, clicks and reads", async () => {
  await withPlaywright(async (page) => {
    await page.goto(`${server.pages.url}/form`);
    await page.getByPlaceholder("Your name").fill("Ada");
    await page.getByRole("button", { name: "Greet" }).click();
    assert.equal(await page.locator("#greeting").textContent(), "Hello, Ada");
  });
});

test("takes a full-page screenshot of more than 19 MB in one message", async () => {
  await withPlaywright(async (page) => {
    const side = 2600;
    await page.goto(server.pages.url);
    await page.evaluate((side) => {
      document.body.style.margin = "0";
      document.body.innerHTML = `<canvas width="${side}" height="${side}" style="display: block">`;
      const context = document.querySelector("canvas").getContext("2d");
      const noise = context.createImageData(side, side);
      const pixels = new Uint32Array(noise.data.buffer);
      for (let i = 0; i < pixels.length; i++) pixels[i] = (Math.random() * 2 ** 32) | 0xff000000;
      context.putImageData(noise, 0, 0);
    }, side);
    const png = await page.screenshot({ fullPage: true });
    assert.ok(png.length > 19_000_000, `${png.length} bytes`);
    assert.equal(png.toString("latin1", 1, 4), "PNG");
    assert.deepEqual([png.readUInt32BE(16), png.readUInt32BE(20)], [side, side], "width and height");
  });
});

test("prints a page as PDF", async () => {
  await withPlaywright(async (page) => {
    await page.goto(server.pages.url);
    const pdf = await page.pdf();
    assert.equal(pdf.toString("latin1", 0, 5), "%PDF-");
  });
});

test("opens further contexts and pages in the same browser", async () => {
  await withPlaywright(async (_, browser) => {
    const context = await browser.newContext({ userAgent: "Tester/1" });
    const page = await context.newPage();
    await page.goto(`${server.pages.url}/page/Second`);
    assert.equal(await page.title(), "Second");
    assert.equal(await page.evaluate(() => navigator.userAgent), "Tester/1");
  });
});

for (const [how, endpoint] of [
  ["a token in the query", ({ id, token }) => [`${server.url}/sessions/${id}?token=${token}`]],
  ["a token in a header", ({ id, token }) => [`${server.url}/sessions/${id}`, { headers: { Authorization: `Bearer ${token}` } }]],
]) {
  test(`finds the browser through an http URL with ${how}`, async () => {
    const session = await server.create();
    const browser = await chromium.connectOverCDP(...endpoint(session));
    const page = browser.contexts()[0].pages()[0];
    await page.goto(server.pages.url);
    assert.equal(await page.title(), "Front page");
    await browser.close();
    await server.delete(session.id);
  });
}

test("is told the reason when its session has ended", async () => {
  const session = await server.create();
  await server.delete(session.id);
  await assert.rejects(chromium.connectOverCDP(session.connectUrl), /410[^]*released/);
});

leavesNothingBehind(server);
