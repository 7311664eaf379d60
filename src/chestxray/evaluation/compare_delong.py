"""DeLong's test of two models, for a finding and for the mean over findings.

For one finding it is that of `delong`. The mean over findings is a mean of AUROCs on the same
patients, so how far each patient pulls it up or down is the mean of how far they pull each AUROC
(the structural components of DeLong 1988, summed by patient as in Obuchowski 1997,
doi:10.2307/2533958); the sum of the squared pulls is its variance. Nothing is drawn.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from chestxray.evaluation.delong import Difference, difference
from chestxray.evaluation.intervals import Values

Patients = npt.NDArray[np.int64]


def of_finding(y: Values, a: Values, b: Values, patients: Patients) -> dict[str, float | None]:
    """Test the AUROC of `b` less that of `a`: the value, its interval and p, None where undefined.

    Args:
        y: labels, float64 [n], 1, 0 or NaN.
        a: probabilities of the one model, float64 [n].
        b: of the other.
        patients: int64 [n].
    """
    return _entry(difference(y, b, a, patients))


def of_mean(labels: Values, a: Values, b: Values, patients: Patients) -> dict[str, float | None]:
    """Test the mean over the findings that have an AUROC.

    Args:
        labels: float64 [n, k], 1, 0 or NaN.
        a: probabilities of the one model, float64 [n, k].
        b: of the other.
        patients: int64 [n].
    """
    names, patient = np.unique(patients, return_inverse=True)
    values, pulls = [], []
    for y, of_a, of_b in zip(labels.T, a.T, b.T, strict=True):
        if (y == 1).any() and (y == 0).any():
            before, after = (_pulls(y, p, patient, len(names)) for p in (of_a, of_b))
            values.append(after[0] - before[0])
            pulls.append(after[1] - before[1])
    if not values or len(names) < 2:
        return _entry(Difference(math.nan, math.nan))
    pull = np.mean(pulls, axis=0)
    variance = float(pull @ pull) * len(names) / (len(names) - 1)
    return _entry(Difference(float(np.mean(values)), variance))


def _pulls(y: Values, p: Values, patient: Patients, patients: int) -> tuple[float, Values]:
    """Give an AUROC, and how far each patient pulls it: float64 [patients] that sum to 0."""
    pull = np.zeros(patients)
    known = ~np.isnan(y)
    ranks = rankdata(p[known])
    auroc = math.nan
    for side in (0, 1):
        mine = y[known] == side
        below = (ranks[mine] - rankdata(p[known][mine])) / np.count_nonzero(~mine)
        won = below if side else 1 - below
        auroc = float(won.mean())
        np.add.at(pull, patient[known][mine], (won - auroc) / len(won))
    return auroc, pull


def _entry(test: Difference) -> dict[str, float | None]:
    low, high = test.interval
    figures = {"difference": test.value, "low": low, "high": high, "p": test.p}
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
