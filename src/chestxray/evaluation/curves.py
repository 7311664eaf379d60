"""Curves of one finding: ROC, precision-recall and reliability (calibration).

ROC and precision-recall curves are reduced to at most `_MOST_POINTS` points. Their bands are
pointwise: at each place of a grid the 95 % percentile interval over resamples of patients of the
curve's height there (vertical averaging; Macskassy and Provost 2004). A band covers the curve at
any one place, not the whole curve at once.

A reliability diagram divides the images into bins of equal mass by their probability. The observed
frequency of the finding in a bin should equal its mean probability. The bins are those of the
expected calibration error and stay fixed while patients are resampled. Recalibration is fitted on
validation predictions and applied to the evaluated ones: it shows what calibration could improve,
also for predictions without logits. Correction for another prevalence (`prior_shift`) needs no
labels of the evaluated images.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.blockwise import Blocked, sums
from chestxray.evaluation.bootstrap import TAILS, Draws, Floats, Values, exact_share
from chestxray.evaluation.calibration import Calibration, fit_calibration, stated_log_odds
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.metrics import interval_of, resampled
from chestxray.evaluation.prior_shift import correct, estimate_prevalence
from chestxray.evaluation.result_details import (
    Band,
    FindingCurves,
    FindingReliability,
    PrCurve,
    PriorShift,
    ReliabilityBin,
    ReliabilityDiagram,
    RocCurve,
)
from chestxray.evaluation.weighted_counts import Column, equal_mass_bins, roc

GRID: Final = np.linspace(0, 1, 51)
NO_VALIDATION: Final = "no validation predictions: give them with --fit-on"

_MOST_POINTS: Final = 200
_FIGURES: Final = {  # in `reliability.json` → in `METRICS`
    "brier": "brier",
    "bce": "bce",
    "ece": "ece",
    "slope": "calibration_slope",
    "intercept": "calibration_intercept",
}


def curves(y: Floats, p: Floats, draws: Draws | None = None) -> FindingCurves | None:
    """Give the ROC and precision-recall curves, None without positives or without negatives.

    Args:
        y: labels, float [n], 1, 0 or NaN (left out).
        p: probabilities, float [n].
        draws: of the n images' patients, for the bands; no bands without.

    Returns:
        The ROC curve from (0, 0) to (1, 1), and the precision-recall curve from the first call on,
        rounded to 5 decimals.
    """
    _, true, false = roc(y, p)
    if not len(true) or not true[-1] or not false[-1]:
        return None
    recall = true / true[-1]
    roc_points = np.stack([np.append(0.0, false / false[-1]), np.append(0.0, recall)], axis=1)
    pr_points = np.stack([recall, true / (true + false)], axis=1)
    on_roc, on_pr = bands(Column(y, p), draws) if draws and draws.resamples else (None, None)
    (fpr, tpr), (found, precision) = (thin(of).round(5).T for of in (roc_points, pr_points))
    return FindingCurves(
        roc=RocCurve(fpr=fpr.tolist(), tpr=tpr.tolist(), band=_band("fpr", on_roc)),
        pr=PrCurve(
            recall=found.tolist(), precision=precision.tolist(), band=_band("recall", on_pr)
        ),
    )


def bands(column: Column, draws: Draws) -> tuple[Values, Values] | tuple[None, None]:
    """Give the pointwise 95 % bands of both curves.

    Returns:
        Lowest and highest recall at each FPR of `GRID`, float64 [2, 51], the highest there of a
        resample's curve, which is straight across ties; and precision at each recall, where a
        resample first reaches it, without interpolation (Davis and Goadrich 2006). Resamples
        without positives or without negatives are left out; None where none is left.
    """
    if draws.expanded:
        heights = draws.apply(lambda w: heights_at(column, w, GRID), column.rows)
    else:
        blocked = Blocked(column, draws, (), terms=False)
        heights = draws.by_blocks([lambda w: blocked.under(w).heights(GRID)])[0]
    drawn = heights[1 : 1 + draws.resamples]
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    if not len(drawn):
        return None, None
    low_and_high = np.quantile(drawn, TAILS, axis=0)
    return low_and_high[:, : len(GRID)], low_and_high[:, len(GRID) :]


def heights_at(column: Column, w: Values, grid: Values) -> Values:
    """Give recall at each FPR and precision at each recall, for every row of weights.

    Args:
        column: labels and probabilities.
        w: float64 [b, m], whole numbers ≥ 0.
        grid: float64 [g], rising, in [0, 1].

    Returns:
        float64 [b, 2 g], NaN without positives or without negatives.
    """
    found, above, upto, positives, negatives = column.steps(w)
    if not found.shape[1]:
        return np.full((len(w), 2 * len(grid)), np.nan)
    hits = np.cumsum(found, axis=1)
    rows = zip(hits, above, upto, positives[:, 0], negatives[:, 0], strict=True)
    return np.stack([_heights(*row, grid) for row in rows])


def _heights(
    hits: Values, above: Values, upto: Values, positives: float, negatives: float, grid: Values
) -> Values:
    """Give them for one row: hits and negatives at each probability of a positive, [k]."""
    if not positives or not negatives:
        return np.full(2 * len(grid), np.nan)
    passed = grid * negatives
    begun = np.searchsorted(above, passed, side="right")
    before, after = np.append([0, 0], hits)[begun], np.append(0, hits)[begun]
    start, end = np.append(0, above)[begun], np.append(0, upto)[begun]
    part = np.divide(passed - start, end - start, out=np.ones_like(passed), where=end > passed)
    # Weights are whole, so the margin only compensates the rounding of `grid * positives`.
    first = np.searchsorted(hits, np.maximum(grid * positives, 1) - 1e-6)
    precision = hits[first] / (hits[first] + upto[first])
    return np.append((before + part * (after - before)) / positives, precision)


def thin(points: Values, most: int = _MOST_POINTS) -> Values:
    """Keep at most `most` points of a polyline, with the least visible change.

    Values are added where the kept line is farthest from the whole one (Ramer 1972, Douglas and
    Peucker 1973), so the error is spread evenly and points on a straight line cost nothing.

    Args:
        points: float [n, 2], n ≥ 1.
        most: at least 2.
    """
    last = len(points) - 1
    kept = {0, last}
    gaps = [_farthest(points, 0, last)]
    while gaps and len(kept) < most:
        distance, start, middle, end = heapq.heappop(gaps)
        if distance == 0:  # the rest lies on the line
            break
        kept.add(middle)
        for left, right in ((start, middle), (middle, end)):
            if right - left > 1:
                heapq.heappush(gaps, _farthest(points, left, right))
    return points[sorted(kept)]


def _farthest(points: Values, start: int, end: int) -> tuple[float, int, int, int]:
    """Give minus the distance of the point between two that is farthest from their line."""
    if end - start < 2:
        return 0.0, start, start, end
    offset = points[start + 1 : end] - points[start]
    along = points[end] - points[start]
    length = float(np.hypot(*along))
    if length:
        distance = np.abs(offset[:, 0] * along[1] - offset[:, 1] * along[0]) / length
    else:
        distance = np.hypot(offset[:, 0], offset[:, 1])
    middle = int(distance.argmax())
    return -float(distance[middle]), start, start + 1 + middle, end


def _band(x: str, low_and_high: Values | None) -> Band | None:
    if low_and_high is None:
        return None
    low, high = low_and_high.round(5)
    return Band.model_validate(
        {x: GRID.round(5).tolist(), "low": low.tolist(), "high": high.tolist()}
    )


def reliability(
    pairs: Pairs,
    validation: Pairs | None,
    draws: Draws,
    fitted: Mapping[str, float] | None = None,
    given: Mapping[str, float] | None = None,
) -> dict[str, FindingReliability]:
    """Give the reliability diagrams by finding: as given, recalibrated, corrected for prevalence.

    Args:
        pairs: the evaluated predictions.
        validation: predictions for other patients by the same model; None to leave out
            recalibration.
        draws: of the patients of `pairs`.
        fitted: finding → prevalence of the images that the model was calibrated on; a finding that
            is not in it gets no prior correction.
        given: finding → known prevalence of the evaluated images; the others' are estimated.
    """
    known = given or {}
    calibration, after = recalibrated(pairs, validation) if validation else (None, None)
    result = {}
    for k, finding in enumerate(pairs.findings):
        y = pairs.labels[:, k]
        diagram_after, method, reason = None, None, NO_VALIDATION
        if validation and calibration and after is not None:
            reason = calibration.reasons.get(finding) or calibration.unfitted[finding]
            if not one_sided(validation.labels[:, k]):
                diagram_after = diagram(y, after[:, k], draws)
                method = calibration.calibrators[finding].family
        p = pairs.probabilities[:, k]
        shift = _prior_shift(y, p, (fitted or {}).get(finding), known.get(finding))
        result[finding] = FindingReliability(
            as_given=diagram(y, p, draws),
            recalibrated=diagram_after,
            method=method,
            reason=reason,
            prior_corrected=diagram(y, correct(p, shift.fitted, shift.here), draws)
            if shift
            else None,
            prior_shift=shift,
        )
    return result


def _prior_shift(
    y: Floats, p: Floats, fitted: float | None, given: float | None
) -> PriorShift | None:
    """Give the prevalences of one finding; None where that of the calibration is unknown.

    That of these images is estimated from those whose label is known, on which the correction is
    measured: another source among them may have another prevalence.
    """
    if fitted is None:
        return None
    known = ~np.isnan(y)
    labelled = y[known]
    judged = p[known] if len(labelled) else p
    return PriorShift(
        fitted=fitted,
        here=estimate_prevalence(judged, fitted) if given is None else given,
        given=given is not None,
        observed=float(labelled.mean()) if len(labelled) else None,
    )


def recalibrated(pairs: Pairs, validation: Pairs) -> tuple[Calibration, Values]:
    """Fit a calibration on validation predictions and apply it to the evaluated ones.

    Returns:
        The calibration, of log-odds of probabilities, and float64 [n, K] for `pairs`, which rank
        its images as the given probabilities do.
    """
    logits = stated_log_odds(validation.probabilities)
    calibration = fit_calibration(logits, validation.labels, validation.patients, pairs.findings)
    return calibration, calibration.apply(stated_log_odds(pairs.probabilities))


def diagram(y: Floats, p: Floats, draws: Draws) -> ReliabilityDiagram:
    """Give the reliability diagram of one finding with its calibration metrics.

    Args:
        y: labels, float [n], 1, 0 or NaN (left out).
        p: probabilities, float [n].
        draws: of the n images' patients.
    """
    column = Column(y, p)
    of = equal_mass_bins(column.p)
    filled = np.unique(of)

    def terms(some: npt.NDArray[np.int64]) -> Values:
        inside = of[some, None] == filled
        return np.hstack([inside, inside & column.present[some, None]]).astype(np.float64)

    images, hits = np.split(sums(draws, terms, column.rows), 2, axis=1)
    shares = np.divide(hits, images, out=np.full_like(hits, np.nan), where=images > 0)
    drawn = resampled(column, draws, tuple(_FIGURES.values()))
    reason = one_sided(y)
    figures = {
        name: interval_of(metric, drawn[metric], draws, reason) for name, metric in _FIGURES.items()
    }
    return ReliabilityDiagram(
        bins=[
            _bin(column, of == place, values, draws)
            for place, values in zip(filled, shares.T, strict=True)
        ],
        **figures,
    )


def _bin(
    column: Column, inside: npt.NDArray[np.bool_], values: Values, draws: Draws
) -> ReliabilityBin:
    """Describe one bin, given its images, bool [m], and its share of positives in every row."""
    patients = len(np.unique(draws.patient[column.rows[inside]]))
    same = values[0] in {0, 1} and draws.resamples
    share = exact_share(values[0], patients) if same else draws.interval(values)
    return ReliabilityBin(
        mean_probability=float(column.p[inside].mean()),
        observed=share.value,
        low=share.low,
        high=share.high,
        images=int(inside.sum()),
    )
