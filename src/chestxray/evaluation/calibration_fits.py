"""Fit one family of calibration to one finding, by maximum likelihood.

All families are fitted to Platt's smoothed targets (Platt 1999; Lin, Lin and Weng 2007,
doi:10.1007/s10994-007-5018-6): with P positives and N negatives, a positive counts as
(P + 1) / (P + 2) and a negative as 1 / (N + 2). This keeps the fit finite where the logits separate
the classes, and isotonic steps strictly inside (0, 1), so that log loss stays finite everywhere.

A fit that would not rise with the logit is none: it gives None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

from chestxray.evaluation.calibrators import (
    Beta,
    Calibrator,
    Column,
    Isotonic,
    Logistic,
    beta_features,
)

Fit = Callable[[Column, Column], Calibrator | None]


def smoothed(present: npt.NDArray[np.bool_]) -> Column:
    """Give Platt's target of each label, float64 [n] strictly inside (0, 1)."""
    positives = int(present.sum())
    negatives = len(present) - positives
    return np.where(present, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def offset(logit: Column, target: Column) -> Logistic:
    """Fit the offset alone, which gives the targets' mean to the mean probability."""
    middle = float(logit.mean())
    _, level = _regress([], logit - middle, target)
    return Logistic(family="offset", offset=level - middle)


def temperature(logit: Column, target: Column) -> Logistic | None:
    """Fit the slope alone; None where probabilities would have to fall as logits rise."""
    scale = float(np.abs(logit).max())
    if scale == 0:
        return None
    (slope,) = _minimise((logit / scale)[:, None], np.zeros_like(logit), target)
    return Logistic(family="temperature", slope=slope / scale) if slope > 0 else None


def platt(logit: Column, target: Column) -> Logistic | None:
    """Fit slope and offset; None where the logits do not rise with the label."""
    (slope,), level = _regress([logit], np.zeros_like(logit), target)
    return Logistic(family="platt", slope=slope, offset=level) if slope > 0 else None


def beta(logit: Column, target: Column) -> Beta | None:
    """Fit a, b ≥ 0 and c; None where the logits do not rise with the label.

    The loss is convex, so where the best slope lies below 0 the best allowed one is 0.
    """
    features = dict(zip("ab", beta_features(logit), strict=True))
    while features:
        slopes, level = _regress(list(features.values()), np.zeros_like(logit), target)
        found = dict(zip(features, slopes, strict=True))
        if min(slopes) >= 0:
            a, b = found.get("a", 0.0), found.get("b", 0.0)
            return Beta(a=a, b=b, c=level) if a + b > 0 else None
        del features[min(found, key=lambda name: found[name])]
    return None


def isotonic(logit: Column, target: Column) -> Isotonic | None:
    """Fit steps by pooling adjacent violators; None where a single step is left."""
    place, of, count = np.unique(logit, return_inverse=True, return_counts=True)
    steps = isotonic_regression(np.bincount(of, target) / count, weights=count)
    if len(steps.blocks) < 3:
        return None
    knots = np.unique(np.concatenate([steps.blocks[:-1], steps.blocks[1:] - 1]))
    return Isotonic(logit=place[knots].tolist(), probability=steps.x[knots].tolist())


# From the simplest to the most flexible: 1, 1, 2, 3 and many parameters. The offset comes before
# the temperature since a network trained on balanced classes has its prevalence wrong above all.
FAMILIES: Final[dict[str, Fit]] = {
    "offset": offset,
    "temperature": temperature,
    "platt": platt,
    "beta": beta,
    "isotonic": isotonic,
}


def _regress(columns: list[Column], base: Column, target: Column) -> tuple[list[float], float]:
    """Fit sigmoid(base + slopes · columns + level); a column that is constant gets slope 0.

    Columns are standardised while fitting, so that their units do not matter.
    """
    spread = [float(column.std()) if np.ptp(column) > 0 else 0.0 for column in columns]
    middle = [float(column.mean()) for column in columns]
    standard = [
        (column - m) / s if s > 0 else np.zeros_like(column)
        for column, m, s in zip(columns, middle, spread, strict=True)
    ]
    *steepness, level = _minimise(np.stack([*standard, np.ones_like(base)], axis=1), base, target)
    slopes = [of / s if s > 0 else 0.0 for of, s in zip(steepness, spread, strict=True)]
    return slopes, level - sum(of * m for of, m in zip(slopes, middle, strict=True))


def _minimise(x: Column, base: Column, target: Column) -> list[float]:
    """Minimise the mean cross-entropy of sigmoid(base + x · θ), x [n, k], against soft targets.

    Convex and smooth. Newton steps within a trust region cannot run away where the curvature
    vanishes, as it does on logits far from 0.
    """

    def loss(theta: Column) -> float:
        eta = base + x @ theta
        return float(np.mean(np.logaddexp(0, eta) - target * eta))

    def gradient(theta: Column) -> Column:
        return x.T @ (expit(base + x @ theta) - target) / len(x)

    def curvature(theta: Column) -> Column:
        p = expit(base + x @ theta)
        return (x * (p * (1 - p))[:, None]).T @ x / len(x)

    start = np.zeros(x.shape[1])
    found = minimize(
        loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-10}
    )
    return [float(value) for value in found.x]
