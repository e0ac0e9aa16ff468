// Trains with the module of docs/demo, as another program than its page would.
// `node learn.mjs CHROMIUM ADDRESS EPOCHS BATCH RATE` prints the loss of each epoch, as JSON.

import { launch } from "./chromium.mjs";

const [chromium, address, ...settings] = process.argv.slice(2);
const browser = await launch(chromium);
const page = await browser.newPage();
await page.goto(address);
const losses = await page.evaluate(async ([epochs, size, rate]) => {
  const { examples, Learner, load, tensors } = await import("./nets.js");
  const learner = new Learner(await load("files/step.onnx"), await tensors("files/init.onnx"));
  const training = await tensors("files/training.onnx");
  const all = training.labels.dims[0];
  const losses = Array(epochs).fill(0);
  for (let epoch = 0; epoch < epochs; epoch++)
    for (let first = 0; first < all; first += size) {
      const batch = examples(training, first, first + size);
      losses[epoch] += (await learner.learn(batch, rate)) * batch.labels.dims[0] / all;
    }
  return losses;
}, settings.map(Number));
await browser.close();
console.log(JSON.stringify(losses));
