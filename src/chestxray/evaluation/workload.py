"""What the calls of an operating point cost a reader, and what they find.

Rules choose thresholds; this module counts what follows for all findings together: calls per
radiograph, the share of finding-free radiographs with any call, and the share of calls that are
right. The latter holds at the prevalence of these images only, which is given with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.blockwise import sums
from chestxray.evaluation.bootstrap import Draws, Interval, Values, average, exact_share
from chestxray.evaluation.joint_threshold import finding_free
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.metrics import rates, resampled_calls
from chestxray.evaluation.result_details import PointWorkload, Workload
from chestxray.evaluation.results import InValidation
from chestxray.evaluation.thresholds import OperatingPoints
from chestxray.evaluation.weighted_counts import Column

Rates = Mapping[str, Mapping[str, Values]]
"""Finding → metric of calls → its values [1 + R + G]; only findings that have a threshold."""


@dataclass(frozen=True)
class Images:
    """Images whose calls are counted.

    Attributes:
        pairs: probabilities and labels.
        draws: the resamples of their patients.
        rates: operating point → `Rates` of these images.
    """

    pairs: Pairs
    draws: Draws
    rates: Mapping[str, Rates]

    @classmethod
    def of_validation(cls, pairs: Pairs, points: OperatingPoints) -> Self:
        """Take validation images, without resamples."""
        draws = Draws.of(pairs.patients, resamples=0)
        at = {name: rates_at(pairs, draws, points.thresholds(name)) for name in points.chosen}
        return cls(pairs, draws, at)

    def plain(self, name: str, finding: str) -> InValidation | None:
        """Give one finding's metrics at one operating point; None without a threshold."""
        rates = self.rates[name].get(finding)
        if rates is None:
            return None
        return InValidation(
            recall=rates["recall"][0],
            specificity=rates["specificity"][0],
            precision=rates["precision"][0],
        )


_CHOSEN_HERE: Final = "the thresholds were chosen on these images: an interval would be too good"
_NO_CALLS: Final = "nothing is called"
_NO_THRESHOLD: Final = "no finding has a threshold"
_NO_LABELS: Final = {
    "recall": "no finding with a threshold has positives",
    "specificity": "no finding with a threshold has negatives",
}


def rates_at(
    pairs: Pairs, draws: Draws, thresholds: Mapping[str, float | None]
) -> dict[str, dict[str, Values]]:
    """Compute every metric of calls of each finding that has a threshold.

    Returns:
        `Rates`: finding → metric → float64 [1 + R + G].
    """
    found = {}
    for place, finding in enumerate(pairs.findings):
        threshold = thresholds[finding]
        if threshold is not None:
            column = Column(pairs.labels[:, place], pairs.probabilities[:, place])
            found[finding] = rates(resampled_calls(column, draws, threshold))
    return found


def workloads(
    points: OperatingPoints, fitted_on: Images | None, evaluated: Images
) -> dict[str, PointWorkload]:
    """Count the workload of every operating point.

    Args:
        points: the thresholds.
        fitted_on: the validation images that they were chosen on; None where not at hand.
        evaluated: other images, of the same findings.
    """
    return {
        name: PointWorkload(
            wanted=next(iter(chosen.values())).wanted,
            note=points.notes.get(name),
            findings=sum(of.threshold is not None for of in chosen.values()),
            validation=_without_intervals(_workload(fitted_on, points, name))
            if fitted_on
            else None,
            evaluated=_workload(evaluated, points, name),
        )
        for name, chosen in points.chosen.items()
    }


def _workload(images: Images, points: OperatingPoints, name: str) -> Workload:
    pairs, draws = images.pairs, images.draws
    thresholds = points.thresholds(name)
    assessed = np.array([finding not in points.not_assessed for finding in pairs.findings])
    at = np.array([np.inf if (t := thresholds[f]) is None else t for f in pairs.findings])
    has = np.isfinite(at)
    free = finding_free(pairs.labels, assessed)
    called, known, right = (np.zeros(len(free), dtype=np.int32) for _ in range(3))
    for y, p, threshold in zip(pairs.labels.T, pairs.probabilities.T, at, strict=True):
        here = p >= threshold  # column by column: together, they may not fit into memory
        called += here
        known += here & ~np.isnan(y)
        right += here & (y == 1)
    parts = (np.ones(len(free)), called, free, free & (called > 0), known, right)

    def terms(some: npt.NDArray[np.int64]) -> Values:
        return np.stack([part[some] for part in parts], axis=1).astype(np.float64)

    count, calls, normal, flagged, judged, found = sums(draws, terms).T
    shares = {metric: _mean_of(images.rates[name], metric, draws) for metric in _NO_LABELS}
    positives = sum(int((y == 1).sum()) for y in pairs.labels.T[has])
    labelled = sum(int((~np.isnan(y)).sum()) for y in pairs.labels.T[has])
    return Workload(
        images=len(free),
        finding_free=int(free.sum()),
        calls_per_image=draws.interval(_ratio(calls, count)),
        flagged=_share(flagged, normal, pairs.patients[free], draws, "no finding-free images"),
        precision=_share(found, judged, pairs.patients[known > 0], draws, _NO_CALLS),
        prevalence=positives / labelled if labelled else None,
        **shares,
    )


def _share(
    part: Values, whole: Values, patients: npt.NDArray[np.int64], draws: Draws, reason: str
) -> Interval:
    """Give a share with its interval, which is binomial where the share is 0 or 1."""
    values = _ratio(part, whole)
    if values[0] in {0, 1} and draws.resamples:
        return exact_share(float(values[0]), len(np.unique(patients)))
    return draws.interval(values, reason)


def _ratio(part: Values, whole: Values) -> Values:
    """Divide row by row; NaN where a row has none of the whole."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _mean_of(of: Rates, metric: str, draws: Draws) -> Interval:
    values = [rates[metric] for rates in of.values() if not np.isnan(rates[metric][0])]
    if not values:
        return Interval(value=None, reason=_NO_LABELS[metric] if of else _NO_THRESHOLD)
    return draws.interval(average(values))


def _without_intervals(of: Workload) -> Workload:
    shares = {
        name: value.without_bounds(_CHOSEN_HERE)
        for name, value in of
        if isinstance(value, Interval)
    }
    return of.model_copy(update=shares)
