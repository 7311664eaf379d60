"""Intervals against SciPy's bootstrap, a plain leave-one-out, and what they must refuse."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from scipy.stats._resampling import BootstrapResult

from chestxray.evaluation import bootstrap as intervals
from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.metrics import Column, auroc


def mean_of(x: np.ndarray):
    return lambda w: (w @ x) / np.where(w.sum(axis=1) > 0, w.sum(axis=1), np.nan)


def skewed(n: int = 60) -> np.ndarray:
    return np.random.default_rng(0).exponential(size=n)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_on_the_same_resamples_the_intervals_are_those_of_scipy(method: str) -> None:
    x = skewed()
    draws = Draws.of(np.arange(len(x)), 1000)
    values = draws.apply(mean_of(x))
    same = BootstrapResult(None, values[1:1001], math.nan)
    ends = stats.bootstrap((x,), np.mean, n_resamples=0, bootstrap_result=same, method=method)
    found = draws.interval(values)
    low, high = found.percentile if method == "percentile" else (found.low, found.high)
    assert (low, high) == pytest.approx(tuple(ends.confidence_interval), abs=1e-12)


def test_its_own_resamples_are_spread_as_scipys() -> None:
    x = skewed()
    draws = Draws.of(np.arange(len(x)), 4000)
    found = draws.interval(draws.apply(mean_of(x)))
    rng = np.random.default_rng(1)
    for method, ends in (("percentile", found.percentile), ("BCa", (found.low, found.high))):
        theirs = stats.bootstrap((x,), np.mean, n_resamples=4000, method=method, rng=rng)
        tolerance = 0.15 * theirs.standard_error  # three Monte Carlo errors of two such ends
        assert ends == pytest.approx(tuple(theirs.confidence_interval), abs=tolerance)


def test_the_jackknife_leaves_out_patients_one_by_one() -> None:
    rng = np.random.default_rng(2)
    patients = rng.integers(0, 20, 80)
    y, p = (rng.random(80) < 0.4).astype(float), rng.random(80)
    column, draws = Column(y, p), Draws.of(patients, 10)
    left_out = draws.apply(column.ranking, column.rows)[11:, 0]
    names = np.unique(patients)
    expected = [auroc(y[patients != name], p[patients != name]) for name in names]
    assert sorted(left_out) == pytest.approx(sorted(expected), abs=1e-12)


def test_many_patients_are_left_out_in_groups_and_every_one_once() -> None:
    draws = Draws.of(np.arange(1234), 3)
    groups = draws.counts[4:]
    assert len(groups) == intervals.GROUPS
    assert (groups.sum(axis=0) == len(groups) - 1).all()
    assert set(1234 - groups.sum(axis=1)) == {2, 3}


def test_a_resample_draws_as_many_patients_as_there_are_with_all_their_images() -> None:
    patients = np.array(["b", "a", "b", "c"])
    draws = Draws.of(patients, 500)
    weights = draws.apply(lambda w: w)
    assert weights.shape == (1 + 500 + 3, 4)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[1:501, 1:].sum(axis=1) == 3).all()
    assert weights[1:501, 1:].mean(axis=0) == pytest.approx([1, 1, 1], abs=0.15)


def test_the_seed_decides_the_resamples() -> None:
    patients = np.arange(50)
    same = Draws.of(patients, 20, seed=3), Draws.of(patients, 20, seed=3)
    assert np.array_equal(same[0].counts, same[1].counts)
    assert not np.array_equal(same[0].counts, Draws.of(patients, 20, seed=4).counts)


def test_a_statistic_of_some_images_gets_their_weights_in_the_order_asked_for() -> None:
    draws = Draws.of(np.array([3, 1, 2, 1]), 40)
    whole = draws.apply(lambda w: w)
    for rows in (np.array([2, 0]), np.array([1, 1, 3, 0, 1]), np.array([], dtype=int)):
        assert np.array_equal(draws.apply(lambda w: w, rows), whole[:, rows])
    kept = np.array([True, False, True, False])
    assert np.array_equal(draws.apply(lambda w: w, kept), whole[:, kept])


def test_few_weights_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, draws = skewed(), Draws.of(np.arange(60) // 2, 100)
    at_once = draws.apply(mean_of(x))
    monkeypatch.setattr(intervals, "_MOST_WEIGHTS", 150)
    sizes = set()
    again = draws.apply(lambda w: (sizes.add(len(w)), mean_of(x)(w))[1])
    assert sizes == {1, 2}
    assert again == pytest.approx(at_once, abs=1e-15)


def test_what_is_paired_stays_paired() -> None:
    x, draws = skewed(), Draws.of(np.arange(60), 200)
    one, other = draws.apply(mean_of(x)), draws.apply(mean_of(x + 0.25))
    assert other - one == pytest.approx(np.full(261, 0.25), abs=1e-12)


def test_an_interval_by_patient_is_as_wide_as_the_patients_are_few() -> None:
    per_patient = skewed(40)
    x, patients = np.repeat(per_patient, 25), np.repeat(np.arange(40), 25)
    by_patient, by_image = Draws.of(patients), Draws.of(np.arange(1000))
    wide, narrow = (of.interval(of.apply(mean_of(x))) for of in (by_patient, by_image))
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(5, rel=0.15)


def test_without_resamples_there_is_a_value_and_no_interval() -> None:
    draws = Draws.of(np.arange(5), 0)
    found = draws.interval(draws.apply(mean_of(np.arange(5.0))))
    assert found.entry() == {
        "value": 2.0,
        "low": None,
        "high": None,
        "percentile": {"low": None, "high": None},
        "reason": "no resamples were asked for",
    }


def test_a_single_patient_has_no_interval() -> None:
    draws = Draws.of(np.zeros(7), 50)
    found = draws.interval(draws.apply(mean_of(skewed(7))))
    assert math.isfinite(found.value)
    assert math.isnan(found.low)
    assert "single patient" in found.reason


def test_no_images_give_no_value() -> None:
    draws = Draws.of(np.array([], dtype=int), 10)
    found = draws.interval(draws.apply(mean_of(np.array([]))), "no images")
    assert found.entry()["value"] is None
    assert found.reason == "no images"


def test_an_undefined_value_carries_its_reason_and_no_interval() -> None:
    draws = Draws.of(np.arange(5), 50)
    found = draws.interval(np.full(56, np.nan), "no positives")
    assert found.entry()["reason"] == "no positives"
    assert math.isnan(found.low)


def test_values_that_never_vary_tell_nothing_of_their_error() -> None:
    draws = Draws.of(np.arange(5), 50)
    found = draws.interval(np.full(56, 1.0))
    assert found.value == 1
    assert math.isnan(found.low)
    assert "all resamples are alike" in found.reason


def test_where_leaving_out_patients_changes_nothing_the_percentile_interval_stands_in() -> None:
    draws = Draws.of(np.arange(5), 50)
    values = np.concatenate([[0.7], np.linspace(0.5, 0.9, 50), np.full(5, 0.7)])
    found = draws.interval(values)
    assert (found.low, found.high) == found.percentile
    assert found.reason == intervals.NO_ACCELERATION


def test_a_value_that_resampling_always_lowers_has_no_interval() -> None:
    draws = Draws.of(np.arange(5), 50)
    values = np.concatenate([[1.0], np.linspace(0.5, 0.9, 50), np.linspace(0.9, 1, 5)])
    found = draws.interval(values).entry()
    assert found["low"] is None
    assert found["reason"] == intervals.MOVED
    assert found["percentile"]["high"] == pytest.approx(0.89)


def test_what_resampling_moves_by_over_half_its_error_has_no_interval() -> None:
    draws = Draws.of(np.arange(5), 99)
    resampled = np.linspace(0.0, 1.0, 99)
    for share, has_one in ((0.5, True), (0.35, True), (0.28, False), (0.72, False)):
        found = draws.interval(np.concatenate([[share], resampled, np.linspace(0.4, 0.6, 5)]))
        assert math.isfinite(found.low) == has_one
        assert found.reason == ("" if has_one else intervals.MOVED)
        assert found.percentile == pytest.approx((0.025, 0.975))


def test_an_average_is_over_nearly_all_findings_or_undefined() -> None:
    values = np.tile(np.arange(10.0)[:, None], (1, 3))
    values[0, 1] = values[:2, 2] = np.nan
    averages = intervals.average(list(values))
    assert averages[:2] == pytest.approx([4.5, 5.0])
    assert np.isnan(averages[2])


def test_a_few_undefined_resamples_are_left_out_and_many_leave_no_interval() -> None:
    draws = Draws.of(np.arange(100), 200)
    values = draws.apply(mean_of(skewed(100)))
    plain = draws.interval(values)
    values[1:3] = np.nan
    values[205:210] = np.nan
    found = draws.interval(values)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), rel=0.03)
    values[3] = np.nan
    refused = draws.interval(values)
    assert math.isnan(refused.low)
    assert "2% of the resamples" in refused.reason


def test_all_of_nih_chest_x_ray14_fits_into_200_mb() -> None:
    rng = np.random.default_rng(0)
    patients = np.append(np.arange(30_805), rng.integers(0, 30_805, 112_120 - 30_805))
    tracemalloc.start()
    try:
        draws = Draws.of(patients)
        draws.apply(lambda w: w[:, 0])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200e6
