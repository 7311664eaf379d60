"""Calibration of all findings: from logits to probabilities that mean what they say.

Each finding gets the family of `calibration_fits` that cross-validation inside validation asks for;
see `calibration_choice`. Every family rises with the logit, so the ranking of images by a finding
stays as the model gave it, but for the ties that isotonic steps make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator

from chestxray.errors import PredictionsError
from chestxray.evaluation import calibration_fits as fits
from chestxray.evaluation.calibration_choice import choose
from chestxray.evaluation.calibrators import Calibrator, Column, Logistic
from chestxray.evaluation.metrics import Floats
from chestxray.evaluation.thresholds import one_sided

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
            line = fits.platt(logit[keep].astype(np.float64), fits.smoothed(y[keep] > 0.5))
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
