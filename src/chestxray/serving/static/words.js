// Figures into words.

export const label = (finding) => finding.replaceAll("_", " ");

export function percent(value) {
  const digits = value < 0.1 ? 1 : 0;
  return `${(100 * value).toFixed(digits)} %`;
}

// Sorted by how far each probability lies above its own threshold, in log-odds; findings without a
// threshold come last.
export function sorted(findings) {
  const odds = (p) => Math.log(Math.max(p, 1e-9) / Math.max(1 - p, 1e-9));
  const rank = (row) =>
    row.threshold === null ? -1e6 + row.probability : odds(row.probability) - odds(row.threshold);
  return [...findings].sort((a, b) => rank(b) - rank(a));
}

export function verdict(row) {
  if (row.called === null) return "no threshold";
  return row.called ? "called" : "not called";
}

// Says what a number means and why the finding is called or not.
export function meaning(row, card, source) {
  let number = "This is a score, not a probability";
  if (!row.calibrated) {
    number += card?.uncalibrated ? ` (${card.uncalibrated}).` : ".";
  } else {
    const [base, count] = share(row.probability);
    number =
      `Of ${base} films with this score, about ${count} carry this label, ` +
      `among films like those it was trained on (${source}).`;
  }
  if (row.threshold === null) return `${number} Validation allowed no threshold, so none is applied.`;
  const side = row.called ? "reaches" : "stays below";
  return `${number} It ${side} this finding's threshold of ${percent(row.threshold)}.`;
}

function share(probability) {
  for (const base of [100, 1000]) {
    const count = Math.round(base * probability);
    if (count >= 1) return [base, count];
  }
  return [1000, "none"];
}

// Says in one sentence what a reading found, for a screen reader.
export function summary(name, reading) {
  const called = sorted(reading.findings.filter((row) => row.called));
  const list = called.map((row) => `${label(row.finding)} ${percent(row.probability)}`).join(", ");
  const count = reading.warnings.length;
  return (
    `${name} is read. ${called.length ? `Called: ${list}.` : "No finding is called."}` +
    (count ? ` ${count} ${count === 1 ? "warning" : "warnings"}.` : "")
  );
}
