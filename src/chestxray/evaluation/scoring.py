"""Measure one finding, at every operating point, and average or pool over findings.

Every metric is an array over the resamples (see `bootstrap`) until it is given its interval, so
that averages and differences have intervals of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Bounds, Draws, Interval, Values, average, exact_share
from chestxray.evaluation.curves import NO_VALIDATION
from chestxray.evaluation.delong import delong
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.metrics import (
    METRICS,
    call_metrics,
    interval_of,
    rates,
    resampled,
    resampled_calls,
    score_metrics,
)
from chestxray.evaluation.result_details import MeanInterval
from chestxray.evaluation.results import (
    AsCalled,
    Confusion,
    FindingResult,
    MeanResult,
    MicroResult,
    OperatingPoint,
    Threshold,
)
from chestxray.evaluation.thresholds import Chosen, OperatingPoints
from chestxray.evaluation.weighted_counts import Column
from chestxray.evaluation.workload import Images, rates_at, workloads

_NONE_CHOSEN: Final = Chosen(None, None, NO_VALIDATION)
_AS_CALLED: Final = "as_called"
_CALLED: Final = 0.5  # between 0, not called, and 1, called
_STATED: Final = Threshold(value=None, reason="the table states the calls, not the threshold")

_Called = npt.NDArray[np.bool_]
_Patients = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """One finding, measured.

    Attributes:
        values: metric → float64 [1 + R + G], at the main operating point where it needs one.
        called: operating point → metric of calls → float64 [1 + R + G]; none without a threshold.
        counts: float64 [1 + R + G, 4], `Calls` at the main operating point; None without one.
        result: the finding in `metrics.json`.
    """

    values: dict[str, Values]
    called: dict[str, dict[str, Values]]
    counts: Values | None
    result: FindingResult


def score(
    pairs: Pairs,
    draws: Draws,
    finding: str,
    points: OperatingPoints | None,
    fitted_on: Images | None,
    main_point: str,
) -> Scores:
    """Measure one finding; without validation or a bundle it has no operating `points`."""
    chosen = points.of(finding) if points else {}
    place = pairs.findings.index(finding)
    y, p = pairs.labels[:, place], pairs.probabilities[:, place]
    column = Column(y, p)
    missing = one_sided(y)
    plain = resampled(column, draws, score_metrics())
    counts = {
        name: resampled_calls(column, draws, at.threshold)
        for name, at in chosen.items()
        if at.threshold is not None
    }
    called = {name: rates(of) for name, of in counts.items()}
    intervals = {name: interval_of(name, of, draws, missing) for name, of in plain.items()}
    if not missing:
        intervals["auroc"] = _with_delong(intervals["auroc"], y, p, pairs.patients)
    at_points = {
        name: _at_point(pairs, draws, place, at, called.get(name)).model_copy(
            update={"validation": fitted_on.plain(name, finding) if fitted_on else None}
        )
        for name, at in (chosen or {main_point: _NONE_CHOSEN}).items()
    }
    main = at_points[main_point]
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    result = FindingResult(
        positives=positives,
        negatives=negatives,
        unknown=len(y) - positives - negatives,
        prevalence=positives / (positives + negatives) if positives + negatives else None,
        threshold=main.threshold,
        confusion=_confusion(counts.get(main_point)),
        operating_points=at_points if chosen else {},
        **intervals,
        **main.metrics,
    )
    return Scores(plain | called.get(main_point, {}), called, counts.get(main_point), result)


def _with_delong(auroc: Interval, y: Values, p: Values, patients: _Patients) -> Interval:
    """Add DeLong's interval where it exists."""
    low, high = delong(y, p, patients).interval
    if math.isnan(low):
        return auroc
    return auroc.model_copy(update={"delong": Bounds(low=low, high=high)})


def _at_point(
    pairs: Pairs, draws: Draws, place: int, chosen: Chosen, values: dict[str, Values] | None
) -> OperatingPoint:
    """Give an operating point and the metrics there, or None with the reason."""
    threshold = Threshold(value=chosen.threshold, reason=chosen.reason or None)
    if values is None or chosen.threshold is None:
        none = Interval(value=None, reason=chosen.reason)
        metrics = dict.fromkeys(call_metrics(), none)
    else:
        y, called = pairs.labels[:, place], pairs.probabilities[:, place] >= chosen.threshold
        metrics = {
            name: _of_calls(name, of, draws, y, called, pairs.patients)
            for name, of in values.items()
        }
    return OperatingPoint(wanted=chosen.wanted, threshold=threshold, **metrics)


def _of_calls(
    metric: str, values: Values, draws: Draws, y: Values, called: _Called, patients: _Patients
) -> Interval:
    """Give a metric of calls with its interval.

    Where one side of the labels is missing, a metric that needs both is not defined: a precision of
    0 among no positives says nothing.
    """
    about, missing = METRICS[metric], one_sided(y)
    if missing and about.two_sided:
        return Interval(value=None, reason=missing)
    if values[0] in {0, 1} and about.share_of and draws.resamples:
        of = {"positives": y == 1, "negatives": y == 0, "called": called, "not called": ~called}
        images = of.get(about.share_of, np.ones(len(y), dtype=np.bool_)) & ~np.isnan(y)
        return exact_share(values[0], len(np.unique(patients[images])))
    return interval_of(metric, values, draws, missing or "nothing is called")


def mean_of(scores: dict[str, Scores], draws: Draws) -> MeanResult:
    """Average each metric over the findings that have it, and count them.

    `bootstrap.average` says what happens where a resample leaves a rare finding undefined.
    """
    means = {}
    for metric in METRICS:
        defined = [
            of.values[metric]
            for of in scores.values()
            if metric in of.values and not np.isnan(of.values[metric][0])
        ]
        reasons = Counter(of.result.metrics[metric].reason for of in scores.values())
        mean = Interval(value=None, reason=reasons.most_common(1)[0][0])
        if defined:
            mean = interval_of(metric, average(defined), draws)
        means[metric] = MeanInterval(**vars(mean), findings=len(defined))
    return MeanResult(**means)


def micro_of(pairs: Pairs, draws: Draws, scores: dict[str, Scores]) -> MicroResult:
    """Pool all pairs of image and finding, each called at its finding's main operating point."""
    pooled = resampled(Column.pooled(pairs.labels, pairs.probabilities), draws, score_metrics())
    counts = [of.counts for of in scores.values() if of.counts is not None]
    if counts:
        pooled |= rates(np.sum(counts, axis=0))
    why = Counter(of.result.threshold.reason for of in scores.values()).most_common(1)[0][0]
    none = dict.fromkeys(call_metrics(), Interval(value=None, reason=why))
    return MicroResult(**none | {name: interval_of(name, of, draws) for name, of in pooled.items()})


def _confusion(counts: Values | None) -> Confusion | None:
    if counts is None:
        return None
    tp, fp, tn, fn = counts[0].astype(int).tolist()
    return Confusion(tp=tp, fp=fp, tn=tn, fn=fn)


def as_called(pairs: Pairs, draws: Draws) -> AsCalled | None:
    """Measure the calls that the table of predictions states; None where it states none."""
    if pairs.called is None:
        return None
    calls = replace(pairs, probabilities=pairs.called.astype(np.float64))
    reasons = dict.fromkeys(pairs.not_assessed, "not assessed by the model")
    chosen = {
        finding: Chosen(None, None if finding in reasons else _CALLED, reasons.get(finding, ""))
        for finding in pairs.findings
    }
    points = OperatingPoints({_AS_CALLED: chosen}, reasons, {})
    at = {_AS_CALLED: rates_at(calls, draws, points.thresholds(_AS_CALLED))}
    findings = {
        finding: _at_point(calls, draws, place, of, at[_AS_CALLED].get(finding))
        for place, (finding, of) in enumerate(chosen.items())
    }
    work = workloads(points, None, Images(calls, draws, at))[_AS_CALLED].evaluated
    # The threshold of 0.5 lies between calls written as 0 and 1: it is not one of the model's.
    return AsCalled(
        findings={
            finding: of.model_copy(update={"threshold": _STATED}) if of.threshold.value else of
            for finding, of in findings.items()
        },
        workload=work,
    )
