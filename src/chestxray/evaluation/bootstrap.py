"""95 % confidence intervals that respect patients: the bootstrap by patient; Holm's p-values.

Images of one patient resemble each other, so patients are resampled, not images. A resample gives
each patient a count, and each of the patient's images that weight (the cluster bootstrap, Davison
and Hinkley 1997, section 3.8). A metric is computed once for every row of weights:

    row 0               the data as they are, all weights 1
    rows 1 … R          bootstrap resamples
    rows R + 1 … R + G  the data without one group of patients: the jackknife that BCa needs

The result, an array [1 + R + G], is the metric with its uncertainty. Means over findings,
differences between models and gaps between groups are arithmetic on such arrays and so have
intervals too. All use the same resamples, so what is paired stays paired.

The interval shown is BCa, bias-corrected and accelerated: Efron 1987
(doi:10.1080/01621459.1987.10478410). The percentile interval (Efron 1979) is given with it, and
replaces it where the acceleration is unknown. The acceleration comes from leaving out patients one
by one, or `GROUPS` random groups of them where there are more patients. Groups add noise of
√(6 / `GROUPS`) / 6 = 0.02, which moves an end by less than the resampling itself does.

An interval that does not hold is worse than none. Resampling creates ties, which move the mean
average precision of rare findings, among others. Where it moved the median by more than
`_MOST_BIAS` standard errors, BCa held the true mean in 21 of 39 simulated studies of 180 patients
and 14 findings; of all other figures it held 91 to 95 %. There is no interval either where all
resamples are equal.

Memory: 2 bytes per patient and row of weights, and a few rows at a time expanded to images. For the
112,120 images and 30,805 patients of NIH ChestX-ray14 that is 90 MB and 20 MB. The weights of more
than `MOST_STORED` patients are not kept but drawn again when needed, as Poisson counts (see
`poisson_weights`). With more than `MOST_EXPANDED` images, the weights stay those of patients, for a
block of rows at a time (`Draws.by_blocks`), and `blockwise` makes the metrics of them.

A difference is tested against 0 by its bootstrap standard error (see `significance`). A bootstrap
of few patients underestimates the error, by sqrt((k - 1) / k) for the mean of k, where k is the
number of patients on the smallest side; `standard_error` corrects that.

Holm 1979 (Scandinavian Journal of Statistics 6:65): the smallest of k p-values times k, the next
times k − 1, and so on, never decreasing. Under any dependence, the chance that any true zero falls
below 0.05 stays below 0.05.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from scipy.special import ndtr, ndtri

from chestxray.evaluation.poisson_weights import (
    LANES,
    MOST,
    Weights,
    poisson_weights,
    without_groups,
)

LEVEL: Final = 0.95
TAILS: Final = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
RESAMPLES: Final = 1000
GROUPS: Final = 500
MOST_STORED: Final = 250_000
"""Patients whose weights are kept: 750 MB. Those of more are drawn again when needed."""
MOST_EXPANDED: Final = 400_000
"""Images that are given a weight each in every row. More share those of their patients."""
_MOST_MISSING: Final = 0.1
_MOST_BIAS: Final = 0.5  # standard errors
MOVED: Final = (
    "resampling shifts this value by more than half its standard error: no interval is reliable"
)
NO_ACCELERATION: Final = (
    "percentile interval instead of BCa: leaving out patients does not change the value"
)
_MOST_UNDEFINED: Final = 0.01  # exp(-5) of the resamples draw none of 5 patients

Floats = npt.NDArray[np.floating[Any]]
Values = npt.NDArray[np.float64]
_Statistic = Callable[[Values], Values]

_ROWS: Final = 16  # at a time, more where images are few: a call costs as much as 20,000 weights
_WEIGHTS: Final = 350_000
_MOST_WEIGHTS: Final = 4_000_000
_MOST_BYTES: Final = 4 * 2**30  # of blocks of weights that are worked on at a time


def is_none(value: object) -> bool:
    """Tell whether an optional field is left out of the JSON."""
    return value is None


def _defined(value: Any) -> Any:  # noqa: ANN401 - pydantic checks it next
    return None if isinstance(value, float) and math.isnan(value) else value


Number = Annotated[float | None, BeforeValidator(_defined)]
"""A figure; None where it is not defined. NaN becomes None."""


class Bounds(BaseModel):
    """The two ends of an interval.

    Attributes:
        low, high: None where there is no interval.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: Number = None
    high: Number = None


class Interval(BaseModel):
    """A figure with its 95 % confidence interval.

    Attributes:
        value: the figure; None where it is not defined.
        low, high: BCa interval, or its replacement, which `reason` names; None where there is none.
            Of a tested difference (see `significance`), what the test does not reject.
        percentile: percentile interval.
        reason: why the value or the interval is missing, or is not BCa.
        delong: DeLong's interval, of an AUROC only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: Number
    low: Number = None
    high: Number = None
    percentile: Bounds = Bounds()
    reason: str | None = Field(default=None, exclude_if=is_none)
    delong: Bounds | None = Field(default=None, exclude_if=is_none)

    def __repr__(self) -> str:
        """Show the figure and its interval as `0.814 (0.798–0.832)`."""
        if self.value is None:
            return f"not defined ({self.reason})" if self.reason else "not defined"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"

    __str__ = __repr__

    def without_bounds(self, reason: str) -> Interval:
        """Drop the interval and say why; the percentile interval is kept for the record."""
        why = self.reason if self.value is None else reason
        return Interval(value=self.value, percentile=self.percentile, reason=why)


@dataclass(frozen=True)
class Draws:
    """The bootstrap weights: how often each patient is drawn in each row.

    Attributes:
        patient: int [n], the number of the patient of each image.
        patients: P, their number.
        resamples: R.
        seed: of the random numbers.
        group: int [P], in which of the G groups each patient is left out.
        groups: G.
        kept: uint16 [1 + R + G, P], where there are at most `MOST_STORED` patients.
    """

    patient: npt.NDArray[np.int64] = field(repr=False)
    patients: int
    resamples: int
    seed: int
    group: npt.NDArray[np.int64] = field(repr=False)
    groups: int
    kept: npt.NDArray[np.uint16] | None = field(repr=False)

    @classmethod
    def of(cls, patients: npt.NDArray[Any], resamples: int = RESAMPLES, seed: int = 0) -> Draws:
        """Draw resamples of patients; the same seed gives the same ones.

        Args:
            patients: the patient of each image, [n] of any kind that sorts.
            resamples: R, 0 for the value alone.
            seed: of the random numbers.
        """
        names, patient = np.unique(patients, return_inverse=True)
        rng = np.random.default_rng(seed)
        many = len(names)
        groups = min(many, GROUPS) if resamples else 0
        kept = None
        if many <= MOST_STORED:
            kept = np.ones((1 + resamples + groups, many), dtype=np.uint16)
            for row in kept[1 : 1 + resamples]:
                row[:] = np.bincount(rng.integers(max(many, 1), size=many), minlength=many)
        group = rng.permutation(many) % max(groups, 1)
        if kept is not None:
            for left_out, row in enumerate(kept[1 + resamples :]):
                row[group == left_out] = 0
        return cls(patient.astype(np.int64), many, resamples, seed, group, groups, kept)

    def __len__(self) -> int:
        """Give the number of rows, 1 + R + G."""
        return 1 + self.resamples + self.groups

    @property
    def counts(self) -> npt.NDArray[np.integer[Any]]:
        """All weights, int [1 + R + G, P]; drawn for this, where they are not kept."""
        if self.kept is not None:
            return self.kept
        return np.concatenate([self._block(*rows).T for rows in self._plan()])

    @property
    def expanded(self) -> bool:
        """Whether images are few enough for a weight each in every row."""
        return len(self.patient) <= MOST_EXPANDED

    @property
    def kind(self) -> Literal["multinomial", "poisson"]:
        """How the weights of resamples are drawn."""
        return "poisson" if self.kept is None else "multinomial"

    @property
    def most(self) -> int:
        """The largest weight."""
        return MOST if self.kept is None else int(self.kept.max(initial=1))

    def _plan(self) -> Iterator[tuple[int, int, int]]:
        """Give kind, first row and number of rows of each block, see `_block`."""
        ends = np.cumsum([1, self.resamples, self.groups]).tolist()
        for kind, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            for start in range(begin, end, LANES):
                yield kind, start, min(LANES, end - start)

    def _block(self, kind: int, start: int, rows: int) -> Weights:
        """Give the weights of some rows, uint8 [P, rows].

        Args:
            kind: 0 for the data as they are, 1 for resamples, 2 for the jackknife.
            start: the first row.
            rows: `LANES` at most.
        """
        if self.kept is not None:
            return np.ascontiguousarray(self.kept[start : start + rows].T.astype(np.uint8))
        weights = np.ones((self.patients, rows), dtype=np.uint8)
        if kind == 1:
            poisson_weights(self.seed, (start - 1) // LANES, weights)
        elif kind == 2:
            without_groups(self.group, start - 1 - self.resamples, weights)
        return weights

    def by_blocks(self, parts: Sequence[Callable[[Weights], Values]]) -> list[Values]:
        """Compute statistics from the weights of patients, in one pass over all rows.

        Several blocks of rows are worked on at a time, in threads.

        Args:
            parts: each takes uint8 [P, b] and gives [b] or [b, k].

        Returns:
            Of each part, float64 [1 + R + G] or [1 + R + G, k].
        """

        def of_block(rows: tuple[int, int, int]) -> list[Values]:
            weights = self._block(*rows)
            return [np.asarray(part(weights), dtype=np.float64) for part in parts]

        with ThreadPoolExecutor(_threads(self.patients)) as pool:
            found = list(pool.map(of_block, self._plan()))
        return [np.concatenate(values) for values in zip(*found, strict=True)]

    def apply(self, statistic: _Statistic, rows: npt.NDArray[Any] | None = None) -> Values:
        """Compute a statistic with every row of weights.

        Args:
            statistic: weights float64 [b, m] of whole numbers → values [b] or [b, k]; NaN where
                it is undefined. The weights are overwritten after the call.
            rows: the images it uses, as bool [n], or as indices [m], which may repeat; all images
                by default.

        Returns:
            float64 [1 + R + G] or [1 + R + G, k].
        """
        patient = self.patient if rows is None else self.patient[rows]
        if self.kept is None:
            return self.by_blocks([partial(_expanded, statistic, patient)])[0]
        rows_at_once = _rows_at_once(len(patient))
        # Reused: allocating memory for every chunk would take longer than the metric.
        drawn = np.empty((rows_at_once, len(patient)), dtype=self.kept.dtype)
        weights = np.empty(drawn.shape)
        parts = []
        for start in range(0, len(self.kept), rows_at_once):
            some = self.kept[start : start + rows_at_once]
            np.take(some, patient, axis=1, out=drawn[: len(some)], mode="clip")
            np.copyto(weights, drawn)
            parts.append(np.array(statistic(weights[: len(some)]), dtype=np.float64))
        return np.concatenate(parts)

    def interval(self, values: Values, reason: str = "not defined for these labels") -> Interval:
        """Give one statistic with its interval.

        Resamples in which it is undefined are left out. There is no interval where they are more
        than `_MOST_UNDEFINED`, where all resamples are equal, or too far to one side of the value.

        Args:
            values: float64 [1 + R + G], from `apply` or by arithmetic on such arrays.
            reason: why it is undefined, where it is.
        """
        value, drawn = float(values[0]), values[1 : 1 + self.resamples]
        missing = reason if math.isnan(value) else self._no_interval(drawn)
        if missing:
            return Interval(value=value, reason=missing)
        drawn = drawn[~np.isnan(drawn)]
        low, high = (float(end) for end in np.quantile(drawn, TAILS))
        bias = float(ndtri((np.mean(drawn < value) + np.mean(drawn <= value)) / 2))
        percentile = Bounds(low=low, high=high)
        if abs(bias) > _MOST_BIAS:
            return Interval(value=value, percentile=percentile, reason=MOVED)
        levels = _levels(bias, values[1 + self.resamples :])
        if levels is None:
            return Interval(
                value=value, low=low, high=high, percentile=percentile, reason=NO_ACCELERATION
            )
        ends = np.quantile(drawn, levels)
        return Interval(value=value, low=float(ends[0]), high=float(ends[1]), percentile=percentile)

    def _no_interval(self, drawn: Values) -> str:
        """Say why resamples give no interval; empty where they do."""
        if not len(drawn):
            return "no resamples were requested"
        if self.patients == 1:
            return "only 1 patient: the variation between patients is unknown"
        undefined = float(np.isnan(drawn).mean())
        if undefined > _MOST_UNDEFINED:
            return (
                f"no interval: {undefined:.0%} of the resamples have no value, for lack of patients"
            )
        if np.nanmin(drawn) == np.nanmax(drawn):
            return "all resamples give the same value: its error is unknown"
        return ""


def _threads(patients: int) -> int:
    """Give the number of blocks at a time: one a core, as OMP_NUM_THREADS and memory allow."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(wanted) if wanted.isdigit() else os.cpu_count() or 1
    return max(1, min(cores, _MOST_BYTES // max(patients * LANES, 1)))


def _expanded(statistic: _Statistic, patient: npt.NDArray[np.int64], block: Weights) -> Values:
    """Compute a statistic of images from the weights of patients, uint8 [P, b]."""
    at_once = _rows_at_once(len(patient))
    return np.concatenate(
        [
            np.array(statistic(np.ascontiguousarray(some.T).take(patient, axis=1).astype(float)))
            for some in np.split(block, range(at_once, block.shape[1], at_once), axis=1)
        ]
    )


def _rows_at_once(images: int) -> int:
    rows = max(_ROWS, _WEIGHTS // max(images, 1))
    return max(1, min(rows, _MOST_WEIGHTS // max(images, 1)))


def average(values: Sequence[Values]) -> Values:
    """Average a metric over k findings, row by row.

    Where a row leaves a few findings undefined, the others are averaged. With more than
    `_MOST_MISSING` of them missing it would be another average, and is undefined.

    Args:
        values: k arrays, float64 [1 + R + G] each.

    Returns:
        float64 [1 + R + G].
    """
    stacked = np.stack(values)
    known = np.count_nonzero(~np.isnan(stacked), axis=0)
    enough = known >= max((1 - _MOST_MISSING) * len(stacked), 1)
    total = np.nansum(stacked, axis=0)
    mean: Values = np.divide(total, known, out=np.full(len(total), np.nan), where=enough)
    return mean


def exact_share(share: float, patients: int) -> Interval:
    """Give the interval of a share of 0 or 1, of which all resamples are equal.

    Exact binomial (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404); each patient counts as
    one trial.
    """
    nearest = ((1 - LEVEL) / 2) ** (1 / patients)
    low, high = (nearest, 1.0) if share else (0.0, 1 - nearest)
    why = "all cases are equal: exact binomial interval over patients instead of resampling"
    return Interval(value=float(share), low=low, high=high, reason=why)


def _levels(bias: float, jackknife: Values) -> tuple[float, float] | None:
    """Give the quantiles of the resamples that BCa takes; None where the skewness is unknown."""
    jackknife = jackknife[~np.isnan(jackknife)]
    deviation = jackknife.mean() - jackknife if len(jackknife) else jackknife
    spread = float(np.sum(deviation**2))
    if not spread:
        return None
    acceleration = float(np.sum(deviation**3)) / (6 * spread**1.5)
    low, high = (bias + float(ndtri(tail)) for tail in TAILS)
    return (
        float(ndtr(bias + low / (1 - acceleration * low))),
        float(ndtr(bias + high / (1 - acceleration * high))),
    )


_ROUNDING: Final = 1e-12


def standard_error(draws: Draws, values: Values, patients: int) -> float | None:
    """Give the bootstrap standard error, corrected for few patients; None where there is none.

    Resamples in which the figure is undefined are left out.

    Args:
        draws: the resamples.
        values: float64 [1 + R + G], by arithmetic on what `draws.apply` gave.
        patients: k, of the smallest group of images behind the figure.
    """
    drawn = values[1 : 1 + draws.resamples]
    drawn = drawn[~np.isnan(drawn)]
    spread = float(np.std(drawn)) if len(drawn) else 0.0
    if spread < _ROUNDING or patients < 2:
        return None
    return spread * math.sqrt(patients / (patients - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values for their number; in the order given, at most 1."""
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p)[order] * factors), 1)
    return [float(value) for value in adjusted]
