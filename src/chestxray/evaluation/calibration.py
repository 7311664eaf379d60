"""Calibration: from a model's logits to probabilities that match the observed frequency.

A logit first passes the link of the loss that the model was trained with (`focal_link`), which
gives the log-odds that the model states. Then a calibrator of the finding corrects these. Both rise
strictly, so the ranking of images by a finding never changes: AUROC and average precision of the
probabilities are those of the logits.

The calibrator is fitted on validation, in two steps.

**Slope 1 or one slope for all findings.** A few patients tell little of one finding's slope, but
much of a slope that all findings share, such as that of an overconfident network. Both are fitted
and scored by cross-validated log loss, summed over the findings of an image. The shared slope is
taken where it is better by more than one standard error. It replaces slope 1 in the next step, and
findings of which little is known have it too.

**The family of a finding**, see `calibrators`, is chosen by cross-validated log loss and the
one-standard-error rule. A family is tried where validation has at least `PATIENTS_PER_PARAMETER`
patients with the finding, and as many without it, for each of its parameters; for the spline that
is 200, as Van Calster and others ask for flexible calibration curves (2016,
doi:10.1016/j.jclinepi.2015.12.005). Validation patients are divided into `_FOLDS` folds, those with
the finding and those without evenly. Each family is fitted on all folds but one and scored on that
one. The simplest family is taken that the best one does not beat by more than one standard error
(Breiman, Friedman, Olshen and Stone 1984, section 3.4.3; Hastie, Tibshirani and Friedman 2009,
section 7.10). The error is that of the paired difference of the two, with patients as the units:
most of a log loss's own spread comes from the labels, which both families share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator
from scipy.special import logit as logit_of

from chestxray.errors import PredictionsError
from chestxray.evaluation.bootstrap import Floats, Values
from chestxray.evaluation.calibrators import (
    FAMILIES,
    Calibrator,
    Fit,
    Logistic,
    offset,
    platt,
    pooled,
    pooled_slope,
    probability,
    smoothed,
    with_log_tails,
)
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.focal_link import FocalLink

PATIENTS_PER_PARAMETER: Final = 20
"""Patients with the finding, and as many without it, that a family needs for each parameter."""

_ROUNDED: Final = 1e-6
_FOLDS: Final = 5
_SEED: Final = 0

_Present = npt.NDArray[np.bool_]
_Indices = npt.NDArray[np.int64]


class Calibration(BaseModel):
    """One calibrator per finding, in the order of the model's logits.

    Attributes:
        link: from logits to the log-odds that the calibrators take.
        calibrators: finding → how its log-odds become a probability.
        reasons: finding → why that family was chosen.
        unfitted: finding → why only an offset, or nothing, could be fitted.
        then: a further calibration, of the log-odds of these probabilities, fitted elsewhere; None
            without one.
    """

    model_config = ConfigDict(extra="forbid")

    link: FocalLink = FocalLink()
    calibrators: dict[str, Calibrator]
    reasons: dict[str, str] = {}
    unfitted: dict[str, str] = {}
    then: Calibration | None = None

    @model_validator(mode="after")
    def _names_its_own(self) -> Self:
        if self.then is not None and tuple(self.then.calibrators) != tuple(self.calibrators):
            raise ValueError("a further calibration must be of the same findings")
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
        columns = self.link.log_odds(np.asarray(logits, dtype=np.float64)).T
        calibrators = self.calibrators.values()
        corrected = [of.corrected(x) for of, x in zip(calibrators, columns, strict=True)]
        p = probability(np.stack(corrected, axis=1))
        return p if self.then is None else self.then.apply(stated_log_odds(p))

    @property
    def uncalibrated(self) -> dict[str, str]:
        """Findings that no stage could fit, with the reason of the first."""
        if self.then is None:
            return self.unfitted
        later = self.then.uncalibrated
        return {finding: why for finding, why in self.unfitted.items() if finding in later}

    def lines(self) -> dict[str, tuple[float, float]]:
        """Give slope and offset of each finding whose log-odds are a straight line of the logit.

        Beyond `calibrators.HIGHEST` and `LOWEST` log-odds are compressed, which no line is.
        """
        if self.link.gamma:
            return {}
        own = {
            finding: (of.slope, of.offset)
            for finding, of in self.calibrators.items()
            if isinstance(of, Logistic)
        }
        if self.then is None:
            return own
        later = self.then.lines()
        return {
            finding: (then[0] * slope, then[0] * offset + then[1])
            for finding, (slope, offset) in own.items()
            if (then := later.get(finding)) is not None
        }

    def followed_by(self, then: Calibration) -> Calibration:
        """Give this calibration with another after it, and after those that follow already."""
        last = then if self.then is None else self.then.followed_by(then)
        return self.model_copy(update={"then": last})


def fit_calibration(
    logits: Floats,
    labels: Floats,
    patients: npt.NDArray[Any],
    findings: Sequence[str],
    link: FocalLink | None = None,
    where: str = "validation",
) -> Calibration:
    """Choose and fit a calibrator for each finding, on validation or on the images of a site.

    Where a finding is only present or only absent, where the logits do not rise with the label, or
    where too few patients have the finding, only the offset is fitted. A finding without labels
    keeps the log-odds that the link gives. `unfitted` says so.

    Args:
        logits: float [n, k], finite.
        labels: float [n, k], 1, 0 or NaN (left out).
        patients: [n], of any kind that sorts.
        findings: the k names, in the order of the columns.
        link: of the loss that the logits were trained with; None for cross-entropy.
        where: what the images are, as the reasons name them.

    Raises:
        PredictionsError: a logit is NaN or infinite.
    """
    _check_finite(logits)
    link = link or FocalLink()
    log_odds = link.log_odds(logits.astype(np.float64))
    patient = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    base = _base(log_odds, labels, patient)
    calibrators: dict[str, Calibrator] = {}
    reasons: dict[str, str] = {}
    unfitted: dict[str, str] = {}
    for finding, x, y in zip(findings, log_odds.T, labels.T, strict=True):
        missing, keep = one_sided(y), ~np.isnan(y)
        if not keep.any():
            calibrators[finding] = Logistic(family="offset")
            unfitted[finding] = f"{missing} in {where}: nothing was fitted"
            continue
        if missing:
            calibrators[finding] = base.fit(x[keep], smoothed(y[keep] > 0.5))
            unfitted[finding] = f"{missing} in {where}: {base.only}"
            continue
        choice = _choose(x[keep], y[keep] > 0.5, patient[keep], base, where)
        calibrators[finding] = choice.calibrator
        (unfitted if choice.forced else reasons)[finding] = choice.reason
    return Calibration(link=link, calibrators=calibrators, reasons=reasons, unfitted=unfitted)


def stated_log_odds(probabilities: Floats) -> Values:
    """Give the log-odds of probabilities from a table, finite and with the same ranking.

    Tables are often rounded to a few decimals. Their zeros and ones would be infinite, so log-odds
    of probabilities within 1e-6 of 0 or 1 go on by the logarithm of the excess.

    Args:
        probabilities: in [0, 1], of any shape.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    inside = np.clip(p, np.finfo(np.float64).tiny, np.nextafter(1.0, 0.0))
    low, high = logit_of([_ROUNDED, 1 - _ROUNDED])
    return with_log_tails(logit_of(inside), low, high)


@dataclass(frozen=True)
class _Base:
    """The simplest family, which only fits an offset, and what reasons say of its slope."""

    name: str
    fit: Callable[[Values, Values], Logistic]
    spread: str

    @property
    def only(self) -> str:
        """What is said of a finding that gets no more than this, also to a radiologist."""
        return f"only the average was adjusted{self.spread}"


@dataclass(frozen=True)
class _Choice:
    """A fitted calibrator and why it was chosen; `forced` where nothing could be compared."""

    calibrator: Calibrator
    reason: str
    forced: bool = False


_SLOPE_1: Final = _Base("offset", offset, "")


def _base(log_odds: Values, labels: Floats, patient: _Indices) -> _Base:
    """Choose between slope 1 and one slope for all findings.

    Args:
        log_odds: float64 [n, k].
        labels: float [n, k], 1, 0 or NaN.
        patient: int64 [n], numbered from 0.
    """
    two_sided = [k for k, y in enumerate(labels.T) if not one_sided(y)]
    if len(two_sided) < 2 or patient.max() + 1 < 2 * _FOLDS:
        return _SLOPE_1
    x, y = log_odds[:, two_sided], labels[:, two_sided]
    fold = _deal(np.bincount(patient, (y == 1).any(axis=1)) > 0)[patient]
    excess = np.zeros(len(x))
    for held_out in range(_FOLDS):
        slope = _shared_slope(x, y, fold != held_out)
        if slope is None:
            return _SLOPE_1
        excess += _summed_losses(offset, x, y, fold, held_out)
        excess -= _summed_losses(pooled(slope), x, y, fold, held_out)
    gain, error = _gain(excess, patient)
    slope = _shared_slope(x, y, fold >= 0)
    if slope is None or gain <= error:
        return _SLOPE_1
    return _Base("pooled", pooled(slope), f", with a spread shared by {len(two_sided)} findings")


def _shared_slope(x: Values, y: Floats, rows: _Present) -> float | None:
    """Fit the slope that the findings share on some rows; labels that are unknown are left out.

    Targets are smoothed by the counts of all findings together: they make up for little data, and
    by a finding's own counts the rare ones would flatten the slope.
    """
    known = ~np.isnan(y) & rows[:, None]
    target = np.full(x.shape, np.nan)
    target[known] = smoothed(y[known] > 0.5)
    some = known.any(axis=0)
    return pooled_slope(x[:, some], target[:, some])


def _summed_losses(fit: Fit, x: Values, y: Floats, fold: _Indices, held_out: int) -> Values:
    """Give each row's log loss summed over findings, [n]; 0 outside the fold held out."""
    losses = np.zeros(len(x))
    for logit, label in zip(x.T, y.T, strict=True):
        known = ~np.isnan(label)
        rest, out = known & (fold != held_out), known & (fold == held_out)
        fitted = fit(logit[rest], smoothed(label[rest] > 0.5)) if rest.any() else None
        if fitted is not None:
            losses[out] += _log_losses(fitted, logit[out], label[out] > 0.5)
    return losses


def _choose(
    logit: Values, present: _Present, patients: _Indices, base: _Base, where: str
) -> _Choice:
    """Choose and fit the calibrator of one finding; the order of the rows does not matter.

    Args:
        logit: float64 [n], finite.
        present: bool [n], the known labels, both sides among them.
        patients: int64 [n].
        base: the simplest family.
        where: the images, for the reasons.
    """
    target = smoothed(present)
    simplest = base.fit(logit, target)
    patient = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    has = np.bincount(patient, present) > 0
    sides = {"with": int(has.sum()), "without": int((~has).sum())}
    side = min(sides, key=lambda name: sides[name])
    if platt(logit, target) is None:
        reason = f"the scores do not rise with the label in {where}: {base.only}"
        return _Choice(simplest, reason, forced=True)
    if sides[side] < _FOLDS:
        reason = (
            f"fewer than {_FOLDS} patients {side} the finding in {where} ({sides[side]}): "
            f"{base.only}"
        )
        return _Choice(simplest, reason, forced=True)
    fits = {base.name: base.fit, **_affordable(sides[side])}
    fold, losses = _deal(has)[patient], {}
    for name, fit in fits.items():
        loss = _losses(fit, logit, present, fold)
        if loss is not None:
            losses[name] = loss
    name, reason = _simplest(losses, patient)
    return _Choice(fits[name](logit, target) or simplest, f"{reason}{_untried(sides, side)}")


def _affordable(patients: int) -> dict[str, Fit]:
    """Give the families beyond the simplest that so many patients on the smaller side allow."""
    return {
        name: family.fit
        for name, family in FAMILIES.items()
        if name != "offset" and patients >= PATIENTS_PER_PARAMETER * family.parameters
    }


def _untried(sides: dict[str, int], side: str) -> str:
    needs = {
        name: PATIENTS_PER_PARAMETER * family.parameters
        for name, family in FAMILIES.items()
        if name != "offset" and sides[side] < PATIENTS_PER_PARAMETER * family.parameters
    }
    if not needs:
        return ""
    listed = ", ".join(f"{name} (needs {patients})" for name, patients in needs.items())
    return f"; not tried with {sides[side]} patients {side} the finding: {listed}"


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


def _losses(fit: Fit, logit: Values, present: _Present, fold: _Indices) -> Values | None:
    """Give each row's log loss under the fit without its fold; None where a fold has no fit."""
    losses = np.empty_like(logit)
    for held_out in range(_FOLDS):
        rest, out = fold != held_out, fold == held_out
        fitted = fit(logit[rest], smoothed(present[rest]))
        if fitted is None:
            return None
        losses[out] = _log_losses(fitted, logit[out], present[out])
    return losses


def _log_losses(fitted: Calibrator, logit: Values, present: _Present) -> Values:
    p = fitted.apply(logit)
    of_truth = np.where(present, p, 1 - p)
    return -np.log(np.maximum(of_truth, np.finfo(np.float64).eps))


def _gain(difference: Values, patient: _Indices) -> tuple[float, float]:
    """Give the mean of paired differences and its standard error, with patients as the units."""
    gain = float(difference.mean())
    residual = np.bincount(patient, difference - gain)
    units = len(residual)
    return gain, math.sqrt(units / (units - 1) * float(residual @ residual)) / len(difference)


def _check_finite(logits: Floats) -> None:
    if not np.isfinite(logits).all():
        raise PredictionsError(
            "calibration needs finite logits, but these contain NaN or infinity: train again"
        )
