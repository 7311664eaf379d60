"""Operating points: the thresholds of findings, chosen on validation and used everywhere else.

Six rules. A finding is called where p >= threshold. `joint` chooses the thresholds of all findings
together (see `joint_threshold`). The others choose each finding's alone, among the probabilities
that occur in validation; where several serve a rule equally, the lowest is taken: it finds more.

    joint         at most a share of the finding-free radiographs has any call; the default
    youden        greatest J = sensitivity + specificity - 1 (Youden 1950, Cancer 3:32-35), which
                  weighs a missed finding and a false alarm by their own classes
    f1            greatest F1
    sensitivity   highest threshold that reaches the target sensitivity
    precision     lowest threshold that reaches the target precision: the one that finds most
    alert_rate    lowest threshold that calls at most the target share of images

A finding without evidence in validation (see `evidence`) is not assessed: it has no threshold at
any operating point. Where validation has too few finding-free radiographs, `joint` gives each of K
findings a false-positive rate of at most share / K among its own negatives, which bounds the share
with any call by their sum (Bonferroni 1936).

The target is reached on validation; on other images it has to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Floats
from chestxray.evaluation.evidence import no_evidence, one_sided
from chestxray.evaluation.joint_threshold import SHARE, joint_thresholds
from chestxray.evaluation.weighted_counts import Roc, roc

MAIN: Final = "joint"
"""The default operating point, which the metrics of calls in `metrics.json` are of."""


@dataclass(frozen=True)
class _Rule:
    """How an operating point is chosen.

    Attributes:
        choose: calls at each threshold, target → the chosen one, None where there is none.
        target: what is to be reached, None for a rule that seeks a maximum.
        unreached: what to say where no threshold reaches it, with `{target}`.
    """

    choose: Callable[[Roc, float], int | None]
    target: float | None = None
    unreached: str = ""


@dataclass(frozen=True)
class Chosen:
    """An operating point of one finding as fitted; `reason` says why there is no threshold."""

    wanted: float | None
    threshold: float | None
    reason: str = ""


@dataclass(frozen=True)
class OperatingPoints:
    """The operating points of a model, as fitted on validation.

    Attributes:
        chosen: operating point → finding → its threshold, the default first.
        not_assessed: finding → why validation gives no evidence for it.
        notes: operating point → how it was chosen, where its rule could not be applied.
    """

    chosen: dict[str, dict[str, Chosen]]
    not_assessed: dict[str, str]
    notes: dict[str, str]

    def thresholds(self, name: str = MAIN) -> dict[str, float | None]:
        """Give each finding's threshold at one operating point; None without one."""
        return {finding: chosen.threshold for finding, chosen in self.chosen[name].items()}

    def of(self, finding: str) -> dict[str, Chosen]:
        """Give one finding's threshold at each operating point."""
        return {name: by_finding[finding] for name, by_finding in self.chosen.items()}


def fit_operating_points(
    probabilities: Floats, labels: Floats, patients: npt.NDArray[Any], findings: Sequence[str]
) -> OperatingPoints:
    """Fit every operating point to all findings of a model.

    Args:
        probabilities: float [n, k], of validation images.
        labels: float [n, k], 1 present, 0 absent, NaN unknown (left out).
        patients: of each image, [n].
        findings: the k names, in the order of the columns.
    """
    columns = {
        finding: (y, p) for finding, y, p in zip(findings, labels.T, probabilities.T, strict=True)
    }
    reasons = {finding: no_evidence(y, p, patients) for finding, (y, p) in columns.items()}
    joint, note = _joint(probabilities, labels, patients, reasons)
    alone = {
        finding: {} if reasons[finding] else fit_rules(y, p) for finding, (y, p) in columns.items()
    }
    chosen = {MAIN: joint} | {
        name: {
            finding: alone[finding].get(name, Chosen(rule.target, None, reasons[finding]))
            for finding in findings
        }
        for name, rule in _RULES.items()
    }
    not_assessed = {finding: reason for finding, reason in reasons.items() if reason}
    return OperatingPoints(chosen, not_assessed, {MAIN: note} if note else {})


def fit_rules(y: Floats, p: Floats) -> dict[str, Chosen]:
    """Fit every rule that chooses a threshold for one finding alone.

    Args:
        y: labels, float [n], 1 present, 0 absent, NaN unknown (left out).
        p: probabilities, float [n].
    """
    return {name: _fit(rule, y, p) for name, rule in _RULES.items()}


def targets() -> dict[str, float | None]:
    """Give what the rule of each operating point has to reach; None for a maximum."""
    return {MAIN: SHARE} | {name: rule.target for name, rule in _RULES.items()}


def _joint(
    probabilities: Floats, labels: Floats, patients: npt.NDArray[Any], reasons: dict[str, str]
) -> tuple[dict[str, Chosen], str]:
    """Choose the joint thresholds; with a note where they are chosen finding by finding."""
    assessed = np.array([not reason for reason in reasons.values()], dtype=np.bool_)
    chosen = {finding: Chosen(SHARE, None, reason) for finding, reason in reasons.items()}
    if not assessed.any():
        return chosen, ""
    columns = [(place, finding) for place, finding in enumerate(reasons) if not reasons[finding]]
    thresholds, why = joint_thresholds(probabilities, labels, patients, assessed)
    if thresholds is not None:
        by_level = {finding: Chosen(SHARE, float(thresholds[place])) for place, finding in columns}
        return chosen | by_level, ""
    rate = SHARE / len(columns)
    rule = _Rule(_false_positive_rate, rate, _TOO_FREQUENT)
    for place, finding in columns:
        fitted = _fit(rule, labels[:, place], probabilities[:, place])
        chosen[finding] = Chosen(SHARE, fitted.threshold, fitted.reason)
    return chosen, f"{why}; each finding is called on at most {rate:.2g} of its own negatives"


def _fit(rule: _Rule, y: Floats, p: Floats) -> Chosen:
    missing = one_sided(y)
    if missing:
        return Chosen(rule.target, None, f"{missing} in validation")
    seen = roc(y, p)
    place = rule.choose(seen, rule.target or 0.0)
    if place is None:
        return Chosen(rule.target, None, rule.unreached.format(target=rule.target))
    return Chosen(rule.target, float(seen.thresholds[place]))


def _youden(seen: Roc, _: float) -> int | None:
    """Compare in whole numbers, so that rounding decides nothing."""
    return _last(_is_greatest(seen.true * seen.false[-1] - seen.false * seen.true[-1]))


def _f1(seen: Roc, _: float) -> int | None:
    return _last(_is_greatest(2 * seen.true / (seen.true + seen.false + seen.true[-1])))


def _sensitivity(seen: Roc, target: float) -> int | None:
    return int(np.argmax(seen.true / seen.true[-1] >= target))


def _precision(seen: Roc, target: float) -> int | None:
    return _last(seen.true / (seen.true + seen.false) >= target)


def _alert_rate(seen: Roc, target: float) -> int | None:
    called = seen.true + seen.false
    return _last(called / called[-1] <= target)


def _false_positive_rate(seen: Roc, target: float) -> int | None:
    return _last(seen.false / seen.false[-1] <= target)


def _is_greatest(values: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return np.asarray(values == values.max())


def _last(serves: npt.NDArray[np.bool_]) -> int | None:
    """Give the last place that serves, which has the lowest threshold."""
    found = np.flatnonzero(serves)
    return int(found[-1]) if len(found) else None


_TOO_FREQUENT: Final = "even the highest threshold calls more than {target:.2g} of the negatives"

# Targets: to find nine in ten; a call that is more likely right than wrong; one image in ten.
_RULES: Final = {
    "youden": _Rule(_youden),
    "f1": _Rule(_f1),
    "sensitivity": _Rule(_sensitivity, 0.9),
    "precision": _Rule(
        _precision, 0.5, "no threshold reaches a precision of {target:g} in validation"
    ),
    "alert_rate": _Rule(
        _alert_rate,
        0.1,
        "even the highest threshold calls more than {target:g} of the validation images",
    ),
}
