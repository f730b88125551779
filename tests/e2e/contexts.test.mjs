// Contexts: what a browser knows of the pages it has seen, in the browser of another session.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, before } from "node:test";
import Browserbase from "@browserbasehq/sdk";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

import { eventually, KEY, leavesNothingBehind, OTHER_KEY, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile({ DISCONNECT_GRACE_SECONDS: "1" });
const bb = () => new Browserbase({ apiKey: KEY, baseURL: server.url });

/** A site that knows who has logged in: by a cookie that ends with the browser, and by one that does not. */
const site = createServer((request, response) => {
  const headers = { "content-type": "text/html" };
  if (request.url === "/login") headers["set-cookie"] = ["visit=1; Path=/; HttpOnly", "user=ann; Path=/; Max-Age=86400"];
  response.writeHead(200, headers).end(`<p id=cookie>${request.headers.cookie ?? "nobody"}</p>`);
});
let url;
before(async () => {
  await once(site.listen(0, "127.0.0.1"), "listening");
  url = `http://127.0.0.1:${site.address().port}`;
});
after(() => site.close());

const create = (context) => bb().sessions.create({ browserSettings: { context } });

async function opened(session) {
  const browser = await chromium.connectOverCDP(session.connectUrl);
  const page = browser.contexts()[0].pages()[0];
  await page.goto(url);
  return { browser, page };
}

/** What the site and the browser know in a session that begins with a context. */
async function known(context) {
  const session = await create(context);
  assert.equal(session.contextId, context.id);
  const { browser, page } = await opened(session);
  const cookie = await page.textContent("#cookie");
  const local = await page.evaluate(() => localStorage.getItem("cart"));
  const database = await page.evaluate(
    () =>
      new Promise((found, failed) => {
        const opening = indexedDB.open("shop", 1);
        opening.onupgradeneeded = () => opening.result.createObjectStore("orders");
        opening.onerror = failed;
        opening.onsuccess = () => {
          const reading = opening.result.transaction("orders").objectStore("orders").get("last");
          reading.onsuccess = () => found(reading.result ?? null);
        };
      }),
  );
  assert.equal(browser.contexts()[0].pages().length, 1, "no page of another session is opened");
  await browser.close();
  await eventually("it has ended", async () => (await bb().sessions.retrieve(session.id)).status === "COMPLETED");
  return { cookie, local, database };
}

const NOTHING = { cookie: "nobody", local: null, database: null };
const ALL = { cookie: "visit=1; user=ann", local: "3 apples", database: "number 7" };

/** Somebody logs in, and leaves by `end`. */
async function logIn(context, end) {
  const session = await create(context);
  const { browser, page } = await opened(session);
  await page.goto(`${url}/login`);
  await page.evaluate(
    () =>
      new Promise((done, failed) => {
        localStorage.setItem("cart", "3 apples");
        const opening = indexedDB.open("shop", 1);
        opening.onupgradeneeded = () => opening.result.createObjectStore("orders");
        opening.onerror = failed;
        opening.onsuccess = () => {
          const writing = opening.result.transaction("orders", "readwrite");
          writing.objectStore("orders").put("number 7", "last");
          writing.oncomplete = done;
        };
      }),
  );
  await end(session, browser);
}

const updated = async (id) => (await bb().contexts.retrieve(id)).updatedAt;
async function written(id, before) {
  await eventually("the context is written", async () => (await updated(id)) !== before, 10_000);
}

const ENDS = {
  "by closing the connection": (_, browser) => browser.close(),
  "by releasing the session": (session) => bb().sessions.update(session.id, { status: "REQUEST_RELEASE" }),
  "by closing the browser": async (session) => {
    const browser = await puppeteer.connect({ browserWSEndpoint: session.connectUrl, defaultViewport: null });
    await browser.close();
  },
};

for (const [how, end] of Object.entries(ENDS)) {
  test(`a login outlives the session that ends ${how}, cookies of the one visit and all`, async () => {
    const { id } = await bb().contexts.create({ projectId: "any" });
    const made = await updated(id);
    await logIn({ id, persist: true }, end);
    await written(id, made);
    assert.deepEqual(await known({ id }), ALL);
  });
}

test("a session that is not to persist leaves its context as it was", async () => {
  const { id } = await bb().contexts.create();
  const made = await updated(id);
  await logIn({ id, persist: true }, ENDS["by releasing the session"]);
  await written(id, made);
  const before = await updated(id);
  const session = await create({ id });
  const { browser, page } = await opened(session);
  await page.context().clearCookies();
  await page.evaluate(() => localStorage.clear());
  await browser.close();
  await eventually("it has ended", async () => (await bb().sessions.retrieve(session.id)).status === "COMPLETED");
  assert.deepEqual(await known({ id, persist: false }), ALL);
  assert.equal(await updated(id), before);
});

test("two sessions at once each begin with what there is, and the last to end is what is kept, whole", async () => {
  const { id } = await bb().contexts.create();
  const made = await updated(id);
  const sessions = await Promise.all([1, 2].map(() => create({ id, persist: true })));
  const both = await Promise.all(sessions.map(opened));
  for (const [index, { page }] of both.entries()) {
    assert.equal(await page.textContent("#cookie"), "nobody");
    await page.evaluate((value) => localStorage.setItem("cart", value), `cart ${index}`);
  }
  await bb().sessions.update(sessions[0].id, { status: "REQUEST_RELEASE" });
  await written(id, made);
  const first = await updated(id);
  await bb().sessions.update(sessions[1].id, { status: "REQUEST_RELEASE" });
  await written(id, first);
  assert.equal((await known({ id })).local, "cart 1");
});

test("a context is deleted, is nobody else's, and is not written by a session that outlives it", async () => {
  const { id } = await bb().contexts.create({ name: "of the shop" });
  const other = new Browserbase({ apiKey: OTHER_KEY, baseURL: server.url });
  await assert.rejects(other.contexts.retrieve(id), Browserbase.NotFoundError);
  await assert.rejects(other.sessions.create({ browserSettings: { context: { id } } }), Browserbase.BadRequestError);
  await assert.rejects(bb().contexts.create({ name: "Of The Shop" }), Browserbase.ConflictError);
  const session = await create({ id, persist: true });
  const { browser } = await opened(session);
  await bb().contexts.delete(id);
  await browser.close();
  await eventually("it has ended", async () => (await bb().sessions.retrieve(session.id)).status === "COMPLETED");
  await assert.rejects(bb().contexts.retrieve(id), Browserbase.NotFoundError);
  const again = await bb().contexts.create({ name: "Of The Shop" });
  assert.deepEqual(await known({ id: again.id }), NOTHING);
});

leavesNothingBehind(server);
