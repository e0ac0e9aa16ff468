// Nets that onnxgrad wrote, run by onnxruntime-web. Nothing here knows what they compute.

import * as ort from "./ort/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more need a server that isolates the page

export const { Tensor } = ort;

// Without memory patterns what is free is used again at once.
export const load = (file) => ort.InferenceSession.create(file, { enableMemPattern: false });

// The tensors that a file without inputs gives, by their names.
export const tensors = async (file) => (await load(file)).run({});

// Examples `first` to `last` of each tensor.
export function examples(data, first, last) {
  const part = ([name, tensor]) => {
    const [all, ...rest] = tensor.dims;
    const size = tensor.data.length / all;
    const end = Math.min(last, all);
    const values = tensor.data.slice(first * size, end * size);
    return [name, new Tensor(tensor.type, values, [end - first, ...rest])];
  };
  return Object.fromEntries(Object.entries(data).map(part));
}

// Examples one behind another, of tensors of the same names.
export function joined(parts) {
  const whole = ([name, { type, data, dims }]) => {
    const all = parts.map((part) => part[name]);
    const count = all.reduce((sum, tensor) => sum + tensor.dims[0], 0);
    const values = new data.constructor(count * (data.length / dims[0]));
    let end = 0;
    for (const tensor of all) {
      values.set(tensor.data, end);
      end += tensor.data.length;
    }
    return [name, new Tensor(type, values, [count, ...dims.slice(1)])];
  };
  return Object.fromEntries(Object.entries(parts[0]).map(whole));
}

export class Learner {
  constructor(step, state) {
    this.step = step;
    this.state = state;
  }

  // One step of training: run, and copy each next state to its input. Gives the loss.
  async learn(batch, rate) {
    const learning_rate = new Tensor("float32", [rate], []);
    const results = await this.step.run({ ...batch, ...this.state, learning_rate });
    for (const name of Object.keys(this.state)) this.state[name] = results[`${name}_next`];
    return results.loss.data[0];
  }

  // What a net computes with the weights as they are now.
  run(net, feeds) {
    const all = { ...feeds, ...this.state };
    return net.run(Object.fromEntries(net.inputNames.map((name) => [name, all[name]])));
  }
}

// The class with the largest score, of each example.
export function classes(scores) {
  const [count, width] = scores.dims;
  return Array.from({ length: count }, (_, n) => {
    const row = scores.data.subarray(n * width, (n + 1) * width);
    return row.indexOf(Math.max(...row));
  });
}

export function probabilities(scores) {
  const largest = Math.max(...scores);
  const powers = Array.from(scores, (s) => Math.exp(s - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((p) => p / sum);
}
