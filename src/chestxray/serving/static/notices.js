// Shows warnings, and why a film is not read.

import { element, sentence } from "./dom.js";

// The warnings to show with a film; what is not calibrated is told with each finding.
export const warningsOf = (reading) =>
  (reading?.warnings ?? []).filter((notice) => notice.code !== "not-calibrated");

export const counted = (warnings) =>
  `${warnings.length} ${warnings.length === 1 ? "warning" : "warnings"}`;

export function warning(notice) {
  const box = element("p", "warning", "");
  box.append(element("strong", "", "Warning"), ` ${sentence(notice.sentence)}`);
  return box;
}

// again: called where it may be worth to try once more.
export function refusal(problem, again) {
  const refused = problem.code === "refused";
  const parts = [element("h2", "", refused ? "Refused: this film is not read" : "Not read")];
  const reasons = problem.notices.filter((notice) => notice.refuses);
  const others = problem.notices.filter((notice) => !notice.refuses);
  parts.push(listed(reasons.length ? reasons : [{ sentence: problem.message }], ""));
  parts.push(element("p", "", "No probabilities are given."));
  if (others.length) parts.push(listed(others, "quiet"));
  if (problem.passing) {
    const button = element("button", "primary", "Try again");
    button.type = "button";
    button.addEventListener("click", again);
    parts.push(button);
  }
  return parts;
}

function listed(notices, kind) {
  const list = element("ul", kind, "");
  list.append(...notices.map((notice) => element("li", "", sentence(notice.sentence))));
  return list;
}
