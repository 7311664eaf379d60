// Side by side with another radiograph of the list, first of all an earlier one of the same patient.
// Whose it is comes from the files' headers; where they do not say the same, a warning stays visible.

import { by, element, press } from "./dom.js";
import { greyOf } from "./images.js";
import { Viewport } from "./viewport.js";

const GROUPS = { same: "Same patient", unknown: "Patient not confirmed", other: "Other patients" };
const WARNINGS = {
  same: "",
  unknown: "Patient not confirmed: at least one of the two files does not name its patient.",
  other: "Another patient: the headers of the two files name different patients.",
};
const RENAMED = "Patient not confirmed: the two files have the same patient ID but different names.";
const DAY = 86_400_000; // ms

// Says whether two radiographs are of the same patient: "same", "other" or "unknown". Names change and
// are spelt in several ways, so that another name makes the patient unknown, not another one.
export function relation(a, b) {
  if (!a?.id || !b?.id) return "unknown";
  const differs = (name) => a[name] && b[name] && a[name] !== b[name];
  if (a.id !== b.id || ["issuer", "birthDate", "sex"].some(differs)) return "other";
  return renamed(a, b) ? "unknown" : "same";
}

function renamed({ names: some = [] }, { names: others = [] }) {
  return some.length > 0 && others.length > 0 && !some.some((name) => others.includes(name));
}

// Says what is wrong with a comparison of two radiographs; "" for nothing.
function doubt(a, b) {
  const whose = relation(a, b);
  return whose === "unknown" && a?.id && b?.id ? RENAMED : WARNINGS[whose];
}

// Says how long before or after another date a date is, such as "413 days earlier".
export function interval(date, other) {
  const days = Math.round((Date.parse(date) - Date.parse(other)) / DAY);
  if (Number.isNaN(days)) return "";
  if (!days) return "same day";
  const count = Math.abs(days);
  return `${count} ${count === 1 ? "day" : "days"} ${days < 0 ? "earlier" : "later"}`;
}

export class Comparison {
  // main: the viewport of the current radiograph; list: the RadiographList; readout: writes what a
  // viewport shows into an element; announce: called with a sentence.
  constructor(main, list, readout, announce) {
    this.main = main;
    this.list = list;
    this.prior = null;
    this.image = null; // of the prior radiograph, as it is shown
    this.open = false;
    this.viewport = new Viewport(by("prior-viewport"), (view) => {
      readout(by("prior-readout"), view);
      if (!this.viewport.resizing) this.follow(this.viewport, main);
    }, announce);
    by("prior-choice").addEventListener("change", (event) => {
      this.show(this.list.all.find((each) => each.key === event.target.value) ?? null);
      if (this.prior) by("prior-viewport").focus(); // so that single keys work again
    });
    by("prior-close").addEventListener("click", () => this.close());
    for (const link of ["link-zoom", "link-window"]) {
      by(link).addEventListener("change", () => this.follow(main, this.viewport));
    }
  }

  toggle() {
    if (this.open) return this.close();
    this.open = true;
    this.update();
    if (!this.prior) by("prior-choice").focus();
  }

  close() {
    this.open = false;
    this.show(null);
    this.update();
  }

  // The list or the current radiograph changed: offers the others again.
  update() {
    press("compare", this.open);
    by("prior").hidden = !this.open;
    by("panes").dataset.two = this.open;
    if (!this.open) return;
    const groups = this.candidates();
    const offered = [...groups.values()].flat().includes(this.prior);
    if (!offered) this.show(groups.get("same")[0] ?? null);
    else if (this.prior.image !== this.image) this.show(this.prior); // it was read again
    by("prior-choice").replaceChildren(element("option", "", "Choose a radiograph"), ...options(groups));
    by("prior-choice").firstChild.value = "";
    by("prior-choice").value = this.prior?.key ?? "";
    this.caption();
  }

  // The other radiographs by whose they are; of the same patient those that were read before others,
  // and of these the latest one that is earlier than the current one first.
  candidates() {
    const { current, all } = this.list;
    const groups = new Map(Object.keys(GROUPS).map((name) => [name, []]));
    for (const each of all) {
      if (each !== current && each.image) groups.get(relation(each.identity, current?.identity)).push(each);
    }
    const date = (each) => `${each.identity?.studyDate ?? ""} ${each.identity?.studyTime ?? ""}`;
    const rank = (each) => 2 * Boolean(each.reading) + (date(each) < date(current));
    groups.get("same").sort((a, b) => rank(b) - rank(a) || date(b).localeCompare(date(a)));
    return groups;
  }

  async show(radiograph) {
    this.prior = radiograph;
    this.caption();
    const image = radiograph?.image ?? null;
    this.image = image;
    const grey = image && (await greyOf(image));
    if (image !== this.image) return; // by now another one is chosen, or this one was read again
    this.viewport.show(image && { ...image, grey });
    this.follow(this.main, this.viewport);
  }

  caption() {
    const { current } = this.list;
    const mine = this.prior?.identity?.studyDate ?? "";
    const apart = this.prior ? interval(mine, current?.identity?.studyDate ?? "") : "";
    const { problem, reading, force } = this.prior ?? {};
    const refused = (problem || force || reading?.refused) && "refused";
    by("prior-date").textContent = this.prior
      ? [mine || "date unknown", apart, refused].filter(Boolean).join(" · ")
      : "";
    const warning = this.prior ? doubt(this.prior.identity, current?.identity) : "";
    by("prior-warning").textContent = warning;
    by("prior-warning").hidden = !warning;
    by("prior-empty").hidden = Boolean(this.prior);
  }

  // Makes one viewport show what the other one shows, as far as they are linked.
  follow(from, to) {
    if (this.following || !this.open || !from.image || !to.image) return;
    this.following = true;
    if (by("link-zoom").checked) to.place = from.place;
    if (by("link-window").checked) {
      const { width, level, invert } = from.look;
      const same = width === to.look.width && level === to.look.level && invert === to.look.invert;
      if (!same) to.set({ width, level, invert });
    }
    this.following = false;
  }
}

function options(groups) {
  return [...groups].filter(([, each]) => each.length).map(([name, each]) => {
    const group = document.createElement("optgroup");
    group.label = GROUPS[name];
    group.append(...each.map((radiograph) => {
      const date = radiograph.identity?.studyDate;
      const option = element("option", "", [date, radiograph.name].filter(Boolean).join(" · "));
      option.value = radiograph.key;
      return option;
    }));
    return group;
  });
}
