"""The metrics of one finding for many rows of weights at once: the inner loop of every interval.

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

from functools import cached_property
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.calibration_measures import BINS, equal_mass_bins
from chestxray.evaluation.cox import TERMS, Line, log_odds, overlap
from chestxray.evaluation.metrics import Floats, losses
from chestxray.evaluation.steps import Order, Steps, areas, ratio

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

Values = npt.NDArray[np.float64]


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

    def steps(self, w: Values) -> Steps:
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
