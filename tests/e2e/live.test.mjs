// Live view: the URLs that `sessions.debug` gives are opened in a second real browser, as a page that embeds them would.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, before } from "node:test";
import Browserbase from "@browserbasehq/sdk";
import { chromium } from "playwright-core";

import { eventually, KEY, leavesNothingBehind, openSocket, OTHER_KEY, refusedUpgrade, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile({ DISCONNECT_GRACE_SECONDS: "1", NEVER_CONNECTED_SECONDS: "5" });
const sdk = () => new Browserbase({ apiKey: KEY, baseURL: server.url });

/** The browser of whoever watches. */
let watching;
before(async () => {
  watching = await chromium.launch({ executablePath: process.env.CHROME_PATH ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
});
after(() => watching?.close());

const coloured = (colour) => `data:text/html,<title>${colour}</title><body style="margin:0;background:${colour}">`;

/** The colour in the middle of what the locator shows. */
async function colourOf(page, locator = page.locator("#picture")) {
  const shot = (await locator.screenshot({ type: "png" })).toString("base64");
  const judge = await watching.newPage();
  try {
    return await judge.evaluate(async (data) => {
      const image = new Image();
      image.src = `data:image/png;base64,${data}`;
      await image.decode();
      const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const [red, green, blue] = context.getImageData(image.width >> 1, image.height >> 1, 1, 1).data;
      return [red, green, blue].map((part) => (part > 200 ? 1 : part < 60 ? 0 : 0.5)).join();
    }, shot);
  } finally {
    await judge.close();
  }
}
const RED = "1,0,0";
const LIME = "0,1,0";
const BLUE = "0,0,1";

const shows = (page, colour, locator) =>
  eventually(`the picture is ${colour}`, async () => {
    const seen = await colourOf(page, locator);
    return seen === colour || assert.fail(seen);
  });

async function running(settings = {}) {
  const session = await sdk().sessions.create({ userMetadata: { live: "view" }, ...settings });
  const browser = await chromium.connectOverCDP(session.connectUrl);
  return { session, browser, page: browser.contexts()[0].pages()[0] };
}

for (const browserKind of ["headless-shell", "chromium"]) {
  test(`each page has its picture, live, in ${browserKind}`, async () => {
    const { session, browser, page } = await running({ browserSettings: { browser: browserKind } });
    await page.goto(coloured("red"));
    const second = await browser.contexts()[0].newPage();
    await second.goto(coloured("lime"));
    const debug = await sdk().sessions.debug(session.id);
    assert.deepEqual(debug.pages.map(({ title }) => title).sort(), ["lime", "red"]);
    const urls = Object.fromEntries(debug.pages.map((each) => [each.title, each]));
    for (const url of [debug.debuggerUrl, debug.debuggerFullscreenUrl, ...debug.pages.flatMap((each) => [each.debuggerUrl, each.debuggerFullscreenUrl])]) {
      assert.ok(url.startsWith(`${server.url}/sessions/${session.id}/live?token=`), url);
    }
    const [red, lime] = [await watching.newPage(), await watching.newPage()];
    try {
      await red.goto(urls.red.debuggerFullscreenUrl);
      await lime.goto(urls.lime.debuggerFullscreenUrl);
      await shows(red, RED);
      await shows(lime, LIME);
      await page.goto(coloured("blue"));
      await shows(red, BLUE);
      await shows(lime, LIME);
    } finally {
      await red.close();
      await lime.close();
      await browser.close();
    }
  });
}


/** A page elsewhere that embeds `url`, and keeps what it is told. */
async function embed(url) {
  const site = createServer((_, response) =>
    response.writeHead(200, { "content-type": "text/html" }).end(
      `<!doctype html><script>told = []; onmessage = ({ data }) => told.push(data)</script><iframe width=640 height=400 src="${url}"></iframe>`,
    ),
  ).listen(0, "127.0.0.1");
  await once(site, "listening");
  const page = await watching.newPage();
  const asked = [];
  page.on("request", (request) => asked.push(new URL(request.url())));
  // By another name: the frame is of another site.
  await page.goto(`http://localhost:${site.address().port}/`);
  const stop = async () => {
    await page.close();
    site.close();
    site.closeAllConnections();
  };
  return { page, frame: page.frameLocator("iframe"), asked, stop };
}

test("embedded elsewhere it shows the page, loads nothing from others, and tells of the session's end", async () => {
  const { session, browser, page } = await running();
  await page.goto(coloured("red"));
  const { debuggerFullscreenUrl } = await sdk().sessions.debug(session.id);
  const site = await embed(`${debuggerFullscreenUrl}&navbar=false`);
  try {
    await shows(site.page, RED, site.frame.locator("#picture"));
    const hosts = new Set(site.asked.filter(({ protocol }) => protocol !== "data:").map(({ host }) => host));
    assert.deepEqual([...hosts].sort(), [new URL(server.url).host, new URL(site.page.url()).host].sort());
    await browser.close();
    await eventually("the page is told", async () => (await site.page.evaluate("told")).includes("browserbase-disconnected"));
    await eventually("so is whoever looks", async () => /has ended: disconnected/.test(await site.frame.locator("#notice").textContent()));
  } finally {
    await site.stop();
  }
});

test("with a navigation bar one goes from page to page, and follows when the page is closed", async () => {
  const { session, browser, page } = await running();
  await page.goto(coloured("red"));
  const second = await browser.contexts()[0].newPage();
  await second.goto(coloured("lime"));
  const { debuggerUrl } = await sdk().sessions.debug(session.id);
  const viewer = await watching.newPage();
  try {
    await viewer.goto(debuggerUrl);
    await viewer.getByRole("tab", { name: "red" }).click();
    await shows(viewer, RED);
    await viewer.getByRole("tab", { name: "lime" }).click();
    await shows(viewer, LIME);
    await eventually("its address is shown", async () => (await viewer.locator("#address").textContent()).includes("lime"));
    await second.close();
    await shows(viewer, RED);
  } finally {
    await viewer.close();
    await browser.close();
  }
});

/** A socket that speaks CDP. */
async function speak(url) {
  const { socket, closed } = await openSocket(url);
  let lastId = 0;
  const waiting = new Map();
  const events = [];
  socket.on("message", (text) => {
    const message = JSON.parse(text);
    if (message.id) waiting.get(message.id)?.(message);
    else events.push(message);
  });
  const ask = (method, params = {}) =>
    new Promise((done) => {
      waiting.set(++lastId, done);
      socket.send(JSON.stringify({ id: lastId, method, params }));
    });
  return { ask, closed, events, close: () => socket.close() };
}

const form = `data:text/html,<title>form</title><body style="margin:0;background:red" onclick="document.body.style.background='lime'">
  <input autofocus style="position:absolute;top:0;left:0">`.replaceAll("\n", "");

test("who watches can do nothing in the page, by the socket or by the picture", async () => {
  const { session, browser, page } = await running();
  await page.goto(form);
  const debug = await sdk().sessions.debug(session.id);
  const viewer = await speak(debug.wsUrl);
  for (const [method, params] of [
    ["Input.dispatchMouseEvent", { type: "mousePressed", x: 100, y: 100, button: "left", clickCount: 1 }],
    ["Input.insertText", { text: "typed" }],
    ["Page.navigate", { url: "about:blank" }],
    ["Runtime.evaluate", { expression: "document.title = 'changed'" }],
    ["Network.getCookies"],
    ["Page.close"],
    ["Browser.close"],
  ]) {
    const answer = await viewer.ask(method, params);
    assert.match(answer.error?.message ?? "", /is refused here/, `${method}: ${JSON.stringify(answer)}`);
  }
  assert.deepEqual((await viewer.ask("Page.startScreencast", { format: "jpeg" })).result, {});
  await eventually("a picture comes", () => viewer.events.some(({ method }) => method === "Page.screencastFrame"));
  viewer.close();

  const watcher = await watching.newPage();
  await watcher.goto(debug.debuggerFullscreenUrl);
  await shows(watcher, RED);
  await watcher.mouse.click(300, 300);
  await watcher.keyboard.type("typed");
  assert.equal(await page.evaluate("[document.title, document.body.style.background, document.querySelector('input').value].join()"), "form,red,");
  await watcher.close();
  await browser.close();
});

// Taken out: the picture that is asked for when it is calm again.
test("one who is slow to take pictures sees in the end what the page has become", async () => {
  const { session, browser, page } = await running();
  // Without anything that would be drawn again by itself, as a caret is.
  await page.setContent("<body style='background:red'>");
  const debug = await sdk().sessions.debug(session.id);
  const watcher = await watching.newPage();
  await watcher.addInitScript(() => {
    const { send } = WebSocket.prototype;
    WebSocket.prototype.send = function (text) {
      setTimeout(() => this.readyState === WebSocket.OPEN && send.call(this, text), text.includes("screencastFrameAck") ? 2000 : 0);
    };
  });
  try {
    await watcher.goto(debug.debuggerFullscreenUrl);
    await shows(watcher, RED);
    for (const colour of ["blue", "white", "black", "blue", "white", "black", "blue", "lime"]) {
      await page.evaluate(async (colour) => {
        document.body.style.background = colour;
        await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
      }, colour);
    }
    await shows(watcher, LIME);
  } finally {
    await watcher.close();
    await browser.close();
  }
});

test("an interactive view, which the owner asks for, takes clicks and keys", async () => {
  const { session, browser, page } = await running();
  await page.goto(form);
  const debug = await sdk().get(`/v1/sessions/${session.id}/debug`, { query: { interactive: true } });
  const viewer = await watching.newPage();
  try {
    await viewer.goto(debug.debuggerFullscreenUrl);
    await shows(viewer, RED);
    await viewer.locator("#picture").click();
    await shows(viewer, LIME);
    await viewer.locator("#picture").click({ position: { x: 20, y: 8 } });
    await viewer.keyboard.type("Hi, you");
    await eventually("it is typed", async () => (await page.inputValue("input")) === "Hi, you");
  } finally {
    await viewer.close();
    await browser.close();
  }
});

for (const browserKind of ["headless-shell", "chromium"]) {
  test(`the DevTools of ${browserKind} open, through us and on the page, and load nothing from others`, async () => {
    const { session, browser, page } = await running({ browserSettings: { browser: browserKind } });
    await page.setContent("<h1 id=the-heading-we-look-for>Here</h1>");
    const debug = await sdk().get(`/v1/sessions/${session.id}/debug`, { query: { interactive: true } });
    const devtools = await watching.newPage();
    const asked = [];
    devtools.on("request", (request) => asked.push(new URL(request.url())));
    try {
      await devtools.goto(debug.pages[0].debuggerUrl);
      await eventually("the elements are shown", () => devtools.getByText("the-heading-we-look-for").first().isVisible(), 30_000);
      const foreign = asked.filter(({ protocol, host }) => protocol.startsWith("http") && host !== new URL(server.url).host);
      assert.deepEqual(foreign.map(String), []);
    } finally {
      await devtools.close();
      await browser.close();
    }
  });
}

test("a view token opens nothing but the view of its session", async () => {
  const { session, browser } = await running();
  const other = await running();
  const { wsUrl, debuggerFullscreenUrl } = await sdk().sessions.debug(session.id);
  const token = new URL(wsUrl).searchParams.get("token");
  const ws = server.url.replace("http", "ws");
  for (const path of [`/cdp?sessionId=${session.id}&token=${token}`, `/sessions/${session.id}/ws?token=${token}`]) {
    assert.equal((await refusedUpgrade(ws + path)).body.code, "invalid_token", path);
  }
  for (const path of [`/sessions/${session.id}/json/version?token=${token}`, `/sessions/${session.id}/devtools/${token}/inspector.html`]) {
    assert.equal((await server.request("GET", path)).status, 401, path);
  }
  for (const path of ["live", "live/pages"]) {
    const answer = await server.request("GET", `/sessions/${other.session.id}/${path}?token=${token}`);
    assert.equal(answer.body.code, "session_not_found", path);
  }
  assert.equal((await refusedUpgrade(`${ws}/sessions/${other.session.id}/live/ws?token=${token}`)).body.code, "session_not_found");
  assert.equal((await refusedUpgrade(`${wsUrl}&page=ABCDEF`)).body.code, "page_not_found");
  assert.equal((await fetch(debuggerFullscreenUrl.replace(token, "x"))).status, 401);
  const stranger = new Browserbase({ apiKey: OTHER_KEY, baseURL: server.url });
  await assert.rejects(stranger.sessions.debug(session.id), Browserbase.NotFoundError);
  await browser.close();
  await other.browser.close();
});

test("who watches neither keeps a session alive nor ends it", async () => {
  // Nobody ever connects: that somebody watches changes nothing.
  const lonely = await sdk().sessions.create({});
  const spectator = await speak((await sdk().sessions.debug(lonely.id)).wsUrl);
  const { session, browser, page } = await running();
  const { wsUrl } = await sdk().sessions.debug(session.id);
  const [leaves, stays] = [await speak(wsUrl), await speak(wsUrl)];
  leaves.close();
  await leaves.closed();
  assert.equal((await server.get(session.id)).activeConnections, 1);
  assert.equal((await spectator.closed(15_000)).code, 4004);
  assert.equal(await server.endReason(lonely.id), "never_connected");
  // By now the time to come back is over for whoever is taken for a client that left.
  assert.equal(await page.evaluate("1 + 1"), 2);
  await browser.close();
  assert.equal((await stays.closed()).code, 4002);
  assert.equal(await server.endReason(session.id), "disconnected");
  await assert.rejects(sdk().sessions.debug(session.id), (error) => error.status === 410 && error.error.code === "session_ended");
});

test("a link can be made to expire before the session, and takes its sockets with it", async () => {
  const { session, browser } = await running();
  const { wsUrl } = await sdk().sessions.debug(session.id, { expiresIn: 2 });
  const viewer = await speak(wsUrl);
  assert.deepEqual(await viewer.closed(5_000), { code: 1008, reason: "the link has expired" });
  await assert.rejects(sdk().sessions.debug(session.id, { expiresIn: 0 }), /400 expiresIn: must be/);
  await browser.close();
});

test("ten watch a session, and no more", async () => {
  const { session, browser } = await running();
  const { wsUrl } = await sdk().sessions.debug(session.id);
  const viewers = [];
  for (let count = 0; count < 10; count++) viewers.push(await speak(wsUrl));
  const { status, body } = await refusedUpgrade(wsUrl);
  assert.deepEqual([status, body.code], [429, "too_many_viewers"]);
  viewers[0].close();
  await viewers[0].closed();
  const next = await eventually("there is a place again", () => speak(wsUrl));
  for (const viewer of [next, ...viewers]) viewer.close();
  await browser.close();
});

leavesNothingBehind(server);
