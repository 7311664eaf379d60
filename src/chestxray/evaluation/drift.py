"""Drift: how far a distribution has moved from a reference, and whether chance explains it.

The distance is Kolmogorov and Smirnov's D: the largest difference of the two cumulative
distributions, 0 to 1. A distance of 0.2 says that for some limit the share of radiographs above it
is 20 percentage points larger or smaller than before. Unlike the population stability index it
needs no bins, and its sampling error is known whatever the distribution: where nothing has moved,
D exceeds

    margin = √(ln(2/α) / 2 · (1/n + 1/m))

with a probability of at most α, for n and m independent values (Dvoretzky, Kiefer and Wolfowitz
1956 with the constant of Massart 1990; for two samples of one distribution Wei and Dudley,
doi:10.1016/j.spl.2011.12.019). So an alarm without drift is as rare as α says. Where the
distributions differ, the interval D ± margin for the true distance is an approximation. Small
samples have a wide margin and raise no alarm.

Radiographs of one patient resemble each other, so independent are patients, not radiographs: in a
reference every patient has the same weight, and the size of a sample is its number of patients.
Where patients are known within a week only, `effective_size` bounds the size from below.

Shares, such as that of refused radiographs, are compared by Newcombe's interval for the difference
of two proportions (1998, Statistics in Medicine 17:873, method 10).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import zip_longest
from statistics import NormalDist
from typing import Annotated, Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Values = npt.NDArray[np.float64]

LEVELS: Final = 101
"""Number of quantiles that describe a distribution: the percentiles from 0 to 100."""

MEASURES: Final = ("brightness", "contrast", "look", "features")
"""Figures of an image that are watched beside its probabilities, see `model.image_measures`."""

_DIGITS: Final = 6  # significant, of a quantile


class Distribution(BaseModel):
    """A distribution as its percentiles; every patient has the same weight.

    Attributes:
        quantiles: the smallest value, the percentiles 1 to 99, the largest value.
        patients: that it is of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    quantiles: Annotated[
        tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
        Field(min_length=LEVELS, max_length=LEVELS),
    ]
    patients: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _is_sorted(self) -> Self:
        if list(self.quantiles) != sorted(self.quantiles):
            raise ValueError("quantiles must not decrease")
        return self

    @classmethod
    def of(cls, values: npt.NDArray[Any], patients: npt.NDArray[Any]) -> Self:
        """Describe values.

        Args:
            values: [N], finite, N ≥ 1.
            patients: [N], who each is of.
        """
        values = np.asarray(values, np.float64)
        _, place, count = np.unique(patients, return_inverse=True, return_counts=True)
        order = np.argsort(values, kind="stable")
        weight = (1 / count[place])[order]
        # A value stands in the middle of its own weight, so that the extremes are the ends.
        reached = np.cumsum(weight) - weight / 2
        reached = (reached - reached[0]) / max(reached[-1] - reached[0], 1e-12)
        found = np.interp(np.linspace(0, 1, LEVELS), reached, values[order])
        rounded = [float(f"{one:.{_DIGITS}g}") for one in found]
        return cls(quantiles=tuple(rounded), patients=len(count))

    def cumulative(self, points: Values) -> tuple[Values, Values]:
        """Give the share of values below each point, and of those up to it."""
        values, shares = np.array(self.quantiles), np.linspace(0, 1, LEVELS)
        between = np.interp(points, values, shares, left=0, right=1)
        first, after = (np.searchsorted(values, points, side) for side in ("left", "right"))
        is_one = after > first  # of values that are equal, the first and the last
        below = np.where(is_one, shares[np.minimum(first, LEVELS - 1)], between)
        up_to = np.where(is_one, shares[after - 1], between)
        return below, up_to


class Shift(NamedTuple):
    """How far a sample lies from its reference.

    Attributes:
        distance: of the two distributions, or of the two shares, from 0 to 1.
        low: lower end of its interval.
        high: upper end.
        patients: of the sample.
    """

    distance: float
    low: float
    high: float
    patients: int

    def alarms(self, tolerance: float) -> bool:
        """Tell whether the distance is more than a tolerance beyond chance."""
        return self.low > tolerance


def shift(reference: Distribution, values: npt.NDArray[Any], level: float) -> Shift:
    """Measure how far a sample lies from its reference.

    Args:
        reference: what is expected.
        values: [n], one of each patient, finite, n ≥ 1.
        level: chance that the interval does not hold the true distance, in (0, 1).
    """
    values = np.sort(np.asarray(values, np.float64))
    points = np.concatenate([values, reference.quantiles])
    below, up_to = reference.cumulative(points)
    found_below = np.searchsorted(values, points, "left") / len(values)
    found_up_to = np.searchsorted(values, points, "right") / len(values)
    distance = float(max(np.abs(found_below - below).max(), np.abs(found_up_to - up_to).max()))
    sizes = 1 / len(values) + 1 / reference.patients
    margin = math.sqrt(math.log(2 / level) / 2 * sizes)
    return Shift(distance, max(0.0, distance - margin), min(1.0, distance + margin), len(values))


def share_shift(reference: tuple[float, int], found: tuple[int, int], level: float) -> Shift:
    """Measure how far a share lies from another one.

    Args:
        reference: number of patients with it, and of all, at least 1; a share × `effective_size`
            need not be a whole number.
        found: the same of the sample.
        level: chance that the interval does not hold the true difference, in (0, 1).
    """
    before, ours = wilson(*reference, level), wilson(*found, level)
    difference = ours.share - before.share
    down = math.hypot(ours.share - ours.low, before.high - before.share)
    up = math.hypot(ours.high - ours.share, before.share - before.low)
    low, high = sorted((abs(difference - down), abs(difference + up)))
    if difference - down < 0 < difference + up:
        low = 0.0
    return Shift(abs(difference), low, min(1.0, high), found[1])


class Share(NamedTuple):
    """A share and its interval."""

    share: float
    low: float
    high: float


def wilson(count: float, of: int, level: float) -> Share:
    """Give a share with its interval (Wilson 1927).

    Args:
        count: number of cases; a share × `effective_size` need not be a whole number.
        of: number of all, at least 1.
        level: chance that the interval does not hold the true share, in (0, 1).
    """
    z = -NormalDist().inv_cdf(level / 2)
    p, extra = count / of, z * z / of
    middle = (p + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(p * (1 - p) / of + extra / (4 * of))
    return Share(p, max(0.0, middle - half), min(1.0, middle + half))


def first_of_each(patients: Sequence[Hashable]) -> list[int]:
    """Give the places of the first radiograph of each patient, in their order."""
    places: dict[Hashable, int] = {}
    for at, patient in enumerate(patients):
        places.setdefault(patient, at)
    return list(places.values())


def effective_size(weeks: Sequence[Hashable], patients: Sequence[Hashable]) -> int:
    """Give how many independent values those of several weeks are worth at least.

    Patients with n₁, n₂, … values, all of one patient equal, are worth (n₁ + n₂ + …)² divided by
    n₁² + n₂² + … independent values (Kish 1965). Which patients of different weeks are the same is
    not known. The worst case is that whoever has most values in one week has most in each, whoever
    has the second most too, and so on (the rearrangement inequality).

    Args:
        weeks: [N], in which each value was found, N ≥ 1.
        patients: [N], equal for values of one patient in the same week.

    Returns:
        From 1 to N, rounded down; N where there is one week and each patient has one value.
    """
    by_week: dict[Hashable, list[int]] = {}
    for (week, _), count in Counter(zip(weeks, patients, strict=True)).items():
        by_week.setdefault(week, []).append(count)
    ranked = (sorted(counts, reverse=True) for counts in by_week.values())
    values = [sum(of_rank) for of_rank in zip_longest(*ranked, fillvalue=0)]
    return sum(values) ** 2 // sum(count**2 for count in values)


def distributions(
    columns: Mapping[str, npt.NDArray[Any]], patients: npt.NDArray[Any]
) -> dict[str, Distribution]:
    """Describe several values of the same images; see `Distribution.of`."""
    return {name: Distribution.of(values, patients) for name, values in columns.items()}
