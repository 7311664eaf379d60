"""Do 95 % intervals hold the truth in 95 % of studies? Counted on simulated ones.

A study has patients with one to ten images. A patient's images share a tendency to be positive and,
apart from it, a level of the score, so both are strongly correlated within patients. Between images
of different patients the score of a positive exceeds that of a negative by a normal variable of
known mean and variance, so the AUROC that studies estimate is known: Φ(shift / √(2 variance)).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr

from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.delong import delong
from chestxray.evaluation.metrics import resampled, value
from chestxray.evaluation.weighted_counts import Column

PATIENTS, SHIFT, BETWEEN, WITHIN = 200, 1.2, 1.0, 0.5
TRUTH = float(ndtr(SHIFT / math.sqrt(2 * (BETWEEN**2 + WITHIN**2))))
METHODS = ("percentile", "bca", "delong", "percentile by image", "delong by image")


def study(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw labels, scores and patients, float [n]."""
    patients = np.repeat(np.arange(PATIENTS), rng.integers(1, 11, PATIENTS))
    tendency = rng.normal(size=PATIENTS)[patients] + 0.5 * rng.normal(size=len(patients))
    y = (tendency > 0.9).astype(float)
    level = BETWEEN * rng.normal(size=PATIENTS)[patients]
    return y, SHIFT * y + level + WITHIN * rng.normal(size=len(patients)), patients


def coverages(studies: int, resamples: int, seed: int) -> dict[str, float]:
    """Give the share of studies in which each interval holds the truth."""
    rng = np.random.default_rng(seed)
    held = dict.fromkeys(METHODS, 0)
    for number in range(studies):
        y, score, patients = study(rng)
        column = Column(y, score)
        by_patient, by_image = (
            draws.interval(resampled(column, draws, ("auroc",))["auroc"])
            for draws in (
                Draws.of(patients, resamples, number),
                Draws.of(np.arange(len(y)), resamples, number),
            )
        )
        ends = (
            (by_patient.percentile.low, by_patient.percentile.high),
            (by_patient.low, by_patient.high),
            delong(y, score, patients).interval,
            (by_image.percentile.low, by_image.percentile.high),
            delong(y, score).interval,
        )
        for method, (low, high) in zip(METHODS, ends, strict=True):
            held[method] += low <= TRUTH <= high
    return {method: count / studies for method, count in held.items()}


def test_the_truth_is_what_a_huge_study_finds() -> None:
    rng = np.random.default_rng(0)
    y, score, _ = (np.concatenate(of) for of in zip(*(study(rng) for _ in range(300)), strict=True))
    assert value("auroc", y, score) == pytest.approx(TRUTH, abs=0.005)


def test_intervals_by_patient_hold_the_truth_and_those_by_image_miss_it() -> None:
    found = coverages(studies=150, resamples=300, seed=1)
    error = math.sqrt(0.95 * 0.05 / 150)
    for method in METHODS[:3]:
        assert abs(found[method] - 0.95) < 3 * error, found
    for method in METHODS[3:]:
        assert found[method] < 0.88, found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_coverage_is_93_to_97_percent_by_patient_over_1000_studies() -> None:
    found = coverages(studies=1000, resamples=1000, seed=2)
    for method in METHODS[:3]:
        assert 0.93 <= found[method] <= 0.97, found
    for method in METHODS[3:]:
        assert found[method] < 0.85, found
