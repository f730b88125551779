// The Python client of Browserbase, with strict validation of every answer: see tests/browserbase/client.py.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { KEY, leavesNothingBehind, serverForThisFile, test } from "./support.mjs";

const PYTHON = fileURLToPath(new URL("../../target/browserbase/bin/python", import.meta.url));
const PROGRAM = fileURLToPath(new URL("../browserbase/client.py", import.meta.url));
const server = serverForThisFile();

test("every answer has what the Python client's types say", async () => {
  assert.ok(existsSync(PYTHON), `${PYTHON} is not there: \`make prerequisites\` makes it`);
  const env = { PATH: process.env.PATH, BROWSERBASE_BASE_URL: server.url, BROWSERBASE_API_KEY: KEY };
  const { stdout } = await promisify(execFile)(PYTHON, [PROGRAM], { env, timeout: 60_000 });
  assert.equal(stdout, "all of it held\n");
});

leavesNothingBehind(server);
