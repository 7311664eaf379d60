"""Calibration: from a finding's logit to a probability that matches the observed frequency.

Five families, from the simplest to the most flexible:

    offset        sigmoid(logit + offset)                             prior shift, Saerens 2002
    temperature   sigmoid(slope × logit), slope = 1 / T               Guo 2017, arXiv 1706.04599
    platt         sigmoid(slope × logit + offset)                     Platt 1999
    beta          sigmoid(a log q - b log(1 - q) + c), q = sigmoid(logit)    Kull 2017
    isotonic      steps that never fall, joined by straight lines     Zadrozny and Elkan 2002

Every family rises with the logit, so the ranking of images by a finding does not change. Only the
steps of `isotonic` create ties, which can move AUROC and AUPRC a little. A fit that would not rise
with the logit is None.

All are fitted by maximum likelihood to Platt's smoothed targets (Platt 1999; Lin, Lin and Weng
2007, doi:10.1007/s10994-007-5018-6): with P positives and N negatives, a positive counts as
(P + 1) / (P + 2) and a negative as 1 / (N + 2). This keeps the fit finite where the logits separate
the classes, and isotonic steps strictly inside (0, 1), so that log loss stays finite everywhere.

The family of a finding is chosen by cross-validated log loss and the one-standard-error rule.
Validation patients are divided into `_FOLDS` folds, those with the finding and those without
evenly. Each family is fitted on all folds but one and scored on that one. The simplest family is
taken that the best one does not beat by more than one standard error (Breiman, Friedman, Olshen and
Stone 1984, section 3.4.3; Hastie, Tibshirani and Friedman 2009, section 7.10). The error is that of
the paired difference of the two, with patients as the units: most of a log loss's own spread comes
from the labels, which both families share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.optimize import isotonic_regression

from chestxray.errors import PredictionsError
from chestxray.evaluation.bootstrap import Floats, Values
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.logistic_regression import fit_logistic

CLIP: Final = 1e-6
"""Distance that probabilities keep from 0 and 1 before they are recalibrated.

Tables of predictions are often rounded to a few decimals; their zeros and ones would be infinite.
"""

_FOLDS: Final = 5
_SEED: Final = 0

_Present = npt.NDArray[np.bool_]
_Indices = npt.NDArray[np.int64]

_MODEL = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Logistic(BaseModel):
    """A straight line in log-odds; `offset` fixes the slope at 1, `temperature` the offset at 0."""

    model_config = _MODEL

    family: Literal["offset", "temperature", "platt"]
    slope: float = Field(default=1.0, gt=0)
    offset: float = 0.0

    @model_validator(mode="after")
    def _is_of_its_family(self) -> Self:
        if self.family == "offset" and self.slope != 1:
            raise ValueError(f"family offset has slope 1, not {self.slope}")
        if self.family == "temperature" and self.offset != 0:
            raise ValueError(f"family temperature has offset 0, not {self.offset}")
        return self

    def apply(self, logit: Values) -> Values:
        """Turn logits, float64 [n], into probabilities, float64 [n]."""
        return sigmoid(logit * self.slope + self.offset)


class Beta(BaseModel):
    """A line in log-odds whose slope may differ between low and high probabilities.

    Kull, Silva Filho and Flach 2017, AISTATS, "Beta calibration". Slopes below 0 would reverse the
    ranking and two slopes of 0 would remove it, so neither is allowed.
    """

    model_config = _MODEL

    family: Literal["beta"] = "beta"
    a: float = Field(ge=0)
    b: float = Field(ge=0)
    c: float

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.a == 0 and self.b == 0:
            raise ValueError("a or b must be > 0 to keep the ranking, both are 0")
        return self

    def apply(self, logit: Values) -> Values:
        """Turn logits, float64 [n], into probabilities, float64 [n]."""
        low, high = beta_features(logit)
        return sigmoid(self.a * low + self.b * high + self.c)


class Isotonic(BaseModel):
    """Straight lines between knots, constant beyond the outermost ones.

    Attributes:
        logit: positions of the knots, rising.
        probability: their values, never falling, strictly inside (0, 1).
    """

    model_config = _MODEL

    family: Literal["isotonic"] = "isotonic"
    logit: list[float] = Field(min_length=1)
    probability: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.logit) != len(self.probability):
            raise ValueError("logit and probability must have the same number of knots")
        if (np.diff(self.logit) <= 0).any() or (np.diff(self.probability) < 0).any():
            raise ValueError("knots must rise in logit and never fall in probability")
        return self

    def apply(self, logit: Values) -> Values:
        """Turn logits, float64 [n], into probabilities, float64 [n]."""
        return np.asarray(np.interp(logit, self.logit, self.probability), dtype=np.float64)


Calibrator = Annotated[Logistic | Beta | Isotonic, Field(discriminator="family")]


def beta_features(logit: Values) -> tuple[Values, Values]:
    """Give log q and -log(1 - q) of q = sigmoid(logit), whose sum is the logit."""
    return -np.logaddexp(0.0, -logit), np.logaddexp(0.0, logit)


def sigmoid(x: Values) -> Values:
    """Logistic function without overflow, precise in the far tail, where it keeps the ranking."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


_Fit = Callable[[Values, Values], Calibrator | None]


def smoothed(present: npt.NDArray[np.bool_]) -> Values:
    """Give Platt's target of each label, float64 [n] strictly inside (0, 1)."""
    positives = int(present.sum())
    negatives = len(present) - positives
    return np.where(present, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def offset(logit: Values, target: Values) -> Logistic:
    """Fit the offset alone, so that the mean probability equals the mean target."""
    middle = float(logit.mean())
    _, level = _regress([], logit - middle, target)
    return Logistic(family="offset", offset=level - middle)


def temperature(logit: Values, target: Values) -> Logistic | None:
    """Fit the slope alone; None where probabilities would have to fall as logits rise."""
    scale = float(np.abs(logit).max())
    if scale == 0:
        return None
    (slope,) = fit_logistic((logit / scale)[:, None], np.zeros_like(logit), target)
    return Logistic(family="temperature", slope=float(slope) / scale) if slope > 0 else None


def platt(logit: Values, target: Values) -> Logistic | None:
    """Fit slope and offset; None where the logits do not rise with the label."""
    (slope,), level = _regress([logit], np.zeros_like(logit), target)
    return Logistic(family="platt", slope=slope, offset=level) if slope > 0 else None


def beta(logit: Values, target: Values) -> Beta | None:
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


def isotonic(logit: Values, target: Values) -> Isotonic | None:
    """Fit steps by pooling adjacent violators; None where a single step is left."""
    place, of, count = np.unique(logit, return_inverse=True, return_counts=True)
    steps = isotonic_regression(np.bincount(of, target) / count, weights=count)
    if len(steps.blocks) < 3:
        return None
    knots = np.unique(np.concatenate([steps.blocks[:-1], steps.blocks[1:] - 1]))
    return Isotonic(logit=place[knots].tolist(), probability=steps.x[knots].tolist())


# From the simplest to the most flexible: 1, 1, 2, 3 and many parameters. The offset comes before
# the temperature since a network trained on balanced classes has its prevalence wrong above all.
FAMILIES: Final[dict[str, _Fit]] = {
    "offset": offset,
    "temperature": temperature,
    "platt": platt,
    "beta": beta,
    "isotonic": isotonic,
}


def _regress(columns: list[Values], base: Values, target: Values) -> tuple[list[float], float]:
    """Fit sigmoid(base + slopes · columns + level); a column that is constant gets slope 0.

    Columns are standardised while fitting, so that their units do not matter.
    """
    spread = [float(column.std()) if np.ptp(column) > 0 else 0.0 for column in columns]
    middle = [float(column.mean()) for column in columns]
    standard = [
        (column - m) / s if s > 0 else np.zeros_like(column)
        for column, m, s in zip(columns, middle, spread, strict=True)
    ]
    design = np.stack([*standard, np.ones_like(base)], axis=1)
    *steepness, level = (float(value) for value in fit_logistic(design, base, target))
    slopes = [of / s if s > 0 else 0.0 for of, s in zip(steepness, spread, strict=True)]
    return slopes, level - sum(of * m for of, m in zip(slopes, middle, strict=True))


@dataclass(frozen=True)
class _Choice:
    """A fitted calibrator and why it was chosen; `forced` where nothing could be compared."""

    calibrator: Calibrator
    reason: str
    forced: bool = False


def _choose(logit: Values, present: _Present, patients: npt.NDArray[Any]) -> _Choice:
    """Choose and fit the calibrator of one finding; the order of the rows does not matter.

    Args:
        logit: float64 [n], finite.
        present: bool [n], the known labels, both sides among them.
        patients: [n], of any kind that sorts.
    """
    target = smoothed(present)
    if platt(logit, target) is None:
        reason = (
            "the logits do not rise with the label in validation: slope 1, only the offset is "
            "fitted"
        )
        return _Choice(offset(logit, target), reason, forced=True)
    patient = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    has = np.bincount(patient, present) > 0
    sides = {"with": int(has.sum()), "without": int((~has).sum())}
    side = min(sides, key=lambda name: sides[name])
    if sides[side] < _FOLDS:
        reason = (
            f"fewer than {_FOLDS} patients {side} the finding in validation ({sides[side]}): "
            f"slope 1, only the offset is fitted"
        )
        return _Choice(offset(logit, target), reason, forced=True)
    fold, losses = _deal(has)[patient], {}
    for name, fit in FAMILIES.items():
        loss = _losses(fit, logit, present, fold)
        if loss is not None:
            losses[name] = loss
    name, reason = _simplest(losses, patient)
    return _Choice(FAMILIES[name](logit, target) or offset(logit, target), reason)


def _simplest(losses: dict[str, Values], patient: _Indices) -> tuple[str, str]:
    """Name the simplest family that the best does not beat, and why; losses [n] by family."""
    best = min(losses, key=lambda name: losses[name].mean())
    gains = {name: _gain(loss - losses[best], patient) for name, loss in losses.items()}
    name, (gain, error) = next(of for of in gains.items() if of[1][0] <= of[1][1])
    reason = f"log loss {losses[name].mean():.4f} in {_FOLDS}-fold cross-validation by patient"
    if name == best:
        return name, f"{reason}, the best"
    return name, (
        f"{reason}; {best} is better by only {gain:.4f}, with a standard error of {error:.4f}"
    )


def _deal(has: _Present) -> _Indices:
    """Give each patient a fold: first those without the finding in turn, then those with it."""
    order = np.random.default_rng(_SEED).permutation(len(has))
    order = order[np.argsort(has[order], kind="stable")]
    fold = np.empty(len(has), dtype=np.int64)
    fold[order] = np.arange(len(has)) % _FOLDS
    return fold


def _losses(fit: _Fit, logit: Values, present: _Present, fold: _Indices) -> Values | None:
    """Give each row's log loss under the fit without its fold; None where a fold has no fit."""
    losses = np.empty_like(logit)
    for held_out in range(_FOLDS):
        rest, out = fold != held_out, fold == held_out
        fitted = fit(logit[rest], smoothed(present[rest]))
        if fitted is None:
            return None
        p = fitted.apply(logit[out])
        of_truth = np.where(present[out], p, 1 - p)
        losses[out] = -np.log(np.maximum(of_truth, np.finfo(np.float64).eps))
    return losses


def _gain(difference: Values, patient: _Indices) -> tuple[float, float]:
    """Give the mean of paired differences and its standard error, with patients as the units."""
    gain = float(difference.mean())
    residual = np.bincount(patient, difference - gain)
    units = len(residual)
    return gain, math.sqrt(units / (units - 1) * float(residual @ residual)) / len(difference)


class Calibration(BaseModel):
    """One calibrator per finding, in the order of the model's logits.

    Attributes:
        calibrators: finding → how its logit becomes a probability.
        reasons: finding → why that family was chosen.
        unfitted: finding → why only an offset, or nothing, could be fitted.
    """

    model_config = ConfigDict(extra="forbid")

    calibrators: dict[str, Calibrator]
    reasons: dict[str, str] = {}
    unfitted: dict[str, str] = {}

    @model_validator(mode="after")
    def _names_its_own(self) -> Self:
        strange = (set(self.reasons) | set(self.unfitted)) - set(self.calibrators)
        if strange:
            raise ValueError(f"reasons or unfitted name {sorted(strange)} without a calibrator")
        return self

    def apply(self, logits: Floats) -> Values:
        """Turn logits, float [n, k], into probabilities, float64 [n, k]."""
        if logits.ndim != 2 or logits.shape[1] != len(self.calibrators):
            raise PredictionsError(
                f"logits must have shape [n, {len(self.calibrators)}], one column per finding, "
                f"not {logits.shape}"
            )
        columns = np.asarray(logits, dtype=np.float64).T
        calibrators = self.calibrators.values()
        return np.stack([of.apply(x) for of, x in zip(calibrators, columns, strict=True)], axis=1)


def fit_calibration(
    logits: Floats, labels: Floats, patients: npt.NDArray[Any], findings: Sequence[str]
) -> Calibration:
    """Choose and fit a calibrator for each finding, on validation.

    A finding without positives or negatives keeps its logit. Where the logits do not rise with the
    label, or too few patients have the finding, only the offset is fitted. `unfitted` says so.

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
            unfitted[finding] = f"{missing} in validation: the logit is not changed"
            continue
        keep = ~np.isnan(y)
        choice = _choose(logit[keep].astype(np.float64), y[keep] > 0.5, patients[keep])
        calibrators[finding] = choice.calibrator
        (unfitted if choice.forced else reasons)[finding] = choice.reason
    return Calibration(calibrators=calibrators, reasons=reasons, unfitted=unfitted)


def fit_slopes(logits: Floats, labels: Floats, findings: Sequence[str]) -> dict[str, float]:
    """Give the calibrated log-odds per unit of each logit: Platt's slope, above 0.

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


def _check_finite(logits: Floats) -> None:
    if not np.isfinite(logits).all():
        raise PredictionsError(
            "calibration needs finite logits, but these contain NaN or infinity: train again"
        )
