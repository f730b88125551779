// browserSettings, seen from inside the page.

import assert from "node:assert/strict";
import puppeteer from "puppeteer-core";

import { startProxy } from "./pages.mjs";
import { leavesNothingBehind, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile();

/** A session with these settings and the first page of its browser, which nothing has resized. */
async function withSettings(browserSettings, run) {
  const session = await server.create({ browserSettings });
  const browser = await puppeteer.connect({ browserWSEndpoint: session.connectUrl, defaultViewport: null });
  try {
    return await run((await browser.pages())[0], browser, session);
  } finally {
    await browser.close();
  }
}

test("a viewport is what the page has inside", async () => {
  await withSettings({ viewport: { width: 1000, height: 600 } }, async (page) => {
    await page.goto(server.pages.url);
    assert.deepEqual(await page.evaluate(() => [innerWidth, innerHeight]), [1000, 600]);
  });
});

test("a viewport holds for full Chromium too", async () => {
  await withSettings({ browser: "chromium", viewport: { width: 1000, height: 600 } }, async (page) => {
    await page.goto(server.pages.url);
    assert.deepEqual(await page.evaluate(() => [innerWidth, innerHeight]), [1000, 600]);
  });
});

test("full Chromium comes when it is asked for by name", async () => {
  await withSettings({ browser: "chromium" }, async (page, browser) => {
    // The headless shell calls itself HeadlessChrome here.
    assert.match(await browser.version(), /^Chrome\//);
    await page.goto(server.pages.url);
    assert.equal(await page.title(), "Front page");
  });
});

test("an allowed switch reaches the browser", async () => {
  // On Linux `--lang` is for the browser's own texts, and pages do not see it.
  await withSettings({ args: ["--accept-lang=de"] }, async (page) => {
    await page.goto(server.pages.url);
    assert.equal(await page.evaluate(() => navigator.language), "de");
  });
});

test("pages are fetched through the session's proxy", async () => {
  const proxy = await startProxy();
  await withSettings({ proxy: { server: proxy.url } }, async (page) => {
    await page.goto("http://shop.example/cart");
    assert.equal(await page.title(), "By proxy");
  });
  proxy.stop();
  assert.ok(proxy.asked.includes("http://shop.example/cart"), JSON.stringify(proxy.asked));
});

test("the settings come back with the address and the token a provider reads there", async () => {
  const session = await server.create({ browserSettings: { viewport: { width: 800, height: 500 } } });
  const { viewport, cdpUrl, token } = session.browserSettings;
  assert.deepEqual(viewport, { width: 800, height: 500 });
  assert.equal(cdpUrl, session.connectUrl);
  assert.equal(token, session.token);
  await server.delete(session.id);
});

for (const [browserSettings, field] of [
  [{ args: ["--user-data-dir=/"] }, "browserSettings.args[0]"],
  [{ args: ["--lang=de", "--remote-debugging-port=1"] }, "browserSettings.args[1]"],
  [{ browser: "firefox" }, "browserSettings.browser"],
  [{ viewport: { width: 0, height: 600 } }, "browserSettings.viewport.width"],
  [{ proxy: { server: "somewhere" } }, "browserSettings.proxy.server"],
]) {
  test(`what cannot be honoured is a 400 that names it: ${JSON.stringify(browserSettings)}`, async () => {
    const { status, body } = await server.request("POST", "/sessions", { body: { browserSettings } });
    assert.equal(status, 400);
    assert.ok(body.message.includes(field), body.message);
  });
}

leavesNothingBehind(server);
