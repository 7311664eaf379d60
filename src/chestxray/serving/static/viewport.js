// The image area: a radiograph with window and level, zoom, pan, inversion, a heatmap over it, and
// what the ruler measured.

import { paint, smooth } from "./blend.js";
import { burn } from "./burned_warning.js";
import { Ruler } from "./ruler.js";

const PLAIN = { width: 255, level: 127.5, invert: false };
const MAX_ZOOM = 16; // CSS pixels per pixel of the image

export class Viewport {
  // canvas: the element; onChange: called when the view changes, with { width, level, zoom }, or
  // null when no image is shown; announce: called with a sentence for screen readers.
  constructor(canvas, onChange, announce) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.tool = "window";
    this.look = { ...PLAIN, opacity: 1, contours: false };
    this.ruler = new Ruler(this, announce);
    this.image = null;
    this.smoothed = null;
    this.pointers = new Map();
    this.buffer = document.createElement("canvas");
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.up(event));
    }
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("dblclick", () => this.tool === "ruler" || this.fit());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  // image: { grey: Uint8Array, width, height, reduction, file, measures, burned }, or null for none;
  // reduction: its width by the file's; burned: whether it was read although it is refused.
  show(image) {
    this.image = image;
    this.smoothed = null;
    this.ruler.forget();
    Object.assign(this.look, PLAIN);
    if (image) {
      this.buffer.width = image.width;
      this.buffer.height = image.height;
      this.pixels = new ImageData(image.width, image.height);
    }
    this.fit();
    this.paint();
  }

  // map: rows of heat over the square that the image lies in, or null for none.
  heat(map) {
    this.smoothed = map && this.image ? smooth(map, this.image.width, this.image.height) : null;
    this.paint();
  }

  // Changes some of { width, level, invert, opacity, contours }.
  set(look) {
    Object.assign(this.look, look);
    this.look.width = Math.min(1020, Math.max(2, this.look.width));
    this.look.level = Math.min(382, Math.max(-128, this.look.level));
    this.paint();
  }

  reset() {
    this.set(PLAIN);
    this.fit();
  }

  // Screen pixels per pixel of the file.
  get magnification() {
    return this.zoom * this.image.reduction * devicePixelRatio;
  }

  actual() {
    if (this.image) this.scale(1 / this.magnification);
  }

  // The zoom at which the whole image is seen.
  get fitting() {
    const { clientWidth, clientHeight } = this.canvas;
    return Math.min(clientWidth / this.image.width, clientHeight / this.image.height) || 1;
  }

  // What is seen, for another viewport: zoom by that of the whole image, and the fractions of the
  // image at which the centre lies.
  get place() {
    const { clientWidth, clientHeight } = this.canvas;
    const centre = this.toImage(clientWidth / 2, clientHeight / 2);
    return {
      zoom: this.zoom / this.fitting,
      x: centre.x / this.image.width,
      y: centre.y / this.image.height,
    };
  }

  set place({ zoom, x, y }) {
    if (!this.image) return;
    this.zoom = zoom * this.fitting;
    this.x = this.canvas.clientWidth / 2 - x * this.image.width * this.zoom;
    this.y = this.canvas.clientHeight / 2 - y * this.image.height * this.zoom;
    this.fitted = Math.abs(zoom - 1) < 1e-6 && Math.abs(x - 0.5) < 1e-6 && Math.abs(y - 0.5) < 1e-6;
    this.draw();
  }

  // The pixel of the image at a place of the canvas, and the reverse.
  toImage(x, y) {
    return { x: (x - this.x) / this.zoom, y: (y - this.y) / this.zoom };
  }

  toScreen({ x, y }) {
    return { x: this.x + x * this.zoom, y: this.y + y * this.zoom };
  }

  fit() {
    if (!this.image) return this.draw();
    const { clientWidth, clientHeight } = this.canvas;
    this.zoom = this.fitting;
    this.x = (clientWidth - this.image.width * this.zoom) / 2;
    this.y = (clientHeight - this.image.height * this.zoom) / 2;
    this.fitted = true;
    this.draw();
  }

  // Zooms by a factor about a point of the canvas, by default its centre.
  scale(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    if (!this.image) return;
    const zoom = Math.min(MAX_ZOOM, Math.max(0.05, this.zoom * factor));
    this.x = x - ((x - this.x) * zoom) / this.zoom;
    this.y = y - ((y - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
    this.fitted = false;
    this.draw();
  }

  pan(dx, dy) {
    if (!this.image) return;
    const { clientWidth, clientHeight } = this.canvas;
    const keep = 40; // pixels of the image stay visible
    const within = (value, length, size) =>
      Math.min(size - keep, Math.max(keep - length * this.zoom, value));
    this.x = within(this.x + dx, this.image.width, clientWidth);
    this.y = within(this.y + dy, this.image.height, clientHeight);
    this.fitted = false;
    this.draw();
  }

  // Changes window and level as a drag does: sideways the width, upwards brighter.
  window(dx, dy) {
    if (this.image) this.set({ width: this.look.width + dx, level: this.look.level + dy / 2 });
  }

  paint() {
    if (this.image && !this.painting) {
      this.painting = requestAnimationFrame(() => {
        this.painting = 0;
        if (!this.image) return;
        paint(this.pixels.data, this.image.grey, this.smoothed, this.look);
        this.buffer.getContext("2d").putImageData(this.pixels, 0, 0);
        this.draw();
      });
    }
  }

  draw() {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.image) {
      const ratio = this.canvas.width / this.canvas.clientWidth;
      context.setTransform(this.zoom * ratio, 0, 0, this.zoom * ratio, this.x * ratio, this.y * ratio);
      context.imageSmoothingEnabled = this.zoom < 4;
      context.imageSmoothingQuality = "high";
      context.drawImage(this.buffer, 0, 0);
      if (this.image.burned) burn(context, this.image.width, this.image.height);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      this.ruler.draw(context);
    }
    if (this.image) this.onChange({ ...this.look, zoom: this.magnification });
    else this.onChange(null);
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    this.canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.canvas.height = Math.round(clientHeight * devicePixelRatio);
    this.resizing = true;
    if (this.fitted || !this.image) this.fit();
    else this.draw();
    this.resizing = false;
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const tool = event.button > 0 || event.shiftKey ? "pan" : this.tool;
    this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY, tool });
    if (this.pointers.size > 1) this.ruler.forget();
    else if (tool === "ruler") this.ruler.down(event.offsetX, event.offsetY);
  }

  up(event) {
    const before = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (before?.tool === "ruler") this.ruler.up(event.offsetX, event.offsetY);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.ruler.move(event.offsetX, event.offsetY);
    const now = { ...before, x: event.offsetX, y: event.offsetY };
    const [dx, dy] = [now.x - before.x, now.y - before.y];
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, now);
    if (other) this.pinch(before, now, other);
    else if (before.tool === "pan") this.pan(dx, dy);
    else if (before.tool === "ruler") this.ruler.move(now.x, now.y);
    else this.window(dx, dy);
  }

  // Zooms and pans as two fingers do, of which one moved.
  pinch(before, now, other) {
    this.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
    const apart = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
    this.scale(apart(now) / apart(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
  }

  wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode ? 16 : 1;
    this.scale(Math.exp((-event.deltaY * lines) / 500), event.offsetX, event.offsetY);
  }

  key(event) {
    if (this.tool === "ruler" && this.ruler.key(event)) return event.preventDefault();
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const direction = directions[event.key];
    if (!direction) return;
    event.preventDefault();
    if (event.shiftKey) this.window(direction[0] * 8, direction[1] * 8);
    else this.pan(direction[0] * -24, direction[1] * -24);
  }
}
