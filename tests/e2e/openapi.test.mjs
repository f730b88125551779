// The running server held to its own description by schemathesis: no 500, no hang, no status, header or body that is not
// described, whoever asks. What is asked is drawn from a fixed seed: see tests/schemathesis/schemathesis.toml.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test as nodeTest } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { KEY, leavesNothingBehind, serverBinary, serverForThisFile, test } from "./support.mjs";

const run = promisify(execFile);
const PROGRAMS = fileURLToPath(new URL("../../target/schemathesis/bin", import.meta.url));
const CONFIG = fileURLToPath(new URL("../schemathesis/schemathesis.toml", import.meta.url));
const JWE_SECRET = "a secret of the tests, 32 bytes!";
const OPERATOR = "of-an-operator";
const operator = { sha256: createHash("sha256").update(OPERATOR).digest("hex"), userId: "olga", roles: ["client", "operator"] };

// Without containers no create starts a browser, and no upgrade waits long for one.
const server = serverForThisFile({
  JWE_SECRET,
  API_KEYS: JSON.stringify({ API_KEYS: [KEY, operator] }),
  MAX_CONTAINERS: "0",
  CONNECT_WAIT_SECONDS: "1",
});

test("the description is valid OpenAPI", async () => {
  const dir = mkdtempSync("/tmp/wc-openapi-");
  try {
    const file = join(dir, "openapi.json");
    writeFileSync(file, await (await fetch(`${server.url}/openapi.json`)).text());
    const { stdout } = await run(join(PROGRAMS, "openapi-spec-validator"), [file]);
    assert.match(stdout, /: OK\n$/);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

/** Most of half a minute, where nothing else runs. */
const longTest = (sentence, run) => nodeTest(sentence, { timeout: 300_000 }, run);

/** Asks for everything that is described, with this key. */
async function ask(key, ...options) {
  assert.ok(existsSync(PROGRAMS), `${PROGRAMS} is not there: \`make prerequisites\` makes it`);
  const token = async (...words) => (await run(serverBinary, ["token", ...words], { env: { JWE_SECRET } })).stdout.trim();
  const env = {
    PATH: process.env.PATH,
    HOME: server.tmpdir,
    API_KEY: key,
    CONTAINER_TOKEN: key ? await token("container", "my-machine") : "none",
    SERVICE_TOKEN: key ? await token("service") : "none",
  };
  const args = ["--config-file", CONFIG, "run", `${server.url}/openapi.json`, "--no-color", "--warnings", "off", ...options];
  const told = await run(join(PROGRAMS, "st"), args, { env, cwd: "/tmp", timeout: 280_000, maxBuffer: 1e8 }).catch((error) => error);
  assert.ok(!(told instanceof Error), `${told.message}\n${told.stdout}`);
}

longTest("an operator's key, and the tokens of containers, get what is described", () =>
  ask(OPERATOR, "--phases", "examples,coverage,fuzzing"));

longTest("without a key or with a wrong one the refusals are as they are described", async () => {
  for (const key of ["", "hunter2"]) await ask(key, "--phases", "coverage", "--mode", "positive");
});

leavesNothingBehind(server);
