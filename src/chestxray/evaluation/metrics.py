"""The metrics of one finding: one registry, and their values for many rows of weights at once.

A metric is an entry of `METRICS`. It then appears in `metrics.json`, in its JSON Schema and in the
report. To add one, call `register`, then regenerate the schemas in docs/schemas with
`python -m chestxray.evaluation.results docs/schemas`.

A weight says how often an image counts, so a row of weights is a resample, and the metric of the
row is the metric of the images repeated that often. The plain value is that of a row of ones
(`value`). What rows of weights are counted from is in `weighted_counts`.

Two things belong to the data as they are, not to the row: the bins of the calibration error keep
their borders, and calibration slope and intercept are the full fit moved by one step (see
`logistic_regression`). With weights of 1 both are exact.

Labels `y` are float [n], 1 present, 0 absent, NaN unknown (left out); probabilities `p` are float
[n] in [0, 1]. A finding is called where p >= threshold. Values are NaN where a metric is not
defined; nothing is ever replaced by 0. Definitions are scikit-learn's, which is the oracle in the
tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.blockwise import Blocked, sums
from chestxray.evaluation.bootstrap import Draws, Floats, Interval, Values
from chestxray.evaluation.logistic_regression import TERMS
from chestxray.evaluation.weighted_counts import PARTIAL_FPR, Calls, Column, Weighted

UNDEFINED: Final = "not defined for these labels"


Part = Literal["positives", "negatives", "called", "not called", "images"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. Exactly one of `scores` and `calls` is given.

    Attributes:
        name: key in `metrics.json`.
        label: name for people.
        meaning: one sentence.
        low, high: range; None where there is no limit.
        scores: computes it, float64 [b], from a column under b rows of weights.
        calls: computes it, float64 [b], from the counts at a threshold.
        two_sided: whether it is reported only where there are positives and negatives.
        share_of: the images that it is a share of; a share of 0 or 1 has a binomial interval.
        no_interval: why its interval is never shown; empty where it is.
    """

    name: str
    label: str
    meaning: str
    low: float | None = 0.0
    high: float | None = 1.0
    scores: Callable[[Weighted], Values] | None = None
    calls: Callable[[Calls], Values] | None = None
    two_sided: bool = False
    share_of: Part | None = None
    no_interval: str = ""

    def __post_init__(self) -> None:
        """Check that there is one way to compute it."""
        if (self.scores is None) == (self.calls is None):
            raise ValueError(f"metric {self.name}: give either scores or calls")

    @property
    def needs_threshold(self) -> bool:
        """Whether it is a metric of calls."""
        return self.calls is not None

    def of_scores(self, weighted: Weighted) -> Values:
        """Compute it without a threshold, float64 [b]."""
        if self.scores is None:
            raise ValueError(f"metric {self.name} needs a threshold")
        return self.scores(weighted)

    def of_calls(self, calls: Calls) -> Values:
        """Compute it from counts at a threshold, float64 [b]."""
        if self.calls is None:
            raise ValueError(f"metric {self.name} is not a metric of calls")
        return self.calls(calls)


METRICS: Final[dict[str, Metric]] = {}
_TAKEN: Final = frozenset(
    {"positives", "negatives", "unknown", "prevalence", "threshold", "confusion", "wanted"}
    | {"operating_points", "validation"}
)


def register(metric: Metric) -> Metric:
    """Add a metric to `METRICS`.

    Raises:
        ValueError: its name is taken or cannot be an attribute.
    """
    if metric.name in METRICS or metric.name in _TAKEN or not metric.name.isidentifier():
        raise ValueError(f"a metric cannot be named {metric.name!r}: choose another name")
    METRICS[metric.name] = metric
    return metric


def score_metrics() -> tuple[str, ...]:
    """Name the metrics that need no threshold."""
    return tuple(name for name, metric in METRICS.items() if not metric.needs_threshold)


def call_metrics() -> tuple[str, ...]:
    """Name the metrics of calls at a threshold."""
    return tuple(name for name, metric in METRICS.items() if metric.needs_threshold)


def value(name: str, y: Floats, p: Floats, threshold: float | None = None) -> float:
    """Give the plain value of a metric, NaN where it is not defined.

    Args:
        name: in `METRICS`.
        y: labels, float [n], 1, 0 or NaN (left out).
        p: probabilities, float [n] in [0, 1]; for a ranking metric any scores.
        threshold: for a metric of calls.
    """
    column = Column(y, p)
    ones = np.ones((1, len(column.p)))
    if threshold is None:
        return float(measure(column, ones, (name,))[0, 0])
    return float(METRICS[name].of_calls(Calls.of(column.calls(ones, threshold)))[0])


def measure(column: Column, w: Values, names: Sequence[str]) -> Values:
    """Compute metrics that need no threshold.

    Args:
        column: labels and probabilities.
        w: float64 [b, m], whole numbers ≥ 0.
        names: k names of `METRICS`.

    Returns:
        float64 [b, k], NaN where undefined.
    """
    return _figures(Weighted(column, w), names)


def _figures(weighted: Weighted, names: Sequence[str]) -> Values:
    return np.stack([METRICS[name].of_scores(weighted) for name in names], axis=1)


def resampled(column: Column, draws: Draws, names: Sequence[str]) -> dict[str, Values]:
    """Compute metrics that need no threshold in every row of `draws`: name → [1 + R + G]."""
    if draws.expanded:
        values = draws.apply(lambda w: measure(column, w, names), column.rows)
        return dict(zip(names, values.T, strict=True))
    built_in = [name for name in names if name in _BUILT_IN]
    areas = [_AREAS[name] for name in built_in if name in _AREAS]
    blocked = Blocked(column, draws, areas, terms=len(areas) < len(built_in))
    values = draws.by_blocks([lambda w: _figures(blocked.under(w), built_in)])[0]
    found = dict(zip(built_in, values.T, strict=True))
    for name in set(names) - _BUILT_IN:
        found[name] = draws.apply(partial(_one, column, name), column.rows)
    return {name: found[name] for name in names}


def _one(column: Column, name: str, w: Values) -> Values:
    return measure(column, w, (name,))[:, 0]


def resampled_calls(column: Column, draws: Draws, threshold: float) -> Values:
    """Count `Calls` at a threshold in every row of `draws`, float64 [1 + R + G, 4]."""
    if draws.expanded:
        return draws.apply(partial(column.calls, threshold=threshold), column.rows)

    def terms(some: npt.NDArray[np.int64]) -> Values:
        present, called = column.present[some], column.p[some] >= threshold
        parts = (present & called, ~present & called, ~present & ~called, present & ~called)
        return np.column_stack(parts).astype(np.float64)

    return sums(draws, terms, column.rows)


def rates(counts: Values) -> dict[str, Values]:
    """Compute every metric of calls from counts, float64 [b, 4] in the order of `Calls`."""
    calls = Calls.of(counts)
    return {name: METRICS[name].of_calls(calls) for name in call_metrics()}


def interval_of(name: str, values: Values, draws: Draws, reason: str = "") -> Interval:
    """Give a metric with its interval, from its values in every row of `draws`, [1 + R + G].

    Args:
        name: in `METRICS`.
        values: from `resampled`, or an average of such arrays.
        draws: the resamples.
        reason: why it is undefined, where it is.
    """
    found = draws.interval(values, reason or UNDEFINED)
    hidden = METRICS[name].no_interval
    return found.without_bounds(hidden) if hidden else found


def mean_of_defined(values: Iterable[float]) -> float:
    """Average the values that are not NaN; NaN where none is left."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _auroc(weighted: Weighted) -> Values:
    """Count pairs won, tied ones half: whole numbers, so exact."""
    return _ratio(2 * weighted.pairs - weighted.lost, 2 * weighted.pairs)


def _auprc(weighted: Weighted) -> Values:
    area = _ratio(weighted.precisions, weighted.found)
    return np.where(weighted.pairs > 0, area, np.nan)


def _partial_auroc(weighted: Weighted) -> Values:
    """Integrate positives found over negatives passed, then rescale to 0.5 to 1 (McClish 1989)."""
    area = _ratio(weighted.partial, weighted.pairs)
    guessing = PARTIAL_FPR**2 / 2
    return 0.5 * (1 + (area - guessing) / (PARTIAL_FPR - guessing))


def _calibration_error(weighted: Weighted) -> Values:
    gaps = np.abs(weighted.sums[:, 3 + TERMS :]).sum(axis=1)
    return _ratio(gaps, weighted.sums[:, 0])


def _calibration_slope(weighted: Weighted) -> Values:
    slopes = weighted.column.line.slopes(weighted.sums[:, 3 : 3 + TERMS])
    return np.where(weighted.overlap, slopes, np.nan)


def _calibration_intercept(weighted: Weighted) -> Values:
    intercepts = weighted.column.line.intercepts(weighted.sums[:, 3 : 3 + TERMS])
    return np.where(weighted.two_sided, intercepts, np.nan)


def _mcc(calls: Calls) -> Values:
    """NaN where calls or labels are all equal; scikit-learn gives 0, which reads as a result."""
    tp, fp, tn, fn = calls
    margins = np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn))
    return _ratio(tp * tn - fp * fn, margins)


def _ratio(part: Values, whole: Values) -> Values:
    """Divide, NaN by zero."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


for _metric in (
    Metric(
        name="auroc",
        label="AUROC",
        meaning="Chance that an image with the finding scores above one without it; 0.5 is "
        "guessing.",
        scores=_auroc,
        two_sided=True,
    ),
    Metric(
        name="auprc",
        label="AUPRC",
        meaning="Average precision: area under the precision-recall curve without interpolation; "
        "guessing gives the prevalence.",
        scores=_auprc,
        two_sided=True,
    ),
    Metric(
        name="partial_auroc",
        label="Partial AUROC",
        meaning="Area under the ROC curve up to a false positive rate of 10 %, rescaled so that "
        "0.5 is guessing, 1 is perfect, and the lowest value is 0.474 (McClish 1989).",
        scores=_partial_auroc,
        two_sided=True,
    ),
    Metric(
        name="brier",
        label="Brier score",
        meaning="Mean squared difference of probability and label; lower is better.",
        scores=lambda of: _ratio(of.sums[:, 1], of.sums[:, 0]),
    ),
    Metric(
        name="bce",
        label="Cross-entropy",
        meaning="Mean binary cross-entropy in nats; lower is better.",
        high=None,
        scores=lambda of: _ratio(of.sums[:, 2], of.sums[:, 0]),
    ),
    Metric(
        name="ece",
        label="Calibration error",
        meaning="Expected calibration error over 10 bins of equal mass: mean distance of the "
        "predicted and the observed frequency (Naeini 2015); even a calibrated model is above 0.",
        scores=_calibration_error,
        # Of simulated studies of 180 patients, BCa held the true error of a frequent finding in
        # 75 % and of a rare one in 1 %, the percentile interval in 41 % and none.
        no_interval="no reliable interval: the calibration error is biased upwards by chance, and "
        "more so by resampling; see calibration slope and intercept",
    ),
    Metric(
        name="calibration_slope",
        label="Calibration slope",
        meaning="Slope of the logistic recalibration line; 1 is calibrated, below 1 the "
        "probabilities are too extreme (Cox 1958).",
        low=None,
        high=None,
        scores=_calibration_slope,
        two_sided=True,
    ),
    Metric(
        name="calibration_intercept",
        label="Calibration intercept",
        meaning="Calibration in the large; 0 is calibrated, below 0 the probabilities are too "
        "high (Cox 1958).",
        low=None,
        high=None,
        scores=_calibration_intercept,
        two_sided=True,
    ),
    Metric(
        name="recall",
        label="Sensitivity",
        meaning="Share of images with the finding that are called.",
        calls=lambda of: _ratio(of.true_positives, of.true_positives + of.false_negatives),
        two_sided=True,
        share_of="positives",
    ),
    Metric(
        name="specificity",
        label="Specificity",
        meaning="Share of images without the finding that are not called.",
        calls=lambda of: _ratio(of.true_negatives, of.true_negatives + of.false_positives),
        share_of="negatives",
    ),
    Metric(
        name="precision",
        label="Precision (PPV)",
        meaning="Share of calls that are right.",
        calls=lambda of: _ratio(of.true_positives, of.true_positives + of.false_positives),
        two_sided=True,
        share_of="called",
    ),
    Metric(
        name="npv",
        label="NPV",
        meaning="Share of images not called that do not have the finding.",
        calls=lambda of: _ratio(of.true_negatives, of.true_negatives + of.false_negatives),
        two_sided=True,
        share_of="not called",
    ),
    Metric(
        name="f1",
        label="F1",
        meaning="Harmonic mean of precision and sensitivity.",
        calls=lambda of: _ratio(
            2 * of.true_positives,
            2 * of.true_positives + of.false_positives + of.false_negatives,
        ),
        two_sided=True,
    ),
    Metric(
        name="mcc",
        label="MCC",
        meaning="Matthews correlation of calls and labels; 0 is guessing.",
        low=-1.0,
        calls=_mcc,
        two_sided=True,
    ),
    Metric(
        name="accuracy",
        label="Accuracy",
        meaning="Share of images that are called or not called correctly.",
        calls=lambda of: _ratio(of.true_positives + of.true_negatives, of.total),
        share_of="images",
    ),
    Metric(
        name="alert_rate",
        label="Alert rate",
        meaning="Share of images that are called.",
        calls=lambda of: _ratio(of.true_positives + of.false_positives, of.total),
        share_of="images",
    ),
):
    register(_metric)

_BUILT_IN: Final = frozenset(METRICS)
"""Metrics that `blockwise` gives. A metric that is registered later needs a weight per image."""

_AREAS: Final = {"auroc": "lost", "auprc": "precisions", "partial_auroc": "partial"}
