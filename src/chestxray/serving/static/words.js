// Figures into words.

export const label = (finding) => finding.replaceAll("_", " ");

// more: digits beyond the usual. What is neither 0 nor 1 is not rounded to it.
export function percent(value, more = 0) {
  const digits = more + (value < 0.1 || value > 0.995 ? 1 : 0);
  const least = 10 ** -digits;
  if (value > 0 && 100 * value < least) return `< ${least.toFixed(digits)} %`;
  if (value < 1 && 100 * value > 100 - least) return `> ${(100 - least).toFixed(digits)} %`;
  return `${(100 * value).toFixed(digits)} %`;
}

// Gives probability and threshold, with up to two more digits where it takes them to tell the two
// apart.
export function figures({ probability, threshold }) {
  if (threshold === null) return [percent(probability), null];
  const pairs = [0, 1, 2].map((more) => [percent(probability, more), percent(threshold, more)]);
  return pairs.find(([figure, limit]) => figure !== limit) ?? pairs[0];
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
  return `${number} It ${side} this finding's threshold of ${figures(row)[1]}.`;
}

function share(probability) {
  for (const base of [100, 1000]) {
    const count = Math.round(base * probability);
    if (count >= 1) return [base, count];
  }
  return [1000, "none"];
}

// Says in short what a reading found, for a screen reader.
//   warnings: in words, empty for none.
export function summary(name, reading, warnings) {
  const called = sorted(reading.findings.filter((row) => row.called));
  const list = called.map((row) => `${label(row.finding)} ${percent(row.probability)}`).join(", ");
  return (
    `${name} is read. ${called.length ? `Called: ${list}.` : "No finding is called."}` +
    (warnings ? ` ${warnings}.` : "")
  );
}
