// Stagehand 4: it brings an extension, which it uploads for every browser, and which speaks CDP to the browser that it
// runs in. The program is stagehand4/client.mjs, for a newer Node than these tests need.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { eventually, KEY, leavesNothingBehind, serverForThisFile, test, within } from "./support.mjs";

const DIR = fileURLToPath(new URL("stagehand4", import.meta.url));
const NODE = `${DIR}/node_modules/.bin/node`;
const server = serverForThisFile({ DISCONNECT_GRACE_SECONDS: "1" });

/** The program, and what it tells. */
function stagehand(doing) {
  assert.ok(existsSync(NODE), `${NODE} is not there: scripts/test-e2e installs it`);
  const program = spawn(NODE, ["client.mjs", doing, server.url, KEY, `${server.pages.url}/form`], {
    cwd: DIR,
    env: { PATH: process.env.PATH, HOME: process.env.HOME },
    stdio: ["ignore", "pipe", "pipe"],
  });
  process.once("exit", () => program.kill("SIGKILL"));
  let said = "";
  for (const stream of [program.stdout, program.stderr]) stream.setEncoding("utf8").on("data", (text) => (said += text));
  const ended = once(program, "exit").then(([code, signal]) => signal ?? code);
  const told = eventually(
    "it tells what it read",
    () => {
      const line = said.split("\n").find((line) => line.startsWith("{") && line.endsWith("}"));
      return line ? JSON.parse(line) : assert.fail(said);
    },
    60_000,
  );
  return { told, ended: () => within(30_000, "the program ends", ended), kill: () => program.kill("SIGKILL"), said: () => said };
}

const view = async (id) => (await server.request("GET", `/v1/sessions/${id}`)).body;

/** What is kept of extensions, by its ending. */
function kept(ending) {
  const [redis] = readdirSync(`${server.tmpdir}/wallcrawler`).filter((name) => name.startsWith("redis-"));
  const files = readdirSync(`${server.tmpdir}/wallcrawler/${redis}/files/extensions`, { recursive: true });
  return files.filter((name) => name.endsWith(ending)).length;
}

async function greets() {
  const program = stagehand("greets");
  const { session, greeting } = await program.told;
  assert.equal(greeting, "Hello, Grace");
  assert.equal(await program.ended(), 0, program.said());
  const ended = await view(session);
  assert.equal(ended.status, "COMPLETED");
  assert.equal(ended.userMetadata.stagehand, "true");
  return session;
}

test("told nothing but a base URL it opens a page, fills in a form, reads the answer and ends its session", async () => {
  const session = await greets();
  assert.equal(await server.endReason(session), "released");
});

test("twice at once, each in a session of its own, with one archive for all", async () => {
  const [one, two] = await Promise.all([greets(), greets()]);
  assert.notEqual(one, two);
  assert.deepEqual([kept(".zip"), kept(".json")], [1, 0], "each deleted what it had uploaded");
});

test("killed, it leaves a session that ends by itself, though its extension had a socket of its own", async () => {
  const program = stagehand("stays");
  const { session } = await program.told;
  assert.equal((await server.get(session)).activeConnections, 2, "the program's, and its extension's");
  program.kill();
  assert.equal(await program.ended(), "SIGKILL");
  assert.equal(await server.endReason(session), "disconnected");
});

leavesNothingBehind(server);
