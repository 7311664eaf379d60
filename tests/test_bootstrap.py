"""Intervals and p-values against SciPy, a plain leave-one-out, and what they must refuse."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats._resampling import BootstrapResult

from chestxray.evaluation import bootstrap as intervals
from chestxray.evaluation.bootstrap import Draws, holm
from chestxray.evaluation.metrics import resampled, value
from chestxray.evaluation.significance import Significance
from chestxray.evaluation.weighted_counts import Column


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
    ends_of = found.percentile if method == "percentile" else found
    low, high = ends_of.low, ends_of.high
    assert (low, high) == pytest.approx(tuple(ends.confidence_interval), abs=1e-12)


def test_its_own_resamples_are_spread_as_scipys() -> None:
    x = skewed()
    draws = Draws.of(np.arange(len(x)), 4000)
    found = draws.interval(draws.apply(mean_of(x)))
    rng = np.random.default_rng(1)
    for method, of in (("percentile", found.percentile), ("BCa", found)):
        theirs = stats.bootstrap((x,), np.mean, n_resamples=4000, method=method, rng=rng)
        tolerance = 0.15 * theirs.standard_error  # three Monte Carlo errors of two such ends
        assert (of.low, of.high) == pytest.approx(tuple(theirs.confidence_interval), abs=tolerance)


def test_the_jackknife_leaves_out_patients_one_by_one() -> None:
    rng = np.random.default_rng(2)
    patients = rng.integers(0, 20, 80)
    y, p = (rng.random(80) < 0.4).astype(float), rng.random(80)
    column, draws = Column(y, p), Draws.of(patients, 10)
    left_out = resampled(column, draws, ("auroc",))["auroc"][11:]
    names = np.unique(patients)
    expected = [value("auroc", y[patients != name], p[patients != name]) for name in names]
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
    assert found.model_dump(mode="json") == {
        "value": 2.0,
        "low": None,
        "high": None,
        "percentile": {"low": None, "high": None},
        "reason": "no resamples were requested",
    }


def test_a_single_patient_has_no_interval() -> None:
    draws = Draws.of(np.zeros(7), 50)
    found = draws.interval(draws.apply(mean_of(skewed(7))))
    assert math.isfinite(found.value)
    assert found.low is None
    assert "only 1 patient" in found.reason


def test_no_images_give_no_value() -> None:
    draws = Draws.of(np.array([], dtype=int), 10)
    found = draws.interval(draws.apply(mean_of(np.array([]))), "no images")
    assert found.value is None
    assert found.reason == "no images"


def test_an_undefined_value_carries_its_reason_and_no_interval() -> None:
    draws = Draws.of(np.arange(5), 50)
    found = draws.interval(np.full(56, np.nan), "no positives")
    assert found.reason == "no positives"
    assert found.low is None


def test_values_that_never_vary_tell_nothing_of_their_error() -> None:
    draws = Draws.of(np.arange(5), 50)
    found = draws.interval(np.full(56, 1.0))
    assert found.value == 1
    assert found.low is None
    assert "all resamples give the same value" in found.reason


def test_where_leaving_out_patients_changes_nothing_the_percentile_interval_stands_in() -> None:
    draws = Draws.of(np.arange(5), 50)
    values = np.concatenate([[0.7], np.linspace(0.5, 0.9, 50), np.full(5, 0.7)])
    found = draws.interval(values)
    assert (found.low, found.high) == (found.percentile.low, found.percentile.high)
    assert found.reason == intervals.NO_ACCELERATION


def test_a_value_that_resampling_always_lowers_has_no_interval() -> None:
    draws = Draws.of(np.arange(5), 50)
    values = np.concatenate([[1.0], np.linspace(0.5, 0.9, 50), np.linspace(0.9, 1, 5)])
    found = draws.interval(values).model_dump(mode="json")
    assert found["low"] is None
    assert found["reason"] == intervals.MOVED
    assert found["percentile"]["high"] == pytest.approx(0.89)


def test_what_resampling_moves_by_over_half_its_error_has_no_interval() -> None:
    draws = Draws.of(np.arange(5), 99)
    resampled = np.linspace(0.0, 1.0, 99)
    for share, has_one in ((0.5, True), (0.35, True), (0.28, False), (0.72, False)):
        found = draws.interval(np.concatenate([[share], resampled, np.linspace(0.4, 0.6, 5)]))
        assert (found.low is not None) == has_one
        assert found.reason == (None if has_one else intervals.MOVED)
        percentile = (found.percentile.low, found.percentile.high)
        assert percentile == pytest.approx((0.025, 0.975))


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
    assert refused.low is None
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


def test_holm_gives_the_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_rejects_what_stepping_down_rejects(p: list[float]) -> None:
    rejected = set()
    for passed, place in enumerate(np.argsort(p, kind="stable")):
        if p[place] * (len(p) - passed) > 0.05:
            break
        rejected.add(int(place))
    assert {place for place, adjusted in enumerate(holm(p)) if adjusted <= 0.05} == rejected


@pytest.mark.parametrize("patients", [6, 12, 200])
def test_for_a_mean_it_is_the_t_test(patients: int) -> None:
    values = np.random.default_rng(patients).normal(size=patients) + 2 / patients**0.5
    draws = Draws.of(np.arange(patients), resamples=20_000)
    mean = draws.apply(lambda w: w @ values / w.sum(axis=1))
    assert Significance.of(draws, mean, patients).p == pytest.approx(
        stats.ttest_1samp(values, 0).pvalue, rel=0.1
    )


def test_what_has_no_spread_or_no_value_has_no_p() -> None:
    draws = Draws.of(np.arange(50), resamples=20)
    same = draws.apply(lambda w: np.full(len(w), 0.3))
    assert Significance.of(draws, same, 50).p is None
    assert Significance.of(draws, same * np.nan, 50).p is None
