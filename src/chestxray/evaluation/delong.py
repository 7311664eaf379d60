"""AUROC variance and model comparison without resampling (DeLong et al. 1988).

A cross-check of the bootstrap. AUROC is a mean over pairs of a positive and a negative, so its
variance follows from how much each positive and each negative wins on average (DeLong, DeLong and
Clarke-Pearson 1988, doi:10.2307/2531595). These shares come from mid-ranks in O(n log n) (Sun and
Xu 2014, doi:10.1109/LSP.2014.2337313). Images of one patient are correlated, so the shares of a
patient's images are summed before their variance is taken (Obuchowski 1997, doi:10.2307/2533958).
Where every patient has one image, both are the same.

The interval of one AUROC is computed on the logit scale, where it is nearer to symmetric and cannot
leave [0, 1]; that of a difference is plain.

The mean over findings is a mean of AUROCs on the same patients. A patient's influence on it is the
mean of the influences on each AUROC, and the sum of the squared influences is its variance. That is
too small by (k - 1) / k for a finding of k patients, so it is multiplied by the findings' mean of
k / (k - 1), weighted by their variances.

A difference is referred to Student's t. For a finding it has k - 1 degrees of freedom, where k is
the smaller of the numbers of patients with and without it; for the mean those of a sum of variances
(`significance.satterthwaite`). The normal distribution rejected equal models in 7 to
12 % of studies with 5 to 10 positive patients, and in 6 to 8 % for the mean. Findings with fewer
than `significance.FEWEST` patients are not tested, and not in the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit, ndtri, stdtr, stdtrit

from chestxray.evaluation.bootstrap import LEVEL, TAILS, Floats, Values
from chestxray.evaluation.results import DeLongTest
from chestxray.evaluation.significance import FEWEST, satterthwaite, smaller_side, too_few

_Z: Final = float(ndtri(TAILS[1]))
_NO_WEIGHT: Final = 1e-300  # so that weights that are all 0 still have a mean


@dataclass(frozen=True)
class DeLong:
    """One AUROC, NaN without positives or without negatives.

    Attributes:
        auroc: its value.
        variance: NaN where a side has fewer than two patients.
    """

    auroc: float
    variance: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval on the logit scale; NaN where the variance is unknown or 0."""
        if not self.variance > 0 or not 0 < self.auroc < 1:
            return math.nan, math.nan
        width = _Z * math.sqrt(self.variance) / (self.auroc * (1 - self.auroc))
        middle = float(logit(self.auroc))
        return float(expit(middle - width)), float(expit(middle + width))


@dataclass(frozen=True)
class _Difference:
    """AUROC of one model minus that of another, on the same images.

    Attributes:
        value: the difference.
        variance: of it.
        degrees: degrees of freedom of the variance, greater than 0; NaN where it is unknown.
    """

    value: float
    variance: float
    degrees: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval; NaN where the variance is unknown."""
        return self.interval_at(LEVEL)

    def interval_at(self, level: float) -> tuple[float, float]:
        """Give the interval at a level between 0 and 1; NaN where the variance is unknown."""
        quantile = float(stdtrit(self.degrees, (1 + level) / 2))
        width = quantile * math.sqrt(max(self.variance, 0.0))
        return self.value - width, self.value + width

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference: 1 where there is none, NaN where it never varies."""
        if self.value == 0:
            return 1.0
        if not self.variance > 0:
            return math.nan
        return 2 * float(stdtr(self.degrees, -abs(self.value) / math.sqrt(self.variance)))


def delong(y: Floats, p: Floats, patients: npt.NDArray[Any] | None = None) -> DeLong:
    """Give the AUROC of one model with its variance.

    Args:
        y: labels, float [n], 1, 0 or NaN (left out).
        p: probabilities, float [n].
        patients: of each image, [n]; every image is its own patient by default.
    """
    aurocs, covariance = covariances(y, p[:, None], patients)
    return DeLong(float(aurocs[0]), float(covariance[0, 0]))


def difference(
    y: Floats, a: Floats, b: Floats, patients: npt.NDArray[Any] | None = None
) -> _Difference:
    """Compare two models on the same images: `a` minus `b`. Arguments as in `delong`."""
    aurocs, covariance = covariances(y, np.stack([a, b], axis=1), patients)
    contrast = np.array([1.0, -1.0])
    of = np.arange(len(y)) if patients is None else patients
    fewest, _ = smaller_side(y, of)
    degrees = fewest - 1.0 if fewest > 1 else math.nan
    variance = float(contrast @ covariance @ contrast)
    return _Difference(float(aurocs[0] - aurocs[1]), variance, degrees)


def covariances(
    y: Floats, scores: Floats, patients: npt.NDArray[Any] | None = None
) -> tuple[Values, Values]:
    """Give the AUROCs of k models and their covariances.

    Args:
        y: labels, float [n], 1, 0 or NaN (left out).
        scores: float [n, k].
        patients: of each image, [n]; every image is its own patient by default.

    Returns:
        float64 [k] and [k, k], NaN where undefined.
    """
    models = scores.shape[1]
    keep = ~np.isnan(y)
    present, scores = y[keep] > 0.5, np.asarray(scores, dtype=np.float64)[keep]
    patients = np.arange(len(y))[keep] if patients is None else patients[keep]
    positives = int(present.sum())
    negatives = len(present) - positives
    if not positives or not negatives:
        return np.full(models, np.nan), np.full((models, models), np.nan)
    won = _shares_won(present, scores)
    aurocs = won[present].mean(axis=0)
    names, patient = np.unique(patients, return_inverse=True)
    # How far each patient's positives, and negatives, are from the mean, as parts of the AUROC.
    sums = np.zeros((2, len(names), models))
    for side, count, is_side in ((0, negatives, ~present), (1, positives, present)):
        np.add.at(sums[side], patient[is_side], (won[is_side] - aurocs) / count)
    with_side = [len(np.unique(patient[is_side])) for is_side in (~present, present)]
    lost, gained = sums
    both = gained.T @ lost
    within = sum(
        _unbiased(part.T @ part, count) for part, count in zip(sums, with_side, strict=True)
    )
    return aurocs, within + _unbiased(both + both.T, len(names))


def _unbiased(products: Values, count: int) -> Values:
    return products * count / (count - 1) if count > 1 else np.full_like(products, np.nan)


def _shares_won(present: npt.NDArray[np.bool_], scores: Values) -> Values:
    """Give for each positive the share of negatives below it, for each negative of positives above.

    Ties count half. float64 [n, k].
    """
    won = np.empty_like(scores)
    overall = _ranks(scores)
    for is_side in (present, ~present):
        others = len(present) - int(is_side.sum())
        below = overall[is_side] - _ranks(scores[is_side])
        won[is_side] = below / others
    won[~present] = 1 - won[~present]
    return won


_Patients = npt.NDArray[np.int64]


def compare_aurocs(y: Values, a: Values, b: Values, patients: _Patients) -> DeLongTest:
    """Test the AUROC of model `b` minus that of model `a`; fewer than `FEWEST` are not tested.

    Args:
        y: labels, float64 [n], 1, 0 or NaN.
        a: probabilities of the first model, float64 [n].
        b: of the second.
        patients: int64 [n].
    """
    tested, (fewest, group) = difference(y, b, a, patients), smaller_side(y, patients)
    if fewest < FEWEST and not math.isnan(tested.value):
        return _untested(tested.value, too_few(fewest, group))
    return _entry(tested)


def compare_means(labels: Values, a: Values, b: Values, patients: _Patients) -> DeLongTest:
    """Test the mean over the findings that have at least `FEWEST` patients with and without them.

    Args:
        labels: float64 [n, k], 1, 0 or NaN.
        a: probabilities of the first model, float64 [n, k].
        b: of the second.
        patients: int64 [n].
    """
    names, patient = np.unique(patients, return_inverse=True)
    values, influences, degrees = [], [], []
    for y, of_a, of_b in zip(labels.T, a.T, b.T, strict=True):
        fewest, _ = smaller_side(y, patients)
        if fewest >= FEWEST:
            before, after = (_influences(y, p, patient, len(names)) for p in (of_a, of_b))
            values.append(after[0] - before[0])
            influences.append(after[1] - before[1])
            degrees.append(fewest - 1.0)
    if not values:
        return _untested(math.nan, f"no finding has {FEWEST} patients with it and {FEWEST} without")
    influence = np.mean(influences, axis=0)
    own = np.sum(np.square(influences), axis=1)
    degrees_of_each = np.array(degrees)
    factor = np.average((degrees_of_each + 1) / degrees_of_each, weights=own + _NO_WEIGHT)
    variance = float(influence @ influence) * float(factor)
    together = satterthwaite(own, degrees_of_each)
    return _entry(_Difference(float(np.mean(values)), variance, together))


def _ranks(scores: Values) -> Values:
    """Rank each column from 1; tied scores share the mean of their ranks. As `scores`."""
    return pd.DataFrame(scores).rank().to_numpy().reshape(scores.shape)


def _influences(y: Values, p: Values, patient: _Patients, patients: int) -> tuple[float, Values]:
    """Give an AUROC and each patient's influence on it, float64 [patients] that sum to 0."""
    influence = np.zeros(patients)
    known = ~np.isnan(y)
    ranks = _ranks(p[known])
    auroc = math.nan
    for side in (0, 1):
        mine = y[known] == side
        below = (ranks[mine] - _ranks(p[known][mine])) / np.count_nonzero(~mine)
        won = below if side else 1 - below
        auroc = float(won.mean())
        np.add.at(influence, patient[known][mine], (won - auroc) / len(won))
    return auroc, influence


def _entry(test: _Difference) -> DeLongTest:
    low, high = test.interval
    return DeLongTest(
        difference=test.value, low=low, high=high, p=test.p, degrees_of_freedom=test.degrees
    )


def _untested(value: float, reason: str) -> DeLongTest:
    return DeLongTest(
        difference=value, low=None, high=None, p=None, degrees_of_freedom=None, reason=reason
    )
