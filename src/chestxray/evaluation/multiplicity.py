"""p-values of differences, and what becomes of them when many are asked for at once.

A difference is held against 0 by its bootstrap standard error, two-sided (Efron and Tibshirani
1993, chapter 12). The share of resamples beyond 0 would do the same, but with 1,000 resamples it
can't fall below 0.002, which Holm's factor makes worthless. A bootstrap of few patients finds the
error too small, by sqrt((k - 1) / k) for the mean of k, and its ratio is Student's rather than
normal: both are put right with k − 1 degrees of freedom, k the patients of the smallest side
(Cameron and Miller 2015, doi:10.3368/jhr.50.2.317, section VI).

Holm 1979 (Scandinavian Journal of Statistics 6:65): the smallest of k p-values times k, the next
times k − 1, and so on, never falling. Whatever depends on whatever, the chance that any true zero
falls below 0.05 stays below 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.special import stdtr

from chestxray.evaluation.intervals import Draws, Values

_ROUNDING: Final = 1e-12


def p_value(draws: Draws, difference: Values, patients: int) -> float | None:
    """Test a difference against 0; None where it or its standard error does not exist.

    Args:
        draws: the resamples.
        difference: float64 [1 + R + G], by arithmetic on what `draws.apply` gave.
        patients: k, of the smallest set of images that the difference rests on.
    """
    drawn = difference[1 : 1 + draws.resamples]
    drawn = drawn[~np.isnan(drawn)]
    spread = float(np.std(drawn)) if len(drawn) else 0.0
    if math.isnan(difference[0]) or spread < _ROUNDING or patients < 2:
        return None
    error = spread * math.sqrt(patients / (patients - 1))
    return float(2 * stdtr(patients - 1, -abs(difference[0]) / error))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values for their number; in the order given, at most 1."""
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p)[order] * factors), 1)
    return [float(value) for value in adjusted]
