// How sessions end, and what the client on the socket is told.
// (A session whose time is up needs at least a minute: the Rust tests have that, with a clock of their own.)

import assert from "node:assert/strict";

import { canSeeProcesses, browsersOf } from "./processes.mjs";
import { eventually, leavesNothingBehind, openSocket, refusedUpgrade, serverForThisFile, test } from "./support.mjs";

// No browser waits in reserve, so that the only one that runs is the session's.
const server = serverForThisFile({ WARM_BROWSERS: "0" });

test("DELETE closes the socket with 4002 and says released", async () => {
  const session = await server.create();
  const socket = await openSocket(session.connectUrl);
  const deleted = await server.delete(session.id);
  assert.equal(deleted.status, "ended");
  const { code, reason } = await socket.closed();
  assert.equal(code, 4002);
  assert.match(reason, /^released/);
  assert.equal(await server.endReason(session.id), "released");
  if (canSeeProcesses) await eventually("its browser is gone", () => browsersOf(server.tmpdir).length === 0);
});

test("DELETE is idempotent", async () => {
  const session = await server.create();
  await server.delete(session.id);
  const again = await server.delete(session.id);
  assert.equal(again.status, "ended");
  assert.equal(again.endReason, "released");
});

test("a browser that is killed closes the socket with 4003 and ends the session as crashed", async (t) => {
  if (!canSeeProcesses) return t.skip("finding the browser needs /proc");
  const session = await server.create();
  const socket = await openSocket(session.connectUrl);
  const [browser, ...more] = browsersOf(server.tmpdir);
  assert.ok(browser, "the session's browser runs");
  assert.deepEqual(more, [], "and no other");
  process.kill(browser.pid, "SIGKILL");
  const { code } = await socket.closed();
  assert.equal(code, 4003);
  assert.equal(await server.endReason(session.id), "browser_crashed");
});

test("a wrong token is refused with 401 and a JSON body", async () => {
  const session = await server.create();
  const { status, body } = await refusedUpgrade(session.connectUrl.replace(session.token, "no-such-token"));
  assert.equal(status, 401);
  assert.equal(body.statusCode, 401);
  assert.equal(typeof body.code, "string");
  assert.equal(typeof body.message, "string");
  await server.delete(session.id);
});

test("no token at all is refused with 401", async () => {
  const session = await server.create();
  const { status } = await refusedUpgrade(`${server.url.replace("http", "ws")}/sessions/${session.id}/ws`);
  assert.equal(status, 401);
  await server.delete(session.id);
});

test("an ended session is refused with 410, and the refusal names the reason", async () => {
  const session = await server.create();
  await server.delete(session.id);
  const { status, body } = await refusedUpgrade(session.connectUrl);
  assert.equal(status, 410);
  assert.match(JSON.stringify(body), /released/);
});

test("a session that never was is 404, for reading, ending and connecting", async () => {
  const session = await server.create();
  // As well-formed as the real one.
  const unknown = session.id.replace(/.{4}$/, (end) => (end === "0000" ? "1111" : "0000"));
  for (const method of ["GET", "DELETE"]) {
    const { status, body } = await server.request(method, `/sessions/${unknown}`);
    assert.equal(status, 404);
    assert.equal(body.code, "session_not_found");
  }
  // A token says which session it is for, so for this one there is none: 401 tells no more than 404 would.
  const { status } = await refusedUpgrade(session.connectUrl.replace(session.id, unknown));
  assert.ok([401, 404].includes(status), `it is refused with ${status}`);
  await server.delete(session.id);
});

leavesNothingBehind(server);
