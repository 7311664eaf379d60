"""Metrics of millions of images: those of `weighted_counts`, from the weights of patients."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from chestxray.evaluation import blockwise, bootstrap
from chestxray.evaluation.bootstrap import TAILS, Draws
from chestxray.evaluation.curves import GRID, bands, heights_at
from chestxray.evaluation.metrics import resampled, resampled_calls, score_metrics
from chestxray.evaluation.poisson_weights import LANES, MOST, poisson_weights
from chestxray.evaluation.weighted_counts import Column


def images(n: int = 1500, patients: int = 400, prevalence: float = 0.1, digits: int = 3):
    """Labels, probabilities of few digits, so some are tied, and patients."""
    rng = np.random.default_rng(n + patients)
    y = (rng.random(n) < prevalence).astype(float)
    y[rng.random(n) < 0.05] = math.nan
    p = expit(rng.normal(-2, 1.5, n) + np.nan_to_num(y)).round(digits)
    return y, p, rng.integers(0, patients, n)


def by_blocks(draws: Draws, monkeypatch: pytest.MonkeyPatch) -> Draws:
    """Let images share the weights of their patients from now on."""
    monkeypatch.setattr(bootstrap, "MOST_EXPANDED", 0)
    assert not draws.expanded
    return draws


@pytest.mark.parametrize(
    ("prevalence", "digits"), [(0.1, 3), (0.1, 17), (0.9, 1), (0.004, 17), (0.5, 0)]
)
def test_every_metric_by_blocks_is_that_of_a_weight_for_each_image(
    prevalence: float, digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, p, patients = images(prevalence=prevalence, digits=digits)
    column, draws = Column(y, p), Draws.of(patients, 150)
    expected = resampled(column, draws, score_metrics())
    calls = resampled_calls(column, draws, 0.2)
    by_blocks(draws, monkeypatch)
    found = resampled(column, draws, score_metrics())
    for name, values in expected.items():
        assert np.allclose(found[name], values, rtol=1e-12, atol=1e-12, equal_nan=True), name
    assert np.array_equal(found["auroc"], expected["auroc"], equal_nan=True), "whole numbers"
    assert np.array_equal(resampled_calls(column, draws, 0.2), calls)


@pytest.mark.parametrize(("prevalence", "digits"), [(0.3, 3), (0.6, 1), (0.004, 17), (0.9, 17)])
def test_the_bands_of_both_curves_by_blocks_are_those_of_a_weight_for_each_image(
    prevalence: float, digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, p, patients = images(prevalence=prevalence, digits=digits)
    column, draws = Column(y, p), Draws.of(patients, 100)
    expected = draws.apply(lambda w: heights_at(column, w, GRID), column.rows)
    blocked = blockwise.Blocked(column, draws, (), terms=False)
    found = draws.by_blocks([lambda w: blocked.under(w).heights(GRID)])[0]
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-12, equal_nan=True)
    by_blocks(draws, monkeypatch)
    assert all(
        np.allclose(one, other, atol=1e-12)
        for one, other in zip(
            bands(column, draws), np.quantile(drawn_of(expected, draws), TAILS, axis=0)
            .reshape(2, 2, -1).swapaxes(0, 1), strict=True,
        )
    )  # fmt: skip


def drawn_of(values: np.ndarray, draws: Draws) -> np.ndarray:
    drawn = values[1 : 1 + draws.resamples]
    return drawn[~np.isnan(drawn).any(axis=1)]


@pytest.mark.parametrize("weight_limit", [4, 40])
def test_sums_over_more_images_than_a_byte_can_count_are_cut_and_added_up(
    weight_limit: int,
) -> None:
    """Two positives among 3,000 negatives of 3 patients: a step passes hundreds of images."""
    rng = np.random.default_rng(1)
    y, p = np.zeros(3000), rng.random(3000)
    y[[100, 2000]] = 1
    column, draws = Column(y, p), Draws.of(np.arange(3000) % 3, 20)
    expected = draws.apply(lambda w: heights_at(column, w, GRID), column.rows)
    draws = dataclasses.replace(draws, kept=draws.kept * weight_limit)
    blocked = blockwise.Blocked(column, draws, ("lost",), terms=False)
    found = draws.by_blocks([lambda w: blocked.under(w).heights(GRID)])[0]
    assert np.allclose(found, expected, atol=1e-12, equal_nan=True), "shares do not change"


def test_weights_are_poisson_with_mean_and_variance_1_and_independent() -> None:
    weights = np.empty((20_000, LANES), dtype=np.uint8)
    poisson_weights(7, 3, weights)
    counts = np.bincount(weights.ravel(), minlength=MOST + 1)
    expected = stats.poisson.pmf(np.arange(MOST + 1), 1) * weights.size
    assert len(counts) == MOST + 1
    kept = expected > 50
    shares = expected[kept] / expected[kept].sum() * counts[kept].sum()
    assert stats.chisquare(counts[kept], shares).pvalue > 1e-3
    assert weights.mean() == pytest.approx(1, abs=0.003)
    assert weights.var() == pytest.approx(1, abs=0.005)
    between = np.corrcoef(weights[:, :8].T.astype(float))[np.triu_indices(8, 1)]
    assert np.abs(between).max() < 4 / math.sqrt(len(weights))


def test_a_weight_depends_on_seed_resample_and_patient_alone(monkeypatch) -> None:
    """Not on the number of resamples or patients, nor on what was drawn before."""
    monkeypatch.setattr(bootstrap, "MOST_STORED", 0)
    few, many = Draws.of(np.arange(300), 20, seed=5), Draws.of(np.arange(2000), 200, seed=5)
    assert few.kept is None
    assert np.array_equal(few.counts[1:21], many.counts[1:21, :300])
    assert np.array_equal(many.counts, many.counts), "drawn again"
    other = Draws.of(np.arange(300), 20, seed=6)
    assert (other.counts[1:21] != few.counts[1:21]).mean() > 0.5
    assert (few.counts[0] == 1).all()
    assert (few.counts[21:].sum(axis=0) == few.groups - 1).all(), "each is left out once"


def test_poisson_weights_give_the_intervals_of_multinomial_ones(monkeypatch) -> None:
    y, p, patients = images(3000, 1500)
    column = Column(y, p)
    stored = Draws.of(patients, 1000)
    monkeypatch.setattr(bootstrap, "MOST_STORED", 0)
    drawn = by_blocks(Draws.of(patients, 1000), monkeypatch)
    one, other = (
        draws.interval(resampled(column, draws, ("auroc",))["auroc"]) for draws in (stored, drawn)
    )
    assert one.value == other.value
    error = (one.high - one.low) / 3.92
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.2 * error)


def test_the_weights_of_few_patients_are_what_they_always_were() -> None:
    """The first resamples of seed 0, as version 0.1 drew them."""
    draws = Draws.of(np.arange(6), 3)
    rng = np.random.default_rng(0)
    expected = [np.bincount(rng.integers(6, size=6), minlength=6) for _ in range(3)]
    assert np.array_equal(draws.counts[1:4], expected)


def test_a_statistic_of_images_can_be_had_from_weights_that_are_not_kept(monkeypatch) -> None:
    x, patients = np.arange(500.0), np.arange(500) // 3
    monkeypatch.setattr(bootstrap, "MOST_STORED", 0)
    draws = Draws.of(patients, 30)
    means = draws.apply(lambda w: w @ x / w.sum(axis=1))
    weights = draws.counts[:, patients]
    assert np.allclose(means, weights @ x / weights.sum(axis=1), rtol=1e-12)
