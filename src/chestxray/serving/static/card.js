// Shows what the model is: in the head of the page, and at length below the findings.

import { by, element, sentence } from "./dom.js";

export function showCard(card) {
  const { trained_on: from } = card;
  const learnt = `${from.train_images} films of ${from.train_patients} patients`;
  by("model").textContent = `${card.identity} · trained on ${from.source}, ${learnt}`;
  by("model").title = by("model").textContent;
  const facts = {
    Model: card.identity,
    "Trained on": `${from.source}${from.release ? ` (${from.release})` : ""}, ${learnt}`,
    Split: `${from.split}, ${from.split_sha256.slice(0, 12)}`,
    Recipe: from.recipe,
    "Read by": `${card.engine}, at ${card.input_size} × ${card.input_size} pixels`,
    Heatmaps: card.heat_scale,
    Notice: card.notice,
  };
  const rows = Object.entries(facts).map(([name, fact]) => {
    const row = document.createElement("div");
    row.append(element("dt", "", name), element("dd", "", fact));
    return row;
  });
  rows.push(...card.warnings.map((notice) => {
    const row = document.createElement("div");
    row.append(element("dt", "", "Warning"), element("dd", "", sentence(notice.sentence)));
    return row;
  }));
  by("about").querySelector("dl").replaceChildren(...rows);
}
