"""Operating points: the threshold of a finding, chosen on validation and used everywhere else.

Five rules. A finding is called where p >= threshold, and every threshold is a probability that
occurs in validation. Where several thresholds serve a rule equally, the lowest is taken: it finds
more.

    youden        greatest J = sensitivity + specificity - 1 (Youden 1950, Cancer 3:32-35), which
                  weighs a missed finding and a false alarm by their own classes, so that rare
                  findings are called at all; the main operating point
    f1            greatest F1
    sensitivity   highest threshold that reaches the target sensitivity
    precision     lowest threshold that reaches the target precision: the one that finds most
    alert_rate    lowest threshold that calls at most the target share of images

The target is reached on validation; on other images it has to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Floats
from chestxray.evaluation.weighted_counts import Roc, roc

MAIN: Final = "youden"
"""The operating point that the metrics of calls in `metrics.json` are of."""


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
    """An operating point as fitted; `reason` says why there is no threshold."""

    wanted: float | None
    threshold: float | None
    reason: str = ""


def fit_operating_points(y: Floats, p: Floats) -> dict[str, Chosen]:
    """Fit every one of `OPERATING_POINTS` to one finding.

    Args:
        y: labels, float [n], 1 present, 0 absent, NaN unknown (left out).
        p: probabilities, float [n].
    """
    return {name: _fit(rule, y, p) for name, rule in OPERATING_POINTS.items()}


def fit_thresholds(
    probabilities: Floats, labels: Floats, findings: Sequence[str]
) -> dict[str, float | None]:
    """Give each finding its main threshold; None without positives or without negatives.

    Args:
        probabilities: float [n, k], of validation images.
        labels: float [n, k], 1, 0 or NaN.
        findings: the k names, in the order of the columns.
    """
    columns = zip(findings, labels.T, probabilities.T, strict=True)
    return {finding: _fit(OPERATING_POINTS[MAIN], y, p).threshold for finding, y, p in columns}


def one_sided(y: Floats) -> str:
    """Name what is missing from labels [n], such as "no positives"; empty where nothing is."""
    missing = [
        word for word, label in (("positives", 1), ("negatives", 0)) if not (y == label).any()
    ]
    return f"no {' and no '.join(missing)}" if missing else ""


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


def _is_greatest(values: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return np.asarray(values == values.max())


def _last(serves: npt.NDArray[np.bool_]) -> int | None:
    """Give the last place that serves, which has the lowest threshold."""
    found = np.flatnonzero(serves)
    return int(found[-1]) if len(found) else None


# Targets: to find nine in ten; a call that is more likely right than wrong; one image in ten.
OPERATING_POINTS: Final = {
    MAIN: _Rule(_youden),
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
