"""Calibration slope, intercept and error against independent formulas and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from chestxray.evaluation.logistic_regression import log_odds
from chestxray.evaluation.metrics import value
from chestxray.evaluation.weighted_counts import equal_mass_bins

PROBABILITIES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
TABLES = st.lists(st.tuples(st.booleans(), PROBABILITIES), max_size=60)


def drawn(n: int, seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that are miscalibrated by slope 0.7 and intercept -0.5."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-1, 1.5, n)
    x = x.round() if ties else x
    return (rng.random(n) < expit(0.7 * x - 0.5)).astype(float), expit(x)


@settings(deadline=None)
@given(TABLES)
def test_images_of_one_probability_share_a_bin_that_the_middle_of_their_mass_lies_in(
    table: list[tuple[bool, float]],
) -> None:
    p = np.array([value for _, value in table])
    bins = equal_mass_bins(p)
    for own, of in zip(p, bins, strict=True):
        below, upto = np.sum(p < own), np.sum(p <= own)
        assert of == (below + upto) * 10 // (2 * len(p))
    assert len(bins) == len(p)


def test_without_ties_the_bins_hold_a_tenth_each() -> None:
    p = np.random.default_rng(0).permutation(1000) / 1000
    assert np.bincount(equal_mass_bins(p)).tolist() == [100] * 10
    assert np.array_equal(equal_mass_bins(p), (p * 10).astype(int))


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_the_weighted_gap_of_ten_equal_slices(seed: int) -> None:
    y, p = drawn(1000, seed, ties=False)
    slices = np.array_split(np.argsort(p), 10)
    expected = np.mean([abs(y[part].mean() - p[part].mean()) for part in slices])
    assert value("ece", y, p) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(TABLES)
def test_the_calibration_error_is_no_less_than_the_gap_of_the_means_and_no_more_than_of_images(
    table: list[tuple[bool, float]],
) -> None:
    y, p = np.array([float(y) for y, _ in table]), np.array([p for _, p in table])
    if not table:
        assert math.isnan(value("ece", y, p))
        return
    error = value("ece", y, p)
    assert abs(y.mean() - p.mean()) - 1e-12 <= error <= np.abs(y - p).mean() + 1e-12


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [12, 200, 5000])
def test_slope_and_intercept_agree_with_statsmodels(n: int, ties: bool) -> None:
    y, p = drawn(n, 3, ties)
    x, binomial = logit(p), sm.families.Binomial()
    slope = sm.GLM(y, sm.add_constant(x), binomial).fit(tol=1e-15, maxiter=200).params[1]
    intercept = sm.GLM(y, np.ones(n), binomial, offset=x).fit(tol=1e-15, maxiter=200).params[0]
    assert value("calibration_slope", y, p) == pytest.approx(slope, abs=1e-12, rel=1e-12)
    assert value("calibration_intercept", y, p) == pytest.approx(intercept, abs=1e-12, rel=1e-12)


@settings(deadline=None)
@given(TABLES)
def test_slope_and_intercept_exist_where_the_likelihood_has_a_maximum_and_nowhere_else(
    table: list[tuple[bool, float]],
) -> None:
    y, p = np.array([float(y) for y, _ in table]), np.array([p for _, p in table])
    x = log_odds(p)
    slope, intercept = value("calibration_slope", y, p), value("calibration_intercept", y, p)
    sick, well = x[y == 1], x[y == 0]
    two_sided = len(sick) > 0 and len(well) > 0
    overlapping = two_sided and sick.min() < well.max() and well.min() < sick.max()
    assert math.isnan(intercept) != two_sided
    assert math.isnan(slope) != overlapping
    if two_sided:  # the likelihood's slope is 0: as many positives expected as there are
        assert expit(intercept + x).sum() == pytest.approx(len(sick), abs=1e-9)


def test_the_fits_do_not_run_away_from_probabilities_far_from_the_truth() -> None:
    y = np.array([1.0, 0, 1, 0, 1, 0])
    assert value("calibration_intercept", y, np.full(6, 1e-12)) == pytest.approx(-logit(1e-12))
    assert value("calibration_slope", y, np.array([0, 0, 1, 1, 0.5, 0.5])) == pytest.approx(0)
    p = np.array([1e-300, 1e-9, 0.2, 0.3, 1.0, 1.0])
    assert 0 < value("calibration_slope", np.array([0.0, 1, 0, 1, 1, 1]), p) < 1


def test_probabilities_that_mean_what_they_say_have_slope_1_and_intercept_0() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.01, 0.6, 200_000)
    y = (rng.random(len(p)) < p).astype(float)
    assert value("calibration_slope", y, p) == pytest.approx(1, abs=0.02)
    assert value("calibration_intercept", y, p) == pytest.approx(0, abs=0.02)
    assert value("ece", y, p) < 0.006
    too_high = expit(logit(p) + 1)
    assert value("calibration_intercept", y, too_high) == pytest.approx(-1, abs=0.02)
    too_bold = expit(2 * logit(p))
    assert value("calibration_slope", y, too_bold) == pytest.approx(0.5, abs=0.01)
