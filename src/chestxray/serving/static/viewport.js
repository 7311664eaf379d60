// The image area: a radiograph with window and level, zoom, pan, inversion, and a heatmap over it.

import { paint, smooth } from "./blend.js";

const PLAIN = { width: 255, level: 127.5, invert: false };
const MAX_ZOOM = 16; // CSS pixels per pixel of the image

export class Viewport {
  // canvas: the element; onChange: called when the view changes, with { width, level, zoom }, or
  // null when no image is shown.
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.tool = "window";
    this.look = { ...PLAIN, opacity: 1 };
    this.image = null;
    this.smoothed = null;
    this.pointers = new Map();
    this.buffer = document.createElement("canvas");
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  // image: { grey: Uint8Array, width, height, reduction }, or null for none; reduction: its width
  // by the file's.
  show(image) {
    this.image = image;
    this.smoothed = null;
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

  // Changes some of { width, level, invert, opacity }.
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

  fit() {
    if (!this.image) return this.draw();
    const { clientWidth, clientHeight } = this.canvas;
    this.zoom = Math.min(clientWidth / this.image.width, clientHeight / this.image.height) || 1;
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
    }
    if (this.image) this.onChange({ ...this.look, zoom: this.magnification });
    else this.onChange(null);
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    this.canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.canvas.height = Math.round(clientHeight * devicePixelRatio);
    if (this.fitted || !this.image) this.fit();
    else this.draw();
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const tool = event.button > 0 || event.shiftKey ? "pan" : this.tool;
    this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY, tool });
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { ...before, x: event.offsetX, y: event.offsetY };
    const [dx, dy] = [now.x - before.x, now.y - before.y];
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, now);
    if (other) {
      this.pan(dx / 2, dy / 2);
      const apart = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
      this.scale(apart(now) / apart(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else if (before.tool === "pan") {
      this.pan(dx, dy);
    } else {
      this.window(dx, dy);
    }
  }

  wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode ? 16 : 1;
    this.scale(Math.exp((-event.deltaY * lines) / 500), event.offsetX, event.offsetY);
  }

  key(event) {
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const direction = directions[event.key];
    if (!direction) return;
    event.preventDefault();
    if (event.shiftKey) this.window(direction[0] * 8, direction[1] * 8);
    else this.pan(direction[0] * -24, direction[1] * -24);
  }
}
