// Shows warnings, and why a film is not read.

import { element, sentence } from "./dom.js";

export function warning(notice) {
  const box = element("p", "warning", "");
  box.append(element("strong", "", "Warning"), ` ${sentence(notice.sentence)}`);
  return box;
}

export function refusal(problem) {
  const refused = problem.code === "refused";
  const parts = [element("h2", "", refused ? "Refused: this film is not read" : "Not read")];
  const reasons = problem.notices.filter((notice) => notice.refuses);
  const others = problem.notices.filter((notice) => !notice.refuses);
  parts.push(listed(reasons.length ? reasons : [{ sentence: problem.message }], ""));
  parts.push(element("p", "", "No probabilities are given."));
  if (others.length) parts.push(listed(others, "quiet"));
  return parts;
}

function listed(notices, kind) {
  const list = element("ul", kind, "");
  list.append(...notices.map((notice) => element("li", "", sentence(notice.sentence))));
  return list;
}
