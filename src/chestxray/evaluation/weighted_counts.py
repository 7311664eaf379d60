"""Labels and probabilities of one finding, sorted once, and their counts under bootstrap weights.

A weight says how often an image counts, so a row of weights is a resample (see `bootstrap`). The
probabilities are sorted once (`Column`). After that, `Weighted` gives for many rows of weights the
sums that metrics are made of:

    steps   positives and negatives at and above each threshold; whole numbers, so ties are exact
    sums    one matrix product with what each image adds to a score
    calls   sums over the called and the others

Only the probabilities of positives change what a ranking metric sees, so `_Steps` has no others.
`roc` gives all thresholds of the data as they are.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Floats, Values
from chestxray.evaluation.logistic_regression import CalibrationLine, log_odds, overlap

PARTIAL_FPR: Final = 0.1
"""The false positive rate up to which the partial area under the ROC curve is taken."""

_BINS: Final = 10

_Counts = npt.NDArray[np.int64]


class Roc(NamedTuple):
    """The calls at each distinct probability, highest threshold first.

    Attributes:
        thresholds: float [k], the distinct probabilities, falling.
        true: int [k], positives at or above the threshold.
        false: int [k], negatives at or above the threshold.
    """

    thresholds: Values
    true: _Counts
    false: _Counts


def roc(y: Floats, p: Floats) -> Roc:
    """Count true and false calls at every distinct probability."""
    known = ~np.isnan(y)
    present, score = y[known] > 0.5, np.asarray(p, dtype=np.float64)[known]
    thresholds, place = np.unique(score, return_inverse=True)
    at = (np.bincount(place[side], minlength=len(thresholds)) for side in (present, ~present))
    true, false = (np.cumsum(counts[::-1]) for counts in at)
    return Roc(thresholds[::-1], true, false)


class _Steps(NamedTuple):
    """The weights at and above each distinct probability of a positive, highest first.

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


class Calls(NamedTuple):
    """Weights of true and false calls and of what is not called, float64 [b] each."""

    true_positives: Values
    false_positives: Values
    true_negatives: Values
    false_negatives: Values

    @classmethod
    def of(cls, counts: Values) -> Self:
        """Take them from one array, float64 [b, 4]."""
        return cls(*counts.T)

    @property
    def total(self) -> Values:
        """All of them."""
        return (
            self.true_positives
            + self.false_positives
            + self.true_negatives
            + (self.false_negatives)
        )


class Column:
    """Labels and probabilities of one finding, sorted for any rows of weights.

    Attributes:
        rows: int64 [m], the images whose label is known, in the order of the weights: positives,
            then negatives, each from the highest probability down. For
            `Draws.apply(…, rows=column.rows)`.
        present: bool [m].
        p: float64 [m].
        positives: how many of them.
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
        self.positives = int(self.present.sum())

    @classmethod
    def pooled(cls, labels: Floats, probabilities: Floats) -> Self:
        """Pool all pairs of image and finding, for micro averages; `rows` repeats images.

        Args:
            labels: float [n, k].
            probabilities: float [n, k].
        """
        images = np.repeat(np.arange(len(labels)), labels.shape[1])
        return cls(labels.ravel(), probabilities.ravel(), images)

    def steps(self, w: Values) -> _Steps:
        """Sum weights, float64 [b, m], between and at the probabilities of positives."""
        return self._order.steps(w[:, : self.positives], w[:, self.positives :])

    def calls(self, w: Values, threshold: float) -> Values:
        """Sum the weights of `Calls` at a threshold: float64 [b, 4].

        Sums over findings are the counts of all pairs, whose rates are micro averages.
        """
        positives = self.positives
        true = int(np.count_nonzero(self.p[:positives] >= threshold))
        false = positives + int(np.count_nonzero(self.p[positives:] >= threshold))
        parts = (w[:, :true], w[:, positives:false], w[:, false:], w[:, true:positives])
        return np.stack([part.sum(axis=1) for part in parts], axis=1)

    @cached_property
    def step_places(self) -> StepPlaces:
        """Where the probabilities of positives lie among positives and among negatives."""
        return StepPlaces.of(self.p[: self.positives], self.p[self.positives :])

    @cached_property
    def _order(self) -> _Order:
        return _Order(self.step_places, self.positives, len(self.p) - self.positives)

    @cached_property
    def line(self) -> CalibrationLine:
        """Calibration slope and intercept of the data as they are."""
        return CalibrationLine(self.present, self.p)

    @cached_property
    def terms(self) -> Values:
        """What an image of weight 1 adds to `Weighted.sums`, float64 [m, 3 + TERMS + BINS]."""
        return self.terms_of(slice(None))

    def terms_of(self, some: slice | npt.NDArray[np.int64]) -> Values:
        """Give `terms` of some images alone."""
        present, p = self.present[some], self.p[some]
        error = p - present
        bins = self._bins[some][:, None] == np.arange(_BINS)
        each = [np.ones_like(error), error**2, _cross_entropy(present, p)]
        return np.column_stack([*each, self.line.terms(present, p), bins * error[:, None]])

    @cached_property
    def _bins(self) -> npt.NDArray[np.int64]:
        return equal_mass_bins(self.p)

    @cached_property
    def log_odds(self) -> Values:
        """Log-odds of `p`, float64 [m]."""
        return log_odds(self.p)


class Weighted:
    """A column under rows of weights: what its metrics share, computed once.

    Attributes:
        column: labels and probabilities.
        w: float64 [b, m], whole numbers ≥ 0.
    """

    def __init__(self, column: Column, w: Values) -> None:
        """Keep both; nothing is computed before it is needed."""
        self.column = column
        self.w = w

    @cached_property
    def steps(self) -> _Steps:
        """Weights at each distinct probability of a positive."""
        return self.column.steps(self.w)

    @cached_property
    def pairs(self) -> Values:
        """Pairs of a positive and a negative, float64 [b]."""
        return (self.steps.positives * self.steps.negatives)[:, 0]

    @cached_property
    def found(self) -> Values:
        """Weights of all positives, float64 [b]."""
        return self.steps.positives[:, 0]

    @cached_property
    def lost(self) -> Values:
        """Twice the pairs whose negative ranks above the positive, tied ones once, float64 [b]."""
        found, above, upto, *_ = self.steps
        return dot(found, above) + dot(found, upto)

    @cached_property
    def precisions(self) -> Values:
        """Precision summed over positives, float64 [b]."""
        found, _, upto, *_ = self.steps
        return dot(found, precision(np.cumsum(found, axis=1), upto))

    @cached_property
    def partial(self) -> Values:
        """Pairs of the partial area: of positives and the first negatives, float64 [b]."""
        steps = self.steps
        limit = PARTIAL_FPR * steps.negatives
        within = int((steps.above < limit).sum(axis=1).max(initial=0))
        found, above, upto = (part[:, :within] for part in steps[:3])
        return dot(found, passed_over(above, upto, limit))

    @cached_property
    def sums(self) -> Values:
        """Weighted sums of `Column.terms`, float64 [b, 3 + TERMS + BINS]."""
        return self.w @ self.column.terms

    @cached_property
    def two_sided(self) -> npt.NDArray[np.bool_]:
        """Whether a row has positives and negatives, bool [b]."""
        positives = self.w[:, : self.column.positives].sum(axis=1)
        return np.asarray((positives > 0) & (positives < self.sums[:, 0]))

    @cached_property
    def overlap(self) -> npt.NDArray[np.bool_]:
        """Whether no threshold separates a row's positives from its negatives, bool [b]."""
        k, x, w = self.column.positives, self.column.log_odds, self.w
        if k in {0, len(x)}:
            return np.zeros(len(w), dtype=np.bool_)
        return overlap(_range(x[:k], w[:, :k]), _range(x[k:], w[:, k:]))


def precision(hits: Values, false: Values) -> Values:
    """Give the share of calls that are right, 0 where there are no hits; `hits` is overwritten."""
    return np.divide(hits, hits + false, out=hits, where=hits > 0)


def passed_over(above: Values, upto: Values, limit: Values) -> Values:
    """Give the negatives below each positive, among the first `limit` negatives.

    The positives of one probability rise on a straight line over the negatives tied with them.

    Args:
        above: negatives of a higher probability, float64 of any shape.
        upto: negatives of this or a higher probability.
        limit: that the negatives are counted up to.
    """
    tied = upto - above
    reached = np.clip(limit - above, 0, tied)
    rise = np.divide(reached**2, 2 * tied, out=np.zeros_like(tied), where=tied > 0)
    return np.asarray(rise + np.maximum(limit - upto, 0))


def dot(a: Values, b: Values) -> Values:
    """Multiply row by row, [b, k] → [b]."""
    return np.asarray(np.einsum("bk,bk->b", a, b))


def equal_mass_bins(p: Values, bins: int = _BINS) -> npt.NDArray[np.int64]:
    """Divide probabilities into bins of numbers as equal as ties allow.

    Ordered by probability, image number i of n (from 0) covers the mass from i / n to (i + 1) / n.
    Images of one probability stay together: they go to the bin that contains the middle of their
    mass, to the upper one where it lies on a border. So a bin can be empty.

    Returns:
        int64 [n], from 0 for the lowest probabilities to `bins` - 1.
    """
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    upto = np.cumsum(count)
    twice_middle = 2 * upto - count
    return np.asarray(bins * twice_middle // (2 * max(len(p), 1)))[place]


class StepPlaces(NamedTuple):
    """Where each distinct probability of a positive lies, highest first; int64 [k].

    Attributes:
        starts: the first positive of this probability.
        above: how many negatives have a higher probability.
        upto: how many negatives have this or a higher probability.
    """

    starts: _Counts
    above: _Counts
    upto: _Counts

    @classmethod
    def of(cls, positives: Values, negatives: Values) -> Self:
        """Find them among falling probabilities of positives and of negatives."""
        new = np.append(True, np.diff(positives) < 0)[: len(positives)]
        starts = np.flatnonzero(new)
        at, falling = -positives[starts], -negatives
        above, upto = (np.searchsorted(falling, at, side=side) for side in ("left", "right"))
        return cls(starts, above, upto)


class _Order:
    """The probabilities of positives and of negatives, each sorted from the highest down."""

    def __init__(self, places: StepPlaces, positives: int, negatives: int) -> None:
        """Find where the steps are, among so many positives and negatives."""
        self._starts, above, upto = places
        self._tied = len(self._starts) < positives
        cuts = np.unique(np.concatenate([[0], above, upto]))
        self._cuts = cuts[cuts < max(negatives, 1)]
        self._above, self._upto = (np.searchsorted(self._cuts, place) for place in (above, upto))
        self._beside = not np.array_equal(above, upto)

    def steps(self, positive: Values, negative: Values) -> _Steps:
        """Sum the weights of positives, float64 [b, k], and of negatives, [b, m - k]."""
        passed = np.zeros((len(negative), len(self._cuts) + 1))
        if negative.shape[1]:
            np.add.reduceat(negative, self._cuts, axis=1, out=passed[:, 1:])
            np.cumsum(passed, axis=1, out=passed)
        found = np.add.reduceat(positive, self._starts, axis=1) if self._tied else positive
        above = np.take(passed, self._above, axis=1)
        upto = np.take(passed, self._upto, axis=1) if self._beside else above
        return _Steps(found, above, upto, found.sum(axis=1, keepdims=True), passed[:, -1:])


def _cross_entropy(present: npt.NDArray[np.bool_], p: Values) -> Values:
    """Give each image's cross-entropy in nats, as `sklearn.metrics.log_loss` clips it."""
    of_truth = np.where(present, p, 1 - p)
    epsilon = np.finfo(np.float64).eps
    return np.asarray(-np.log(np.clip(of_truth, epsilon, 1 - epsilon)))


def _range(x: Values, w: Values) -> Values:
    """Give the lowest and the highest of falling values [k] that have weight, [2, b]."""
    has = w > 0
    edges = np.stack([x[len(x) - 1 - has[:, ::-1].argmax(axis=1)], x[has.argmax(axis=1)]])
    return np.where(has.any(axis=1), edges, np.nan)
