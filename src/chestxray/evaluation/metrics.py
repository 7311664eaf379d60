"""What a column of probabilities is worth against a column of labels: pure functions of NumPy.

Every function takes one finding: labels `y`, float [n], 1 present, 0 absent, NaN unknown (left
out), and probabilities `p`, float [n] in [0, 1]. Every one gives a float, NaN where the metric is
not defined for these labels; nothing is ever replaced by 0. A finding is called where
p >= threshold.

Definitions are scikit-learn's, which is the oracle in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

PARTIAL_FPR: Final = 0.1


class Steps(NamedTuple):
    """What calling at each distinct probability gives, highest threshold first.

    Attributes:
        thresholds: float [k], the distinct probabilities, falling.
        true: int [k], positives at or above the threshold.
        false: int [k], negatives at or above the threshold.
    """

    thresholds: npt.NDArray[np.float64]
    true: Counts
    false: Counts


class Confusion(NamedTuple):
    """Counts of calls at one threshold."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


def known(y: Floats, p: Floats) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Leave out the rows of unknown label: bool [m] present, float64 [m] probabilities."""
    keep = ~np.isnan(y)
    return y[keep] > 0.5, np.asarray(p, dtype=np.float64)[keep]


def steps(y: Floats, p: Floats) -> Steps:
    """Count true and false calls at every distinct probability, ties taken together."""
    present, score = known(y, p)
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.cumsum(present[order], dtype=np.int64)
    last_of_tie = np.flatnonzero(np.append(np.diff(score) != 0, True)) if len(score) else slice(0)
    true, seen = hits[last_of_tie], np.arange(1, len(score) + 1, dtype=np.int64)[last_of_tie]
    return Steps(score[last_of_tie], true, seen - true)


def auroc(y: Floats, p: Floats) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half.

    Summed in whole numbers, so exact for any table that fits in memory. NaN without positives or
    without negatives.
    """
    _, true, false = steps(y, p)
    if not len(true) or not true[-1] or not false[-1]:
        return math.nan
    new_false = np.diff(false, prepend=0)
    twice_area = int(np.sum(new_false * (true + np.append(0, true[:-1]))))
    return twice_area / (2 * int(true[-1]) * int(false[-1]))


def average_precision(y: Floats, p: Floats) -> float:
    """Area under the precision-recall curve as average precision, without interpolation.

    Compare it with the prevalence, which is what guessing scores. NaN without positives or
    without negatives.
    """
    _, true, false = steps(y, p)
    if not len(true) or not true[-1] or not false[-1]:
        return math.nan
    return float(np.sum(np.diff(true, prepend=0) * (true / (true + false)))) / int(true[-1])


def partial_auroc(y: Floats, p: Floats) -> float:
    """Area under the ROC curve up to a false positive rate of `PARTIAL_FPR`, standardised.

    0.5 is guessing and 1 perfect, whatever the part (McClish 1989,
    doi:10.1177/0272989X8900900307). NaN without positives or without negatives.
    """
    _, true, false = steps(y, p)
    if not len(true) or not true[-1] or not false[-1]:
        return math.nan
    tpr, fpr = np.append(0, true / true[-1]), np.append(0, false / false[-1])
    stop = int(np.searchsorted(fpr, PARTIAL_FPR, side="right"))
    ends = np.interp(PARTIAL_FPR, fpr[stop - 1 : stop + 1], tpr[stop - 1 : stop + 1])
    x, y_ = np.append(fpr[:stop], PARTIAL_FPR), np.append(tpr[:stop], ends)
    return float(standardised(np.trapezoid(y_, x), PARTIAL_FPR))


def standardised(area: Values, most: float) -> Values:
    """Rescale an area under the ROC curve up to an FPR of `most` to McClish's 0.5 to 1."""
    guessing = most**2 / 2
    return 0.5 * (1 + (area - guessing) / (most - guessing))


def brier(y: Floats, p: Floats) -> float:
    """Mean squared difference of probability and label, NaN without known labels."""
    present, score = known(y, p)
    return float(np.mean((score - present) ** 2)) if len(score) else math.nan


def cross_entropy(y: Floats, p: Floats) -> float:
    """Mean binary cross-entropy in nats, NaN without known labels.

    Probabilities are kept a float64 epsilon away from 0 and 1, as in `sklearn.metrics.log_loss`.
    """
    present, score = known(y, p)
    return float(np.mean(losses(present, score))) if len(score) else math.nan


def losses(present: npt.NDArray[np.bool_], score: Values) -> Values:
    """Give each image's cross-entropy in nats, for a label and a probability each."""
    of_truth = np.where(present, score, 1 - score)
    epsilon = np.finfo(np.float64).eps
    return np.asarray(-np.log(np.clip(of_truth, epsilon, 1 - epsilon)))


def confusion(y: Floats, p: Floats, threshold: float) -> Confusion:
    """Count the calls p >= threshold against the known labels."""
    present, score = known(y, p)
    called = score >= threshold
    true = int(np.sum(called & present))
    false = int(np.sum(called)) - true
    positives = int(np.sum(present))
    return Confusion(true, false, len(score) - positives - false, positives - true)


def accuracy(y: Floats, p: Floats, threshold: float) -> float:
    """Share of known labels that the calls get right; NaN without known labels."""
    tp, fp, tn, fn = confusion(y, p, threshold)
    return _ratio(tp + tn, tp + fp + tn + fn)


def precision(y: Floats, p: Floats, threshold: float) -> float:
    """Share of calls that are right; NaN where nothing is called."""
    tp, fp, _, _ = confusion(y, p, threshold)
    return _ratio(tp, tp + fp)


def npv(y: Floats, p: Floats, threshold: float) -> float:
    """Share of what is not called that is absent; NaN where everything is called."""
    _, _, tn, fn = confusion(y, p, threshold)
    return _ratio(tn, tn + fn)


def alert_rate(y: Floats, p: Floats, threshold: float) -> float:
    """Share of images of known label that are called; NaN without known labels."""
    tp, fp, tn, fn = confusion(y, p, threshold)
    return _ratio(tp + fp, tp + fp + tn + fn)


def recall(y: Floats, p: Floats, threshold: float) -> float:
    """Share of positives that are called (sensitivity); NaN without positives."""
    tp, _, _, fn = confusion(y, p, threshold)
    return _ratio(tp, tp + fn)


def specificity(y: Floats, p: Floats, threshold: float) -> float:
    """Share of negatives that are not called; NaN without negatives."""
    _, fp, tn, _ = confusion(y, p, threshold)
    return _ratio(tn, tn + fp)


def f1(y: Floats, p: Floats, threshold: float) -> float:
    """Harmonic mean of precision and recall; NaN where nothing is present and nothing called."""
    tp, fp, _, fn = confusion(y, p, threshold)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def mcc(y: Floats, p: Floats, threshold: float) -> float:
    """Matthews correlation of calls and labels; NaN where either is all the same.

    That is where scikit-learn gives 0, which would read as a finding about the model.
    """
    tp, fp, tn, fn = confusion(y, p, threshold)
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(margins) if margins else math.nan


def mean_of_defined(values: Iterable[float]) -> float:
    """Mean over the values that are not NaN; NaN where none is left."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
