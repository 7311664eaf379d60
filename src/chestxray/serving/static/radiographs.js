// The list of radiographs: each with a thumbnail and its state.

import { Problem } from "./api.js";
import { counted } from "./formatting.js";
import { warningsOf } from "./notices.js";

const MAX_UPLOADS = 2; // at once; leaves room for other clients
const STATES = {
  waiting: "waiting",
  reading: "reading …",
  refused: "refused",
  unread: "not read",
};
const INCOMPLETE = { code: "answer", detail: "The answer is incomplete." };

export class RadiographList {
  // list: the <ul>; read: gives the reading of a file; onChange: called with a radiograph whose
  // state changed; onSelect: called with the selected one, also when its state changed.
  constructor(list, read, onChange, onSelect) {
    this.list = list;
    this.read = read;
    this.onChange = onChange;
    this.onSelect = onSelect;
    this.all = [];
    this.current = null;
    this.busy = 0;
  }

  // open: gives the file, or a promise of it.
  add(open, name) {
    const radiograph = { open, name, state: "waiting" };
    this.all.push(radiograph);
    radiograph.item = this.row(radiograph);
    this.list.append(radiograph.item);
    if (!this.current) this.select(radiograph);
    this.next();
    return radiograph;
  }

  select(radiograph) {
    this.current = radiograph;
    for (const each of this.all) {
      each.item.firstChild.setAttribute("aria-current", each === radiograph ? "true" : "false");
    }
    radiograph?.item.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.onSelect(radiograph);
  }

  // Reads a radiograph again after a temporary failure.
  retry(radiograph) {
    radiograph.problem = null;
    this.mark(radiograph, "waiting");
    this.next();
  }

  step(by) {
    const to = this.all[this.all.indexOf(this.current) + by];
    if (to) this.select(to);
  }

  remove(radiograph) {
    const place = this.all.indexOf(radiograph);
    this.all.splice(place, 1);
    radiograph.item.remove();
    radiograph.removed = true;
    const near = this.all[Math.min(place, this.all.length - 1)] ?? null;
    if (radiograph === this.current) this.select(near);
    (near?.item.firstChild ?? document.getElementById("open")).focus();
  }

  async next() {
    const radiograph = this.all.find((each) => each.state === "waiting");
    if (!radiograph || this.busy >= MAX_UPLOADS) return;
    this.busy++;
    this.mark(radiograph, "reading");
    try {
      const reading = await this.read(radiograph.open);
      const { display, width } = reading.image;
      radiograph.image = await decode(display, width);
      radiograph.reading = reading;
      radiograph.reading.image.display = radiograph.open = null;
      this.mark(radiograph, "read");
    } catch (problem) {
      radiograph.reading = null;
      radiograph.image = await decode(problem.display).catch(() => null);
      radiograph.problem = problem instanceof Problem ? problem : new Problem(0, INCOMPLETE);
      if (!radiograph.problem.temporary) radiograph.open = null;
      this.mark(radiograph, radiograph.problem.code === "refused" ? "refused" : "unread");
    }
    this.busy--;
    this.next();
    this.next();
  }

  mark(radiograph, state) {
    radiograph.state = state;
    if (radiograph.removed) return;
    const called = radiograph.reading?.findings.filter((row) => row.called).length;
    radiograph.item.dataset.state = state;
    radiograph.item.querySelector(".state").textContent =
      STATES[state] ?? (called ? `${called} called` : "none called");
    const warnings = warningsOf(radiograph.reading);
    radiograph.item.querySelector(".warned").textContent =
      warnings.length ? counted(warnings.length, "warning") : "";
    if (radiograph.image) thumbnail(radiograph.item.querySelector("canvas"), radiograph.image);
    this.onChange(radiograph);
    if (radiograph === this.current) this.onSelect(radiograph);
  }

  row(radiograph) {
    const item = document.createElement("li");
    item.innerHTML =
      '<button type="button" class="radiograph">' +
      '<canvas width="96" height="96" aria-hidden="true"></canvas><span class="name"></span><span class="state"></span>' +
      '<span class="warned"></span></button>' +
      '<button type="button" class="remove">×</button>';
    item.dataset.state = radiograph.state;
    item.querySelector(".name").textContent = radiograph.name;
    item.querySelector(".name").title = radiograph.name;
    item.querySelector(".state").textContent = STATES[radiograph.state];
    item.firstChild.addEventListener("click", () => this.select(radiograph));
    item.lastChild.setAttribute("aria-label", `Remove ${radiograph.name}`);
    item.lastChild.addEventListener("click", () => this.remove(radiograph));
    return item;
  }
}

// Decodes a grey PNG in base64, or null where there is none.
//   fileWidth: the width of the file, pixels.
// Gives { blob, width, height, reduction }: the last is the image's width by the file's.
async function decode(base64, fileWidth = null) {
  if (!base64) return null;
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const blob = new Blob([bytes], { type: "image/png" });
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  return { blob, width, height, reduction: width / (fileWidth ?? width) };
}

// Gives the grey values of a decoded image, one byte per pixel.
export async function greyOf({ blob, width, height }) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Uint8Array(width * height);
  for (let i = 0; i < grey.length; i++) grey[i] = data[4 * i];
  return grey;
}

async function thumbnail(canvas, { blob, width, height }) {
  const scale = canvas.width / Math.min(width, height);
  const bitmap = await createImageBitmap(blob, {
    resizeWidth: Math.max(1, Math.round(width * scale)),
    resizeHeight: Math.max(1, Math.round(height * scale)),
    resizeQuality: "medium",
  });
  const at = (length) => (canvas.width - length) / 2;
  canvas.getContext("2d").drawImage(bitmap, at(bitmap.width), at(bitmap.height));
}
