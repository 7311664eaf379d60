// Measures lengths in a radiograph: two clicks or a drag, or a cursor that the arrow keys move.
// Points are in pixels of the picture, so that they stay where they are when the view changes.

const GRIP = 4; // CSS pixels: a shorter drag is a click
const STEP = { fine: 1, coarse: 8 }; // CSS pixels of a key press
const LINE = "#7fe0ff";
const CURSOR = 12; // CSS pixels, half of its length
const PLANES = {
  patient: { suffix: "", note: "Calibrated pixel spacing." },
  detector: {
    suffix: " at the detector",
    note: "At the detector: larger than in the patient.",
  },
  unknown: {
    suffix: " (nominal)",
    note: "Nominal: at the detector or in the patient, the file does not say.",
  },
};

// Gives the length between two points of a picture: { value, unit, suffix }.
export function lengthOf(a, b, image) {
  const { file } = image;
  const across = (b.x - a.x) * (file ? file.width / image.width : 1);
  const down = (b.y - a.y) * (file ? file.height / image.height : 1);
  const { spacing } = file ?? {};
  if (!spacing) return { value: Math.hypot(across, down), unit: "px", suffix: "" };
  const value = Math.hypot(across * spacing.column, down * spacing.row);
  return { value, unit: "mm", suffix: PLANES[spacing.plane].suffix };
}

export function lengthText(a, b, image) {
  const { value, unit, suffix } = lengthOf(a, b, image);
  const digits = unit === "mm" && value < 100 ? 1 : 0;
  return `${value.toFixed(digits)} ${unit}${suffix}`;
}

// Says what the lengths mean.
export function lengthNote({ file }) {
  if (!file) return "Not read: lengths in pixels of the picture.";
  if (!file.spacing) return "No pixel spacing in the file: lengths in pixels.";
  return PLANES[file.spacing.plane].note;
}

export class Ruler {
  // viewport: where it measures; announce: called with a sentence when a length is made or deleted.
  constructor(viewport, announce) {
    this.viewport = viewport;
    this.announce = announce;
    this.draft = null; // { a, b, fixed: a was set before this press }
    this.cursor = null;
  }

  get measures() {
    return this.viewport.image?.measures ?? [];
  }

  // The point at a place of the canvas; none is outside of the picture.
  point(x, y) {
    const { image } = this.viewport;
    const at = this.viewport.toImage(x, y);
    return { x: Math.min(image.width, Math.max(0, at.x)), y: Math.min(image.height, Math.max(0, at.y)) };
  }

  down(x, y) {
    if (!this.viewport.image) return;
    const at = this.point(x, y);
    this.cursor = null;
    this.draft = this.draft ? { ...this.draft, b: at, fixed: true } : { a: at, b: at, fixed: false };
    this.start = { x, y };
    this.viewport.draw();
  }

  move(x, y) {
    if (!this.draft) return;
    this.draft.b = this.point(x, y);
    this.viewport.draw();
  }

  up(x, y) {
    if (!this.draft || !this.start) return;
    const dragged = Math.hypot(x - this.start.x, y - this.start.y) > GRIP;
    this.start = null;
    if (this.draft.fixed || dragged) this.finish();
  }

  finish() {
    const { a, b } = this.draft;
    this.draft = null;
    if (a.x !== b.x || a.y !== b.y) {
      this.measures.push({ a, b });
      this.announce(`Length: ${lengthText(a, b, this.viewport.image)}.`);
    }
    this.viewport.draw();
  }

  // Gives whether it used the key.
  key(event) {
    if (!this.viewport.image) return false;
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const direction = directions[event.key];
    const step = event.shiftKey ? STEP.fine : STEP.coarse;
    if (direction) this.moveCursor(direction[0] * step, direction[1] * step);
    else if (event.key === "Enter" || event.key === " ") this.place();
    else if (event.key === "Delete" || event.key === "Backspace") this.removeLast();
    else return false;
    return true;
  }

  moveCursor(dx, dy) {
    const { clientWidth, clientHeight } = this.viewport.canvas;
    const from = this.cursor ? this.viewport.toScreen(this.cursor) : { x: clientWidth / 2, y: clientHeight / 2 };
    const within = (value, most) => Math.min(most, Math.max(0, value));
    this.cursor = this.point(within(from.x + dx, clientWidth), within(from.y + dy, clientHeight));
    if (this.draft) this.draft.b = this.cursor;
    this.viewport.draw();
  }

  place() {
    if (!this.cursor) return this.moveCursor(0, 0);
    if (this.draft) return this.finish();
    this.draft = { a: this.cursor, b: this.cursor, fixed: true };
    this.announce("Start of a length. Move with the arrow keys, then press Enter.");
    this.viewport.draw();
  }

  removeLast() {
    if (!this.measures.pop()) return;
    this.announce("Length deleted.");
    this.viewport.draw();
  }

  // Ends what is begun, or else deletes all lengths; gives whether there was anything.
  clear() {
    const some = this.draft || this.cursor || this.measures.length;
    if (!this.draft && this.measures.length) {
      this.measures.length = 0;
      this.announce("All lengths deleted.");
    }
    this.forget();
    this.viewport.draw();
    return Boolean(some);
  }

  // Another picture is shown: what is begun ends.
  forget() {
    this.draft = this.cursor = this.start = null;
  }

  // Draws all lengths; the context's unit is a CSS pixel of the canvas.
  draw(context) {
    const { image } = this.viewport;
    const place = (point) => this.viewport.toScreen(point);
    const { clientWidth: width, clientHeight: height } = this.viewport.canvas;
    for (const { a, b } of [...this.measures, ...(this.draft ? [this.draft] : [])]) {
      drawLength(context, place(a), place(b), lengthText(a, b, image), { width, height });
    }
    if (this.cursor) drawCross(context, place(this.cursor));
  }
}

// Draws a line between two points with its length as a label of letters of a size, at most. Of a line
// that crosses the pane the label lies within the pane.
export function drawLength(context, a, b, text, pane, size = 13) {
  context.lineCap = "round";
  for (const [thickness, colour] of [[size / 3, "#000c"], [size / 8, LINE]]) {
    context.lineWidth = thickness;
    context.strokeStyle = colour;
    stroke(context, a, b);
    const across = Math.atan2(b.y - a.y, b.x - a.x) + Math.PI / 2;
    const half = { x: Math.cos(across) * size * 0.4, y: Math.sin(across) * size * 0.4 };
    for (const end of [a, b]) {
      stroke(context, { x: end.x - half.x, y: end.y - half.y }, { x: end.x + half.x, y: end.y + half.y });
    }
  }
  const apart = (axis, most) => Math.max(a[axis], b[axis]) < 0 || Math.min(a[axis], b[axis]) > most;
  if (apart("x", pane.width) || apart("y", pane.height)) return;
  drawLabel(context, a.x > b.x ? a : b, text, pane, size);
}

// Draws a label beside the right end of a line; where there is no room below it, else above it.
function drawLabel(context, end, text, pane, most) {
  const font = (size) => (context.font = `600 ${size}px system-ui, sans-serif`);
  font(most);
  context.textBaseline = "middle";
  const size = most * Math.min(1, pane.width / (context.measureText(text).width + most));
  font(size);
  const wide = context.measureText(text).width + size * 0.6;
  const gap = size * 0.2; // from the edges
  const within = (value, length, room) => Math.max(gap, Math.min(value, room - length - gap));
  const left = within(end.x + size * 0.4, wide, pane.width);
  const beside = left > end.x;
  const below = end.y + size * 2.4 < pane.height;
  const y = beside ? end.y : end.y + size * (below ? 1.4 : -1.4); // else on its own line
  const top = within(y - size * 0.75, size * 1.5, pane.height);
  context.fillStyle = "#000b";
  context.fillRect(left, top, wide, size * 1.5);
  context.fillStyle = LINE;
  context.fillText(text, left + size * 0.3, top + size * 0.75);
}

function drawCross(context, { x, y }) {
  for (const [width, colour] of [[4, "#000c"], [1.5, LINE]]) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    stroke(context, { x: x - CURSOR, y }, { x: x + CURSOR, y });
    stroke(context, { x, y: y - CURSOR }, { x, y: y + CURSOR });
  }
}

function stroke(context, a, b) {
  context.beginPath();
  context.moveTo(a.x, a.y);
  context.lineTo(b.x, b.y);
  context.stroke();
}
