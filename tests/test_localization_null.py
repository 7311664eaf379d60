"""How often heatmaps that hit as often as a baseline are called better, on simulated studies.

A patient has one to three cases, whose regions are equally easy to hit: by chance `ease`, for the
heatmap and for the baseline alike. The claim is one-sided, by the lower end of a 95 % interval, so
it may be wrong in 2.5 % of studies.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.localization import hits_above


def claims(
    studies: int, patients: int, ease: float, gain: float = 0.0, resamples: int = 200
) -> dict[str, float]:
    """Give the share of studies that call the heatmaps better, by the baseline and the rule."""
    rng = np.random.default_rng(patients)
    found = dict.fromkeys(("random", "centre", "centre by its value"), 0)
    for seed in range(studies):
        patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
        chance = rng.beta(4 * ease, 4 * (1 - ease), patients)[patient]
        hit = (rng.random(len(patient)) < np.clip(chance + gain, 0, 1)).astype(float)
        centre = (rng.random(len(patient)) < chance).astype(float)
        for name, baseline in (("random", chance), ("centre", centre)):
            low = hits_above(hit, baseline, patient, resamples, seed).low
            found[name] += low is not None and low > 0
        draws = Draws.of(patient, resamples, seed)
        shares = draws.apply(lambda w, hit=hit: (w @ hit) / w.sum(axis=1))
        low = draws.interval(shares).low
        found["centre by its value"] += low is not None and low > centre.mean()
    return {name: count / studies for name, count in found.items()}


def test_equal_hits_are_called_better_in_at_most_2_and_a_half_percent_of_studies() -> None:
    found = claims(120, 40, 0.3, resamples=150)
    most = 0.025 + 3 * math.sqrt(0.025 * 0.975 / 120)
    assert found["random"] < most, found
    assert found["centre"] < most, found


def test_a_heatmap_that_hits_more_often_is_found() -> None:
    found = claims(20, 60, 0.2, gain=0.3, resamples=150)
    assert min(found["random"], found["centre"]) > 0.9, found


def test_few_patients_support_no_claim() -> None:
    certain = hits_above(np.ones(4), np.zeros(4), np.arange(4))
    assert (certain.value, certain.low) == (1, None)
    assert certain.reason == "only 4 patients: a test needs at least 5"


@pytest.mark.parametrize("cases", [5, 6, 20])
def test_hits_where_the_baseline_always_misses_are_a_sign_test(cases: int) -> None:
    found = hits_above(np.ones(cases), np.zeros(cases), np.arange(cases))
    low = 2 * binomtest(cases, cases).proportion_ci(method="exact").low - 1
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(low)
    assert (low > 0) == (0.5**cases < 0.025)
    turned = hits_above(np.zeros(cases), np.ones(cases), np.arange(cases))
    assert (turned.low, turned.high) == (-1, pytest.approx(-low))


def test_all_hits_beside_a_random_point_are_an_exact_binomial_share() -> None:
    chance = np.linspace(0.1, 0.5, 9)
    found = hits_above(np.ones(9), chance, np.arange(9))
    exact = binomtest(9, 9).proportion_ci(method="exact")
    assert found.low == pytest.approx(exact.low - 0.3)
    assert found.high == pytest.approx(0.7)


def test_a_baseline_that_hits_the_same_cases_is_not_beaten() -> None:
    hit = np.tile([1.0, 0.0], 10)
    for of in (hit, np.ones(20), np.zeros(20)):
        same = hits_above(of, of, np.arange(20))
        assert (same.value, same.low) == (0, None)


def test_cases_without_the_baseline_are_left_out() -> None:
    hit, patients = np.tile([1.0, 1.0, 0.0], 10), np.arange(30)
    baseline = np.tile([0.0, 1.0, 0.0], 10)
    whole = hits_above(hit, baseline, patients)
    more = hits_above(np.append(hit, 1.0), np.append(baseline, np.nan), np.append(patients, 30))
    assert more == whole
    none = hits_above(hit, np.full(30, np.nan), patients)
    assert (none.value, none.reason) == (None, "no case has this baseline")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("patients", "ease"), [(10, 0.3), (40, 0.1), (40, 0.3), (150, 0.3)])
def test_claims_are_false_in_at_most_2_and_a_half_percent_of_600_studies(
    patients: int, ease: float
) -> None:
    found = claims(600, patients, ease)
    print(patients, ease, found)
    assert max(found["random"], found["centre"]) <= 0.045
