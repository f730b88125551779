// A small web site on loopback, for the browsers under test.

import { createServer } from "node:http";
import { once } from "node:events";

/** A form: type a name, press the button, read the greeting. */
const form = `<!doctype html><title>Greeter</title>
<input id="name" placeholder="Your name">
<button id="greet" onclick="document.querySelector('#greeting').textContent = 'Hello, ' + document.querySelector('#name').value">Greet</button>
<p id="greeting"></p>`;

/** A picture that no format makes small. */
const noise = `<!doctype html><title>Noise</title><style>body { margin: 0 }</style>
<canvas id="noise" width="1280" height="720"></canvas>
<script>
  const context = document.querySelector("#noise").getContext("2d");
  const image = context.createImageData(1280, 720);
  for (let at = 0; at < image.data.length; at++) image.data[at] = at % 4 === 3 ? 255 : Math.random() * 256;
  context.putImageData(image, 0, 0);
</script>`;

const SITE = { "/": "<!doctype html><title>Front page</title><h1>Front page</h1>", "/form": form, "/noise": noise };

/** Serves `SITE`, and whatever `/page/NAME` is asked for, titled NAME. Remembers the cookies each path came with. */
export async function startPages() {
  const cookies = new Map();
  const server = createServer((request, response) => {
    const path = request.url.split("?")[0];
    cookies.set(request.url, request.headers.cookie ?? "");
    const name = path.match(/^\/page\/(\w+)$/)?.[1];
    const body = SITE[path] ?? (name && `<!doctype html><title>${name}</title><h1>${name}</h1>`);
    response.writeHead(body ? 200 : 404, { "content-type": "text/html" }).end(body ?? "nothing here");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cookiesSentTo: (path) => cookies.get(path),
    stop: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

/**
 * A forward proxy for plain HTTP that answers everything itself, and remembers what it was asked for; with `credentials`
 * ("name:password") only to those who have them.
 */
export async function startProxy(credentials) {
  const asked = [];
  const expected = credentials && `Basic ${Buffer.from(credentials).toString("base64")}`;
  const server = createServer((request, response) => {
    if (expected && request.headers["proxy-authorization"] !== expected) {
      response.writeHead(407, { "proxy-authenticate": 'Basic realm="proxy"' }).end("who are you?");
      return;
    }
    asked.push(request.url);
    response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>By proxy</title>");
  });
  server.on("connect", (_, socket) => socket.end("HTTP/1.1 403 Forbidden\r\n\r\n"));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    asked,
    stop: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
