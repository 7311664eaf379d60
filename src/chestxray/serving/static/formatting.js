// Turns figures into text.

// more: digits beyond the usual. Values other than 0 and 1 are never rounded to 0 % or 100 %.
// Number and sign stay on one line.
export function percent(value, more = 0) {
  const digits = more + (value < 0.1 || value > 0.995 ? 1 : 0);
  const least = 10 ** -digits;
  if (value > 0 && 100 * value < least) return `<\u00a0${least.toFixed(digits)}\u00a0%`;
  if (value < 1 && 100 * value > 100 - least) return `>\u00a0${(100 - least).toFixed(digits)}\u00a0%`;
  return `${(100 * value).toFixed(digits)}\u00a0%`;
}

// Gives probability and threshold, with up to two more digits where they would look equal.
export function figures({ probability, threshold }) {
  if (threshold === null) return [percent(probability), null];
  const pairs = [0, 1, 2].map((more) => [percent(probability, more), percent(threshold, more)]);
  return pairs.find(([figure, limit]) => figure !== limit) ?? pairs[0];
}

// Sorts by the distance of each probability above its own threshold, in log-odds; findings that are
// not assessed come last.
export function sorted(findings) {
  const odds = (p) => Math.log(Math.max(p, 1e-9) / Math.max(1 - p, 1e-9));
  const rank = (row) =>
    row.threshold === null ? -1e6 + row.probability : odds(row.probability) - odds(row.threshold);
  return [...findings].sort((a, b) => rank(b) - rank(a));
}

// Where a probability lies on the square-root scale, in percent of its length.
export const position = (probability) => 100 * Math.sqrt(probability);

export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

export function verdict(row) {
  if (row.called === null) return "not assessed";
  return row.called ? "called" : "not called";
}

// Explains what a probability means and why the finding is called or not.
//   about: the finding's entry in the model card.
export function meaning(row, about) {
  let number = "This is a score, not a probability";
  if (!row.calibrated) {
    number += about?.uncalibrated ? ` (${about.uncalibrated}).` : ".";
  } else {
    number =
      `Among radiographs like those that the model was calibrated on (${about?.calibrated_on}), ` +
      `${share(row.probability)} with this score have this label.`;
  }
  if (row.threshold === null) {
    return `${number} The finding is not assessed, so it is never called: ${row.not_assessed}.`;
  }
  const side = row.called ? "reaches" : "is below";
  return `${number} It ${side} the threshold of ${figures(row)[1]}.`;
}

// A probability as a natural frequency; neither none nor all unless it is exactly 0 or 1.
export function share(probability) {
  for (const base of [100, 1000]) {
    const count = Math.round(base * probability);
    const exact = probability === 0 || probability === 1;
    if (exact || (count > 0 && count < base)) return `about ${count} of ${base}`;
  }
  return probability < 0.5 ? "fewer than 1 of 1000" : "more than 999 of 1000";
}

// Summarises a reading for a screen reader.
//   warnings: their number as text, empty for none.
export function summary(name, reading, warnings) {
  const called = sorted(reading.findings.filter((row) => row.called));
  const list = called.map((row) => `${row.label} ${percent(row.probability)}`).join(", ");
  const none = reading.findings.filter((row) => row.called === null).length;
  return (
    `${name} is read. ${called.length ? `Called: ${list}.` : "No finding is called."}` +
    (none ? ` ${counted(none, "finding")} not assessed.` : "") +
    (warnings ? ` ${warnings}.` : "")
  );
}
