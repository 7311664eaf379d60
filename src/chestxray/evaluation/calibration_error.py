"""Cox's calibration line of one finding, and how it moves when images weigh differently.

The slope is b of the logistic regression y ~ a + b · logit p, the intercept a of y ~ a + logit p
(Cox 1958, doi:10.1093/biomet/45.3-4.562). Other weights would ask for a fit each. Instead one step
is taken from the fit of all images, which needs only sums (the one-step bootstrap, Moulton and
Zeger 1991, doi:10.1016/0167-9473(91)90052-4); it is a step of Halley's method in place of Newton's,
since with few positives a resample can lie far enough for the bend of the likelihood to tell.

How far probabilities are from the frequencies they promise: bins, slope and intercept.

The expected calibration error (Naeini, Cooper and Hauskrecht 2015) is taken over `BINS` bins of
equal mass. Slope and intercept are those of Cox (1958, doi:10.1093/biomet/45.3-4.562), as Van
Calster and others report them (2019, doi:10.1186/s12916-019-1466-7):

    slope      b of the logistic regression  y ~ a + b · logit p, 1 when calibrated
    intercept  a of the logistic regression  y ~ a + logit p, the slope held at 1:
               calibration-in-the-large, 0 when calibrated

Neither exists without positives or without negatives; a slope not either where one probability
parts positives from negatives, since it would be infinite. Probabilities are kept a float64 epsilon
away from 0 and 1, as in `metrics.cross_entropy`, so log-odds lie within ±36.04.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

Floats = npt.NDArray[np.floating[Any]]
Values = npt.NDArray[np.float64]
Present = npt.NDArray[np.bool_]

TERMS: Final = 12
_MOST_STEPS: Final = 100
_FARTHEST: Final = 8.0


def known(y: Floats, p: Floats) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Leave out the rows of unknown label: bool [m] present, float64 [m] probabilities."""
    keep = ~np.isnan(y)
    return y[keep] > 0.5, np.asarray(p, dtype=np.float64)[keep]


class Line:
    """Slope and intercept of one finding, and what they become with other weights.

    Attributes:
        slope, intercept: NaN where undefined.
        terms: float64 [m, TERMS], what an image of weight 1 adds to the sums that `moved` takes.
    """

    def __init__(self, present: Present, p: Values) -> None:
        """Fit both.

        Args:
            present: bool [m].
            p: float64 [m].
        """
        x, flat = log_odds(p), np.zeros(len(p))
        self._spread = float(x.std()) if len(x) and x.min() < x.max() else 1.0
        centre = float(x.mean()) if len(x) else 0.0
        one, both = np.ones((len(x), 1)), np.vander((x - centre) / self._spread, 2, increasing=True)
        two_sided = bool(present.any() and not present.all())
        parted = not two_sided or not overlap(_range(x[present]), _range(x[~present]))
        level = _fit(one, x, present) if two_sided else np.full(1, np.nan)
        steep = np.full(2, np.nan) if parted else _fit(both, flat, present)
        self.intercept, self.slope = float(level[0]), float(steep[1]) / self._spread
        self.terms = np.hstack([_terms(one, x, present, level), _terms(both, flat, present, steep)])

    def moved(self, sums: Values) -> tuple[Values, Values]:
        """Give slope and intercept, float64 [b] each, from weighted sums of `terms`, [b, TERMS].

        Exact where all weights are 1. A row without curvature gives NaN.
        """
        level, steep = _halley(sums[:, :3], 1), _halley(sums[:, 3:], 2)
        return self.slope + steep[:, 1] / self._spread, self.intercept + level[:, 0]


def log_odds(p: Values) -> Values:
    """Give the log-odds of probabilities, which are kept a float64 epsilon away from 0 and 1."""
    epsilon = np.finfo(np.float64).eps
    return np.asarray(logit(np.clip(p, epsilon, 1 - epsilon)))


def overlap(positives: Values, negatives: Values) -> npt.NDArray[np.bool_]:
    """Tell whether no threshold parts two classes (Albert and Anderson 1984).

    Args:
        positives: float64 [2, …], the lowest and the highest value among positives.
        negatives: likewise.
    """
    return np.asarray((positives[0] < negatives[1]) & (negatives[0] < positives[1]))


def _range(x: Values) -> Values:
    return np.array([x.min(), x.max()])


def _fit(design: Values, base: Values, present: Present) -> Values:
    """Fit y ~ base + design · θ by Newton steps where the likelihood has a maximum.

    A step moves no image by more than `_FARTHEST` log-odds and is halved while it would raise the
    loss, so it cannot run away from where the curvature vanishes.

    Args:
        design: float64 [m, q], a column of 1, or 1 and x.
        base: float64 [m].
        present: bool [m].
    """
    q = design.shape[1]
    theta = np.zeros(q)
    loss = _loss(base, present)
    for _ in range(_MOST_STEPS):
        sums = _terms(design, base, present, theta).sum(axis=0)
        step = _solve(sums[:q], sums[q : 3 * q - 1])
        if np.isnan(step).any():  # too flat for float64 to go on
            break
        step *= _FARTHEST / max(float(np.abs(design @ step).max()), _FARTHEST)
        while (new := _loss(base + design @ (theta + step), present)) > loss * (1 + 1e-12):
            step /= 2
        theta, loss = theta + step, new
        if np.abs(step).max() < 1e-9 * (1 + np.abs(theta).max()):  # the error is its square
            break
    return theta


def _loss(eta: Values, present: Present) -> float:
    return float(np.sum(np.logaddexp(0, np.where(present, -eta, eta))))


def _terms(design: Values, base: Values, present: Present, theta: Values) -> Values:
    """Give each image's part of the first, second and third derivatives of the log-likelihood.

    Times x to the power of 0 to q - 1, 2 q - 2 and 3 q - 3, the latter two with their sign turned.
    """
    q = design.shape[1]
    eta = base + design @ theta
    mean, other = expit(eta), expit(-eta)  # both to full precision, far out too
    powers = np.vander(design[:, -1], 3 * q - 2, increasing=True)
    parts = (np.where(present, other, -mean), mean * other, mean * other * (other - mean))
    counts = (q, 2 * q - 1, 3 * q - 2)
    return np.hstack(
        [part[:, None] * powers[:, :count] for part, count in zip(parts, counts, strict=True)]
    )


def _halley(sums: Values, q: int) -> Values:
    """Step towards the maximum, [b, q], from sums of `_terms`: Newton, then with half its bend."""
    gradient, curvature, third = np.split(sums, [q, 3 * q - 1], axis=1)
    step = _solve(gradient, curvature)
    width = 2 * q - 1
    bend = sum(step[:, i : i + 1] * third[:, i : i + width] for i in range(q))
    return _solve(gradient, curvature + bend / 2)


def _solve(gradient: Values, curvature: Values) -> Values:
    """Divide a gradient [..., q] by a curvature [..., 2 q - 1]; NaN where that is not positive."""
    if gradient.shape[-1] == 1:
        top, whole = gradient, curvature
    else:
        (g0, g1), (h00, h01, h11) = (np.moveaxis(of, -1, 0) for of in (gradient, curvature))
        top = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], axis=-1)
        whole = (h00 * h11 - h01**2)[..., None]
    return np.divide(top, whole, out=np.full_like(top, np.nan), where=whole > 0)


BINS: Final = 10


def equal_mass_bins(p: Values, bins: int = BINS) -> npt.NDArray[np.int64]:
    """Cut probabilities into bins of as equal a number as ties allow.

    Ordered by probability, image number i of n (from 0) covers the mass from i / n to (i + 1) / n.
    Images of one probability are kept together: they go to the bin that the middle of their mass
    lies in, to the upper one where it lies on a border. So a bin can be empty.

    Returns:
        int64 [n], from 0 for the lowest probabilities to `bins` - 1.
    """
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    upto = np.cumsum(count)
    twice_middle = 2 * upto - count
    return np.asarray(bins * twice_middle // (2 * max(len(p), 1)))[place]


def calibration_error(y: Floats, p: Floats) -> float:
    """Mean over images of |share of positives - mean probability| of the image's bin.

    Even a calibrated model scores above 0, by chance. NaN without known labels.
    """
    present, score = known(y, p)
    if not len(score):
        return math.nan
    gaps = np.bincount(equal_mass_bins(score), weights=score - present)
    return float(np.abs(gaps).sum()) / len(score)


def calibration_slope(y: Floats, p: Floats) -> float:
    """Cox's calibration slope: below 1, probabilities are too extreme; NaN where undefined."""
    return Line(*known(y, p)).slope


def calibration_intercept(y: Floats, p: Floats) -> float:
    """Calibration-in-the-large: below 0, probabilities are too high; NaN where undefined."""
    return Line(*known(y, p)).intercept
