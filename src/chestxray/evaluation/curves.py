"""ROC and precision-recall curves, thinned to what a figure can show, and their bands.

A band is pointwise: at each place of a grid the 95 % percentile interval over resamples of patients
of the curve's height there (vertical averaging; Macskassy and Provost 2004). It covers the curve at
any one place, not the whole curve at once.
"""

from __future__ import annotations

import heapq
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import TAILS, Draws
from chestxray.evaluation.calibration_error import Floats
from chestxray.evaluation.metrics import Column, steps

MOST_POINTS: Final = 200
GRID: Final = np.linspace(0, 1, 51)

Points = npt.NDArray[np.float64]
Curve = dict[str, Any]


def curves(y: Floats, p: Floats, draws: Draws | None = None) -> dict[str, Curve] | None:
    """Give the curves of one finding, None without positives or without negatives.

    Args:
        y: labels, float [n], 1, 0 or NaN (left out).
        p: probabilities, float [n].
        draws: of the n images' patients, for the bands; none where not given.

    Returns:
        `roc` with `fpr` and `tpr` from (0, 0) to (1, 1); `pr` with `recall` and `precision`, from
        the first call on. At most `MOST_POINTS` points each, rounded to 5 decimals. Each
        has a `band` of `fpr` or `recall` (the `GRID`), `low` and `high`; None without draws.
    """
    _, true, false = steps(y, p)
    if not len(true) or not true[-1] or not false[-1]:
        return None
    recall = true / true[-1]
    roc = np.stack([np.append(0.0, false / false[-1]), np.append(0.0, recall)], axis=1)
    pr = np.stack([recall, true / (true + false)], axis=1)
    on_roc, on_pr = bands(Column(y, p), draws) if draws and draws.resamples else (None, None)
    return {
        "roc": _named("fpr", "tpr", thin(roc)) | {"band": _band("fpr", on_roc)},
        "pr": _named("recall", "precision", thin(pr)) | {"band": _band("recall", on_pr)},
    }


def bands(column: Column, draws: Draws) -> tuple[Points, Points] | tuple[None, None]:
    """Give how far the curves may lie from where the data put them.

    Returns:
        Lowest and highest recall at each FPR of `GRID`, float64 [2, 51], the highest there of a
        resample's curve, which is straight across ties; and precision at each recall, where a
        resample first reaches it, without interpolation (Davis and Goadrich 2006). Resamples
        without positives or without negatives are left out; None where none is left.
    """
    heights = draws.apply(lambda w: heights_at(column, w, GRID), column.rows)
    drawn = heights[1 : 1 + draws.resamples]
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    if not len(drawn):
        return None, None
    low_and_high = np.quantile(drawn, TAILS, axis=0)
    return low_and_high[:, : len(GRID)], low_and_high[:, len(GRID) :]


def heights_at(column: Column, w: Points, grid: Points) -> Points:
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
    hits: Points, above: Points, upto: Points, positives: float, negatives: float, grid: Points
) -> Points:
    """Do so for one row: hits and negatives at each probability of a positive, float64 [k]."""
    if not positives or not negatives:
        return np.full(2 * len(grid), np.nan)
    passed = grid * negatives
    begun = np.searchsorted(above, passed, side="right")
    before, after = np.append([0, 0], hits)[begun], np.append(0, hits)[begun]
    start, end = np.append(0, above)[begun], np.append(0, upto)[begun]
    part = np.divide(passed - start, end - start, out=np.ones_like(passed), where=end > passed)
    # Weights are whole, so the slack only makes up for the rounding of `grid * positives`.
    first = np.searchsorted(hits, np.maximum(grid * positives, 1) - 1e-6)
    precision = hits[first] / (hits[first] + upto[first])
    return np.append((before + part * (after - before)) / positives, precision)


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """Keep at most `most` points of a polyline, so that it looks the same.

    Points are added where the kept line is farthest from the whole one (Ramer 1972, Douglas and
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


def _farthest(points: Points, start: int, end: int) -> tuple[float, int, int, int]:
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


def _named(x: str, y: str, points: Points) -> Curve:
    rounded = points.round(5)
    return {x: rounded[:, 0].tolist(), y: rounded[:, 1].tolist()}


def _band(x: str, low_and_high: Points | None) -> dict[str, list[float]] | None:
    if low_and_high is None:
        return None
    low, high = low_and_high.round(5)
    return {x: GRID.round(5).tolist(), "low": low.tolist(), "high": high.tolist()}
