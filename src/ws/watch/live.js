"use strict";
// Shows the pictures of a page. What a viewer may do is decided where the socket leads, not here.

const query = new URLSearchParams(location.search);
const token = query.get("token");
const drives = document.body.dataset.mode === "drive";
const [nav, tabs, address, main, picture, notice] =
  ["nav", "#tabs", "#address", "main", "#picture", "#notice"].map((selector) => document.querySelector(selector));
const here = (path) => new URL(location.pathname.replace(/\/live$/, `/live/${path}`), location.origin);
// RFC 6455 leaves them to applications: these say that the session has ended, and why.
const ENDED = new Set([4001, 4002, 4003, 4004]);
const EXPIRED = 1008;
const PAGES_MS = 3000;
const RETRY_MS = 1000;
const CALM_MS = 1000;

let page = query.get("page");
const chosen = Boolean(page);
let socket, lastId = 0, metadata, over = false, retries = 0, sized = "";
let owed, pictures = 0, calm;

function say(text) {
  notice.textContent = text;
}

/** For pages that embed this one. */
function lost(text) {
  over = true;
  say(text);
  parent.postMessage("browserbase-disconnected", "*");
}

function send(method, params) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ id: ++lastId, method, params }));
}

function size() {
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  return { maxWidth: Math.max(1, Math.round(main.clientWidth * scale)), maxHeight: Math.max(1, Math.round(main.clientHeight * scale)) };
}

function start() {
  // It does not begin anew by itself, with another size.
  if (sized) send("Page.stopScreencast");
  clearTimeout(calm);
  pictures = 0;
  sized = JSON.stringify(size());
  send("Page.startScreencast", { format: "jpeg", quality: 75, ...size() });
}

function show({ data, metadata: about, sessionId }) {
  metadata = about;
  // Of the one before, which this one takes the place of before it was on the screen: Chrome counts them.
  acknowledge();
  owed = sessionId;
  picture.onload = picture.onerror = acknowledge;
  picture.src = `data:image/jpeg;base64,${data}`;
  say("");
  // While three are not acknowledged Chrome makes none, and does not make up for it (measured, 156): so when it is calm again
  // one more is asked for, which is the first of its run.
  clearTimeout(calm);
  if (++pictures > 1) calm = setTimeout(start, CALM_MS);
}

/** The next picture is asked for when this one is on the screen, or cannot be. */
function acknowledge() {
  if (owed !== undefined) send("Page.screencastFrameAck", { sessionId: owed });
  owed = undefined;
}

function connect() {
  const url = here("ws");
  url.protocol = url.protocol.replace("http", "ws");
  url.searchParams.set("token", token);
  if (page) url.searchParams.set("page", page);
  const opened = (socket = new WebSocket(url));
  sized = "";
  owed = undefined;
  opened.onopen = () => {
    retries = 0;
    start();
  };
  opened.onmessage = ({ data }) => {
    const { method, params } = JSON.parse(data);
    if (opened !== socket) return;
    if (method === "Page.screencastFrame") show(params);
    if (method === "Page.screencastVisibilityChanged") say(params.visible ? "" : "This page is in the background");
    if (method === "Inspector.targetCrashed") say("This page has crashed");
  };
  opened.onclose = ({ code, reason }) => {
    if (opened !== socket || over) return;
    if (ENDED.has(code)) return lost(`The session has ended: ${reason}`);
    if (code === EXPIRED) return lost("This link has expired");
    setTimeout(again, retries++ ? RETRY_MS : 100);
  };
}

/** A refused upgrade does not say why, so the list of pages is asked. */
async function again() {
  const { status, pages, message } = await list();
  if (over) return;
  if (status === 410 || status === 404 || status === 401) return lost(message);
  if (status !== 200) {
    say(message);
    return setTimeout(again, RETRY_MS);
  }
  if (page && !pages.some(({ id }) => id === page)) {
    if (chosen) return lost("This page was closed");
    page = null;
  }
  if (pages.length === 0) {
    say("The browser has no page");
    return setTimeout(again, RETRY_MS);
  }
  if (retries > 1) say("Connecting");
  connect();
}

async function list() {
  try {
    const response = await fetch(here("pages"), { headers: { authorization: `Bearer ${token}` } });
    const body = await response.json();
    return { status: response.status, pages: body.pages ?? [], message: body.message };
  } catch {
    return { status: 0, pages: [], message: "The service cannot be reached" };
  }
}

function open(id) {
  page = id;
  const old = socket;
  socket = undefined;
  old?.close();
  picture.removeAttribute("src");
  connect();
}

/** The tabs, and the address of the one that is shown. */
async function refresh() {
  if (!over && document.visibilityState === "visible") {
    const { status, pages } = await list();
    if (status === 200) {
      const shown = pages.find(({ id }) => id === page) ?? pages[0];
      // Sorted, because the browser names the one first that was last active.
      tabs.replaceChildren(...[...pages].sort((a, b) => (a.id < b.id ? -1 : 1)).map((each) => {
        const tab = document.createElement("button");
        tab.role = "tab";
        tab.textContent = each.title || each.url;
        tab.title = each.url;
        tab.setAttribute("aria-selected", String(each === shown));
        tab.onclick = () => open(each.id);
        return tab;
      }));
      address.textContent = shown?.url ?? "";
    }
  }
  if (!over) setTimeout(refresh, PAGES_MS);
}

addEventListener("resize", () => {
  if (sized && JSON.stringify(size()) !== sized) start();
});

if (drives) {
  const modifiers = (event) => event.altKey * 1 + event.ctrlKey * 2 + event.metaKey * 4 + event.shiftKey * 8;
  const at = (event) => {
    const box = picture.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) * metadata.deviceWidth) / box.width,
      y: ((event.clientY - box.top) * metadata.deviceHeight) / box.height,
      modifiers: modifiers(event),
    };
  };
  const buttons = ["left", "middle", "right"];
  const mouse = (type) => (event) => {
    if (!metadata) return;
    if (type === "mousePressed") picture.focus();
    event.preventDefault();
    const button = type === "mouseMoved" ? "none" : buttons[event.button] ?? "none";
    send("Input.dispatchMouseEvent", { type, button, buttons: event.buttons, clickCount: type === "mouseMoved" ? 0 : event.detail || 1, ...at(event) });
  };
  picture.onmousedown = mouse("mousePressed");
  picture.onmouseup = mouse("mouseReleased");
  picture.onmousemove = mouse("mouseMoved");
  picture.oncontextmenu = (event) => event.preventDefault();
  picture.addEventListener("wheel", (event) => {
    if (!metadata) return;
    event.preventDefault();
    send("Input.dispatchMouseEvent", { type: "mouseWheel", deltaX: event.deltaX, deltaY: event.deltaY, ...at(event) });
  }, { passive: false });
  const key = (down) => (event) => {
    event.preventDefault();
    const text = event.key.length === 1 && !event.ctrlKey && !event.metaKey ? event.key : event.key === "Enter" ? "\r" : undefined;
    const type = !down ? "keyUp" : text ? "keyDown" : "rawKeyDown";
    send("Input.dispatchKeyEvent", {
      type, key: event.key, code: event.code, windowsVirtualKeyCode: event.keyCode, modifiers: modifiers(event),
      ...(down && text && { text }),
    });
  };
  picture.onkeydown = key(true);
  picture.onkeyup = key(false);
  picture.onpaste = (event) => send("Input.insertText", { text: event.clipboardData.getData("text") });
}

nav.hidden = query.get("navbar") !== "true";
connect();
if (!nav.hidden) refresh();
