// The stage of the tests: the built server with a Redis and a TMPDIR of its own, and a small client for its API.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { after, before, test as nodeTest } from "node:test";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";

import { eventually, within } from "./eventually.mjs";
import { startPages } from "./pages.mjs";
import { canSeeProcesses, processesOf } from "./processes.mjs";

export { eventually, within };

// Interrupted, a test still ends through its `exit` listeners: no server outlives it.
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

export const serverBinary = process.env.WALLCRAWLER_BIN ?? fileURLToPath(new URL("../../target/debug/wallcrawler", import.meta.url));
export const KEY = "key-one";
export const OTHER_KEY = "key-two";
const LOG_LINES_SHOWN = 80;

/** A test with a deadline: a browser that hangs is a failure, not a wait. */
export const test = (sentence, run) => nodeTest(sentence, { timeout: 90_000 }, run);

/** The server all tests of a file share, and pages for its browsers to visit. The file's last test stops it. */
export function serverForThisFile(settings = {}) {
  const server = new Server(settings);
  before(async () => {
    server.pages = await startPages();
    await server.start();
  });
  after(() => {
    server.pages?.stop();
    server.kill();
  });
  return server;
}

/** The last test of each file. */
export const leavesNothingBehind = (server) =>
  nodeTest("stopped, the server exits 0 and leaves no process and no file", { timeout: 60_000 }, () => server.stop());

export class Server {
  #settings;
  #log = [];
  #process;
  #ended;

  constructor(settings) {
    this.#settings = settings;
  }

  /** Starts the binary and waits until it is ready. */
  async start() {
    assert.ok(existsSync(serverBinary), `${serverBinary} is not there: \`cargo build\` makes it, or set WALLCRAWLER_BIN`);
    // Short, because the path of a Unix socket must fit into 107 characters; outside any TMPDIR of our own.
    this.tmpdir = mkdtempSync("/tmp/wc-e2e-");
    const port = await freePort();
    this.url = `http://127.0.0.1:${port}`;
    this.#process = spawn(serverBinary, [], {
      env: { ...inheritedEnvironment(), TMPDIR: this.tmpdir, PORT: String(port), API_KEYS: `${KEY},${OTHER_KEY}`, ...this.#settings },
      stdio: ["ignore", "pipe", "pipe"],
      // A group of its own, so that a test can send it what a terminal's Ctrl-C sends.
      detached: true,
    });
    this.#ended = once(this.#process, "exit").then(([code, signal]) => signal ?? code);
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => this.#log.push(text));
    }
    process.on("exit", (code) => {
      this.kill();
      if (code !== 0) console.error(`\nThe server's log ends:\n${this.logTail()}\n`);
    });
    let ended;
    this.#ended.then((how) => (ended = how));
    const ready = async () => ended !== undefined || (await fetch(`${this.url}/ready`)).ok;
    await eventually(`${this.url}/ready answers 200`, ready, 20_000);
    assert.equal(ended, undefined, "the server ended before it was ready");
  }

  get pid() {
    return this.#process.pid;
  }

  logTail() {
    return this.#log.join("").split("\n").slice(-LOG_LINES_SHOWN).join("\n");
  }

  /** Ends the server as an operator would, and checks what it leaves: nothing. */
  async stop() {
    this.#process.kill("SIGTERM");
    assert.equal(await this.exited(), 0, "SIGTERM is an orderly end");
    await this.assertNothingIsLeft();
  }

  /** How the server ended: its exit code, or the signal that ended it. */
  exited(deadlineMs = 20_000) {
    return within(deadlineMs, "the server ends", this.#ended);
  }

  /** What Ctrl-C in a terminal does: every process of the group gets the signal at once. */
  interrupt() {
    process.kill(-this.pid, "SIGINT");
  }

  /** Ends the server at once, without a chance to clean up. */
  crash() {
    this.#process.kill("SIGKILL");
  }

  async assertNothingIsLeft() {
    await this.assertNoProcessIsLeft();
    assert.deepEqual(readdirSync(this.tmpdir), [], "the server's TMPDIR is empty");
  }

  async assertNoProcessIsLeft(deadlineMs = 2_000) {
    if (!canSeeProcesses) {
      console.log("not checked: left-over processes, because this system has no /proc");
      return;
    }
    const commands = () => processesOf(this.tmpdir).map(({ pid, command }) => `${pid} ${command.slice(0, 120)}`);
    await eventually("no process of the server is left", () => commands().length === 0, deadlineMs).catch((error) => {
      throw new Error(`${error.message}\n${commands().join("\n")}`);
    });
  }

  /** The safety net for a test run that fails half-way; after a `stop` there is nothing left for it to do. */
  kill() {
    if (!this.tmpdir) return;
    if (this.#process?.exitCode === null && this.#process.signalCode === null) this.#process.kill("SIGKILL");
    if (canSeeProcesses) killAll(() => processesOf(this.tmpdir));
    rmSync(this.tmpdir, { recursive: true, force: true });
  }

  /** One request to the API: `{status, headers, body}`, whatever the status. */
  async request(method, path, { key = KEY, body } = {}) {
    const response = await fetch(this.url + path, {
      method,
      headers: { "x-api-key": key, ...(body && { "content-type": "application/json" }) },
      body: body && JSON.stringify(body),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text ? JSON.parse(text) : undefined };
  }

  async #expect(status, method, path, options) {
    const answer = await this.request(method, path, options);
    assert.equal(answer.status, status, `${method} ${path}: ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  create(body = {}, options) {
    return this.#expect(201, "POST", "/sessions", { ...options, body });
  }

  get(id, options) {
    return this.#expect(200, "GET", `/sessions/${id}`, options);
  }

  list(options) {
    return this.#expect(200, "GET", "/sessions", options);
  }

  delete(id, options) {
    return this.#expect(200, "DELETE", `/sessions/${id}`, options);
  }

  /** Waits until the session has ended, and says why it did. */
  async endReason(id, deadlineMs = 10_000) {
    const session = await eventually(
      `session ${id} has ended`,
      async () => {
        const { status, endReason } = await this.get(id);
        return status === "ended" ? { endReason } : assert.fail(`its status is ${status}`);
      },
      deadlineMs,
    );
    return session.endReason;
  }
}

/** An open WebSocket; `closed` gives the code and the reason it ends with. */
export async function openSocket(url, options) {
  const socket = new WebSocket(url, options);
  const closed = new Promise((done) => socket.on("close", (code, reason) => done({ code, reason: reason.toString() })));
  await once(socket, "open");
  socket.on("error", () => {}); // a close follows, and says it all
  return { socket, closed: (deadlineMs = 10_000) => within(deadlineMs, "the socket is closed", closed) };
}

/** How a WebSocket upgrade is refused: the status and the JSON that come instead of 101. */
export async function refusedUpgrade(url, options) {
  const socket = new WebSocket(url, options);
  const refused = once(socket, "unexpected-response").then(async ([, response]) => {
    let text = "";
    for await (const chunk of response.setEncoding("utf8")) text += chunk;
    return { status: response.statusCode, body: JSON.parse(text) };
  });
  const opened = once(socket, "open").then(() => {
    socket.terminate();
    assert.fail("the upgrade was accepted");
  });
  return within(15_000, "the upgrade is answered", Promise.race([refused, opened]));
}

/** Kills until nobody is left: what is being killed may just be starting another process. */
function killAll(processes) {
  const deadline = Date.now() + 5_000;
  for (let left = processes(); left.length > 0 && Date.now() < deadline; left = processes()) {
    for (const { pid } of left) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it was quicker
      }
    }
    // This also runs when the test process exits, where nothing can be awaited.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  }
}

/** What the server may know of this machine: where programs and browsers are, nothing of the tester's configuration. */
function inheritedEnvironment() {
  const names = ["PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "RUST_LOG", "RUST_BACKTRACE", "CHROME_PATH", "CHROME_HEADLESS_SHELL_PATH"];
  return Object.fromEntries(names.filter((name) => name in process.env).map((name) => [name, process.env[name]]));
}

async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}
