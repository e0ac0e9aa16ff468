import { Pad, SIDE } from "./pad.js";

const BATCH = 64;
const OWN = 16; // places for drawings beside each batch of digits
const RATE = 0.003;
const EPOCHS = 5; // then it pauses
const EXAMPLE = [[[0.32, 0.2], [0.5, 0.12], [0.66, 0.22], [0.64, 0.38], [0.46, 0.46],
  [0.66, 0.54], [0.7, 0.72], [0.54, 0.86], [0.32, 0.8]]];

const PLACES = ["at the top left", "at the top", "at the top right",
  "on the left", "in the middle", "on the right",
  "at the bottom left", "at the bottom", "at the bottom right"];

const element = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const say = (id, text) => {
  if (element(id).textContent != text) element(id).textContent = text; // what is new is read out
};

// What onnxruntime-web says where something lacks, in plainer words.
const REASONS = [
  [/no available backend/, "the browser cannot load or run ort/ort-wasm-simd-threaded.wasm."],
  [/failed to load external data file: (\S+)/, "$1 cannot be loaded; “make page” writes it."],
];

function failed(error) {
  const found = REASONS.map(([words, reason]) =>
    error.message.match(words)?.[0].replace(words, reason)).find(Boolean);
  say("status", `This page does not work here: ${found ?? error.message}`);
  throw error;
}

async function runtime() {
  if (typeof WebAssembly != "object")
    throw new Error("the browser has no WebAssembly, by which nets are computed.");
  return import("./nets.js").catch(() => {
    throw new Error("onnxruntime-web is not in the folder ort beside it; “make page” puts it there.");
  });
}

const nets = await runtime().catch(failed);
const { classes, examples, joined, Learner, load, probabilities, Tensor, tensors } = nets;

// A drawing with its label, as the files take it.
const example = (cells, label) => ({
  image: new Tensor("float32", cells, [1, 1, SIDE, SIDE]),
  labels: new Tensor("int64", [BigInt(label)], [1]),
});

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// A map of 8 x 8 cells, as strong as its values from -1 to 1.
function draw(id, values, label) {
  const picture = element(id);
  if (!picture.firstChild)
    for (let k = 0; k < SIDE * SIDE; k++)
      picture.append(svg("rect", { x: k % SIDE, y: Math.floor(k / SIDE), width: 1, height: 1 }));
  values.forEach((v, k) => {
    picture.children[k].setAttribute("fill-opacity", Math.abs(v));
    picture.children[k].classList.toggle("against", v < 0);
  });
  picture.setAttribute("aria-label", label);
}

// A line over the steps, from 0 to the top.
function plot(id, values, top, steps) {
  const points = values.map(([step, v]) =>
    `${((300 * step) / steps).toFixed(1)},${(100 - (100 * Math.min(v, top)) / top).toFixed(1)}`);
  element(id).setAttribute("points", points.join(" "));
}

function scaled(values) {
  const largest = Math.max(...values.map(Math.abs)) || 1;
  return values.map((v) => v / largest);
}

// In words, where the sum of a map over a ninth of it is largest.
function place(values) {
  const sums = Array(9).fill(0);
  const third = (p) => Math.floor((3 * p) / SIDE);
  values.forEach((v, k) => (sums[3 * third(Math.floor(k / SIDE)) + third(k % SIDE)] += v));
  return PLACES[sums.indexOf(Math.max(...sums))];
}

class Page {
  static async open() {
    const names = ["step", "infer", "explained_digit"].map((name) => load(`files/${name}.onnx`));
    const data = ["training", "held_back", "trained"].map((name) => tensors(`files/${name}.onnx`));
    const [step, infer, explained, training, heldBack, trained] =
      await Promise.all([...names, ...data]);
    const page = Object.assign(new Page(), { step, infer, explained, training, heldBack, trained });
    page.perEpoch = Math.ceil(training.labels.dims[0] / BATCH);
    page.choices();
    page.pad = new Pad(element("pad"), () => page.drawn());
    page.queue = page.start(page.trained, "trained");
    await page.queue;
    page.pad.show(EXAMPLE);
    await page.queue;
    return page;
  }

  // A row for each digit: chosen, it is explained, and can be taught.
  choices() {
    for (let k = 0; k < 10; k++) {
      const row = element("class").content.cloneNode(true);
      row.querySelector("input").value = k;
      row.querySelector("b").textContent = k;
      element("classes").append(row);
    }
    this.rows = [...document.querySelectorAll(".class:has(b)")];
    element("classes").addEventListener("change", () => this.drawn());
  }

  get chosen() {
    const { value } = document.querySelector("input[name=class]:checked");
    return value == "answer" ? null : Number(value);
  }

  // What computes is done one after another.
  later(action) {
    this.queue = this.queue.then(() => action.call(this)).catch(failed);
  }

  // Another drawing, or another choice. While one waits to be shown, the next need not.
  drawn() {
    const own = this.pad.strokes.length > 0;
    if (!own) document.querySelector("input[value=answer]").checked = true;
    this.label();
    if (this.waiting) return;
    this.waiting = true;
    this.later(() => {
      this.waiting = false;
      return this.show();
    });
  }

  label() {
    const teaches = this.chosen == null ? "Learn" : `Learn that this is ${this.chosen}`;
    say("learn", this.learning ? "Pause" : teaches);
  }

  // From weights that are given, or those of init.onnx, which are random.
  async start(weights, words) {
    this.learner = new Learner(this.step, { ...(await tensors("files/init.onnx")), ...weights });
    this.taught = new Map(); // examples by their drawings
    this.steps = 0;
    this.losses = [];
    this.accuracies = [];
    await this.measure();
    await this.show();
    say("status", `Ready. The net starts ${words}.`);
    say("progress", "");
  }

  // A batch of digits, and drawings that are taught.
  batch() {
    const first = (this.steps % this.perEpoch) * BATCH;
    const taught = [...this.taught.values()];
    const own = Array.from({ length: taught.length ? OWN : 0 }, (_, k) =>
      taught[(this.steps * OWN + k) % taught.length]);
    return joined([examples(this.training, first, first + BATCH), ...own]);
  }

  async learn() {
    const cells = this.pad.cells();
    if (this.chosen != null) this.taught.set(cells.join(), example(cells, this.chosen));
    this.learning = true;
    this.label();
    say("progress", "Learning …");
    const end = this.steps + EPOCHS * this.perEpoch;
    while (this.learning && this.steps < end) {
      const loss = await this.learner.learn(this.batch(), RATE);
      this.losses.push([++this.steps, loss]);
      if (this.steps % 5 == 0) {
        if (!still.matches) {
          await this.measure();
          await this.show();
        }
        await new Promise(requestAnimationFrame);
      }
    }
    const finished = this.learning;
    this.pause();
    await this.measure();
    await this.show();
    const accuracy = percent(this.accuracies.at(-1)[1]);
    say("progress", `${finished ? "Finished" : "Paused"} after ${this.steps} steps: ` +
      `${accuracy} of the held-back digits are read right.` +
      (this.taught.size ? "" : " To teach a drawing, choose its digit first."));
  }

  pause() {
    this.learning = false;
    this.label();
  }

  async measure() {
    const { logits } = await this.learner.run(this.infer, this.heldBack);
    const { labels } = this.heldBack;
    const right = classes(logits).filter((c, n) => c == Number(labels.data[n])).length;
    this.accuracies.push([this.steps, right / labels.data.length]);
  }

  // The drawing with its explanations, the numbers and the curves.
  async show() {
    const loss = this.losses.at(-1)?.[1];
    const top = Math.max(0.1, ...this.losses.map(([, l]) => l));
    say("steps", this.steps);
    say("top", top.toFixed(1));
    say("loss", loss === undefined ? "–" : loss.toFixed(3));
    say("accuracy", percent(this.accuracies.at(-1)[1]));
    const steps = Math.max(this.steps, EPOCHS * this.perEpoch);
    plot("loss-curve", this.losses, top, steps);
    plot("accuracy-curve", this.accuracies, 1, steps);
    if (this.pad.strokes.length) await this.explain();
    else this.blank();
  }

  async explain() {
    const cells = this.pad.cells();
    const { logits } = await this.learner.run(this.infer, example(cells, 0));
    const [seen] = classes(logits);
    const chances = probabilities(logits.data);
    const target = this.chosen ?? seen;
    const { image, labels } = example(cells, target);
    const results = await this.learner.run(this.explained, { image, target: labels });
    const cam = this.explained.outputNames.find((name) => name.endsWith("_cam"));
    const ink = [...results.image_ink.data];

    this.chances(chances, seen);
    draw("seen", cells, `The drawing as ${SIDE} by ${SIDE} pixels`);
    draw("ink", scaled(ink), `What speaks for and against ${target}, by pixel`);
    draw("cam", results[cam].data, `Where the last convolution sees ${target}`);
    if (this.pad.strokes.length) this.pad.explain(scaled(ink), this.colours(target));
    if (this.pad.drawing && this.pad.keyed) say("reading", "The pen is down.");
    if (this.pad.drawing || this.learning) return; // said when that is over
    element("pad").setAttribute("aria-label", `Drawing area: a drawing that is read as ${seen}`);
    const other = target == seen ? "" : `, and as ${target} with ${percent(chances[target])}`;
    const against = ink.some((v) => v < 0)
      ? `, most against it ${place(ink.map((v) => -v))}` : "";
    say("reading", `${this.pad.example ? "An example, read" : "Read"} as ${seen} with ` +
      `${percent(chances[seen])}${other}. Most speaks for ${target} ${place(ink)}${against}.`);
  }

  blank() {
    this.chances(Array(10).fill(0), null);
    for (const id of ["seen", "ink", "cam"]) draw(id, new Float32Array(SIDE * SIDE), "Nothing");
    element("pad").setAttribute("aria-label", "Drawing area, empty");
    say("reading", "Nothing is drawn yet.");
  }

  chances(values, seen) {
    say("now", seen == null ? "" : `${seen}, ${percent(values[seen])}`);
    this.rows.forEach((row, k) => {
      row.classList.toggle("seen", k == seen);
      row.querySelector(".bar").style.scale = `${values[k]} 1`;
      row.querySelector("output").textContent = percent(values[k]);
    });
  }

  colours(target) {
    say("for", `speaks for ${target}`);
    say("against", `speaks against ${target}`);
    const of = (id) => getComputedStyle(element(id), "::before").backgroundColor;
    return { for: of("for"), against: of("against") };
  }
}

const page = await Page.open().catch(failed);
const again = (weights, words) => {
  page.pause();
  page.later(() => page.start(weights, words));
};
const actions = {
  undo: () => page.pad.undo(),
  clear: () => page.pad.clear(),
  learn: () => (page.learning ? page.pause() : page.later(page.learn)),
  trained: () => again(page.trained, "trained"),
  random: () => again({}, "with random weights"),
};
for (const [id, action] of Object.entries(actions)) {
  element(id).addEventListener("click", action);
  element(id).disabled = false;
}
dark.addEventListener("change", () => page.drawn());
