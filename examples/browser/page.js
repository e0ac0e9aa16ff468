import { classes, examples, Learner, load, probabilities, tensors } from "./nets.js";

const BATCH = 64;
const RATE = 0.003;
const EPOCHS = 5; // then it pauses
const SIDE = 8;

const element = (id) => document.getElementById(id);
const svg = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

// A map of 8 x 8 cells; the colour is that of the page's theme.
function draw(id, values, label) {
  const picture = element(id);
  if (!picture.firstChild)
    for (let k = 0; k < SIDE * SIDE; k++)
      picture.append(svg("rect", { x: k % SIDE, y: Math.floor(k / SIDE), width: 1, height: 1 }));
  const largest = Math.max(...values.map(Math.abs)) || 1;
  values.forEach((v, k) =>
    picture.children[k].setAttribute("fill-opacity", Math.abs(v) / largest));
  picture.setAttribute("aria-label", label);
}

// A line over the steps, from 0 to the top.
function plot(id, values, top, steps) {
  const points = values.map(([step, v]) =>
    `${((300 * step) / steps).toFixed(1)},${(100 - (100 * Math.min(v, top)) / top).toFixed(1)}`);
  element(id).setAttribute("points", points.join(" "));
}

class Page {
  static async open() {
    const [step, infer, explained, training, heldBack] = await Promise.all([
      load("files/step.onnx"),
      load("files/infer.onnx"),
      load("files/explained_digit.onnx"),
      tensors("files/training.onnx"),
      tensors("files/held_back.onnx"),
    ]);
    const page = Object.assign(new Page(), { step, infer, explained, training, heldBack });
    page.perEpoch = Math.ceil(training.labels.dims[0] / BATCH);
    page.shown = 0;
    page.queue = page.startAgain();
    await page.queue;
    return page;
  }

  // What computes is done one after another.
  later(action) {
    this.queue = this.queue.then(() => action.call(this)).catch(failed);
  }

  async startAgain() {
    this.learner = new Learner(this.step, await tensors("files/init.onnx"));
    this.steps = 0;
    this.losses = [];
    this.accuracies = [];
    await this.measure();
    await this.show();
    element("status").textContent = "Ready. The weights are random.";
  }

  async learn() {
    this.learning = true;
    element("learn").textContent = "Pause";
    element("status").textContent = "Learning …";
    const end = this.steps + EPOCHS * this.perEpoch;
    while (this.learning && this.steps < end) {
      const first = (this.steps % this.perEpoch) * BATCH;
      const batch = examples(this.training, first, first + BATCH);
      this.losses.push([++this.steps, await this.learner.learn(batch, RATE)]);
      if (this.steps % 5 == 0) {
        await this.measure();
        await this.show();
        await new Promise(requestAnimationFrame);
      }
    }
    const finished = this.learning;
    this.pause();
    await this.measure();
    await this.show();
    const accuracy = percent(this.accuracies.at(-1)[1]);
    element("status").textContent = `${finished ? "Finished" : "Paused"} after ${this.steps} ` +
      `steps: ${accuracy} of the held-back digits are read right.`;
  }

  pause() {
    this.learning = false;
    element("learn").textContent = "Learn";
  }

  async measure() {
    const { logits } = await this.learner.run(this.infer, this.heldBack);
    const { labels } = this.heldBack;
    const right = classes(logits).filter((c, n) => c == Number(labels.data[n])).length;
    this.accuracies.push([this.steps, right / labels.data.length]);
  }

  // The digit with its explanations, the numbers and the curves.
  async show() {
    const digit = examples(this.heldBack, this.shown, this.shown + 1);
    const results = await this.learner.run(this.explained, digit);
    const [seen] = classes(results.logits);
    const chance = percent(probabilities(results.logits.data)[seen]);
    const label = digit.labels.data[0];
    draw("digit", digit.image.data, `A handwritten ${label}`);
    draw("saliency", results.image_saliency.data, `What the ${seen} depends on, by pixel`);
    const cam = this.explained.outputNames.find((name) => name.endsWith("_cam"));
    draw("cam", results[cam].data, `Where the last convolution sees a ${seen}`);
    element("reading").textContent =
      `Digit ${this.shown + 1} of ${this.heldBack.labels.dims[0]} is a ${label}, ` +
      `read as ${seen} with ${chance}.`;

    const loss = this.losses.at(-1)?.[1];
    element("steps").textContent = this.steps;
    element("loss").textContent = loss === undefined ? "–" : loss.toFixed(3);
    element("accuracy").textContent = percent(this.accuracies.at(-1)[1]);
    const steps = Math.max(this.steps, EPOCHS * this.perEpoch);
    plot("loss-curve", this.losses, 2.5, steps);
    plot("accuracy-curve", this.accuracies, 1, steps);
  }

  turn(by) {
    const count = this.heldBack.labels.dims[0];
    this.shown = (this.shown + by + count) % count;
    if (!this.learning) this.later(this.show);
  }
}

function failed(error) {
  element("status").textContent = `This page does not work here: ${error.message}`;
  throw error;
}

const page = await Page.open().catch(failed);
const actions = {
  learn: () => (page.learning ? page.pause() : page.later(page.learn)),
  again: () => {
    page.pause();
    page.later(page.startAgain);
  },
  previous: () => page.turn(-1),
  next: () => page.turn(1),
};
for (const [id, action] of Object.entries(actions)) {
  element(id).addEventListener("click", action);
  element(id).disabled = false;
}
