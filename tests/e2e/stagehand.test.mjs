// Stagehand 3, unmodified: environment variables are all that is changed, and no model is asked.

import assert from "node:assert/strict";
import { Stagehand } from "@browserbasehq/stagehand";

import { eventually, KEY, leavesNothingBehind, serverForThisFile, test } from "./support.mjs";

const server = serverForThisFile({ DISCONNECT_GRACE_SECONDS: "1" });

/** Opens the form, fills it in and reads the answer: with nothing that would need a model. */
async function greet(stagehand) {
  const [page] = stagehand.context.pages();
  await page.goto(`${server.pages.url}/form`);
  await page.locator("#name").fill("Grace");
  await page.locator("#greet").click();
  assert.equal(await page.locator("#greeting").textContent(), "Hello, Grace");
}

async function stagehand(options = {}) {
  process.env.BROWSERBASE_BASE_URL = server.url;
  process.env.STAGEHAND_API_URL = server.url;
  process.env.BROWSERBASE_API_KEY = KEY;
  // Of some model, which is not asked here.
  process.env.OPENAI_API_KEY = "unused";
  const made = new Stagehand({ env: "BROWSERBASE", verbose: 0, disablePino: true, ...options });
  await made.init();
  return made;
}

const view = async (id) => (await server.request("GET", `/v1/sessions/${id}`)).body;
const completes = (id) =>
  eventually(`${id} is completed`, async () => (await view(id)).status === "COMPLETED" || assert.fail("not yet"));

test("told by the hosted API that it is not there, it works in the session it was given", async () => {
  const made = await stagehand({ browserbaseSessionCreateParams: { userMetadata: { team: "alpha" } } });
  const id = made.browserbaseSessionID;
  assert.deepEqual((await view(id)).userMetadata, { team: "alpha", stagehand: "true" });
  await greet(made);
  assert.equal((await server.request("GET", "/v1/sessions")).body.length, 1, "one session, not one for each door");
  await made.close();
  await completes(id);
});

test("with disableAPI it creates the session by the SDK", async () => {
  const made = await stagehand({ disableAPI: true });
  await greet(made);
  const id = made.browserbaseSessionID;
  await made.close();
  await completes(id);
});

test("it takes up a session that is there already", async () => {
  const { body: session } = await server.request("POST", "/v1/sessions", { body: { keepAlive: true } });
  const made = await stagehand({ browserbaseSessionID: session.id, keepAlive: true });
  assert.equal(made.browserbaseSessionID, session.id);
  await greet(made);
  await made.close();
  await server.request("POST", `/v1/sessions/${session.id}`, { body: { status: "REQUEST_RELEASE" } });
  await completes(session.id);
});

leavesNothingBehind(server);
