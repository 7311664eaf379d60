// Shows warnings, and why a radiograph was not read.

import { element, sentence } from "./dom.js";

// The warnings to show with a radiograph, reasons for a refusal first. Each finding says itself that
// it is not calibrated.
export const warningsOf = (reading) =>
  (reading?.warnings ?? [])
    .filter((notice) => notice.code !== "not-calibrated")
    .sort((a, b) => b.refuses - a.refuses);

export function warning(notice) {
  const box = element("p", notice.refuses ? "warning refusal" : "warning", "");
  const word = notice.refuses ? "Reason for refusal" : "Warning";
  box.append(element("strong", "", word), ` ${sentence(notice.sentence)}`);
  return box;
}

// Gives the first reason why a radiograph was not read.
export function reasonOf(problem) {
  return sentence(problem.notices.find((notice) => notice.refuses)?.sentence ?? problem.message);
}

// retry: called to read the file again, where the failure may be temporary; force: called to have it
// read although it is refused, where the operator allows that.
export function failure(problem, retry, force) {
  const refused = problem.code === "refused";
  const parts = [element("h2", "", refused ? "Refused: this radiograph was not read" : "Not read")];
  const reasons = problem.notices.filter((notice) => notice.refuses);
  const others = problem.notices.filter((notice) => !notice.refuses);
  parts.push(list(reasons.length ? reasons : [{ sentence: problem.message }], ""));
  parts.push(element("p", "", "There are no probabilities."));
  if (others.length) parts.push(list(others, "quiet"));
  if (problem.temporary) parts.push(button("Try again", "primary", retry));
  if (problem.forceAllowed) parts.push(button("Read anyway", "danger", force));
  return parts;
}

function button(text, kind, onClick) {
  const made = element("button", kind, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

function list(notices, kind) {
  const made = element("ul", kind, "");
  made.append(...notices.map((notice) => element("li", "", sentence(notice.sentence))));
  return made;
}
