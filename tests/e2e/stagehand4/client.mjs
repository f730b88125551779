// Stagehand 4, unmodified: one base URL is all that is changed, and no model is asked. Run by ../stagehand4.test.mjs, as
// `client.mjs greets` or `client.mjs stays`, with the server's address, an API key and the address of a form.

import { browserbase, Stagehand } from "@browserbasehq/stagehand";

const [doing, baseUrl, apiKey, form] = process.argv.slice(2);
const tell = (what) => console.log(JSON.stringify(what));

const browser = await browserbase.launch({ apiKey, baseUrl });
// Of some model, which is not asked here.
const stagehand = await Stagehand.create({ browser, model: { modelName: "openai/gpt-4.1-mini", apiKey: "unused" } });
const [page] = await browser.context.pages();
await page.goto(form);
await page.locator("#name").fill("Grace");
await page.locator("#greet").click();
tell({ session: browser.sessionId, greeting: await page.locator("#greeting").textContent() });
if (doing === "greets") {
  await stagehand.close();
  await browser.close();
}
// The other one is ended as no program is asked to end.
