// @browserbasehq/sdk, unmodified: one base URL is all that is changed. Playwright and Puppeteer on its sessions.

import assert from "node:assert/strict";
import { createServer, request as httpRequest } from "node:http";
import { once } from "node:events";
import Browserbase from "@browserbasehq/sdk";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

import { startProxy } from "./pages.mjs";
import { eventually, KEY, leavesNothingBehind, OTHER_KEY, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile({ DISCONNECT_GRACE_SECONDS: "1" });

const sdk = (options = {}) => new Browserbase({ apiKey: KEY, baseURL: server.url, ...options });
const hasStatus = (bb, id, status) =>
  eventually(`${id} is ${status}`, async () => (await bb.sessions.retrieve(id)).status === status || assert.fail("not yet"));

test("a session is created, driven by Playwright, and has ended with its connection", async () => {
  const bb = sdk();
  const session = await bb.sessions.create({ projectId: "of another service", api_timeout: 300, userMetadata: { job: "one" } });
  assert.equal(Date.parse(session.expiresAt) - Date.parse(session.createdAt), 300_000);
  const browser = await chromium.connectOverCDP(session.connectUrl);
  const page = browser.contexts()[0].pages()[0];
  await page.goto(`${server.pages.url}/form`);
  assert.equal(await page.title(), "Greeter");
  assert.equal((await bb.sessions.retrieve(session.id)).status, "RUNNING");
  await browser.close();
  await hasStatus(bb, session.id, "COMPLETED");
  // Their examples release what has ended by itself.
  const released = await bb.sessions.update(session.id, { status: "REQUEST_RELEASE", projectId: session.projectId });
  assert.equal(released.status, "COMPLETED");
  assert.equal(released.connectUrl, undefined);
});

test("Puppeteer drives a session that is kept alive, twice by the same URL, until it is released", async () => {
  const bb = sdk();
  const session = await bb.sessions.create({ keepAlive: true, browserSettings: { viewport: { width: 800, height: 600 } } });
  for (const url of [`${server.pages.url}/form`, server.pages.url]) {
    const browser = await puppeteer.connect({ browserWSEndpoint: session.connectUrl, defaultViewport: null });
    const [page] = await browser.pages();
    await page.goto(url);
    assert.equal(await page.evaluate(() => innerWidth), 800);
    await browser.disconnect();
  }
  assert.equal((await bb.sessions.update(session.id, { status: "REQUEST_RELEASE" })).status, "COMPLETED");
});

test("sessions are listed by status and metadata, and only one's own", async () => {
  const bb = sdk();
  const session = await bb.sessions.create({ userMetadata: { team: { name: "alpha" } }, keepAlive: true });
  const q = "user_metadata['team']['name']:'alpha'";
  assert.deepEqual((await bb.sessions.list({ q })).map(({ id }) => id), [session.id]);
  await hasStatus(bb, session.id, "RUNNING");
  assert.deepEqual((await bb.sessions.list({ q, status: "RUNNING" })).map(({ id }) => id), [session.id]);
  await bb.sessions.update(session.id, { status: "REQUEST_RELEASE" });
  assert.deepEqual(await bb.sessions.list({ q, status: "RUNNING" }), []);
  const other = sdk({ apiKey: OTHER_KEY });
  assert.deepEqual(await other.sessions.list(), []);
  await assert.rejects(other.sessions.retrieve(session.id), Browserbase.NotFoundError);
  await assert.rejects(sdk({ apiKey: "no key" }).sessions.list(), Browserbase.AuthenticationError);
});

test("a proxy of one's own is told what it asks for, and what went through it is counted", async () => {
  const bb = sdk();
  const proxy = await startProxy("name:a secret of somebody");
  const external = { type: "external", server: proxy.url, username: "name", password: "a secret of somebody" };
  const { id: project } = (await bb.projects.list())[0];
  for (const [word, title] of [[external.password, "By proxy"], ["a wrong one", ""]]) {
    const session = await bb.sessions.create({ proxies: [{ ...external, password: word }] });
    assert.equal(session.proxyBytes, 0);
    const browser = await chromium.connectOverCDP(session.connectUrl);
    const page = browser.contexts()[0].pages()[0];
    const answer = await page.goto("http://shop.example/cart");
    assert.deepEqual([await page.title(), answer.status()], [title, title ? 200 : 407]);
    // What a client would say to that proxy is not what it is told.
    const own = await browser.newContext({ proxy: { server: proxy.url, username: "name", password: external.password } });
    const other = await own.newPage();
    assert.equal((await other.goto("http://shop.example/")).status(), title ? 200 : 407);
    await browser.close();
    const ended = await bb.sessions.update(session.id, { status: "REQUEST_RELEASE" });
    assert.ok(!JSON.stringify(ended).includes("secret"));
    await eventually("the bytes are counted", async () => {
      const [{ proxyBytes }, used] = [await bb.sessions.retrieve(session.id), await bb.projects.usage(project)];
      assert.ok(proxyBytes > 200 && used.proxyBytes >= proxyBytes, `${proxyBytes} of ${used.proxyBytes}`);
      return true;
    });
  }
  proxy.stop();
  assert.ok(proxy.asked.includes("http://shop.example/cart"), JSON.stringify(proxy.asked));
});

test("a project says what was used", async () => {
  const bb = sdk();
  const [project] = await bb.projects.list();
  assert.deepEqual(await bb.projects.retrieve(project.id), project);
  assert.ok(project.concurrency >= 1);
  const { browserMinutes } = await bb.projects.usage(project.id);
  assert.ok(browserMinutes >= 1, `${browserMinutes} minutes, after the sessions above`);
});

test("a mistake names its field, and what is not there is said once", async () => {
  const bb = sdk();
  await assert.rejects(bb.sessions.create({ api_timeout: 10, keepAlive: true }), (error) => {
    assert.ok(error instanceof Browserbase.BadRequestError);
    assert.match(error.message, /^400 timeout: must be a whole number of seconds from 60 to 21600/);
    return true;
  });
  await assert.rejects(bb.sessions.create({ proxies: true }), /400 proxies: this service has no proxies/);
  const started = Date.now();
  for (const call of [() => bb.sessions.replays.retrieve("any")]) {
    await assert.rejects(call, (error) => {
      assert.equal(error.status, 501, String(error));
      assert.equal(error.error.code, "not_available");
      return true;
    });
  }
  assert.ok(Date.now() - started < 450, "none of them was repeated");
});

/** What lies between a client and the server, and loses the first answer. */
async function losesTheFirstAnswer() {
  let lost = 0;
  const between = createServer((request, response) => {
    const forwarded = httpRequest(server.url + request.url, { method: request.method, headers: request.headers }, (answer) => {
      if (lost++ === 0) return answer.resume().on("end", () => request.socket.destroy());
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    request.pipe(forwarded);
  }).listen(0, "127.0.0.1");
  await once(between, "listening");
  return { url: `http://127.0.0.1:${between.address().port}`, stop: () => between.close(), answers: () => lost };
}

test("a create whose answer is lost is repeated by the SDK, and makes one session", async () => {
  const between = await losesTheFirstAnswer();
  try {
    const bb = sdk({ baseURL: between.url });
    const session = await bb.sessions.create({ userMetadata: { once: "only" }, keepAlive: true });
    assert.equal(between.answers(), 2, "it was asked twice");
    const made = await sdk().sessions.list({ q: "user_metadata['once']:'only'" });
    assert.deepEqual(made.map(({ id }) => id), [session.id]);
    await sdk().sessions.update(session.id, { status: "REQUEST_RELEASE" });
  } finally {
    between.stop();
  }
});

leavesNothingBehind(server);
