"""From which probability a finding is called: chosen on validation, used everywhere else.

Five rules; a finding is called where p >= threshold, and every threshold is a probability that was
seen. Of several thresholds that serve a rule equally the lowest is taken: it finds more.

    youden        greatest J = sensitivity + specificity - 1 (Youden 1950, Cancer 3:32-35), which
                  weighs a missed finding and a false alarm by their own classes, so that rare
                  findings are called at all; the main operating point
    f1            greatest F1
    sensitivity   highest threshold that reaches the wanted sensitivity
    precision     lowest threshold that reaches the wanted precision: the one that finds most
    alert_rate    lowest threshold that calls at most the wanted share of images

What is wanted is reached on validation; elsewhere it is to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.calibration_error import Floats
from chestxray.evaluation.metrics import Steps, steps


@dataclass(frozen=True)
class OperatingPoint:
    """A rule, and what it is asked for.

    Attributes:
        rule: steps of both sides, wanted → the step to call from, None where there is none.
        wanted: what is to be reached, None for a rule that seeks a maximum.
        unreached: what to say where no step reaches it, with `{wanted}`.
    """

    rule: Callable[[Steps, float], int | None]
    wanted: float | None = None
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
    return {name: fit_threshold(point, y, p) for name, point in OPERATING_POINTS.items()}


def fit_threshold(point: OperatingPoint, y: Floats, p: Floats) -> Chosen:
    """Fit one operating point to labels, float [n] with NaN unknown, and probabilities [n]."""
    missing = one_sided(y)
    if missing:
        return Chosen(point.wanted, None, f"{missing} in validation")
    seen = steps(y, p)
    step = point.rule(seen, point.wanted or 0.0)
    if step is None:
        return Chosen(point.wanted, None, point.unreached.format(wanted=point.wanted))
    return Chosen(point.wanted, float(seen.thresholds[step]))


def youden(y: Floats, p: Floats) -> float | None:
    """Give the threshold with the greatest J, None without positives or without negatives."""
    return fit_threshold(OPERATING_POINTS["youden"], y, p).threshold


def fit_thresholds(
    probabilities: Floats, labels: Floats, findings: Sequence[str]
) -> dict[str, float | None]:
    """Give each finding its threshold by `youden`.

    Args:
        probabilities: float [n, k], of validation images.
        labels: float [n, k], 1, 0 or NaN.
        findings: the k names, in the order of the columns.
    """
    columns = zip(findings, labels.T, probabilities.T, strict=True)
    return {finding: youden(y, p) for finding, y, p in columns}


def one_sided(y: Floats) -> str:
    """Tell which side is missing from labels [n], such as "no positives"; empty where none is."""
    missing = [
        word for word, label in (("positives", 1), ("negatives", 0)) if not (y == label).any()
    ]
    return f"no {' and no '.join(missing)}" if missing else ""


def _youden(seen: Steps, _: float) -> int | None:
    """Compare in whole numbers, so rounding decides nothing."""
    return _last(_is_greatest(seen.true * seen.false[-1] - seen.false * seen.true[-1]))


def _f1(seen: Steps, _: float) -> int | None:
    return _last(_is_greatest(2 * seen.true / (seen.true + seen.false + seen.true[-1])))


def _sensitivity(seen: Steps, wanted: float) -> int | None:
    return int(np.argmax(seen.true / seen.true[-1] >= wanted))


def _precision(seen: Steps, wanted: float) -> int | None:
    return _last(seen.true / (seen.true + seen.false) >= wanted)


def _alert_rate(seen: Steps, wanted: float) -> int | None:
    called = seen.true + seen.false
    return _last(called / called[-1] <= wanted)


def _is_greatest(values: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return np.asarray(values == values.max())


def _last(serves: npt.NDArray[np.bool_]) -> int | None:
    """Give the last step that serves, which has the lowest threshold."""
    found = np.flatnonzero(serves)
    return int(found[-1]) if len(found) else None


# Wanted: to find nine in ten; a call more likely right than wrong; one image in ten to look at.
OPERATING_POINTS: Final = {
    "youden": OperatingPoint(_youden),
    "f1": OperatingPoint(_f1),
    "sensitivity": OperatingPoint(_sensitivity, 0.9),
    "precision": OperatingPoint(
        _precision, 0.5, "no threshold reaches precision {wanted:g} in validation"
    ),
    "alert_rate": OperatingPoint(
        _alert_rate,
        0.1,
        "even the highest threshold calls more than {wanted:g} of the validation images",
    ),
}
