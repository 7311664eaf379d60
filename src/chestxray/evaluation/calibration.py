"""Fit one family of calibration to one finding, by maximum likelihood.

All families are fitted to Platt's smoothed targets (Platt 1999; Lin, Lin and Weng 2007,
doi:10.1007/s10994-007-5018-6): with P positives and N negatives, a positive counts as
(P + 1) / (P + 2) and a negative as 1 / (N + 2). This keeps the fit finite where the logits separate
the classes, and isotonic steps strictly inside (0, 1), so that log loss stays finite everywhere.

A fit that would not rise with the logit is none: it gives None.

Which family calibrates a finding: cross-validated log loss and the one-standard-error rule.

Validation is dealt into `FOLDS` folds by patient, those with the finding and those without evenly.
Each family is fitted on all folds but one and scored on that one. The simplest family is taken
that the best one does not beat by more than one standard error (Breiman, Friedman, Olshen and
Stone 1984, section 3.4.3; Hastie, Tibshirani and Friedman 2009, section 7.10). The error is that
of the paired difference of the two, with patients as the units: most of a log loss's own spread is
that of the labels, which both families share.

Calibration of all findings: from logits to probabilities that mean what they say.

Each finding gets the family of `calibration_fits` that cross-validation inside validation asks for;
see `calibration_choice`. Every family rises with the logit, so the ranking of images by a finding
stays as the model gave it, but for the ties that isotonic steps make.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

from chestxray.errors import PredictionsError
from chestxray.evaluation.calibration_error import Floats
from chestxray.evaluation.calibrators import (
    Beta,
    Calibrator,
    Column,
    Isotonic,
    Logistic,
    beta_features,
)
from chestxray.evaluation.thresholds import one_sided

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


FOLDS: Final = 5
SEED: Final = 0

Present = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """A fitted calibrator and why it is that one; `forced` where nothing could be compared."""

    calibrator: Calibrator
    reason: str
    forced: bool = False


def choose(logit: Column, present: Present, patients: npt.NDArray[Any]) -> Choice:
    """Choose and fit the calibrator of one finding; the order of the rows does not matter.

    Args:
        logit: float64 [n], finite.
        present: bool [n], the known labels, both sides among them.
        patients: [n], of any kind that sorts.
    """
    target = smoothed(present)
    if platt(logit, target) is None:
        reason = "logits do not rise with the label in validation: slope 1, only the offset fitted"
        return Choice(offset(logit, target), reason, forced=True)
    patient = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    has = np.bincount(patient, present) > 0
    sides = {"with": int(has.sum()), "without": int((~has).sum())}
    side = min(sides, key=lambda name: sides[name])
    if sides[side] < FOLDS:
        reason = (
            f"patients {side} the finding in validation: {sides[side]}, fewer than {FOLDS}: "
            f"slope 1, only the offset fitted"
        )
        return Choice(offset(logit, target), reason, forced=True)
    fold, losses = _deal(has)[patient], {}
    for name, fit in FAMILIES.items():
        loss = _losses(fit, logit, present, fold)
        if loss is not None:
            losses[name] = loss
    name, reason = _simplest(losses, patient)
    return Choice(FAMILIES[name](logit, target) or offset(logit, target), reason)


def _simplest(losses: dict[str, Column], patient: Indices) -> tuple[str, str]:
    """Name the simplest family that the best does not beat, and say why; [n] losses by family."""
    best = min(losses, key=lambda name: losses[name].mean())
    gains = {name: _gain(loss - losses[best], patient) for name, loss in losses.items()}
    name, (gain, error) = next(of for of in gains.items() if of[1][0] <= of[1][1])
    reason = f"log loss {losses[name].mean():.4f} in {FOLDS}-fold cross-validation by patient"
    if name == best:
        return name, f"{reason}, the best"
    return name, f"{reason}; {best} is better by {gain:.4f} only, its standard error is {error:.4f}"


def _deal(has: Present) -> Indices:
    """Give each patient a fold, dealing first those without the finding, then those with it."""
    order = np.random.default_rng(SEED).permutation(len(has))
    order = order[np.argsort(has[order], kind="stable")]
    fold = np.empty(len(has), dtype=np.int64)
    fold[order] = np.arange(len(has)) % FOLDS
    return fold


def _losses(fit: Fit, logit: Column, present: Present, fold: Indices) -> Column | None:
    """Give the log loss of each row from the fit without its fold, None where one has no fit."""
    losses = np.empty_like(logit)
    for held_out in range(FOLDS):
        rest, out = fold != held_out, fold == held_out
        fitted = fit(logit[rest], smoothed(present[rest]))
        if fitted is None:
            return None
        p = fitted.apply(logit[out])
        of_truth = np.where(present[out], p, 1 - p)
        losses[out] = -np.log(np.maximum(of_truth, np.finfo(np.float64).eps))
    return losses


def _gain(difference: Column, patient: Indices) -> tuple[float, float]:
    """Give the mean of paired differences and its standard error, with patients as the units."""
    gain = float(difference.mean())
    residual = np.bincount(patient, difference - gain)
    units = len(residual)
    return gain, math.sqrt(units / (units - 1) * float(residual @ residual)) / len(difference)


CLIP: Final = 1e-6


class Calibration(BaseModel):
    """A calibrator a finding, in the order of the model's logits.

    Attributes:
        calibrators: finding → how its logit becomes a probability.
        reasons: finding → why it is of that family.
        unfitted: finding → why no more than an offset, or nothing, could be fitted.
    """

    model_config = ConfigDict(extra="forbid")

    calibrators: dict[str, Calibrator]
    reasons: dict[str, str] = {}
    unfitted: dict[str, str] = {}

    @model_validator(mode="after")
    def _names_its_own(self) -> Self:
        strange = (set(self.reasons) | set(self.unfitted)) - set(self.calibrators)
        if strange:
            raise ValueError(f"reasons or unfitted name {sorted(strange)}, without a calibrator")
        return self

    def apply(self, logits: Floats) -> Column:
        """Turn logits, float [n, k], into probabilities, float64 [n, k]."""
        if logits.ndim != 2 or logits.shape[1] != len(self.calibrators):
            raise PredictionsError(
                f"logits must be [n, {len(self.calibrators)}], a column a finding, "
                f"not {logits.shape}"
            )
        columns = np.asarray(logits, dtype=np.float64).T
        calibrators = self.calibrators.values()
        return np.stack([of.apply(x) for of, x in zip(calibrators, columns, strict=True)], axis=1)


def fit_calibration(
    logits: Floats, labels: Floats, patients: npt.NDArray[Any], findings: Sequence[str]
) -> Calibration:
    """Choose and fit a calibrator for each finding, on validation.

    A finding without positives or negatives keeps its logit as it is. One whose logits do not
    rise with the label, or that too few patients have, gets its offset fitted alone. Both are told
    in `unfitted`.

    Args:
        logits: float [n, k], finite.
        labels: float [n, k], 1, 0 or NaN (left out).
        patients: [n], of any kind that sorts.
        findings: the k names, in the order of the columns.

    Raises:
        PredictionsError: a logit is NaN or infinite.
    """
    _check_finite(logits)
    calibrators: dict[str, Calibrator] = {}
    reasons: dict[str, str] = {}
    unfitted: dict[str, str] = {}
    for finding, logit, y in zip(findings, logits.T, labels.T, strict=True):
        missing = one_sided(y)
        if missing:
            calibrators[finding] = Logistic(family="offset")
            unfitted[finding] = f"{missing} in validation: the logit stays as it is"
            continue
        keep = ~np.isnan(y)
        choice = choose(logit[keep].astype(np.float64), y[keep] > 0.5, patients[keep])
        calibrators[finding] = choice.calibrator
        (unfitted if choice.forced else reasons)[finding] = choice.reason
    return Calibration(calibrators=calibrators, reasons=reasons, unfitted=unfitted)


def fit_slopes(logits: Floats, labels: Floats, findings: Sequence[str]) -> dict[str, float]:
    """Give the calibrated log-odds that one unit of each logit is worth: Platt's slope, above 0.

    It is 1 where a finding is one-sided or its logits do not rise with the label.

    Args:
        logits: float [n, k], finite.
        labels: float [n, k], 1, 0 or NaN (left out).
        findings: the k names, in the order of the columns.
    """
    _check_finite(logits)
    slopes = dict.fromkeys(findings, 1.0)
    for finding, logit, y in zip(findings, logits.T, labels.T, strict=True):
        keep = ~np.isnan(y)
        if not one_sided(y):
            line = platt(logit[keep].astype(np.float64), smoothed(y[keep] > 0.5))
            slopes[finding] = line.slope if line else 1.0
    return slopes


def log_odds(probabilities: Floats) -> Column:
    """Give log(p / (1 - p)) of probabilities kept `CLIP` away from 0 and 1.

    Tables of predictions are often rounded to a few decimals; without the clip their zeros and
    ones would be infinite.
    """
    p = np.clip(np.asarray(probabilities, dtype=np.float64), CLIP, 1 - CLIP)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def _check_finite(logits: Floats) -> None:
    if not np.isfinite(logits).all():
        raise PredictionsError(
            "calibration needs finite logits, these hold NaN or infinity: train again"
        )
