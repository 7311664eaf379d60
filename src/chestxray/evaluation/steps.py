"""Steps of the ROC curve for many rows of weights at once, and the areas under what they draw.

Only the probabilities that positives have make steps, so for each of them it is enough to know the
weight of its positives and of the negatives above and beside it. These are sums of whole numbers:
ties are exact. The probabilities are sorted once, for all rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.metrics import PARTIAL_FPR, standardised

Values = npt.NDArray[np.float64]


class Steps(NamedTuple):
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

    def steps(self, positive: Values, negative: Values) -> Steps:
        """Sum the weights of positives, float64 [b, k], and of negatives, [b, m - k]."""
        passed = np.zeros((len(negative), len(self._cuts) + 1))
        if negative.shape[1]:
            np.add.reduceat(negative, self._cuts, axis=1, out=passed[:, 1:])
            np.cumsum(passed, axis=1, out=passed)
        found = np.add.reduceat(positive, self._starts, axis=1) if self._tied else positive
        above = np.take(passed, self._above, axis=1)
        upto = np.take(passed, self._upto, axis=1) if self._beside else above
        return Steps(found, above, upto, found.sum(axis=1, keepdims=True), passed[:, -1:])


def areas(steps: Steps) -> Values:
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


def _area(steps: Steps, most: float) -> Values:
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
