// Opens a page in a fresh browser, and says how long each step took.
//
//     make run                                        (in another terminal)
//     cd examples && npm ci && node open_a_page.mjs
//
// WALLCRAWLER_URL and WALLCRAWLER_API_KEY point it at another server.

import { createServer } from "node:http";
import { once } from "node:events";
import { chromium } from "playwright-core";

const server = process.env.WALLCRAWLER_URL ?? "http://127.0.0.1:8080";
const apiKey = process.env.WALLCRAWLER_API_KEY ?? "wc_dev";

/** One request to the API. A refusal becomes an error that says what to do about it. */
async function api(method, path, body) {
  const response = await fetch(server + path, {
    method,
    headers: { "x-api-key": apiKey, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  }).catch((error) => {
    throw new Error(`No server answers at ${server} (${error.cause?.code ?? error.message}). Start one with: make run`);
  });
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) {
    throw new Error("401: the server does not know this key. Set WALLCRAWLER_API_KEY to one it knows.");
  }
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${answer.message ?? response.statusText}`);
  return answer;
}

/** Runs one step, and prints what it took. */
async function timed(step, run) {
  const start = performance.now();
  const result = await run();
  console.log(`${step.padEnd(10)} ${(performance.now() - start).toFixed(0).padStart(6)} ms`);
  return result;
}

/** A page to visit, served from this very program. */
async function serveAPage() {
  const page = "<!doctype html><title>Hello from WallCrawler</title><h1>Hello from WallCrawler</h1>";
  const pages = createServer((_, response) => response.writeHead(200, { "content-type": "text/html" }).end(page));
  pages.listen(0, "127.0.0.1");
  await once(pages, "listening");
  return { url: `http://127.0.0.1:${pages.address().port}/`, stop: () => pages.close() && pages.closeAllConnections() };
}

async function main() {
  const session = await timed("create", () => api("POST", "/sessions", { timeout: 5 }));
  const site = await serveAPage();
  try {
    // No need to wait for the browser: the connection is held until it is there.
    const browser = await timed("connect", () => chromium.connectOverCDP(session.connectUrl));
    const page = browser.contexts()[0].pages()[0];
    await timed("goto", () => page.goto(site.url));
    await timed("screenshot", () => page.screenshot({ path: "page.png" }));
    console.log(`\ntitle      ${await page.title()}\npicture    page.png`);
    await browser.close();
  } finally {
    site.stop();
    await api("DELETE", `/sessions/${session.id}`);
  }
  const { status, endReason } = await api("GET", `/sessions/${session.id}`);
  console.log(`session    ${session.id}: ${status}, ${endReason}`);
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
