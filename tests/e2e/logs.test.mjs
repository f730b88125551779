// What is said in a session is had from the API, with the SDK of Browserbase: while it runs, and right after its end.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import Browserbase from "@browserbasehq/sdk";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

import { KEY, leavesNothingBehind, OTHER_KEY, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile({ DISCONNECT_GRACE_SECONDS: "1" });
const sdk = (apiKey = KEY) => new Browserbase({ apiKey, baseURL: server.url, maxRetries: 0 });
const released = (bb, id) => bb.sessions.update(id, { status: "REQUEST_RELEASE" });
const PAGE = "data:text/html,<title>Logged</title>";

/** The entries of what a client has had a page do: each with its answer, and of the page that it was said to. */
function visits(logs, id) {
  assert.ok(Array.isArray(logs) && logs.every((log) => log.sessionId === id), "a list of its own entries");
  const found = logs.filter((log) => log.method === "Page.navigate");
  for (const log of found) {
    assert.equal(log.request.params.url, PAGE);
    assert.equal(JSON.parse(log.request.rawBody).method, "Page.navigate");
    assert.equal(log.frameId, log.response.result.frameId);
    assert.ok(log.response.timestamp >= log.request.timestamp && log.timestamp === log.request.timestamp);
  }
  const events = logs.filter((log) => log.method === "Page.frameNavigated" && !log.response);
  assert.ok(events.some((log) => log.request.params.frame.url === PAGE && log.pageId === found[0]?.pageId), "an event of it");
  return found.map((log) => log.pageId);
}

test("what Playwright and Puppeteer say is in the log while the session runs and right after its end, and only for its owner", async () => {
  const bb = sdk();
  const clients = [
    async (url) => {
      const browser = await chromium.connectOverCDP(url);
      const [page] = browser.contexts()[0].pages();
      await page.goto(PAGE);
      await (await browser.contexts()[0].newPage()).goto(PAGE);
      return () => browser.close();
    },
    async (url) => {
      const browser = await puppeteer.connect({ browserWSEndpoint: url, defaultViewport: null });
      const [page] = await browser.pages();
      await page.goto(PAGE);
      await (await browser.newPage()).goto(PAGE);
      return () => browser.disconnect();
    },
  ];
  for (const visit of clients) {
    const { id, connectUrl } = await bb.sessions.create({ keepAlive: true });
    const leave = await visit(connectUrl);
    const running = await bb.sessions.logs.list(id);
    assert.deepEqual(visits(running, id), [1, 2]);
    await leave();
    await released(bb, id);
    const left = await bb.sessions.logs.list(id);
    assert.deepEqual(visits(left, id), [1, 2]);
    assert.ok(left.length >= running.length, "asked for at once");
    await assert.rejects(sdk(OTHER_KEY).sessions.logs.list(id), Browserbase.NotFoundError);
  }
});

test("a session that wants no log has none", async () => {
  const bb = sdk();
  const { id, connectUrl } = await bb.sessions.create({ keepAlive: true, browserSettings: { logSession: false } });
  const browser = await chromium.connectOverCDP(connectUrl);
  await browser.contexts()[0].pages()[0].goto(PAGE);
  assert.deepEqual(await bb.sessions.logs.list(id), []);
  await browser.close();
  await released(bb, id);
});

const PYTHON = fileURLToPath(new URL("../../target/browserbase/bin/python", import.meta.url));
const PROGRAM = `
import sys
from browserbase import Browserbase
with Browserbase(_strict_response_validation=True) as bb:
    for log in bb.sessions.logs.list(sys.argv[1]):
        print(log.method, log.page_id, log.request.timestamp == log.timestamp, log.response is not None)
`;

test("every entry has what the Python client's types say, while the session runs and afterwards", async () => {
  assert.ok(existsSync(PYTHON), `${PYTHON} is not there: \`make prerequisites\` makes it`);
  const env = { PATH: process.env.PATH, BROWSERBASE_BASE_URL: server.url, BROWSERBASE_API_KEY: KEY };
  const read = async (id) => (await promisify(execFile)(PYTHON, ["-c", PROGRAM, id], { env, timeout: 60_000 })).stdout;
  const bb = sdk();
  const { id, connectUrl } = await bb.sessions.create({ keepAlive: true });
  const browser = await chromium.connectOverCDP(connectUrl);
  await browser.contexts()[0].pages()[0].goto(PAGE);
  assert.match(await read(id), /^Page\.navigate 1 True True$/m);
  await browser.close();
  await released(bb, id);
  assert.match(await read(id), /^Page\.navigate 1 True True$/m);
});

leavesNothingBehind(server);
