// What a browser downloads is had from the API, and what the API is given can be chosen in pages: by the SDK of Browserbase,
// with each of the clients that drive its sessions.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, before } from "node:test";
import Browserbase from "@browserbasehq/sdk";
import { Stagehand } from "@browserbasehq/stagehand";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

import { eventually, KEY, leavesNothingBehind, OTHER_KEY, serverForThisFile, test } from "./support.mjs";
import { unzip } from "./zip.mjs";

const server = serverForThisFile({ DISCONNECT_GRACE_SECONDS: "1" });
const sdk = (apiKey = KEY) => new Browserbase({ apiKey, baseURL: server.url, maxRetries: 0 });

/** More than an answer of a function could carry. */
const REPORT = randomBytes(7_000_000);
const site = createServer((request, response) => {
  if (request.url === "/report") {
    response.writeHead(200, { "content-type": "application/pdf", "content-disposition": 'attachment; filename="report.pdf"' });
    return response.end(REPORT);
  }
  response.writeHead(200, { "content-type": "text/html" });
  response.end('<!doctype html><title>Files</title><a id="link" href="/report">report</a><input id="file" type="file">');
});
before(async () => {
  site.listen(0, "127.0.0.1");
  await once(site, "listening");
  site.url = `http://127.0.0.1:${site.address().port}/`;
});
after(() => {
  site.close();
  site.closeAllConnections();
});

/** The files that a session has downloaded, once there are so many. */
function downloads(bb, id, count) {
  return eventually(
    `${count} downloads of ${id}`,
    async () => {
      const response = await bb.sessions.downloads.list(id);
      assert.equal(response.headers.get("content-type"), "application/zip");
      const files = unzip(Buffer.from(await response.arrayBuffer()));
      return files.length === count ? files : assert.fail(`${files.length} files`);
    },
    15_000,
  );
}

function check(files) {
  for (const { name, content } of files) {
    assert.match(name, /^report-\d{13}\.pdf$/);
    assert.ok(content.equals(REPORT), "byte for byte");
  }
}

const released = (bb, id) => bb.sessions.update(id, { status: "REQUEST_RELEASE" });
const readFile = () => document.querySelector("#file").files[0]?.text();

test("what Playwright's session downloads is there while it runs and right after its end, and only for its owner", async () => {
  const bb = sdk();
  const { id, connectUrl } = await bb.sessions.create({ keepAlive: true });
  await downloads(bb, id, 0);
  const browser = await chromium.connectOverCDP(connectUrl);
  const page = browser.contexts()[0].pages()[0];
  await page.goto(site.url);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#link")]);
  assert.equal(download.suggestedFilename(), "report.pdf");
  check(await downloads(bb, id, 1));
  const again = page.waitForEvent("download");
  await page.click("#link");
  assert.equal(await (await again).failure(), null);
  await browser.close();
  await released(bb, id);
  const left = await bb.sessions.downloads.list(id);
  const files = unzip(Buffer.from(await left.arrayBuffer()));
  assert.equal(files.length, 2, "asked for at once, and once");
  check(files);
  await assert.rejects(sdk(OTHER_KEY).sessions.downloads.list(id), Browserbase.NotFoundError);
});

test("Puppeteer downloads to a directory of any name, and chooses a file that was uploaded", async () => {
  const bb = sdk();
  const { id, connectUrl } = await bb.sessions.create({ keepAlive: true });
  const text = `uploaded ${"x".repeat(2_000_000)}`;
  // It need not have a browser yet.
  const { message } = await bb.sessions.uploads.create(id, { file: new File([text], "my data.txt") });
  assert.match(message, /\/tmp\/\.uploads\/my data\.txt/);
  const browser = await puppeteer.connect({ browserWSEndpoint: connectUrl, defaultViewport: null });
  const [page] = await browser.pages();
  const client = await page.createCDPSession();
  await client.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: "downloads", eventsEnabled: true });
  await page.goto(site.url);
  const input = await page.$("#file");
  await input.uploadFile("/tmp/.uploads/my data.txt");
  assert.equal(await page.evaluate(readFile), text);
  for (const count of [1, 2]) {
    await page.click("#link");
    check(await downloads(bb, id, count));
  }
  await browser.disconnect();
  await released(bb, id);
  check(await downloads(bb, id, 2));
  await assert.rejects(sdk(OTHER_KEY).sessions.uploads.create(id, { file: new File(["x"], "x") }), Browserbase.NotFoundError);
});

test("Playwright chooses an uploaded file by CDP, as its own way looks for the file on the client's machine", async () => {
  const bb = sdk();
  const { id, connectUrl } = await bb.sessions.create({ keepAlive: true });
  const browser = await chromium.connectOverCDP(connectUrl);
  const page = browser.contexts()[0].pages()[0];
  await bb.sessions.uploads.create(id, { file: new File(["by playwright"], "x.txt") });
  await page.goto(site.url);
  const client = await page.context().newCDPSession(page);
  const { root } = await client.send("DOM.getDocument");
  const { nodeId } = await client.send("DOM.querySelector", { nodeId: root.nodeId, selector: "#file" });
  await client.send("DOM.setFileInputFiles", { nodeId, files: ["/tmp/.uploads/x.txt"] });
  assert.equal(await page.evaluate(readFile), "by playwright");
  await browser.close();
  await released(bb, id);
});

test("Stagehand 3 downloads and chooses as its documentation says", async () => {
  process.env.BROWSERBASE_BASE_URL = server.url;
  process.env.STAGEHAND_API_URL = server.url;
  process.env.BROWSERBASE_API_KEY = KEY;
  process.env.OPENAI_API_KEY = "unused";
  const bb = sdk();
  const made = new Stagehand({ env: "BROWSERBASE", verbose: 0, disablePino: true, disableAPI: true });
  await made.init();
  const id = made.browserbaseSessionID;
  const [page] = made.context.pages();
  await made.context.conn.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: "downloads", eventsEnabled: true });
  await bb.sessions.uploads.create(id, { file: new File(["by stagehand"], "x.txt") });
  await page.goto(site.url);
  const { root } = await page.sendCDP("DOM.getDocument");
  const { nodeId } = await page.sendCDP("DOM.querySelector", { nodeId: root.nodeId, selector: "#file" });
  await page.sendCDP("DOM.setFileInputFiles", { nodeId, files: ["/tmp/.uploads/x.txt"] });
  assert.equal(await page.evaluate(readFile), "by stagehand");
  await page.locator("#link").click();
  check(await downloads(bb, id, 1));
  await made.close();
  await released(bb, id);
  check(await downloads(bb, id, 1));
});

leavesNothingBehind(server);
