"""What a column of probabilities is worth against a column of labels: pure functions of NumPy.

Every function takes one finding: labels `y`, float [n], 1 present, 0 absent, NaN unknown (left
out), and probabilities `p`, float [n] in [0, 1]. Every one gives a float, NaN where the metric is
not defined for these labels; nothing is ever replaced by 0. A finding is called where
p >= threshold.

Definitions are scikit-learn's, which is the oracle in the tests.

Steps of the ROC curve for many rows of weights at once, and the areas under what they draw.

Only the probabilities that positives have make steps, so for each of them it is enough to know the
weight of its positives and of the negatives above and beside it. These are sums of whole numbers:
ties are exact. The probabilities are sorted once, for all rows.

The metrics of one finding for many rows of weights at once: the inner loop of every interval.

A weight says how often an image counts, so a row of weights stands for a resample, and the metric
of the row is what the scalar functions of `metrics` and
`calibration_measures` give for the images repeated that
often. The probabilities are sorted once; after that a row of weights costs a few sums:

    ranking   sums of negatives between the positives; whole numbers, so ties are exact
    scoring   one matrix product with what each image adds
    calling   sums over the called and the others

Two things belong to the data as they are, not to the row: the bins of the calibration error stay
where they were cut, and calibration slope and intercept are the full fit moved by one step (see
`cox`). With weights all 1 both are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.calibration_error import (
    BINS,
    TERMS,
    Floats,
    Line,
    equal_mass_bins,
    known,
    log_odds,
    overlap,
)

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


class WeightedSteps(NamedTuple):
    """What weighs where, at each distinct probability of a positive, the highest first.

    Attributes:
        found: float64 [b, k], positives of this probability.
        above: float64 [b, k], negatives of a higher probability.
        upto: float64 [b, k], negatives of this or a higher probability.
        positives, negatives: float64 [b, 1], all of them.
    """

    found: Values
    above: Values
    upto: Values
    positives: Values
    negatives: Values


class Order:
    """The probabilities of positives and of negatives, each sorted from the highest on."""

    def __init__(self, positives: Values, negatives: Values) -> None:
        """Find where the steps are.

        Args:
            positives: float64 [k], falling.
            negatives: float64 [m - k], falling.
        """
        new = np.append(True, np.diff(positives) < 0)[: len(positives)]
        self._starts = np.flatnonzero(new)  # of the positives of one probability
        self._tied = not new.all()
        at = -positives[self._starts]
        above, upto = (np.searchsorted(-negatives, at, side=side) for side in ("left", "right"))
        cuts = np.unique(np.concatenate([[0], above, upto]))
        self._cuts = cuts[cuts < max(len(negatives), 1)]
        self._above, self._upto = (np.searchsorted(self._cuts, place) for place in (above, upto))
        self._beside = not np.array_equal(above, upto)

    def steps(self, positive: Values, negative: Values) -> WeightedSteps:
        """Sum the weights of positives, float64 [b, k], and of negatives, [b, m - k]."""
        passed = np.zeros((len(negative), len(self._cuts) + 1))
        if negative.shape[1]:
            np.add.reduceat(negative, self._cuts, axis=1, out=passed[:, 1:])
            np.cumsum(passed, axis=1, out=passed)
        found = np.add.reduceat(positive, self._starts, axis=1) if self._tied else positive
        above = np.take(passed, self._above, axis=1)
        upto = np.take(passed, self._upto, axis=1) if self._beside else above
        return WeightedSteps(found, above, upto, found.sum(axis=1, keepdims=True), passed[:, -1:])


def areas(steps: WeightedSteps) -> Values:
    """Give AUROC, average precision and standardised partial AUROC, float64 [b, 3].

    NaN without positives or without negatives.
    """
    found, above, upto, positives, negatives = steps
    pairs = (positives * negatives)[:, 0]
    # Twice the pairs won, half of the tied ones among them: whole numbers.
    twice = 2 * pairs - _dot(found, above) - _dot(found, upto)
    hits = np.cumsum(found, axis=1)
    np.divide(hits, hits + upto, out=hits, where=hits > 0)  # now precision
    auprc = ratio(_dot(found, hits), positives[:, 0])
    partial = standardised(ratio(_area(steps, PARTIAL_FPR), pairs), PARTIAL_FPR)
    values = np.stack([ratio(twice, 2 * pairs), auprc, partial], axis=1)
    return np.where(pairs[:, None] > 0, values, np.nan)


def _area(steps: WeightedSteps, most: float) -> Values:
    """Integrate positives found over negatives passed, up to a share `most` of the negatives.

    The positives of one probability rise on a straight line over the negatives tied with them.
    """
    limit = most * steps.negatives
    within = int((steps.above < limit).sum(axis=1).max(initial=0))
    found, above, upto = (part[:, :within] for part in steps[:3])
    tied = upto - above
    reached = np.clip(limit - above, 0, tied)
    rise = np.divide(reached**2, 2 * tied, out=np.zeros_like(tied), where=tied > 0)
    return _dot(found, rise + np.maximum(limit - upto, 0))


def ratio(part: Values, whole: Values) -> Values:
    """Divide, NaN by zero."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _dot(a: Values, b: Values) -> Values:
    return np.asarray(np.einsum("bk,bk->b", a, b))


RANKING: Final = ("auroc", "auprc", "partial_auroc")
SCORING: Final = ("brier", "bce", "ece", "calibration_slope", "calibration_intercept")
CALLING: Final = (
    "recall",
    "specificity",
    "precision",
    "npv",
    "f1",
    "mcc",
    "accuracy",
    "alert_rate",
)


class Column:
    """Labels and probabilities of one finding, sorted for any rows of weights.

    Attributes:
        rows: int64 [m], the images whose label is known, in the order that weights are given in:
            positives, then negatives, each from the highest probability on. For
            `Draws.apply(…, rows=column.rows)`.
        present: bool [m].
        p: float64 [m].
    """

    def __init__(self, y: Floats, p: Floats, images: npt.NDArray[np.int64] | None = None) -> None:
        """Sort a column.

        Args:
            y: labels, float [n], 1, 0 or NaN (left out).
            p: probabilities, float [n] in [0, 1].
            images: int64 [n], the image of each row, where that is not the row itself.
        """
        keep = np.flatnonzero(~np.isnan(y))
        keep = keep[np.lexsort((-p[keep], y[keep] < 0.5))]
        self.rows = keep if images is None else images[keep]
        self.present = y[keep] > 0.5
        self.p = np.asarray(p[keep], dtype=np.float64)
        self._positives = int(self.present.sum())

    @classmethod
    def pooled(cls, labels: Floats, probabilities: Floats) -> Self:
        """Pool all pairs of image and finding, for micro averages; `rows` repeats images.

        Args:
            labels: float [n, k].
            probabilities: float [n, k].
        """
        images = np.repeat(np.arange(len(labels)), labels.shape[1])
        return cls(labels.ravel(), probabilities.ravel(), images)

    def steps(self, w: Values) -> WeightedSteps:
        """Sum weights, float64 [b, m], between and at the probabilities of positives."""
        return self._order.steps(w[:, : self._positives], w[:, self._positives :])

    def ranking(self, w: Values) -> Values:
        """Give the metrics of `RANKING`, NaN without positives or without negatives.

        Args:
            w: float64 [b, m], whole numbers ≥ 0.

        Returns:
            float64 [b, 3].
        """
        return areas(self.steps(w))

    def scoring(self, w: Values) -> Values:
        """Give the metrics of `SCORING`, NaN where undefined.

        Args:
            w: float64 [b, m], whole numbers ≥ 0.

        Returns:
            float64 [b, 5].
        """
        total, brier, bce, *_ = sums = (w @ self._terms).T
        slope, intercept = self._line.moved(sums[3 : 3 + TERMS].T)
        error = np.abs(sums[3 + TERMS :]).sum(axis=0)
        positives = w[:, : self._positives].sum(axis=1)
        two_sided = (positives > 0) & (positives < total)
        return np.stack(
            [
                ratio(brier, total),
                ratio(bce, total),
                ratio(error, total),
                np.where(self._overlap(w), slope, np.nan),
                np.where(two_sided, intercept, np.nan),
            ],
            axis=1,
        )

    def calling(self, w: Values, threshold: float) -> Values:
        """Give the metrics of `CALLING` for the calls p >= threshold, NaN where undefined.

        Args:
            w: float64 [b, m], whole numbers ≥ 0.
            threshold: from which on the finding is called.

        Returns:
            float64 [b, 8].
        """
        return rates(self.confusion(w, threshold))

    def confusion(self, w: Values, threshold: float) -> Values:
        """Sum the weights of true and false calls, true and false silence: float64 [b, 4].

        Sums over findings are the counts of all pairs, whose `rates` are micro averages.
        """
        positives = self._positives
        true = int(np.count_nonzero(self.p[:positives] >= threshold))
        false = positives + int(np.count_nonzero(self.p[positives:] >= threshold))
        parts = (w[:, :true], w[:, positives:false], w[:, false:], w[:, true:positives])
        return np.stack([part.sum(axis=1) for part in parts], axis=1)

    @cached_property
    def _order(self) -> Order:
        return Order(self.p[: self._positives], self.p[self._positives :])

    @cached_property
    def _line(self) -> Line:
        return Line(self.present, self.p)

    @cached_property
    def _terms(self) -> Values:
        """Give what an image of weight 1 adds to the sums of `scoring`, float64 [m, 25]."""
        error = self.p - self.present
        bins = equal_mass_bins(self.p)[:, None] == np.arange(BINS)
        each = [np.ones_like(error), error**2, losses(self.present, self.p)]
        return np.column_stack([*each, self._line.terms, bins * error[:, None]])

    @cached_property
    def _log_odds(self) -> Values:
        return log_odds(self.p)

    def _overlap(self, w: Values) -> npt.NDArray[np.bool_]:
        """Tell for each row whether no threshold parts positives from negatives, bool [b]."""
        k, x = self._positives, self._log_odds
        if k in {0, len(x)}:
            return np.zeros(len(w), dtype=np.bool_)
        return overlap(_range(x[:k], w[:, :k]), _range(x[k:], w[:, k:]))


def rates(confusions: Values) -> Values:
    """Give the metrics of `CALLING` from counts [..., 4]: float64 [..., 8], NaN where undefined."""
    tp, fp, tn, fn = np.moveaxis(np.asarray(confusions, dtype=np.float64), -1, 0)
    total = tp + fp + tn + fn
    margins = np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn))
    values = (
        ratio(tp, tp + fn),
        ratio(tn, tn + fp),
        ratio(tp, tp + fp),
        ratio(tn, tn + fn),
        ratio(2 * tp, 2 * tp + fp + fn),
        ratio(tp * tn - fp * fn, margins),
        ratio(tp + tn, total),
        ratio(tp + fp, total),
    )
    return np.stack(values, axis=-1)


def _range(x: Values, w: Values) -> Values:
    """Give the lowest and the highest of falling values [k] that have weight, [2, b]."""
    has = w > 0
    edges = np.stack([x[len(x) - 1 - has[:, ::-1].argmax(axis=1)], x[has.argmax(axis=1)]])
    return np.where(has.any(axis=1), edges, np.nan)
