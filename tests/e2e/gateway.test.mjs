// Through API Gateway's WebSocket API, which the server plays itself: strict about its limits, and with messages that
// overtake each other, as they do where each is a function's invocation.

import assert from "node:assert/strict";
import { Stagehand } from "@browserbasehq/stagehand";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

import { leavesNothingBehind, serverForThisFile, test, within } from "./support.mjs";

const ROUNDS = 20;
const LANES = 5;
const server = serverForThisFile({
  WEBSOCKET_API_ID: "local",
  EMULATOR_DELAY_SECONDS: "0.03",
  DISCONNECT_GRACE_SECONDS: "1",
});

const connect = (session) => puppeteer.connect({ browserWSEndpoint: session.connectUrl, defaultViewport: null });
const firstPage = async (browser) => (await browser.pages())[0];

async function stagehandOn(session) {
  const stagehand = new Stagehand({
    env: "LOCAL",
    localBrowserLaunchOptions: { cdpUrl: session.connectUrl },
    verbose: 0,
    disablePino: true,
    logger: () => {},
  });
  await stagehand.init();
  return stagehand;
}

/** All rounds, some of them at the same time. */
async function rounds(run) {
  const lane = async (first) => {
    for (let round = first; round < ROUNDS; round += LANES) await run(round);
  };
  await Promise.all(Array.from({ length: LANES }, (_, first) => lane(first)));
}

test("a session's connectUrl leads to the gateway", async () => {
  const session = await server.create();
  assert.equal(new URL(session.connectUrl).pathname, "/gateway/prod");
  await server.delete(session.id);
});

test(`Puppeteer navigates, types, clicks and reads, ${ROUNDS} times`, async () => {
  await rounds(async (round) => {
    const session = await server.create();
    const browser = await connect(session);
    const page = await firstPage(browser);
    await page.goto(`${server.pages.url}/form`);
    await page.type("#name", "Grace");
    await page.click("#greet");
    assert.equal(await page.$eval("#greeting", (greeting) => greeting.textContent), "Hello, Grace", `round ${round}`);
    await browser.close();
    assert.equal(await server.endReason(session.id), "released");
  });
});

test(`Stagehand 3 navigates, types, clicks and reads, ${ROUNDS} times`, async () => {
  await rounds(async (round) => {
    const session = await server.create();
    const stagehand = await stagehandOn(session);
    const page = stagehand.context.pages()[0];
    await page.goto(`${server.pages.url}/form`);
    await page.locator("#name").fill("Grace");
    await page.locator("#greet").click();
    assert.equal(await page.locator("#greeting").textContent(), "Hello, Grace", `round ${round}`);
    await stagehand.close();
    // It only closes its socket.
    assert.equal(await server.endReason(session.id), "disconnected");
  });
});

test("a screenshot that is too large for the gateway is an error that says so, and the connection lives on", async () => {
  const session = await server.create({ browserSettings: { viewport: { width: 1280, height: 720 } } });
  const browser = await connect(session);
  const page = await firstPage(browser);
  await page.goto(`${server.pages.url}/noise`);
  await assert.rejects(page.screenshot(), (error) => {
    assert.match(error.message, /131072/, "the limit");
    assert.match(error.message, /CDP_ENDPOINT/, "the way out");
    return true;
  });
  assert.equal(await page.title(), "Noise");
  const small = await page.screenshot({ type: "jpeg", quality: 1, clip: { x: 0, y: 0, width: 200, height: 200 } });
  assert.deepEqual([...small.slice(0, 2)], [0xff, 0xd8], "a JPEG");
  await browser.close();
});

test("a PDF comes in pieces that fit", async () => {
  const session = await server.create();
  const browser = await connect(session);
  const page = await firstPage(browser);
  await page.goto(`${server.pages.url}/noise`);
  const pdf = Buffer.from(await page.pdf({ printBackground: true }));
  assert.equal(pdf.toString("latin1", 0, 5), "%PDF-");
  assert.ok(pdf.length > 256 * 1024, `it is larger than any message may be: ${pdf.length}`);
  assert.match(pdf.toString("latin1", pdf.length - 8), /%%EOF/, "it is whole");
  await browser.close();
});

test("Playwright is told why it cannot, and what to do", async () => {
  const session = await server.create();
  await assert.rejects(chromium.connectOverCDP(session.connectUrl), (error) => {
    assert.match(error.message, /400/);
    assert.match(error.message, /Playwright cannot work through an API Gateway WebSocket/);
    assert.match(error.message, /CDP_ENDPOINT or ALB_DNS_NAME/);
    return true;
  });
  assert.equal((await server.get(session.id)).activeConnections, 0);
  await server.delete(session.id);
});

test("a connection ends with its session", async () => {
  const session = await server.create();
  const browser = await connect(session);
  const disconnected = new Promise((resolve) => browser.once("disconnected", resolve));
  await server.delete(session.id);
  await within(5_000, "the gateway closes the connection", disconnected);
});

test("many pages at once are kept apart", async () => {
  const session = await server.create();
  const browser = await connect(session);
  const titles = await Promise.all(
    Array.from({ length: 5 }, async (_, index) => {
      const page = await browser.newPage();
      await page.goto(`${server.pages.url}/page/page${index}`);
      return page.title();
    }),
  );
  assert.deepEqual(titles, ["page0", "page1", "page2", "page3", "page4"]);
  await browser.close();
});

leavesNothingBehind(server);
