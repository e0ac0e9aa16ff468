// A square to draw on, by pointer or keyboard. Points are parts of its side, from 0 to 1.

export const SIDE = 8; // pixels that the net sees
const FINE = 8; // each is a mean over so many squared
const PEN = 0.15; // the width of a stroke, as the net sees it
const WIDTH = 0.7; // the largest part of its width that a digit takes: they are slim
const SMALLEST = 0.15; // what is smaller is not enlarged further
const STEP = 1 / 20; // by which a key moves

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  // Calls `changed` whenever there is another drawing.
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.strokes = [];
    this.drawing = false; // the pen is down
    this.cursor = [0.5, 0.2]; // of the keyboard
    this.map = null;
    this.listen();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.put(this.place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.drawing && canvas.hasPointerCapture(event.pointerId)) this.move(this.place(event));
    });
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, () => this.lift());
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("focus", () => this.paint());
    canvas.addEventListener("blur", () => this.lift());
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = KEYS[event.key];
    if (by) {
      this.cursor = this.cursor.map((c, k) => Math.min(1, Math.max(0, c + STEP * by[k])));
      if (this.drawing) this.move(this.cursor);
      else this.paint();
    } else if (event.key == " ") this.drawing ? this.lift() : this.put(this.cursor, true);
    else if (event.key == "Backspace") this.undo();
    else if (event.key == "Delete") this.clear();
    else return;
    event.preventDefault();
  }

  // An example makes way for what a person draws.
  show(strokes) {
    this.strokes = strokes;
    this.example = true;
    this.update();
  }

  put(point, keyed = false) {
    this.keyed = keyed;
    if (this.example) this.strokes = [];
    this.example = false;
    this.drawing = true;
    this.strokes.push([point]);
    this.update();
  }

  move(point) {
    this.strokes.at(-1).push(point);
    this.update();
  }

  lift() {
    const drawn = this.drawing;
    this.drawing = false;
    if (drawn) this.update();
    else this.paint();
  }

  undo() {
    this.strokes.pop();
    this.drawing = false;
    this.update();
  }

  clear() {
    this.strokes = [];
    this.drawing = false;
    this.update();
  }

  update() {
    this.map = this.strokes.length ? this.map : null;
    this.paint();
    this.changed();
  }

  // The rectangle around the drawing that the net sees, which makes digits of any size alike.
  frame() {
    const [left, right, top, bottom] = [0, 1].flatMap((axis) => {
      const places = this.strokes.flat().map((point) => point[axis]);
      return [Math.min(...places), Math.max(...places)];
    });
    const wide = right - left;
    const high = Math.max(bottom - top, WIDTH * wide, SMALLEST) / (1 - PEN);
    const width = Math.max(high, wide / WIDTH / (1 - PEN));
    return { x: (left + right - width) / 2, y: (top + bottom - high) / 2, width, height: high };
  }

  // What the net sees, from 0 (paper) to 1 (ink).
  cells() {
    const size = SIDE * FINE;
    const canvas = new OffscreenCanvas(size, size);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (this.strokes.length) {
      const { x, y, width, height } = this.frame();
      trace(context, this.strokes, PEN * size, (point) =>
        [size * (point[0] - x) / width, size * (point[1] - y) / height]);
    }
    const { data } = context.getImageData(0, 0, size, size);
    const cells = new Float32Array(SIDE * SIDE);
    for (let row = 0; row < size; row++)
      for (let column = 0; column < size; column++)
        cells[SIDE * Math.floor(row / FINE) + Math.floor(column / FINE)] +=
          data[4 * (size * row + column) + 3] / 255 / FINE ** 2;
    return cells;
  }

  // Colours the ink by a map of the cells, from -1 (against) to 1 (for).
  explain(map, colours) {
    this.map = new OffscreenCanvas(SIDE, SIDE);
    const context = this.map.getContext("2d");
    map.forEach((value, k) => {
      context.globalAlpha = Math.abs(value);
      context.fillStyle = value > 0 ? colours.for : colours.against;
      context.fillRect(k % SIDE, Math.floor(k / SIDE), 1, 1);
    });
    this.paint();
  }

  resize() {
    const size = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (size != this.canvas.width) this.canvas.width = this.canvas.height = size;
    this.paint();
  }

  paint() {
    const { canvas } = this;
    const context = canvas.getContext("2d");
    const size = canvas.width;
    const scaled = (point) => point.map((p) => p * size);
    const colour = getComputedStyle(canvas).color;
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, size, size);
    context.strokeStyle = colour;
    trace(context, this.strokes, 0.09 * size, scaled);
    if (this.map) {
      const { x, y, width, height } = this.frame();
      context.globalCompositeOperation = "source-atop"; // only where there is ink
      context.drawImage(this.map, ...[x, y, width, height].map((p) => p * size));
      context.globalCompositeOperation = "source-over";
    }
    if (canvas.matches(":focus-visible")) cross(context, scaled(this.cursor), size, this.drawing);
  }
}

function trace(context, strokes, width, scaled) {
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round" });
  context.beginPath();
  for (const [first, ...others] of strokes) {
    context.moveTo(...scaled(first));
    for (const point of others.length ? others : [first]) context.lineTo(...scaled(point));
  }
  context.stroke();
}

// Where the keyboard's pen is; filled when it is down.
function cross(context, [x, y], size, down) {
  context.lineWidth = 0.008 * size;
  context.beginPath();
  context.arc(x, y, 0.03 * size, 0, 2 * Math.PI);
  context.moveTo(x - 0.06 * size, y);
  context.lineTo(x + 0.06 * size, y);
  context.moveTo(x, y - 0.06 * size);
  context.lineTo(x, y + 0.06 * size);
  context.strokeStyle = getComputedStyle(context.canvas).outlineColor;
  context.fillStyle = context.strokeStyle;
  if (down) context.fill();
  context.stroke();
}
