"""One test of a difference, from which its p-value and its interval both follow.

A BCa interval and a t-test of the same resamples answer slightly differently: of simulated studies
of equal models, BCa intervals excluded 0 in 9 % and the test rejected in 4 %. A sentence by the one
beside a p-value of the other contradicts itself. Here the interval holds exactly the differences
that the test does not reject, so `low > 0 or high < 0` is `p < 0.05`.

The test is Student's t with the bootstrap standard error (Efron and Tibshirani 1993, chapter 12)
and k - 1 degrees of freedom, where k is the number of patients on the smallest side (Cameron and
Miller 2015, doi:10.3368/jhr.50.2.317, section VI). The share of resamples beyond 0 would do the
same, but with 1,000 resamples it cannot fall below 0.002, which Holm's factor makes useless. A mean
over findings has those of a sum of variances (`satterthwaite`). Fewer than `FEWEST` patients are
not tested: with 3 positive patients DeLong's test with a normal reference rejects equal models in
13 % of studies, and no test finds a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from chestxray.evaluation.bootstrap import (
    TAILS,
    Bounds,
    Draws,
    Floats,
    Interval,
    Values,
    standard_error,
)

ALPHA: Final = 0.05
FEWEST: Final = 5
"""Patients on the smallest side below which nothing is tested."""
_MOST_UNDEFINED: Final = 0.1  # of the resamples; exp(-5) of them draw none of 5 patients


@dataclass(frozen=True)
class Significance:
    """A figure with its bootstrap t-test.

    Attributes:
        value: the figure; NaN where it is not defined.
        error: its standard error; NaN where there is no test, 0 where it is 0 by its definition.
        degrees: degrees of freedom, above 0.
        percentile: the percentile interval of the same resamples, for the record.
        reason: why there is no value or no test; empty where there is one.
    """

    value: float
    error: float
    degrees: float
    percentile: Bounds
    reason: str

    @classmethod
    def of(
        cls,
        draws: Draws,
        values: Values,
        patients: int,
        *,
        degrees: float | None = None,
        group: str = "",
        undefined: str = "",
    ) -> Significance:
        """Test a figure against 0.

        Args:
            draws: the resamples.
            values: float64 [1 + R + G], by arithmetic on what `draws.apply` gave.
            patients: k, of the smallest group of images behind the figure.
            degrees: of freedom; k - 1 by default.
            group: what that group is, such as `with the finding`.
            undefined: why the value is not defined, where it is not.
        """
        value, drawn = float(values[0]), values[1 : 1 + draws.resamples]
        error = standard_error(draws, values, patients)
        if math.isnan(value):
            reason = undefined or "not defined for these labels"
        elif patients < FEWEST:
            reason = too_few(patients, group)
        else:
            reason = _untested(drawn, error)
        if reason or error is None:
            return cls(value, math.nan, 1, Bounds(), reason)
        low, high = (float(end) for end in np.nanquantile(drawn, TAILS))
        return cls(value, error, degrees or patients - 1, Bounds(low=low, high=high), "")

    @classmethod
    def of_equals(cls) -> Significance:
        """Give the difference of what is equal whichever patients are drawn: 0, without a p."""
        return cls(0.0, 0.0, 1, Bounds(low=0.0, high=0.0), "")

    @property
    def interval(self) -> Interval:
        """The figures that the two-sided test at 5 % does not reject."""
        if self.reason:
            return Interval(value=self.value, reason=self.reason)
        half = float(stdtrit(self.degrees, TAILS[1])) * self.error
        low, high = self.value - half, self.value + half
        return Interval(value=self.value, low=low, high=high, percentile=self.percentile)

    @property
    def p(self) -> float | None:
        """Two-sided p-value of 0; None without a test."""
        if self.reason or not self.error:
            return None
        return float(2 * stdtr(self.degrees, -abs(self.value) / self.error))

    def p_above(self, limit: float) -> float | None:
        """One-sided p-value of a figure at or below `limit`; None without a test."""
        if self.reason:
            return None
        if not self.error:
            return float(self.value <= limit)
        return float(stdtr(self.degrees, -(self.value - limit) / self.error))


def _untested(drawn: Values, error: float | None) -> str:
    """Say why resamples give no test; empty where they do."""
    if not len(drawn):
        return "no resamples were requested"
    undefined = float(np.isnan(drawn).mean())
    if undefined > _MOST_UNDEFINED:
        return f"no interval: {undefined:.0%} of the resamples have no value, for lack of patients"
    return "all resamples give the same value: its error is unknown" if error is None else ""


def satterthwaite(variances: Values, degrees: Values) -> float:
    """Give the degrees of freedom of a sum of variances (Satterthwaite 1946, doi:10.2307/3002019).

    Args:
        variances: float64 [k], at least 0.
        degrees: of freedom of each, float64 [k].
    """
    whole = float(variances.sum())
    return whole**2 / float(variances**2 @ (1 / degrees)) if whole else float(degrees.min())


def degrees_of_mean(draws: Draws, values: Sequence[Values], sides: Sequence[int]) -> float:
    """Give the degrees of freedom of a mean over findings, by `satterthwaite`.

    Args:
        draws: the resamples.
        values: of each finding, float64 [1 + R + G].
        sides: patients on the smaller side of each, at least 1.
    """
    drawn = [of[1 : 1 + draws.resamples] for of in values]
    defined = [of[~np.isnan(of)] for of in drawn]
    variances = np.array([of.var() if len(of) else 0.0 for of in defined])
    return satterthwaite(variances, np.maximum(np.array(sides) - 1.0, 1.0))


def too_few(patients: int, group: str = "") -> str:
    """Say that a group has too few patients for a test."""
    noun = "patient" if patients == 1 else "patients"
    return f"only {patients} {f'{noun} {group}'.strip()}: a test needs at least {FEWEST}"


def smaller_side(y: Floats, patients: npt.NDArray[Any]) -> tuple[int, str]:
    """Count the patients with and without a finding; give the smaller number, and which it is.

    Args:
        y: labels, float [n], 1, 0, NaN = unknown.
        patients: of each image, [n].
    """
    without, having = (len(np.unique(patients[y == side])) for side in (0, 1))
    return (having, "with the finding") if having <= without else (without, "without the finding")
