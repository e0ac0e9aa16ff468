// Uses the page of docs/demo as a person does, and computes with its modules as a program does.
// `node drive.mjs CHROMIUM ADDRESS PICTURES` prints what it saw, as JSON.

import { launch } from "./chromium.mjs";

const [chromium, address, pictures] = process.argv.slice(2);
const axe = `${process.cwd()}/node_modules/axe-core/axe.min.js`;
const browser = await launch(chromium);
const seen = { errors: [], barriers: [], words: {} };
process.on("uncaughtExceptionMonitor", () => console.error(seen.errors));

async function open(options) {
  const page = await browser.newPage(options);
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) seen.errors.push(message.text());
  });
  page.on("requestfailed", (request) => seen.errors.push(request.url()));
  page.on("request", (request) => {
    if (!request.url().startsWith(address)) seen.errors.push(request.url());
  });
  await page.addInitScript(() => {
    window.shift = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) window.shift += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
  });
  await page.goto(address);
  await page.waitForSelector("#learn:enabled");
  return page;
}

// What a person reads, and the colours of the drawing.
const read = (page) => page.evaluate(() => {
  const element = (id) => document.getElementById(id);
  const texts = ["status", "progress", "steps", "loss", "accuracy", "reading", "now", "learn"];
  const map = (id) => [...element(id).children].map((cell) =>
    Number(cell.getAttribute("fill-opacity")) * (cell.classList.contains("against") ? -1 : 1));
  const pad = element("pad");
  const copy = new OffscreenCanvas(pad.width, pad.height).getContext("2d");
  copy.drawImage(pad, 0, 0);
  const { data } = copy.getImageData(0, 0, pad.width, pad.height);
  const painted = { orange: 0, blue: 0, places: [] };
  for (let k = 0; k < pad.width * pad.height; k++)
    if (data[4 * k + 3] > 127) {
      const warmth = data[4 * k] - data[4 * k + 2];
      painted.orange += warmth > 60;
      painted.blue += warmth < -60;
      painted.places.push([(k % pad.width) / pad.width, Math.floor(k / pad.width) / pad.height]);
    }
  return {
    ...Object.fromEntries(texts.map((id) => [id, element(id).textContent])),
    chances: [...document.querySelectorAll(".class output")].map((row) => row.textContent),
    label: pad.getAttribute("aria-label"),
    cells: map("seen"),
    ink: map("ink"),
    cam: map("cam"),
    painted,
    overflow: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    shift: window.shift,
  };
});

// Once the text of an element is another, or has some words.
const changed = (page, id, old) => page.waitForFunction(([id, old]) =>
  document.getElementById(id).textContent != old, [id, old]);
const says = (page, id, words) => page.waitForFunction(([id, words]) =>
  document.getElementById(id).textContent.includes(words), [id, words], { timeout: 60_000 });

async function barriers(page) {
  await page.addScriptTag({ path: axe });
  const { violations } = await page.evaluate(() => window.axe.run());
  seen.barriers.push(...violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`));
}

const page = await open({ viewport: { width: 900, height: 1000 }, colorScheme: "light" });
seen.example = await read(page);

// A seven without a bar, by the mouse.
const box = await page.locator("#pad").boundingBox();
const to = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
const [first, corner, last] = [[0.25, 0.12], [0.75, 0.12], [0.45, 0.9]];
await page.mouse.move(...to(first));
await page.mouse.down();
await page.mouse.move(...to(corner), { steps: 5 });
await changed(page, "now", seen.example.now);
seen.begun = await read(page);
await page.mouse.move(...to(last), { steps: 5 });
await page.mouse.up();
await changed(page, "reading", seen.example.reading);
seen.drawn = await read(page);

// It is taught, by the keyboard.
await page.focus("[value='6']");
await page.keyboard.press("ArrowDown");
await says(page, "reading", "as 7");
seen.chosen = await read(page);
await page.keyboard.press("Tab");
seen.focused = await page.evaluate(() => {
  const { id } = document.activeElement;
  return [id, getComputedStyle(document.activeElement).outlineWidth];
});
await page.keyboard.press("Enter");
await says(page, "progress", "Finished");
seen.taught = await read(page);
await page.setViewportSize({ width: 1400, height: 1000 });
await page.screenshot({ path: `${pictures}/light.png`, fullPage: true });
await barriers(page);
await page.emulateMedia({ colorScheme: "dark" });
await page.waitForTimeout(300); // the bars move
await page.screenshot({ path: `${pictures}/dark.png`, fullPage: true });
await barriers(page);
await page.setViewportSize({ width: 360, height: 740 });
await page.focus("#pad");
await page.keyboard.press("ArrowDown"); // shows the keyboard's pen
await page.screenshot({ path: `${pictures}/small.png`, fullPage: true });
await barriers(page);
seen.small = await read(page);
await page.click("#trained");
await changed(page, "steps", seen.taught.steps);
await says(page, "status", "Ready");
seen.again = await read(page);

// A one, by the keyboard.
await page.focus("#pad");
await page.keyboard.press("Delete");
await says(page, "reading", "Nothing");
seen.empty = await read(page);
await page.keyboard.press("Space");
await says(page, "reading", "down");
for (let k = 0; k < 12; k++) await page.keyboard.press("ArrowDown");
await page.keyboard.press("Space");
await says(page, "reading", "Read as");
seen.keyed = await read(page);
await page.keyboard.press("Backspace");
await says(page, "reading", "Nothing");

// From random weights; where motion is not wanted, and interrupted.
await page.close();
const calm = await open({ viewport: { width: 900, height: 1000 }, reducedMotion: "reduce" });
seen.motion = await calm.evaluate(() => document.getAnimations().length ||
  Math.max(...[...document.querySelectorAll("*")].map((element) =>
    parseFloat(getComputedStyle(element).transitionDuration))));
await calm.emulateMedia({ reducedMotion: null });
await calm.click("#random");
await says(calm, "status", "random");
seen.random = await read(calm);
await calm.click("#learn");
await calm.waitForFunction(() => Number(document.getElementById("steps").textContent) >= 20);
await calm.click("#learn");
await says(calm, "progress", "Paused");
seen.paused = await read(calm);
await calm.click("#learn");
await says(calm, "progress", "Finished");
seen.learnt = await read(calm);
await calm.click("#learn");
await calm.click("#random"); // while it learns
await calm.waitForFunction(() => document.getElementById("steps").textContent == "0");
seen.restarted = await read(calm);

// The same nets by the page's modules: a few steps, and an explanation with the weights so far.
seen.numbers = await calm.evaluate(async () => {
  const { examples, Learner, load, Tensor, tensors } = await import("./nets.js");
  const learner = new Learner(await load("files/step.onnx"), await tensors("files/init.onnx"));
  const training = await tensors("files/training.onnx");
  const losses = [];
  for (let first = 0; first < 10 * 64; first += 64)
    losses.push(await learner.learn(examples(training, first, first + 64), 0.003));
  const list = (results) => Object.fromEntries(
    Object.entries(results).map(([name, tensor]) => [name, Array.from(tensor.data, Number)]));
  const digit = examples(await tensors("files/held_back.onnx"), 0, 3);
  const target = new Tensor("int64", [1n, 2n, 3n], [3]);
  const explained = await learner.run(await load("files/explained_digit.onnx"), { ...digit, target });
  return { losses, explained: list(explained), state: list(learner.state) };
});

// What it says where something lacks.
const lacks = {
  runtime: (context) => context.route("**/ort/*.mjs", (route) => route.abort()),
  wasm: (context) => context.route("**/*.wasm", (route) => route.fulfill({ status: 404 })),
  net: (context) => context.route("**/step.onnx", (route) => route.fulfill({ status: 404 })),
  script: (context) => context.route("**/pad.js", (route) => route.abort()),
  webassembly: (context) => context.addInitScript(() => delete window.WebAssembly),
};
for (const [name, lack] of Object.entries(lacks)) {
  const context = await browser.newContext();
  await lack(context);
  const page = await context.newPage();
  await page.goto(address);
  await page.waitForFunction(() => !document.getElementById("status").textContent.includes("…"));
  seen.words[name] = await page.textContent("#status");
  await context.close();
}

await browser.close();
console.log(JSON.stringify(seen));
