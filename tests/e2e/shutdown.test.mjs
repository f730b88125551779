// The end of the server itself, in the middle of its work.

import assert from "node:assert/strict";

import { browsersOf, canSeeProcesses } from "./processes.mjs";
import { eventually, openSocket, Server, test } from "./support.mjs";

/** A server with one connected session. */
async function busyServer(t) {
  const server = new Server({});
  t.after(() => server.kill());
  await server.start();
  const session = await server.create();
  const socket = await openSocket(session.connectUrl);
  if (canSeeProcesses) assert.ok(browsersOf(server.tmpdir).length > 0, "a browser runs");
  return { server, socket };
}

test("SIGTERM in the middle of a session closes the socket and leaves nothing behind", async (t) => {
  const { server, socket } = await busyServer(t);
  await server.stop();
  await socket.closed();
});

test("Ctrl-C in the middle of a session closes the socket and leaves nothing behind", async (t) => {
  const { server, socket } = await busyServer(t);
  server.interrupt();
  assert.ok([0, 130].includes(await server.exited()), "an orderly end");
  await socket.closed();
  await server.assertNothingIsLeft();
});

test("a server that is killed outright takes its Redis, its containers and its browsers with it", async (t) => {
  if (!canSeeProcesses) return t.skip("looking for left-over processes needs /proc");
  const { server } = await busyServer(t);
  server.crash();
  assert.equal(await server.exited(), "SIGKILL");
  await server.assertNoProcessIsLeft(15_000);
});

test("two servers side by side do not notice each other", async (t) => {
  const [one, two] = await Promise.all([busyServer(t), busyServer(t)]);
  await one.server.stop();
  const session = await two.server.create();
  await eventually("the other one still serves", async () => (await two.server.get(session.id)).status === "active");
  await two.server.stop();
});
