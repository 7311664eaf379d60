// The list of findings: one row per finding. One is selected; its meaning is shown below it.
// Names come from the model and are only ever set as text.

import { figures, meaning, position, sorted, verdict } from "./formatting.js";

export class FindingList {
  // group: the radiogroup; onSelect: called with the finding's name when the user selects one.
  constructor(group, onSelect) {
    this.group = group;
    this.onSelect = onSelect;
    this.finding = null;
    this.names = [];
    group.addEventListener("keydown", (event) => this.key(event));
  }

  // Shows a reading. The finding that the user selected stays selected; before that, the first is.
  show(reading, card) {
    const rows = sorted(reading.findings);
    this.names = rows.map((row) => row.finding);
    if (!this.selected) this.finding = this.names[0];
    const about = new Map(card.findings.map((each) => [each.finding, each]));
    const items = rows.map((row, index) => this.row(row, index, about.get(row.finding)));
    const assessed = rows.filter((row) => row.called !== null).length;
    if (assessed < rows.length) items.splice(assessed, 0, notAssessed(rows.length - assessed));
    this.group.replaceChildren(...items);
    this.mark();
  }

  select(finding) {
    this.finding = finding;
    this.selected = true;
    this.mark();
    this.onSelect(finding);
  }

  row(row, index, about) {
    const item = document.createElement("div");
    item.className = "finding";
    item.dataset.finding = row.finding;
    item.dataset.called = row.called;
    item.innerHTML =
      '<button type="button" role="radio"><span class="title"><span class="name"></span>' +
      '<span class="call"></span></span><span class="figure"></span><span class="track">' +
      '<span class="fill"></span><span class="mark"></span></span></button>' +
      '<div class="meaning"></div>';
    const button = item.firstChild;
    const part = (name) => item.querySelector(`.${name}`);
    part("name").textContent = row.label;
    const [figure, threshold] = figures(row);
    part("figure").textContent = figure;
    part("call").textContent = row.calibrated ? verdict(row) : `${verdict(row)} · uncalibrated`;
    part("fill").style.width = `${position(row.probability)}%`;
    if (row.threshold === null) part("mark").remove();
    else part("mark").style.left = `${position(row.threshold)}%`;
    const limit = threshold === null ? "" : `, threshold ${threshold}`;
    button.setAttribute("aria-label", `${row.label}, ${figure}${limit}, ${part("call").textContent}`);
    part("meaning").id = `meaning-${index}`; // a name can have spaces, which separate ids
    button.setAttribute("aria-describedby", part("meaning").id);
    button.addEventListener("click", () => this.select(row.finding));
    for (const text of [about?.description, meaning(row, about)]) {
      if (!text) continue; // a name outside the vocabulary has no description
      const paragraph = document.createElement("p");
      paragraph.className = text === about?.description ? "description" : "";
      paragraph.textContent = text;
      part("meaning").append(paragraph);
    }
    return item;
  }

  mark() {
    for (const item of this.items()) {
      const mine = item.dataset.finding === this.finding;
      item.firstChild.setAttribute("aria-checked", mine);
      item.firstChild.tabIndex = mine ? 0 : -1;
      item.lastChild.hidden = !mine;
    }
  }

  key(event) {
    const last = this.names.length - 1;
    const now = this.names.indexOf(this.finding);
    const to = {
      ArrowDown: Math.min(last, now + 1),
      ArrowUp: Math.max(0, now - 1),
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.select(this.names[to]);
    this.items()[to].firstChild.focus();
  }

  items() {
    return this.group.querySelectorAll(".finding");
  }
}

// The heading of the findings that the model may not call.
function notAssessed(count) {
  const heading = document.createElement("p");
  heading.className = "not-assessed";
  heading.textContent =
    `Not assessed (${count}): the validation data gave no evidence or no threshold, so these are ` +
    "never called.";
  return heading;
}
