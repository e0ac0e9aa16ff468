// Uses the page of examples/browser as a person does, and computes with its modules as a program
// does. `node drive.mjs CHROMIUM ADDRESS PICTURES` prints what it saw, as JSON.

import { launch } from "./chromium.mjs";

const [chromium, address, pictures] = process.argv.slice(2);
const browser = await launch(chromium);
const seen = { errors: [] };
process.on("uncaughtExceptionMonitor", () => console.error(seen.errors));

async function open(options) {
  const page = await browser.newPage(options);
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) seen.errors.push(message.text());
  });
  page.on("requestfailed", (request) => seen.errors.push(request.url()));
  await page.goto(address);
  await page.waitForSelector("#learn:enabled");
  return page;
}

// What a person reads.
const read = (page) => page.evaluate(() => {
  const text = (id) => document.getElementById(id).textContent;
  const map = (id) => [...document.getElementById(id).children].map((cell) =>
    Number(cell.getAttribute("fill-opacity")));
  return {
    ...Object.fromEntries(["status", "steps", "loss", "accuracy", "reading"].map((id) =>
      [id, text(id)])),
    saliency: map("saliency"),
    cam: map("cam"),
    overflow: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  };
});

const page = await open({ viewport: { width: 900, height: 900 }, colorScheme: "light" });
seen.before = await read(page);
await page.focus("#learn");
await page.keyboard.press("Enter");
await page.waitForFunction(() => Number(document.getElementById("steps").textContent) >= 20);
await page.keyboard.press("Space"); // pauses
await page.waitForFunction(() => document.getElementById("status").textContent.includes("Paused"));
seen.paused = await read(page);
await page.click("#learn");
await page.waitForFunction(() => document.getElementById("status").textContent.includes("Finished"),
  null, { timeout: 90_000 });
seen.after = await read(page);
await page.click("#next");
await page.waitForFunction((old) => document.getElementById("reading").textContent != old,
  seen.after.reading);
seen.next = await read(page);
await page.screenshot({ path: `${pictures}/light.png`, fullPage: true });
await page.emulateMedia({ colorScheme: "dark" });
await page.screenshot({ path: `${pictures}/dark.png`, fullPage: true });
await page.setViewportSize({ width: 360, height: 740 });
seen.small = await read(page);
await page.screenshot({ path: `${pictures}/small.png`, fullPage: true });
await page.click("#learn");
await page.click("#again"); // while it learns
await page.waitForFunction(() => document.getElementById("steps").textContent == "0");
seen.again = await read(page);

// The same nets by the page's modules: a few steps, and an explanation with the weights so far.
seen.numbers = await page.evaluate(async () => {
  const { examples, Learner, load, tensors } = await import("./nets.js");
  const learner = new Learner(await load("files/step.onnx"), await tensors("files/init.onnx"));
  const training = await tensors("files/training.onnx");
  const losses = [];
  for (let first = 0; first < 10 * 64; first += 64)
    losses.push(await learner.learn(examples(training, first, first + 64), 0.003));
  const list = (results) => Object.fromEntries(
    Object.entries(results).map(([name, tensor]) => [name, Array.from(tensor.data, Number)]));
  const digit = examples(await tensors("files/held_back.onnx"), 0, 3);
  const explained = await learner.run(await load("files/explained_digit.onnx"), digit);
  return { losses, explained: list(explained), state: list(learner.state) };
});

await browser.close();
console.log(JSON.stringify(seen));
