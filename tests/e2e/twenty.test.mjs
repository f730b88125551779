// Twenty users at once, from nothing, on two containers of ten.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

import { leavesNothingBehind, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile({ MAX_SESSIONS_PER_CONTAINER: "10", MAX_CONTAINERS: "2" });

test("twenty sessions, created and connected at once, fill exactly two containers", async () => {
  const twenty = Array.from({ length: 20 }, (_, index) => index);
  const sessions = await Promise.all(twenty.map((index) => server.create({ userMetadata: { index } })));
  assert.equal(new Set(sessions.map(({ id }) => id)).size, 20);

  const browsers = await Promise.all(sessions.map(({ connectUrl }) => chromium.connectOverCDP(connectUrl)));
  const titles = await Promise.all(
    browsers.map(async (browser, index) => {
      const page = browser.contexts()[0].pages()[0];
      await page.goto(`${server.pages.url}/page/Visitor${index}`);
      return page.title();
    }),
  );
  assert.deepEqual(titles, twenty.map((index) => `Visitor${index}`));

  const served = await Promise.all(sessions.map(({ id }) => server.get(id)));
  assert.deepEqual(new Set(served.map(({ status }) => status)), new Set(["active"]));
  const perContainer = new Map();
  for (const { containerId } of served) perContainer.set(containerId, (perContainer.get(containerId) ?? 0) + 1);
  assert.deepEqual([...perContainer.values()], [10, 10], JSON.stringify([...perContainer]));

  await Promise.all(browsers.map((browser) => browser.close()));
  await Promise.all(sessions.map(({ id }) => server.delete(id)));
});

leavesNothingBehind(server);
