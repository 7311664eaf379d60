// The panel of findings: a row each, one of them chosen, its meaning told below it.

import { figures, label, meaning, sorted, verdict } from "./words.js";

export class Findings {
  // group: the radiogroup; chosen: called with the finding's name when the user chooses one.
  constructor(group, chosen) {
    this.group = group;
    this.chosen = chosen;
    this.finding = null;
    group.addEventListener("keydown", (event) => this.key(event));
  }

  // Shows a reading; the finding that the user chose stays so, else the first is.
  show(reading, card) {
    const rows = sorted(reading.findings);
    const names = rows.map((row) => row.finding);
    this.names = names;
    if (!this.kept) this.finding = names[0];
    this.group.replaceChildren(...rows.map((row) => this.row(row, card)));
    this.mark();
  }

  choose(finding) {
    this.finding = finding;
    this.kept = true;
    this.mark();
    this.chosen(finding);
  }

  row(row, card) {
    const about = card.findings.find((each) => each.finding === row.finding);
    const item = document.createElement("div");
    item.className = "finding";
    item.dataset.finding = row.finding;
    item.dataset.called = row.called;
    item.innerHTML =
      '<button type="button" role="radio"><span class="name"></span><span class="call"></span>' +
      '<span class="figure"></span><span class="track"><span class="fill"></span>' +
      '<span class="mark"></span></span></button><div class="meaning"></div>';
    const button = item.firstChild;
    const part = (name) => item.querySelector(`.${name}`);
    part("name").textContent = label(row.finding);
    const [figure, threshold] = figures(row);
    part("figure").textContent = figure;
    part("call").textContent = row.calibrated ? verdict(row) : `${verdict(row)} · uncalibrated`;
    part("fill").style.width = `${place(row.probability)}%`;
    if (row.threshold === null) part("mark").remove();
    else part("mark").style.left = `${place(row.threshold)}%`;
    const limit = threshold === null ? "" : `, threshold ${threshold}`;
    button.setAttribute(
      "aria-label",
      `${label(row.finding)}, ${figure}${limit}, ${part("call").textContent}`,
    );
    const id = `meaning-${row.finding}`;
    button.setAttribute("aria-describedby", id);
    button.addEventListener("click", () => this.choose(row.finding));
    const description = document.createElement("p");
    description.textContent = about.description;
    const number = document.createElement("p");
    number.textContent = meaning(row, about, card.trained_on.source);
    part("meaning").id = id;
    part("meaning").append(description, number);
    return item;
  }

  mark() {
    for (const item of this.group.children) {
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
    this.choose(this.names[to]);
    this.group.children[to].firstChild.focus();
  }
}

// Where a probability lies on the square-root scale, per cent.
export const place = (probability) => 100 * Math.sqrt(probability);
