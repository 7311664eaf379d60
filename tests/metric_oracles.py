"""Each metric of the registry by an independent definition; NaN where it is undefined."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from sklearn import metrics as sk

Labels = np.ndarray
Scores = np.ndarray


def known(y: Labels, p: Scores) -> tuple[np.ndarray, np.ndarray]:
    keep = ~np.isnan(y)
    return y[keep].astype(int), p[keep]


def _two_sided(metric: Callable[..., float]) -> Callable[[Labels, Scores], float]:
    def of(y: Labels, p: Scores) -> float:
        truth, score = known(y, p)
        return float(metric(truth, score)) if len(set(truth)) == 2 else math.nan

    return of


def brier(y: Labels, p: Scores) -> float:
    truth, score = known(y, p)
    return float(sk.brier_score_loss(truth, score, labels=[0, 1])) if len(truth) else math.nan


def cross_entropy(y: Labels, p: Scores) -> float:
    truth, score = known(y, p)
    return float(sk.log_loss(truth, score, labels=[0, 1])) if len(truth) else math.nan


def calibration_error(y: Labels, p: Scores) -> float:
    """Images of one probability are in the bin that the middle of their mass lies in."""
    truth, score = known(y, p)
    if not len(truth):
        return math.nan
    middle = [np.sum(score < value) + np.sum(score <= value) for value in score]
    bins = np.array(middle) * 10 // (2 * len(score))
    return float(sum(abs((truth - score)[bins == of].sum()) for of in range(10)) / len(score))


SCORES: dict[str, Callable[[Labels, Scores], float]] = {
    "auroc": _two_sided(sk.roc_auc_score),
    "auprc": _two_sided(sk.average_precision_score),
    "partial_auroc": _two_sided(lambda y, p: sk.roc_auc_score(y, p, max_fpr=0.1)),
    "brier": brier,
    "bce": cross_entropy,
    "ece": calibration_error,
}


def confusion(y: Labels, p: Scores, threshold: float) -> tuple[int, int, int, int]:
    """True and false positives, true and false negatives."""
    truth, score = known(y, p)
    called = score >= threshold
    return (
        int(np.sum(called & (truth == 1))),
        int(np.sum(called & (truth == 0))),
        int(np.sum(~called & (truth == 0))),
        int(np.sum(~called & (truth == 1))),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def recall(y: Labels, p: Scores, threshold: float) -> float:
    tp, _, _, fn = confusion(y, p, threshold)
    return _share(tp, tp + fn)


def specificity(y: Labels, p: Scores, threshold: float) -> float:
    _, fp, tn, _ = confusion(y, p, threshold)
    return _share(tn, tn + fp)


def precision(y: Labels, p: Scores, threshold: float) -> float:
    tp, fp, _, _ = confusion(y, p, threshold)
    return _share(tp, tp + fp)


def npv(y: Labels, p: Scores, threshold: float) -> float:
    _, _, tn, fn = confusion(y, p, threshold)
    return _share(tn, tn + fn)


def f1(y: Labels, p: Scores, threshold: float) -> float:
    tp, fp, _, fn = confusion(y, p, threshold)
    return _share(2 * tp, 2 * tp + fp + fn)


def mcc(y: Labels, p: Scores, threshold: float) -> float:
    """NaN where scikit-learn gives 0 because labels or calls are all the same."""
    truth, score = known(y, p)
    called = score >= threshold
    if len(set(truth)) < 2 or called.all() or not called.any():
        return math.nan
    return float(sk.matthews_corrcoef(truth, called))


def accuracy(y: Labels, p: Scores, threshold: float) -> float:
    tp, fp, tn, fn = confusion(y, p, threshold)
    return _share(tp + tn, tp + fp + tn + fn)


def alert_rate(y: Labels, p: Scores, threshold: float) -> float:
    tp, fp, tn, fn = confusion(y, p, threshold)
    return _share(tp + fp, tp + fp + tn + fn)


CALLS: dict[str, Callable[[Labels, Scores, float], float]] = {
    "recall": recall,
    "specificity": specificity,
    "precision": precision,
    "npv": npv,
    "f1": f1,
    "mcc": mcc,
    "accuracy": accuracy,
    "alert_rate": alert_rate,
}
