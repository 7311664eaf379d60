"""ROC and precision-recall curves, thinned to what a figure can show."""

from __future__ import annotations

import heapq
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.metrics import Floats, steps

MOST_POINTS: Final = 200

Points = npt.NDArray[np.float64]
Curve = dict[str, list[float]]


def curves(y: Floats, p: Floats) -> dict[str, Curve] | None:
    """Give the curves of one finding, None without positives or without negatives.

    Args:
        y: labels, float [n], 1, 0 or NaN (left out).
        p: probabilities, float [n].

    Returns:
        `roc` with `fpr` and `tpr` from (0, 0) to (1, 1); `pr` with `recall` and `precision`, from
        the first call on. At most `MOST_POINTS` points each, rounded to 5 decimals.
    """
    _, true, false = steps(y, p)
    if not len(true) or not true[-1] or not false[-1]:
        return None
    recall = true / true[-1]
    roc = np.stack([np.append(0.0, false / false[-1]), np.append(0.0, recall)], axis=1)
    pr = np.stack([recall, true / (true + false)], axis=1)
    return {"roc": _named("fpr", "tpr", thin(roc)), "pr": _named("recall", "precision", thin(pr))}


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
