// The example program does what the README says it does.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { KEY, leavesNothingBehind, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile();
const example = fileURLToPath(new URL("../../examples/open_a_page.mjs", import.meta.url));

/** Runs the example in an empty directory: `{code, stdout, stderr, screenshot?}`. */
async function runExample(settings) {
  const directory = mkdtempSync(join(tmpdir(), "wc-example-"));
  try {
    const options = { cwd: directory, env: { ...process.env, ...settings } };
    const outcome = await promisify(execFile)(process.execPath, [example], options).then(
      (output) => ({ code: 0, ...output }),
      (error) => error,
    );
    const screenshot = outcome.code === 0 ? readFileSync(join(directory, "page.png")) : undefined;
    return { code: outcome.code, stdout: outcome.stdout, stderr: outcome.stderr, screenshot };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test("the example opens a page, keeps a picture of it and releases its session", async () => {
  const { code, stdout, stderr, screenshot } = await runExample({ WALLCRAWLER_URL: server.url, WALLCRAWLER_API_KEY: KEY });
  assert.equal(code, 0, stderr);
  assert.match(stdout, /Hello from WallCrawler/);
  assert.match(stdout, /released/);
  assert.equal(screenshot.toString("latin1", 1, 4), "PNG");
});

test("without a server the example says how to start one", async () => {
  const { code, stderr } = await runExample({ WALLCRAWLER_URL: "http://127.0.0.1:1" });
  assert.equal(code, 1);
  assert.match(stderr, /make run/);
  assert.doesNotMatch(stderr, /^\s+at /m, "and shows no stack trace");
});

test("with a wrong key the example says so", async () => {
  const { code, stderr } = await runExample({ WALLCRAWLER_URL: server.url, WALLCRAWLER_API_KEY: "wrong" });
  assert.equal(code, 1);
  assert.match(stderr, /401/);
  assert.match(stderr, /WALLCRAWLER_API_KEY/);
});

leavesNothingBehind(server);
