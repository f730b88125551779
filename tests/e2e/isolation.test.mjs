// What one session has, no other has; what one user has, no other user sees.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

import { eventually, leavesNothingBehind, OTHER_KEY, refusedUpgrade, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile();

const open = async (session) => {
  const browser = await chromium.connectOverCDP(session.connectUrl);
  return { browser, page: browser.contexts()[0].pages()[0] };
};

test("cookies and local storage of one session are not in another", async () => {
  const sessions = await Promise.all([server.create(), server.create()]);
  const [one, two] = await Promise.all(sessions.map(open));

  await one.page.goto(server.pages.url);
  await one.page.evaluate(() => {
    document.cookie = "secret=of-one";
    localStorage.setItem("secret", "of-one");
  });
  await two.page.goto(`${server.pages.url}/page/Two`);
  await one.page.goto(`${server.pages.url}/page/One`);

  assert.equal(server.pages.cookiesSentTo("/page/One"), "secret=of-one");
  assert.equal(server.pages.cookiesSentTo("/page/Two"), "");
  assert.equal(await one.page.evaluate(() => localStorage.getItem("secret")), "of-one");
  assert.equal(await two.page.evaluate(() => localStorage.getItem("secret")), null);
  assert.equal(await two.page.evaluate(() => document.cookie), "");

  await Promise.all([one.browser.close(), two.browser.close()]);
  await Promise.all(sessions.map(({ id }) => server.delete(id)));
});

test("two sockets on one session see each other's pages", async () => {
  const session = await server.create();
  const [one, two] = await Promise.all([open(session), open(session)]);
  assert.equal((await server.get(session.id)).activeConnections, 2);

  await one.page.goto(`${server.pages.url}/page/Shared`);
  await eventually("the second client sees where the first one went", () => two.page.url().endsWith("/page/Shared"));
  assert.equal(await two.page.title(), "Shared");

  await one.browser.close();
  assert.equal(await two.page.evaluate(() => document.title), "Shared", "the other socket lives on");
  await two.browser.close();
  await server.delete(session.id);
});

test("another user's session does not exist", async () => {
  const session = await server.create();
  for (const method of ["GET", "DELETE"]) {
    const { status, body } = await server.request(method, `/sessions/${session.id}`, { key: OTHER_KEY });
    assert.equal(status, 404);
    assert.equal(body.code, "session_not_found");
  }
  assert.ok(!JSON.stringify(await server.list({ key: OTHER_KEY })).includes(session.id), "not in the list either");
  assert.ok(JSON.stringify(await server.list()).includes(session.id), "but in its owner's");
  assert.notEqual((await server.get(session.id)).status, "ended");
  await server.delete(session.id);
});

test("the token of one session does not open another", async () => {
  const [mine, theirs] = await Promise.all([server.create(), server.create({}, { key: OTHER_KEY })]);
  const url = theirs.connectUrl.replace(theirs.token, mine.token);
  assert.notEqual(url, theirs.connectUrl);
  const { status } = await refusedUpgrade(url);
  assert.ok([401, 403, 404].includes(status), `it is refused with ${status}`);
  await server.delete(mine.id);
  await server.delete(theirs.id, { key: OTHER_KEY });
});

leavesNothingBehind(server);
