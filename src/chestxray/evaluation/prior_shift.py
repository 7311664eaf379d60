"""Prior shift: the same findings look the same elsewhere, but are more or less frequent there.

A calibrated probability contains the prevalence of the images that it was calibrated on. Where only
the prevalence differs, not the appearance of images with and without the finding, its odds are
wrong by one factor, the same for every image:

    odds here = odds × [π' / (1 - π')] / [π / (1 - π)]

with π the prevalence of the calibration and π' the prevalence here. π' is given, or estimated from
the probabilities alone, without labels, as the maximum of

    Σ log(π' p / π + (1 - π') (1 - p) / (1 - π))

which is the fixed point of the EM algorithm of Saerens, Latinne and Decaestecker 2002 (Neural
Computation 14:21-41). Half an image with the finding and half an image without are added, so that
the estimate is never 0 or 1.

The correction keeps the ranking. It does not correct other shifts: where images with the finding
look different here, the estimate is wrong too, so calibration is to be compared before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import scipy  # which loads `optimize` when something is fitted: reading fits nothing
from scipy.special import expit, logit

from chestxray.errors import PredictionsError
from chestxray.evaluation.bootstrap import Floats, Values
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.logistic_regression import log_odds

_PSEUDO: Final = 0.5
_CLOSEST: Final = 1e-9


def estimate_prevalence(p: Floats, fitted: float) -> float:
    """Estimate the prevalence of a finding from its probabilities alone.

    Args:
        p: calibrated probabilities, float [n], n ≥ 1.
        fitted: prevalence of the images that they were calibrated on, in (0, 1).

    Returns:
        The prevalence, in (0, 1).
    """
    check_prevalence(fitted)
    # Likelihood ratios up to a common scale that keeps both terms finite for p near 0 and 1.
    log_ratio = log_odds(p) - logit(fitted)
    with_finding, without = expit(log_ratio), expit(-log_ratio)

    def slope(prevalence: float) -> float:
        mixture = prevalence * with_finding + (1 - prevalence) * without
        pseudo = _PSEUDO / prevalence - _PSEUDO / (1 - prevalence)
        return float(((with_finding - without) / mixture).sum()) + pseudo

    # The slope falls, so there is one root.
    return float(scipy.optimize.brentq(slope, _CLOSEST, 1 - _CLOSEST, xtol=1e-12))


def correct(p: Floats, fitted: float, here: float) -> Values:
    """Correct probabilities for another prevalence.

    Args:
        p: calibrated probabilities, float [n].
        fitted: prevalence of the images that they were calibrated on, in (0, 1).
        here: prevalence of these images, in (0, 1).

    Returns:
        float64 [n] in [0, 1], ranked as before.
    """
    check_prevalence(fitted)
    check_prevalence(here)
    p = np.asarray(p, dtype=np.float64)
    factor = here / (1 - here) * (1 - fitted) / fitted
    return np.asarray(factor * p / (factor * p + (1 - p)))


def prevalences(labels: Floats, findings: Sequence[str]) -> dict[str, float]:
    """Give the share of positives of each finding that has positives and negatives.

    Args:
        labels: float [n, K], 1, 0, NaN = unknown.
        findings: the K names, in the order of the columns.
    """
    columns = zip(findings, labels.T, strict=True)
    return {finding: float(np.nanmean(y)) for finding, y in columns if not one_sided(y)}


def check_prevalence(prevalence: float) -> None:
    """Refuse a prevalence outside (0, 1).

    Raises:
        PredictionsError: it is.
    """
    if not 0 < prevalence < 1:
        raise PredictionsError(
            f"a prevalence must lie between 0 and 1, both excluded, but this is {prevalence:g}: "
            f"give a share such as 0.05"
        )
