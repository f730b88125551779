// Puppeteer, unmodified, over browserWSEndpoint.

import assert from "node:assert/strict";
import puppeteer from "puppeteer-core";

import { eventually, leavesNothingBehind, serverForThisFile, test } from "./support.mjs";

const GRACE_SECONDS = 2;
const server = serverForThisFile({ DISCONNECT_GRACE_SECONDS: String(GRACE_SECONDS) });

const connect = (session) => puppeteer.connect({ browserWSEndpoint: session.connectUrl });
const firstPage = async (browser) => (await browser.pages())[0];

test("navigates, types and clicks", async () => {
  const session = await server.create();
  const browser = await connect(session);
  const page = await firstPage(browser);
  await page.goto(`${server.pages.url}/form`);
  await page.type("#name", "Grace");
  await page.click("#greet");
  assert.equal(await page.$eval("#greeting", (greeting) => greeting.textContent), "Hello, Grace");
  await browser.close();
});

test("takes screenshots and prints PDFs", async () => {
  const session = await server.create();
  const browser = await connect(session);
  const page = await firstPage(browser);
  await page.goto(server.pages.url);
  const png = Buffer.from(await page.screenshot());
  assert.equal(png.toString("latin1", 1, 4), "PNG");
  const pdf = Buffer.from(await page.pdf());
  assert.equal(pdf.toString("latin1", 0, 5), "%PDF-");
  await browser.close();
});

test("browser.close() releases the session", async () => {
  const session = await server.create();
  const browser = await connect(session);
  await browser.close();
  assert.equal(await server.endReason(session.id), "released");
});

test("browser.close() releases a session that is kept alive, too", async () => {
  const session = await server.create({ keepAlive: true });
  const browser = await connect(session);
  await browser.close();
  assert.equal(await server.endReason(session.id), "released");
});

test("browser.disconnect() ends the session once the grace time has passed", async () => {
  const session = await server.create();
  const browser = await connect(session);
  const disconnected = Date.now();
  await browser.disconnect();
  assert.equal(await server.endReason(session.id, (GRACE_SECONDS + 10) * 1000), "disconnected");
  const lasted = Date.now() - disconnected;
  assert.ok(lasted >= GRACE_SECONDS * 1000 - 100, `it was kept for ${lasted} ms only`);
});

test("whoever reconnects within the grace time finds the page as it was", async () => {
  const session = await server.create();
  const first = await connect(session);
  await (await firstPage(first)).goto(`${server.pages.url}/form`);
  await (await firstPage(first)).type("#name", "still here");
  await first.disconnect();

  const second = await connect(session);
  const page = await firstPage(second);
  assert.equal(page.url(), `${server.pages.url}/form`);
  assert.equal(await page.$eval("#name", (input) => input.value), "still here");

  // The grace time of the first disconnect must not end what has been taken up again.
  const deadline = Date.now() + GRACE_SECONDS * 1000 + 1_500;
  await eventually("the first grace time is over", () => Date.now() > deadline);
  assert.equal((await server.get(session.id)).status, "active");
  assert.equal(await page.evaluate(() => 6 * 7), 42);
  await second.close();
});

test("with keepAlive a disconnected session stays, with its page and its cookies", async () => {
  const session = await server.create({ keepAlive: true });
  const first = await connect(session);
  const page = await firstPage(first);
  await page.goto(server.pages.url);
  await page.evaluate(() => (document.cookie = "visit=first"));
  await first.disconnect();

  const deadline = Date.now() + GRACE_SECONDS * 1000 + 1_500;
  await eventually("the grace time is over", () => Date.now() > deadline);
  const kept = await server.get(session.id);
  assert.equal(kept.status, "active");
  assert.equal(kept.activeConnections, 0);

  const second = await connect(session);
  const found = await firstPage(second);
  assert.equal(found.url(), `${server.pages.url}/`);
  assert.equal(await found.evaluate(() => document.cookie), "visit=first");
  await second.disconnect();
  await server.delete(session.id);
  assert.equal(await server.endReason(session.id), "released");
});

leavesNothingBehind(server);
