// The list of films: each with a thumbnail and what became of it.

import { Problem } from "./api.js";
import { counted, warningsOf } from "./notices.js";

const AT_ONCE = 2; // uploads; the server batches those of others
const STATES = {
  waiting: "waiting",
  reading: "reading …",
  refused: "refused",
  unread: "not read",
};
const CUT_OFF = { code: "answer", sentence: "The answer did not arrive whole." };

export class Films {
  // list: the <ul>; read: what gives a file → reading; changed: called with a film that has changed, and once
  // more for the film that is chosen.
  constructor(list, read, changed, chosen) {
    this.list = list;
    this.read = read;
    this.changed = changed;
    this.chosen = chosen;
    this.films = [];
    this.current = null;
    this.busy = 0;
  }

  // open: gives the file, or a promise of it.
  add(open, name) {
    const film = { open, name, state: "waiting" };
    this.films.push(film);
    film.item = this.row(film);
    this.list.append(film.item);
    if (!this.current) this.choose(film);
    this.next();
    return film;
  }

  choose(film) {
    this.current = film;
    for (const each of this.films) {
      each.item.firstChild.setAttribute("aria-current", each === film ? "true" : "false");
    }
    film?.item.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.chosen(film);
  }

  // Reads a film once more that was not read for want of a server.
  again(film) {
    film.problem = null;
    this.mark(film, "waiting");
    this.next();
  }

  step(by) {
    const place = this.films.indexOf(this.current) + by;
    if (this.films[place]) this.choose(this.films[place]);
  }

  remove(film) {
    const place = this.films.indexOf(film);
    this.films.splice(place, 1);
    film.item.remove();
    film.removed = true;
    const near = this.films[Math.min(place, this.films.length - 1)] ?? null;
    if (film === this.current) this.choose(near);
    (near?.item.firstChild ?? document.getElementById("open")).focus();
  }

  async next() {
    const film = this.films.find((each) => each.state === "waiting");
    if (!film || this.busy >= AT_ONCE) return;
    this.busy++;
    this.mark(film, "reading");
    try {
      const reading = await this.read(film.open);
      const { display, width } = reading.image;
      film.picture = await picture(display, width);
      film.reading = reading;
      film.reading.image.display = film.open = null;
      this.mark(film, "read");
    } catch (problem) {
      film.reading = null;
      film.picture = await picture(problem.display).catch(() => null);
      film.problem = problem instanceof Problem ? problem : new Problem(0, CUT_OFF);
      if (!film.problem.passing) film.open = null;
      this.mark(film, film.problem.code === "refused" ? "refused" : "unread");
    }
    this.busy--;
    this.next();
    this.next();
  }

  mark(film, state) {
    film.state = state;
    if (film.removed) return;
    const called = film.reading?.findings.filter((row) => row.called).length;
    film.item.dataset.state = state;
    film.item.querySelector(".state").textContent =
      STATES[state] ?? (called ? `${called} called` : "none called");
    const warnings = warningsOf(film.reading);
    film.item.querySelector(".warned").textContent = warnings.length ? counted(warnings) : "";
    if (film.picture) thumbnail(film.item.querySelector("canvas"), film.picture);
    this.changed(film);
    if (film === this.current) this.chosen(film);
  }

  row(film) {
    const item = document.createElement("li");
    item.innerHTML =
      '<button type="button" class="film"><canvas width="96" height="96" aria-hidden="true">' +
      '</canvas><span class="name"></span><span class="state"></span>' +
      '<span class="warned"></span></button>' +
      '<button type="button" class="remove">×</button>';
    item.dataset.state = film.state;
    item.querySelector(".name").textContent = film.name;
    item.querySelector(".name").title = film.name;
    item.querySelector(".state").textContent = STATES[film.state];
    item.firstChild.addEventListener("click", () => this.choose(film));
    item.lastChild.setAttribute("aria-label", `Remove ${film.name}`);
    item.lastChild.addEventListener("click", () => this.remove(film));
    return item;
  }
}

// Decodes a grey PNG in base64, or null where there is none.
//   whole: the width of the file, pixels.
// Gives { blob, width, height, reduced }, the last how many of its pixels there are for each of the
// file.
async function picture(base64, whole = null) {
  if (!base64) return null;
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const blob = new Blob([bytes], { type: "image/png" });
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  return { blob, width, height, reduced: width / (whole ?? width) };
}

// Gives the grey values of a film's picture, one byte a pixel.
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
