"""The figures of `metrics.json`: for each finding, on average over findings, and pooled.

A metric stays an array over the draws (see `intervals`) until the end, so that the average over
findings has an interval of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Draws, Interval, Values, all_alike, average
from chestxray.evaluation.calibration_error import Floats
from chestxray.evaluation.delong import delong
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.metrics import CALLING, RANKING, SCORING, Column, rates
from chestxray.evaluation.thresholds import Chosen, one_sided

MAIN: Final = "youden"
METRICS: Final = (*RANKING, *SCORING, *CALLING)
_TWO_SIDED: Final = frozenset({"recall", "precision", "npv", "f1", "mcc"})
_SHARES: Final = frozenset({"recall", "specificity", "precision", "npv", "accuracy", "alert_rate"})
UNDEFINED: Final = "not defined for these labels"
NO_VALIDATION: Final = "no validation predictions: --fit-on"

CHANCE: Final = "chance counts as calibration error and resampling adds more: see slope, intercept"

Points = dict[str, Chosen]


@dataclass(frozen=True)
class Scores:
    """One finding, measured.

    Attributes:
        values: metric → float64 [1 + R + G], at the main operating point where it needs one.
        counts: float64 [1 + R + G, 4], true and false calls, true and false silence at the main
            operating point; None without one.
        entry: the finding in `metrics.json`.
    """

    values: dict[str, Values]
    counts: Values | None
    entry: dict[str, Any]


def score(pairs: Pairs, draws: Draws, finding: str, points: Points | None) -> Scores:
    """Measure one finding.

    Args:
        pairs: what is evaluated.
        draws: of the patients of `pairs`.
        finding: its name.
        points: its operating points, None where no validation predictions were given.
    """
    place = pairs.findings.index(finding)
    y, p = pairs.labels[:, place], pairs.probabilities[:, place]
    column = Column(y, p)
    plain = _plain(column, draws)
    counts = {
        name: draws.apply(partial(column.confusion, threshold=at.threshold), column.rows)
        for name, at in (points or {}).items()
        if at.threshold is not None
    }
    called = {name: dict(zip(CALLING, rates(of).T, strict=True)) for name, of in counts.items()}
    missing = one_sided(y)

    def of_point(name: str) -> dict[str, Any]:
        chosen = points[name] if points else Chosen(None, None, NO_VALIDATION)
        return _at_point(chosen, called.get(name), _Calls(y, p, pairs.patients, draws))

    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    entry: dict[str, Any] = {
        "positives": positives,
        "negatives": negatives,
        "unknown": len(y) - positives - negatives,
        "prevalence": positives / (positives + negatives) if positives + negatives else None,
        **{
            name: summed_up(name, of, draws, missing or UNDEFINED).entry()
            for name, of in plain.items()
        },
        **of_point(MAIN),
        "confusion": _confusion(counts.get(MAIN)),
        "operating_points": {
            name: {"wanted": at.wanted, **of_point(name)} for name, at in (points or {}).items()
        },
    }
    if not missing:
        low, high = delong(y, p, pairs.patients).interval
        if not math.isnan(low):
            entry["auroc"]["delong"] = {"low": low, "high": high}
    return Scores(plain | called.get(MAIN, {}), counts.get(MAIN), entry)


def macro(scores: dict[str, Scores], draws: Draws) -> dict[str, Any]:
    """Average each metric over the findings that have it, and tell how many they are.

    What a resample that leaves a rare finding undefined gives is said at `intervals.average`.
    """
    entries = {}
    for metric in METRICS:
        defined = [
            of.values[metric]
            for of in scores.values()
            if metric in of.values and not np.isnan(of.values[metric][0])
        ]
        reasons = Counter(of.entry[metric].get("reason", "") for of in scores.values())
        mean = Interval(np.nan, reason=_most(reasons))
        if defined:
            mean = summed_up(metric, average(defined), draws)
        entries[metric] = mean.entry() | {"findings": len(defined)}
    return entries


def micro(pairs: Pairs, draws: Draws, scores: dict[str, Scores]) -> dict[str, Any]:
    """Pool all pairs of image and finding, each called at its finding's main operating point."""
    pooled = _plain(Column.pooled(pairs.labels, pairs.probabilities), draws)
    counts = [of.counts for of in scores.values() if of.counts is not None]
    called = dict(zip(CALLING, rates(np.sum(counts, axis=0)).T, strict=True)) if counts else {}
    undefined = Interval(np.nan, reason=NO_VALIDATION)
    return {name: summed_up(name, of, draws).entry() for name, of in pooled.items()} | {
        name: draws.interval(called[name]).entry() if called else undefined.entry()
        for name in CALLING
    }


def summed_up(name: str, values: Values, draws: Draws, reason: str = UNDEFINED) -> Interval:
    """Sum up a metric, given its values in all draws, float64 [1 + R + G].

    The calibration error gets no interval: of simulated studies of 180 patients BCa held the true
    error of a frequent finding in 75 % and of a rare one in 1 %, percentile in 41 % and none.
    """
    found = draws.interval(values, reason)
    return found.untrusted(CHANCE) if name == "ece" else found


def _plain(column: Column, draws: Draws) -> dict[str, Values]:
    """Compute the metrics that need no threshold in one pass over the draws."""
    values = draws.apply(lambda w: np.hstack([column.ranking(w), column.scoring(w)]), column.rows)
    return dict(zip((*RANKING, *SCORING), values.T, strict=True))


@dataclass(frozen=True)
class _Calls:
    """One finding's labels, probabilities and patients, [n] each, and the draws."""

    y: Floats
    p: Floats
    patients: npt.NDArray[np.int64]
    draws: Draws

    def interval(self, metric: str, values: Values, threshold: float) -> Interval:
        """Sum up a metric at a threshold.

        Where one side of the labels is missing, what needs both is not defined: a precision of 0
        among no positives says nothing.
        """
        missing = one_sided(self.y)
        if missing and metric in _TWO_SIDED:
            return Interval(np.nan, reason=missing)
        if values[0] in {0, 1} and metric in _SHARES and self.draws.resamples:
            return all_alike(values[0], self._trials(metric, threshold))
        return self.draws.interval(values, missing or "nothing is called")

    def _trials(self, metric: str, threshold: float) -> int:
        """Count the patients that a share is of."""
        called = self.p >= threshold
        of = {
            "recall": self.y == 1,
            "specificity": self.y == 0,
            "precision": called,
            "npv": ~called,
        }.get(metric, np.ones(len(called), dtype=bool))
        return len(np.unique(self.patients[of & ~np.isnan(self.y)]))


def _at_point(chosen: Chosen, values: dict[str, Values] | None, calls: _Calls) -> dict[str, Any]:
    """Give the threshold of an operating point and the metrics there, or null with the reason."""
    threshold = {"value": chosen.threshold} | ({"reason": chosen.reason} if chosen.reason else {})
    if values is None or chosen.threshold is None:
        none = Interval(np.nan, reason=chosen.reason).entry()
        return {"threshold": threshold} | dict.fromkeys(CALLING, none)
    return {"threshold": threshold} | {
        metric: calls.interval(metric, of, chosen.threshold).entry()
        for metric, of in values.items()
    }


def _confusion(counts: Values | None) -> dict[str, int] | None:
    if counts is None:
        return None
    return dict(zip(("tp", "fp", "tn", "fn"), counts[0].astype(int).tolist(), strict=True))


def _most(reasons: Counter[str]) -> str:
    return reasons.most_common(1)[0][0]
