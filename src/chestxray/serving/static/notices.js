// Shows warnings, and why a radiograph was not read.

import { element, sentence } from "./dom.js";

// The warnings to show with a radiograph. Each finding says itself that it is not calibrated.
export const warningsOf = (reading) =>
  (reading?.warnings ?? []).filter((notice) => notice.code !== "not-calibrated");

export function warning(notice) {
  const box = element("p", "warning", "");
  box.append(element("strong", "", "Warning"), ` ${sentence(notice.sentence)}`);
  return box;
}

// retry: called to read the file again, where the failure may be temporary.
export function failure(problem, retry) {
  const refused = problem.code === "refused";
  const parts = [element("h2", "", refused ? "Refused: this radiograph was not read" : "Not read")];
  const reasons = problem.notices.filter((notice) => notice.refuses);
  const others = problem.notices.filter((notice) => !notice.refuses);
  parts.push(list(reasons.length ? reasons : [{ sentence: problem.message }], ""));
  parts.push(element("p", "", "There are no probabilities."));
  if (others.length) parts.push(list(others, "quiet"));
  if (problem.temporary) {
    const button = element("button", "primary", "Try again");
    button.type = "button";
    button.addEventListener("click", retry);
    parts.push(button);
  }
  return parts;
}

function list(notices, kind) {
  const made = element("ul", kind, "");
  made.append(...notices.map((notice) => element("li", "", sentence(notice.sentence))));
  return made;
}
