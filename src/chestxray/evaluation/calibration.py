"""Platt scaling: from logits to probabilities that mean what they say, finding by finding.

p = sigmoid(slope × logit + offset), fitted on validation by maximum likelihood on Platt's smoothed
targets (Platt 1999; Lin, Lin and Weng 2007, doi:10.1007/s10994-007-5018-6), which keep the fit
finite where the logits separate the classes. The slope is always positive, so the ranking of
images by a finding, and with it AUROC and AUPRC, stays as the model gave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator
from scipy.optimize import minimize

from chestxray.errors import PredictionsError
from chestxray.evaluation.metrics import Floats

Column = npt.NDArray[np.float64]


class Platt(BaseModel):
    """A slope and an offset a finding, in the order of the model's logits.

    Attributes:
        unfitted: finding → why its slope, or slope and offset, were left at 1 and 0.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    method: Literal["platt"] = "platt"
    slope: dict[str, float]
    offset: dict[str, float]
    unfitted: dict[str, str] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if list(self.slope) != list(self.offset):
            raise ValueError("slope and offset must name the same findings in the same order")
        flat = [finding for finding, slope in self.slope.items() if slope <= 0]
        if flat:
            raise ValueError(f"slope must be > 0 to keep the ranking, it is not for {flat}")
        if not set(self.unfitted) <= set(self.slope):
            raise ValueError("unfitted names a finding that has no slope")
        return self

    def apply(self, logits: Floats) -> Column:
        """Turn logits, float [n, k], into probabilities, float64 [n, k]."""
        if logits.ndim != 2 or logits.shape[1] != len(self.slope):
            raise PredictionsError(
                f"logits must be [n, {len(self.slope)}], a column a finding, not {logits.shape}"
            )
        slope, offset = (np.array(list(of.values())) for of in (self.slope, self.offset))
        return _sigmoid(np.asarray(logits, dtype=np.float64) * slope + offset)


def fit_platt(logits: Floats, labels: Floats, findings: Sequence[str]) -> Platt:
    """Fit a `Platt` on validation.

    A finding without positives or negatives keeps slope 1 and offset 0. One whose logits do not
    rise with the label keeps slope 1, and only its offset is fitted. Both are told in `unfitted`.

    Args:
        logits: float [n, k], finite.
        labels: float [n, k], 1, 0 or NaN (left out).
        findings: the k names, in the order of the columns.

    Raises:
        PredictionsError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise PredictionsError(
            "calibration needs finite logits, these hold NaN or infinity: train again"
        )
    slopes, offsets, unfitted = {}, {}, {}
    for finding, logit, y in zip(findings, logits.T, labels.T, strict=True):
        keep = ~np.isnan(y)
        slope, offset, reason = _fit(logit[keep].astype(np.float64), y[keep] > 0.5)
        slopes[finding], offsets[finding] = slope, offset
        if reason:
            unfitted[finding] = reason
    return Platt(slope=slopes, offset=offsets, unfitted=unfitted)


def _fit(logit: Column, present: npt.NDArray[np.bool_]) -> tuple[float, float, str]:
    """Give slope, offset, and the reason where they are not both fitted."""
    positives = int(present.sum())
    negatives = len(present) - positives
    for count, word in ((positives, "positives"), (negatives, "negatives")):
        if not count:
            return 1.0, 0.0, f"no {word} in validation: slope 1, offset 0"
    target = np.where(present, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    middle, spread = float(logit.mean()), float(logit.std())
    centred = logit - middle
    if logit.min() < logit.max():
        standard = np.stack([centred / spread, np.ones_like(logit)], axis=1)
        steepness, level = _minimise(standard, np.zeros_like(logit), target)
        if steepness > 0:
            return steepness / spread, level - steepness * middle / spread, ""
    (level,) = _minimise(np.ones((len(logit), 1)), centred, target)
    reason = "logits do not rise with the label in validation: slope 1, only the offset fitted"
    return 1.0, level - middle, reason


def _minimise(x: Column, base: Column, target: Column) -> list[float]:
    """Minimise the mean cross-entropy of sigmoid(base + x · θ), x [n, k], against soft targets.

    Convex and smooth. Newton steps within a trust region cannot run away where the curvature
    vanishes, as it does on logits far from 0.
    """

    def loss(theta: Column) -> float:
        eta = base + x @ theta
        return float(np.mean(np.logaddexp(0, eta) - target * eta))

    def gradient(theta: Column) -> Column:
        return x.T @ (_sigmoid(base + x @ theta) - target) / len(x)

    def curvature(theta: Column) -> Column:
        p = _sigmoid(base + x @ theta)
        return (x * (p * (1 - p))[:, None]).T @ x / len(x)

    start = np.zeros(x.shape[1])
    found = minimize(
        loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-10}
    )
    return [float(value) for value in found.x]


def _sigmoid(x: Column) -> Column:
    """Logistic function without overflow, precise in the far tail, where it keeps the ranking."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))
