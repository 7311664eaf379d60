// Shows the model card: in short in the header, in full below the findings.

import { by, element, sentence } from "./dom.js";

export function showModelCard(card) {
  const { trained_on: from } = card;
  const size = `${from.train_images} radiographs of ${from.train_patients} patients`;
  by("model").textContent = `${card.identity} · trained on ${from.source}, ${size}`;
  by("model").title = by("model").textContent;
  const facts = {
    Model: card.identity,
    ...(card.origin ? { Origin: card.origin } : {}),
    "Trained on": `${from.source}${from.release ? ` (${from.release})` : ""}, ${size}`,
    Split: `${from.split}, ${from.split_sha256.slice(0, 12)}`,
    Recipe: from.recipe,
    Findings: String(card.findings.length),
    "Operating point": card.operating_point,
    Engine: `${card.engine}, input ${card.input_size} × ${card.input_size} pixels`,
    Heatmaps: card.heat_scale,
    Notice: card.notice,
  };
  const rows = Object.entries(facts).map(([name, fact]) => row(name, fact));
  rows.push(...card.warnings.map((notice) => row("Warning", sentence(notice.sentence))));
  by("about").querySelector("dl").replaceChildren(...rows);
}

function row(name, fact) {
  const made = document.createElement("div");
  made.append(element("dt", "", name), element("dd", "", fact));
  return made;
}
