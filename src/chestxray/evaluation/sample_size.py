"""How many patients a study needs for an AUROC, or a difference, with an interval of given width.

The variance of an AUROC with n₁ positives and n₀ negatives is (Hanley and McNeil 1982,
doi:10.1148/radiology.143.1.7063747, equation 1)

    [A(1 - A) + (n₁ - 1)(Q₁ - A²) + (n₀ - 1)(Q₂ - A²)] / (n₁ n₀)

where Q₁ is the chance that two positives exceed one negative, and Q₂ that one positive exceeds two
negatives. Scores are taken to be normal with equal variances (the binormal model, Obuchowski and
McClish 1997, Statistics in Medicine 16:1529), so that Q₁ = Q₂ is a bivariate normal probability.
Hanley and McNeil's exponential scores ask for half as many images more at an AUROC of 0.8 where
positives are rare.

Images of one patient resemble each other, so n images count as n divided by the design effect
1 + (m + s²/m - 1) ρ, with m images a patient, their standard deviation s, and the correlation ρ of
a patient's scores (Eldridge 2006, doi:10.1093/ije/dyl129). This is right where all images of a
patient have the same label. Where a patient has images with and without the finding, what they
share cancels out, and the plan is on the safe side.

The difference of two AUROCs on the same images has the variance V_A + V_B - 2 r √(V_A V_B), with r
the correlation of the two estimates (Hanley and McNeil 1983,
doi:10.1148/radiology.148.3.6878708).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from pydantic import Field
from scipy.special import ndtr, ndtri, owens_t

from chestxray.errors import ConfigError
from chestxray.evaluation.bootstrap import LEVEL, is_none
from chestxray.evaluation.result_details import Model
from chestxray.evaluation.signed_numbers import signed

POWER: Final = 0.8
_LEAST: Final = 10  # positives, and negatives: with fewer the normal interval does not hold


class SampleSize(Model):
    """A number of patients and what it gives.

    Attributes:
        patients, images, positives: needed; positives are images with the finding.
        width: of the expected interval of the AUROC, or of the difference.
        low, high: the expected interval.
        detectable: for a difference, the smallest true one that is found with a power of 80 %.
        design_effect: factor on the number of images, since those of a patient are correlated.
        sentence: the same in words.
    """

    patients: int
    images: int
    positives: int
    width: float
    low: float
    high: float
    detectable: float | None = Field(default=None, exclude_if=is_none)
    design_effect: float
    sentence: str


def plan(  # noqa: PLR0913 - the options of one command
    auroc: float,
    prevalence: float,
    width: float,
    *,
    images_per_patient: float = 1.0,
    images_sd: float = 0.0,
    correlation: float = 0.5,
    second_auroc: float | None = None,
    model_correlation: float = 0.5,
    level: float = LEVEL,
) -> SampleSize:
    """Give the number of patients for which the expected interval is no wider than wanted.

    Args:
        auroc: expected, from 0.5 to below 1.
        prevalence: share of the images with the finding, between 0 and 1.
        width: wanted, from one end of the interval to the other, between 0 and 1.
        images_per_patient: mean number, at least 1.
        images_sd: standard deviation of that number, at least 0.
        correlation: of the scores of a patient's images, 0 to 1.
        second_auroc: expected of a second model on the same images; `width` is then that of the
            difference.
        model_correlation: of the two estimated AUROCs, from 0 to below 1.
        level: confidence level of the interval, between 0 and 1.

    Raises:
        ConfigError: a value outside its range.
    """
    aurocs = [auroc] if second_auroc is None else [auroc, second_auroc]
    _check_all(aurocs, prevalence, width, level, images_per_patient, images_sd, correlation)
    if not 0 <= model_correlation < 1:
        raise _refused("correlation of the models", model_correlation, "from 0 to below 1")
    effect = 1 + (images_per_patient + images_sd**2 / images_per_patient - 1) * correlation
    z = float(ndtri((1 + level) / 2))

    def error(patients: int) -> float:
        images = patients * images_per_patient / effect
        return standard_error(
            aurocs, images * prevalence, images * (1 - prevalence), model_correlation
        )

    rarer = min(prevalence, 1 - prevalence) * images_per_patient / effect
    patients = _smallest(lambda count: 2 * z * error(count) <= width, math.ceil(_LEAST / rarer))
    half, value = z * error(patients), aurocs[-1] - (0 if second_auroc is None else auroc)
    images = round(patients * images_per_patient)
    size = SampleSize(
        patients=patients,
        images=images,
        positives=round(images * prevalence),
        width=2 * half,
        low=max(value - half, -1.0),
        high=min(value + half, 1.0),
        detectable=None if second_auroc is None else (z + float(ndtri(POWER))) * error(patients),
        design_effect=effect,
        sentence="",
    )
    return size.model_copy(update={"sentence": _sentence(size, aurocs, level)})


def standard_error(
    aurocs: Sequence[float], positives: float, negatives: float, model_correlation: float
) -> float:
    """Give the standard error of one AUROC, or of the difference of two on the same images.

    Args:
        aurocs: one or two.
        positives: independent images with the finding, at least 1; need not be whole.
        negatives: the same without it.
        model_correlation: of two estimated AUROCs.
    """
    first, *others = (_variance(auroc, positives, negatives) for auroc in aurocs)
    if not others:
        return math.sqrt(first)
    (second,) = others
    return math.sqrt(first + second - 2 * model_correlation * math.sqrt(first * second))


def _variance(auroc: float, positives: float, negatives: float) -> float:
    """Give the variance of an AUROC, with binormal scores of equal variances."""
    both = _wins_twice(auroc) - auroc**2
    return (auroc * (1 - auroc) + (positives + negatives - 2) * both) / (positives * negatives)


def _wins_twice(auroc: float) -> float:
    """Give Q₁ = Q₂: both of two differences that share an image are above 0.

    The differences have a correlation of 1/2. Their bivariate normal probability is that of one
    minus twice Owen's T (Owen 1956, Annals of Mathematical Statistics 27:1075).
    """
    z = float(ndtri(auroc))
    return float(ndtr(z) - 2 * owens_t(z, 1 / math.sqrt(3)))


def _smallest(enough: Callable[[int], bool], least: int) -> int:
    """Find the smallest number from `least` on that is enough; every greater one must be, too."""
    high = least
    while not enough(high):
        high *= 2
    low = max(high // 2, least - 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check_all(
    aurocs: Sequence[float],
    prevalence: float,
    width: float,
    level: float,
    images_per_patient: float,
    images_sd: float,
    correlation: float,
) -> None:
    for auroc in aurocs:
        if not 0.5 <= auroc < 1:
            raise _refused("AUROC", auroc, "from 0.5 to below 1")
    for name, value in (("prevalence", prevalence), ("width", width), ("level", level)):
        if not 0 < value < 1:
            raise _refused(name, value, "between 0 and 1")
    if not 1 <= images_per_patient < math.inf:
        raise _refused("number of images per patient", images_per_patient, "at least 1")
    if not 0 <= images_sd < math.inf:
        raise _refused("standard deviation of the images per patient", images_sd, "at least 0")
    if not 0 <= correlation <= 1:
        raise _refused("correlation of a patient's images", correlation, "from 0 to 1")


def _refused(name: str, value: float, allowed: str) -> ConfigError:
    return ConfigError(f"the {name} cannot be {value:g}: give a number {allowed}")


def _sentence(size: SampleSize, aurocs: Sequence[float], level: float) -> str:
    """Say what the patients give."""
    start = (
        f"{size.patients:,} patients with {size.images:,} images, {size.positives:,} of them with "
        f"the finding, give an expected {100 * level:g} % interval of "
    )
    if size.detectable is None:
        return f"{start}{size.low:.3f} to {size.high:.3f} around an AUROC of {aurocs[0]:.3f}."
    return (
        f"{start}{signed(size.low)} to {signed(size.high)} around a difference of "
        f"{signed(aurocs[1] - aurocs[0])}. A true difference of {size.detectable:.3f} is found "
        f"with a power of {POWER:.0%}."
    )
