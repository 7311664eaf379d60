"""Logistic regression of one finding: the fit, and calibration slope and intercept.

The slope is b of the logistic regression y ~ a + b · logit p, the intercept a of y ~ a + logit p
(Cox 1958, doi:10.1093/biomet/45.3-4.562), as Van Calster and others report them (2019,
doi:10.1186/s12916-019-1466-7). A calibrated model has slope 1 and intercept 0. Neither exists
without positives or without negatives. The slope does not exist where one threshold separates
positives from negatives either, since it would be infinite.

Bootstrap weights would need one fit per resample. Instead, one step is taken from the fit of all
images, which needs only sums (the one-step bootstrap, Moulton and Zeger 1991,
doi:10.1016/0167-9473(91)90052-4). It is a step of Halley's method instead of Newton's: with few
positives, a resample can lie so far away that the third derivative matters.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import scipy  # which loads `optimize` when something is fitted: reading fits nothing
from scipy.special import expit, logit

from chestxray.evaluation.bootstrap import Floats, Values

_Present = npt.NDArray[np.bool_]

TERMS: Final = 12
_IMAGES: Final = 500_000  # whose terms are computed at a time
_EPSILON: Final = float(np.finfo(np.float64).eps)
"""Distance that log-odds keep from probabilities 0 and 1 by default, as in `sklearn.log_loss`."""


def log_odds(probabilities: Floats, clip: float = _EPSILON) -> Values:
    """Give log(p / (1 - p)), of the shape given.

    Args:
        probabilities: in [0, 1].
        clip: distance that they keep from 0 and 1. The default allows log-odds within ±36.04.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(logit(np.clip(p, clip, 1 - clip)), dtype=np.float64)


def fit_logistic(
    design: Values, base: Values, target: Values, penalty: npt.ArrayLike = 0.0
) -> Values:
    """Minimise the mean cross-entropy of sigmoid(base + design · θ) against soft targets.

    The loss is convex and smooth. Newton steps within a trust region cannot diverge where the
    curvature vanishes, as it does for logits far from 0.

    Args:
        design: float64 [n, q].
        base: float64 [n], added to the linear predictor.
        target: float64 [n] in [0, 1].
        penalty: float64 [q], λ of the term λ θ² / 2 that each parameter adds to the loss.

    Returns:
        θ, float64 [q].
    """
    start = np.zeros(design.shape[1])
    ridge = np.broadcast_to(np.asarray(penalty, dtype=np.float64), start.shape)

    def loss(theta: Values) -> float:
        eta = base + design @ theta
        return float(np.mean(np.logaddexp(0, eta) - target * eta) + ridge @ theta**2 / 2)

    def gradient(theta: Values) -> Values:
        error = expit(base + design @ theta) - target
        return np.asarray(design.T @ error / len(design) + ridge * theta)

    def curvature(theta: Values) -> Values:
        p = expit(base + design @ theta)
        fisher = (design * (p * (1 - p))[:, None]).T @ design / len(design)
        return np.asarray(fisher + np.diag(ridge))

    found = scipy.optimize.minimize(
        loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-10}
    )
    return np.asarray(found.x, dtype=np.float64)


class CalibrationLine:
    """Calibration slope and intercept of one finding, and their values with other weights.

    Attributes:
        slope, intercept: NaN where undefined.
    """

    def __init__(self, present: _Present, p: Values) -> None:
        """Fit both.

        Args:
            present: bool [m].
            p: float64 [m].
        """
        x, flat = log_odds(p), np.zeros(len(p))
        self._spread = float(x.std()) if len(x) and x.min() < x.max() else 1.0
        centre = float(x.mean()) if len(x) else 0.0
        self._centre = centre
        one, both = self._designs(x)
        two_sided = bool(present.any() and not present.all())
        overlapping = two_sided and overlap(_range(x[present]), _range(x[~present])).item()
        level = _maximum(one, x, present) if two_sided else np.full(1, np.nan)
        steep = _maximum(both, flat, present) if overlapping else np.full(2, np.nan)
        self.intercept, self.slope = float(level[0]), float(steep[1]) / self._spread
        self._level, self._steep = level, steep

    def _designs(self, x: Values) -> tuple[Values, Values]:
        """Give the designs of the intercept [m, 1] and of the slope [m, 2] for log-odds [m]."""
        scaled = (x - self._centre) / self._spread
        return np.ones((len(x), 1)), np.vander(scaled, 2, increasing=True)

    def terms(self, present: _Present, p: Values) -> Values:
        """Give what images of weight 1 add to the sums that `slopes` and `intercepts` take.

        Args:
            present: bool [m], of any of the images.
            p: float64 [m].

        Returns:
            float64 [m, TERMS].
        """
        x = log_odds(p)
        one, both = self._designs(x)
        level = _terms(one, x, present, self._level)
        return np.hstack([level, _terms(both, np.zeros(len(x)), present, self._steep)])

    def slopes(self, sums: Values) -> Values:
        """Give the slope, float64 [b], from weighted sums of `terms`, [b, TERMS].

        Exact where all weights are 1. A row without curvature gives NaN.
        """
        return self.slope + _halley(sums[:, 3:], 2)[:, 1] / self._spread

    def intercepts(self, sums: Values) -> Values:
        """Give the intercept likewise."""
        return self.intercept + _halley(sums[:, :3], 1)[:, 0]


def overlap(positives: Values, negatives: Values) -> _Present:
    """Tell whether no threshold separates two classes (Albert and Anderson 1984).

    Args:
        positives: float64 [2, …], the lowest and the highest value among positives.
        negatives: likewise.
    """
    return np.asarray((positives[0] < negatives[1]) & (negatives[0] < positives[1]))


def slices(length: int, size: int) -> list[slice]:
    """Divide a length into slices of at most `size`; one, though empty, where there is nothing."""
    return [slice(start, start + size) for start in range(0, max(length, 1), size)]


def _range(x: Values) -> Values:
    return np.array([x.min(), x.max()])


def _maximum(design: Values, base: Values, present: _Present) -> Values:
    """Fit θ, and refine it by Newton steps to full precision.

    Of very many images, the fit sees every few; the steps take all.
    """
    q = design.shape[1]
    every = max(1, len(base) // _IMAGES)
    some = slice(None, None, every)
    if present[some].all() or not present[some].any():
        some, every = slice(None), 1
    theta = fit_logistic(design[some], base[some], present[some].astype(np.float64))
    for _ in range(2 if every == 1 else 5):
        parts = [
            _terms(design[some], base[some], present[some], theta).sum(axis=0)
            for some in slices(len(base), _IMAGES)
        ]
        sums = np.sum(parts, axis=0)
        step = _solve(sums[:q], sums[q : 3 * q - 1])
        if not np.isfinite(step).all() or np.abs(step).max() > 1:  # too flat for float64
            break
        theta = theta + step
        if every > 1 and np.abs(step).max() < _EPSILON:
            break
    return theta


def _terms(design: Values, base: Values, present: _Present, theta: Values) -> Values:
    """Give each image's part of the first, second and third derivatives of the log-likelihood.

    Times x to the power of 0 to q - 1, 2 q - 2 and 3 q - 3, the latter two with opposite sign.
    """
    q = design.shape[1]
    eta = base + design @ theta
    mean, other = expit(eta), expit(-eta)  # both to full precision, also in the far tails
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
