// An extension of one's own: uploaded with @browserbasehq/sdk, unmodified, and loaded by the browser of a session.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { after } from "node:test";
import Browserbase from "@browserbasehq/sdk";
import { chromium } from "playwright-core";

import { eventually, KEY, leavesNothingBehind, OTHER_KEY, serverForThisFile, test, within } from "./support.mjs";
import { zip } from "./zip.mjs";

// As it may be found: with what was forgotten long ago, or should have been.
const files = mkdtempSync("/tmp/wc-e2e-files-");
const [old, recent] = [91, 80].map((days) => {
  const [dir, at] = [`${files}/extensions/somebody`, Date.now() / 1000 - days * 86_400];
  mkdirSync(dir, { recursive: true });
  writeFileSync(`${dir}/of-${days}-days.zip`, "x");
  utimesSync(`${dir}/of-${days}-days.zip`, at, at);
  return `${dir}/of-${days}-days.zip`;
});
after(() => rmSync(files, { recursive: true }));

const server = serverForThisFile({ DISCONNECT_GRACE_SECONDS: "1", STORAGE_DIR: files });
const sdk = (options = {}) => new Browserbase({ apiKey: KEY, baseURL: server.url, ...options });

const MANIFEST = {
  manifest_version: 3,
  name: "Of my own",
  version: "1.0",
  background: { service_worker: "worker.js" },
  content_scripts: [{ matches: ["<all_urls>"], js: ["page.js"] }],
  permissions: ["declarativeNetRequest"],
  declarative_net_request: { rule_resources: [{ id: "rules", enabled: true, path: "rules.json" }] },
};
const RULES = [{ id: 1, action: { type: "block" }, condition: { urlFilter: "/page/Blocked", resourceTypes: ["main_frame"] } }];
const archive = (dir = "") =>
  new File(
    [
      zip({
        [`${dir}manifest.json`]: JSON.stringify(MANIFEST),
        [`${dir}worker.js`]: "globalThis.calledIt = chrome.runtime.getManifest().name;",
        [`${dir}page.js`]: "document.documentElement.dataset.seenBy = 'my own';",
        [`${dir}rules.json`]: JSON.stringify(RULES),
      }),
    ],
    "extension.zip",
  );

test("an extension is uploaded, looked up and deleted", async () => {
  const bb = sdk();
  const made = await bb.extensions.create({ file: archive() });
  assert.equal(made.fileName, "extension.zip");
  assert.deepEqual(await bb.extensions.retrieve(made.id), made);
  await assert.rejects(sdk({ apiKey: OTHER_KEY }).extensions.retrieve(made.id), Browserbase.NotFoundError);
  await assert.rejects(sdk({ apiKey: OTHER_KEY }).sessions.create({ extensionId: made.id }), /400 extensionId: /);
  await bb.extensions.delete(made.id);
  await assert.rejects(bb.extensions.retrieve(made.id), Browserbase.NotFoundError);
  await assert.rejects(bb.extensions.create({ file: new File(["no zip"], "e.zip") }), /400 file: must be a zip archive/);
});

for (const [how, dir] of [["the files alone", ""], ["their directory", "of-my-own/"]]) {
  test(`zipped as ${how} it is loaded: its worker, its script in pages, and its rules`, async () => {
    const bb = sdk();
    const { id } = await bb.extensions.create({ file: archive(dir) });
    const session = await bb.sessions.create({ extensionId: id });
    // It is the session's by now.
    await bb.extensions.delete(id);
    const browser = await chromium.connectOverCDP(session.connectUrl);
    const [context] = browser.contexts();
    const worker = context.serviceWorkers()[0] ?? (await within(10_000, "the worker", context.waitForEvent("serviceworker")));
    assert.equal(await worker.evaluate(() => globalThis.calledIt), "Of my own");
    const [page] = context.pages();
    await page.goto(`${server.pages.url}/form`);
    assert.equal(await page.evaluate(() => document.documentElement.dataset.seenBy), "my own");
    await assert.rejects(page.goto(`${server.pages.url}/page/Blocked`), /ERR_BLOCKED_BY_CLIENT/);
    await browser.close();
    assert.equal(await server.endReason(session.id), "disconnected");
  });
}

test("what was uploaded three months ago is removed, and nothing younger", async () => {
  await eventually("the old file is gone", () => !existsSync(old));
  assert.ok(existsSync(recent));
  const kept = readdirSync(`${files}/extensions`, { recursive: true });
  assert.deepEqual(kept.filter((name) => name.endsWith(".json")), [], "of those above their archives are left");
});

leavesNothingBehind(server);
