// Shows the model card: in short in the header, in full below the findings.

import { by, element, sentence } from "./dom.js";

const UNKNOWN = "not recorded";

export function showModelCard(card) {
  const { trained_on: from } = card;
  const data = [from.source ?? "data sets that are not recorded", amount(from)].filter(Boolean);
  by("model").textContent = `${card.identity} · trained on ${data.join(", ")}`;
  by("model").title = by("model").textContent;
  if (from.release) {
    data[0] += ` (${from.release})`;
  }
  const facts = {
    Model: card.identity,
    ...(card.origin ? { Origin: card.origin } : {}),
    "Trained on": data.join(", "),
    Split: from.split ? `${from.split}, ${(from.split_sha256 ?? "").slice(0, 12)}` : UNKNOWN,
    Recipe: from.recipe ?? UNKNOWN,
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

function amount(from) {
  const counts = [
    [from.train_images, "radiographs"],
    [from.train_patients, "patients"],
  ];
  const known = counts.filter(([count]) => count !== null);
  return known.map(([count, what]) => `${count} ${what}`).join(" of ");
}

function row(name, fact) {
  const made = document.createElement("div");
  made.append(element("dt", "", name), element("dd", "", fact));
  return made;
}
