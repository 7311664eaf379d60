"""Which family calibrates a finding: cross-validated log loss and the one-standard-error rule.

Validation is dealt into `FOLDS` folds by patient, those with the finding and those without evenly.
Each family is fitted on all folds but one and scored on that one. The simplest family is taken
that the best one does not beat by more than one standard error (Breiman, Friedman, Olshen and
Stone 1984, section 3.4.3; Hastie, Tibshirani and Friedman 2009, section 7.10). The error is that
of the paired difference of the two, with patients as the units: most of a log loss's own spread is
that of the labels, which both families share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation import calibration_fits as fits
from chestxray.evaluation.calibrators import Calibrator, Column

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
    target = fits.smoothed(present)
    if fits.platt(logit, target) is None:
        reason = "logits do not rise with the label in validation: slope 1, only the offset fitted"
        return Choice(fits.offset(logit, target), reason, forced=True)
    patient = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    has = np.bincount(patient, present) > 0
    sides = {"with": int(has.sum()), "without": int((~has).sum())}
    side = min(sides, key=lambda name: sides[name])
    if sides[side] < FOLDS:
        reason = (
            f"patients {side} the finding in validation: {sides[side]}, fewer than {FOLDS}: "
            f"slope 1, only the offset fitted"
        )
        return Choice(fits.offset(logit, target), reason, forced=True)
    fold, losses = _deal(has)[patient], {}
    for name, fit in fits.FAMILIES.items():
        loss = _losses(fit, logit, present, fold)
        if loss is not None:
            losses[name] = loss
    name, reason = _simplest(losses, patient)
    return Choice(fits.FAMILIES[name](logit, target) or fits.offset(logit, target), reason)


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


def _losses(fit: fits.Fit, logit: Column, present: Present, fold: Indices) -> Column | None:
    """Give the log loss of each row from the fit without its fold, None where one has no fit."""
    losses = np.empty_like(logit)
    for held_out in range(FOLDS):
        rest, out = fold != held_out, fold == held_out
        fitted = fit(logit[rest], fits.smoothed(present[rest]))
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
