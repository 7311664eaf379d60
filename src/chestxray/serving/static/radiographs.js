// The list of radiographs: each with a thumbnail, its study date, its state and, where it was not
// read, the reason.

import { Problem } from "./api.js";
import { counted } from "./formatting.js";
import { decode, thumbnail } from "./images.js";
import { reasonOf, warningsOf } from "./notices.js";

const MAX_UPLOADS = 2; // at once; leaves room for other clients
const STATES = {
  waiting: "waiting",
  reading: "reading …",
  refused: "refused",
  unread: "not read",
};
const INCOMPLETE = { code: "answer", detail: "The answer is incomplete." };
const KINDS = {
  all: () => true,
  called: (radiograph) => radiograph.called > 0,
  trouble: (radiograph) => ["refused", "unread"].includes(radiograph.state) || radiograph.force,
};

export class RadiographList {
  // list: the <ul>; read: gives the reading of a radiograph; onChange: called with a radiograph whose
  // state changed, or null where the list changed; onSelect: called with the selected one, also when
  // its state changed.
  constructor(list, read, onChange, onSelect) {
    this.list = list;
    this.read = read;
    this.onChange = onChange;
    this.onSelect = onSelect;
    this.all = [];
    this.current = null;
    this.busy = 0;
    this.made = 0;
    this.kind = "all";
  }

  // open: gives the file, or a promise of it, each time that it is called.
  add(open, name) {
    const key = String(++this.made);
    const radiograph = { key, open, name, state: "waiting", force: false, identity: null };
    this.all.push(radiograph);
    radiograph.item = this.row(radiograph);
    this.list.append(radiograph.item);
    if (!this.current) this.select(radiograph);
    this.show(radiograph);
    this.next();
    return radiograph;
  }

  select(radiograph) {
    this.current?.item.firstChild.setAttribute("aria-current", "false");
    this.current = radiograph;
    radiograph?.item.firstChild.setAttribute("aria-current", "true");
    radiograph?.item.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.onSelect(radiograph);
  }

  // Reads a radiograph again: after a temporary failure, or by force although it is refused.
  retry(radiograph, force = false) {
    radiograph.problem = null;
    radiograph.force = force;
    this.mark(radiograph, "waiting");
    this.next();
  }

  // Selects the one before or after, of those that are shown.
  step(by) {
    const shown = this.all.filter((each) => !each.item.hidden || each === this.current);
    const to = shown[shown.indexOf(this.current) + by];
    if (to) this.select(to);
  }

  // Shows one kind only: all, called, or trouble (refused or not read).
  filter(kind) {
    this.kind = kind;
    this.all.forEach((each) => this.show(each));
  }

  show(radiograph) {
    radiograph.item.hidden = !KINDS[this.kind](radiograph);
  }

  remove(radiograph) {
    const place = this.all.indexOf(radiograph);
    this.drop(radiograph);
    const near = this.all[Math.min(place, this.all.length - 1)] ?? null;
    if (radiograph === this.current) this.select(near);
    (near?.item.firstChild ?? document.getElementById("open")).focus();
    this.onChange(null);
  }

  removeAll() {
    [...this.all].forEach((each) => this.drop(each));
    this.select(null);
    this.onChange(null);
  }

  drop(radiograph) {
    this.all.splice(this.all.indexOf(radiograph), 1);
    radiograph.item.remove();
    radiograph.removed = true;
  }

  async next() {
    const radiograph = this.all.find((each) => each.state === "waiting");
    if (!radiograph || this.busy >= MAX_UPLOADS) return;
    this.busy++;
    this.mark(radiograph, "reading");
    try {
      await this.take(radiograph, await this.read(radiograph));
      this.mark(radiograph, "read");
    } catch (problem) {
      await this.fail(radiograph, problem);
      this.mark(radiograph, radiograph.problem.code === "refused" ? "refused" : "unread");
    }
    this.busy--;
    this.next();
    this.next();
  }

  async take(radiograph, reading) {
    const { width, height, spacing, display } = reading.image;
    const image = await decode(display, { width, height, spacing });
    image.burned = reading.refused;
    reading.image.display = null;
    Object.assign(radiograph, { image, reading });
    radiograph.called = reading.findings.filter((row) => row.called).length;
  }

  async fail(radiograph, problem) {
    radiograph.reading = null;
    radiograph.called = 0;
    radiograph.image = await decode(problem.display).catch(() => null);
    radiograph.problem = problem instanceof Problem ? problem : new Problem(0, INCOMPLETE);
  }

  mark(radiograph, state) {
    radiograph.state = state;
    if (radiograph.removed) return;
    const { item, reading, called, problem } = radiograph;
    const part = (name) => item.querySelector(`.${name}`);
    const count = called ? `${called} called` : "none called";
    item.dataset.state = state;
    item.dataset.forced = Boolean(reading?.refused);
    part("state").textContent = STATES[state] ?? (reading.refused ? `refused, read anyway · ${count}` : count);
    part("date").textContent = radiograph.identity?.studyDate ?? "";
    part("reason").textContent = problem ? reasonOf(problem) : "";
    part("reason").title = part("reason").textContent;
    const warnings = warningsOf(reading);
    part("warned").textContent = warnings.length ? counted(warnings.length, "warning") : "";
    if (radiograph.image) thumbnail(item.querySelector("canvas"), radiograph.image);
    this.show(radiograph);
    this.onChange(radiograph);
    if (radiograph === this.current) this.onSelect(radiograph);
  }

  row(radiograph) {
    const item = document.createElement("li");
    item.innerHTML =
      '<button type="button" class="radiograph">' +
      '<canvas width="96" height="96" aria-hidden="true"></canvas><span class="text">' +
      '<span class="name"></span><span class="date"></span><span class="state"></span>' +
      '<span class="warned"></span><span class="reason"></span></span></button>' +
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
