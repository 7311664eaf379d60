"""What the page of an external validation says first: per data set what to do, and why.

The verdicts are those of `evaluation.validation_results`; here they become sentences, and findings
of which the same is said stand together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from chestxray.evaluation.validation_results import FEWEST, UNCALIBRATED, Status
from chestxray.findings import label
from chestxray.reporting.formatting import counted, listed

_Json = dict[str, Any]

ACTIONS: Final[dict[Status, str]] = {
    "do not use": "",
    "recalibrate": "Recalibrate before probabilities are shown; calls may be used.",
    "restricted": "Look at the groups of patients that the reasons name before use.",
    "not independent": "The model may have been trained on these patients.",
    "no objection": "",
    "too few": "Repeat with more radiographs.",
    "not assessed": "Never called by this model.",
}
"""Status → what a site does with the findings that have it, where the status does not say so."""

_UNJUDGED: Final = ("too few", "not assessed")
_UNCALIBRATED: Final = {
    "not assessed": "never called, so that their probabilities are not used",
    "too few": "too few patients",
    "do not use": "not to be used, so that there is nothing to calibrate",
}
_WHERE: Final = {
    "held out": "In an internal validation, ",
    "listed": "If the lists of images to leave out are complete, ",
}
"Relation of a data set to the training images → how the sentence on it begins."


def titles(sets: Sequence[_Json]) -> dict[str, str]:
    """Give each data set of a validation its title, with the folder where several share one."""
    times = Counter(of["source"] for of in sets)
    return {
        of["name"]: of["source"] if times[of["source"]] == 1 else f"{of['source']} ({of['name']})"
        for of in sets
    }


def opening(of: _Json) -> str:
    """Say in a sentence whether the model may be used on a data set.

    Args:
        of: a set of `validation.json`.
    """
    statuses = {finding: entry["status"] for finding, entry in of["findings"].items()}
    judged = {finding: each for finding, each in statuses.items() if each not in _UNJUDGED}
    if of["synthetic"]:
        return "This says nothing about patients: the radiographs are drawn by a program."
    if not judged:
        return _nothing(set(statuses.values()))
    if against := _with("do not use", judged):
        return _against(against, judged)
    if of["relation"] == "unknown":
        return "This is no validation: the model may have been trained on these patients."
    return _in_favour(judged, _WHERE.get(of["relation"], ""))


def _nothing(statuses: set[str]) -> str:
    if statuses == {"not assessed"}:
        return "The model never calls a finding that is labelled here."
    return f"Nothing can be said: no finding has {FEWEST} patients with and {FEWEST} without it."


def _against(against: Sequence[str], judged: dict[str, str]) -> str:
    if len(against) == len(judged):
        return f"Do not use the model here: it fails for {_all(judged)} that can be judged."
    if 2 * len(against) > len(judged):
        number = f"{len(against)} of {counted(len(judged), 'finding')}"
        return f"Do not use the model here: it fails for {number} that can be judged."
    return f"Do not use the model here for {_names(against)}."


def _in_favour(judged: dict[str, str], where: str) -> str:
    wrong, groups = _with("recalibrate", judged), _with("restricted", judged)
    parts = []
    if wrong:
        parts.append(f"probabilities of {_names(wrong)} are wrong until they are recalibrated")
    if groups:
        parts.append(f"groups of patients differ in {_names(groups)}")
    if not parts:
        parts = [f"these rules find no objection to {_all(judged)} that can be judged"]
    text = f"{where}{'; '.join(parts)}"
    return f"{text[0].upper()}{text[1:]}."


def actions(of: _Json) -> list[tuple[Status, str, str]]:
    """Give what to do with the findings of a data set: status, names, action (may be empty)."""
    statuses = {finding: entry["status"] for finding, entry in of["findings"].items()}
    return [
        (status, _names(found), action)
        for status, action in ACTIONS.items()
        if (found := _with(status, statuses))
    ]


def reasons(of: _Json) -> list[tuple[Status, str, list[tuple[str, str]]]]:
    """Give the reasons of a data set's verdicts: status, reason, and findings with their figures.

    A reason of `validation.json` is what it says, a colon, and the figures.
    """
    found: dict[tuple[Status, str], list[tuple[str, str]]] = {}
    for finding, entry in of["findings"].items():
        for why in entry["reasons"]:
            what, _, figures = why.partition(": ")
            found.setdefault((entry["status"], what), []).append((label(finding), figures))
    order = list(ACTIONS)
    ordered = sorted(found.items(), key=lambda pair: order.index(pair[0][0]))
    return [(status, what, cases) for (status, what), cases in ordered]


def uncalibrated(of: _Json) -> list[str]:
    """Say of which findings no calibration is shown, and why."""
    why = {finding: _unfit(entry) for finding, entry in of["findings"].items()}
    return [
        f"{_names([finding for finding, each in why.items() if each == said])}: {said}"
        for said in dict.fromkeys(filter(None, why.values()))
    ]


def calibrated(of: _Json) -> dict[str, _Json]:
    """Give the findings whose calibration says anything."""
    return {finding: entry for finding, entry in of["findings"].items() if not _unfit(entry)}


def _unfit(entry: _Json) -> str:
    """Say why the calibration of a finding says nothing; empty where it does."""
    if any(why.startswith(UNCALIBRATED) for why in entry["reasons"]):
        return UNCALIBRATED
    return _UNCALIBRATED.get(entry["status"], "")


def same_findings(sets: Sequence[_Json]) -> bool:
    """Tell whether the means of all data sets are over the same findings."""
    labelled = {frozenset(of["findings"]) for of in sets}
    return len(labelled) == 1 and len({of["mean"]["findings"] for of in sets}) == 1


def _with(status: str, statuses: dict[str, str]) -> list[str]:
    return [finding for finding, of in statuses.items() if of == status]


def _names(findings: Sequence[str]) -> str:
    return listed(label(finding) for finding in findings)


def _all(findings: dict[str, str]) -> str:
    return "the one finding" if len(findings) == 1 else f"all {len(findings)} findings"
