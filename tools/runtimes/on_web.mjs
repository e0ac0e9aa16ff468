// onnxruntime-web in headless Chromium: `node on_web.mjs CHROMIUM ADDRESS wasm|webgpu` prints what
// it gives of each file of ADDRESS/feeds.json, as JSON.

import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/`); // playwright-core lies where this is started
const { chromium } = require("playwright-core");
const [executablePath, address, provider] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-background-networking", "--disable-component-update",
  "--disable-quic", "--disable-sync", "--no-first-run"];
// Where there is no graphics card, SwiftShader computes in its place.
if (provider === "webgpu")
  args.push("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader");

// In the page: the outputs of all runs of one file.
async function outputs({ address, provider, name }) {
  const ort = await import(`${address}ort/ort.${provider}.min.mjs`);
  ort.env.logLevel = "fatal";
  ort.env.wasm.numThreads = 1;
  const types = { float32: Float32Array, int64: BigInt64Array, float16: globalThis.Float16Array };
  window.feeds ??= await (await fetch(`${address}feeds.json`)).json();
  const file = `${address}files/${name}.onnx`;
  const session = await ort.InferenceSession.create(file, { executionProviders: [provider] });
  const found = [];
  for (const feeds of window.feeds[name]) {
    const tensors = {};
    for (const [key, { dtype, shape, data }] of Object.entries(feeds)) {
      const numbers = dtype === "int64" ? data.map(BigInt) : data;
      tensors[key] = new ort.Tensor(dtype, types[dtype].from(numbers), shape);
    }
    const results = await session.run(tensors);
    found.push(session.outputNames.map((key) => ({
      dtype: results[key].type,
      shape: results[key].dims,
      data: Array.from(results[key].data, Number),
    })));
  }
  await session.release();
  return found;
}

const browser = await chromium.launch({ executablePath, args });
const open = async () => {
  const page = await browser.newPage();
  await page.goto(`${address}feeds.json`); // any file: a page of that origin
  return page;
};
const late = (seconds) => new Promise((_, fail) =>
  setTimeout(() => fail(new Error(`not done after ${seconds} s`)), seconds * 1000));

const names = Object.keys(await (await fetch(`${address}feeds.json`)).json());
const seen = Object.fromEntries(names.map((name) => [name, null])); // in that order
async function work() {
  let page = await open();
  for (let name; (name = names.shift()); )
    try {
      const given = page.evaluate(outputs, { address, provider, name });
      seen[name] = { outputs: await Promise.race([given, late(240)]) };
    } catch (error) {
      seen[name] = { refused: error.message.replace(/\n\s+at [^]*/, "") };
      await page.close();
      page = await open();
    }
}
await Promise.all([1, 2].map(work)); // they wait for shaders most of the time
await browser.close();
process.stdout.write(JSON.stringify(seen), () => process.exit());
