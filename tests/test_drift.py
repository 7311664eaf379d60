"""Drift: what moved is found, chance is not taken for it, and patients count once."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from chestxray.evaluation.drift import (
    Distribution,
    effective_size,
    first_of_each,
    share_shift,
    shift,
    wilson,
)

PATIENTS = np.arange(800)


def reference(values: np.ndarray) -> Distribution:
    return Distribution.of(values, np.arange(len(values)))


def test_percentiles_are_those_of_numpy_where_each_patient_has_one_image() -> None:
    values = np.random.default_rng(0).gamma(2, size=801)
    found = reference(values).quantiles
    np.testing.assert_allclose(found, np.percentile(values, np.arange(101)), rtol=1e-4)


def test_a_patient_with_many_images_weighs_as_much_as_any_other() -> None:
    values = np.r_[np.zeros(500), np.arange(1.0, 10.0)]
    patients = np.r_[np.zeros(500), np.arange(1, 10)]
    found = Distribution.of(values, patients)
    assert found.patients == 10
    below, up_to = found.cumulative(np.array([5.0]))
    assert 0.45 < (below[0] + up_to[0]) / 2 < 0.65
    assert Distribution.of(values, np.arange(509)).cumulative(np.array([0.5]))[0][0] > 0.95


def test_one_image_is_a_distribution() -> None:
    found = Distribution.of(np.array([0.3]), np.array(["a"]))
    assert found.quantiles == (0.3,) * 101
    assert shift(found, np.array([0.3]), 0.05).distance == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_is_that_of_kolmogorov_and_smirnov(seed: int) -> None:
    draws = np.random.default_rng(seed)
    before, after = draws.normal(size=2000), draws.normal(0.1 * seed, 1, size=300)
    wanted = stats.ks_2samp(before, after).statistic
    assert shift(reference(before), after, 0.01).distance == pytest.approx(wanted, abs=0.012)


def test_equal_values_are_no_distance_and_a_share_of_them_is_its_change() -> None:
    before = np.repeat([0.0, 1.0], [700, 300])
    assert shift(reference(before), before, 0.01).distance < 0.011
    after = np.repeat([0.0, 1.0], [200, 300])
    assert shift(reference(before), after, 0.01).distance == pytest.approx(0.3, abs=0.011)


@pytest.mark.parametrize("patients", [15, 150, 1500])
def test_the_same_distribution_alarms_no_more_often_than_its_level(patients: int) -> None:
    """In weeks of any size, of 18 figures that share a level of 0.2, with another validation."""
    draws, level, weeks = np.random.default_rng(patients), 0.2, 80
    alarms = 0
    for _ in range(weeks):
        known = [reference(draws.beta(1, 9, 400)) for _ in range(18)]
        shifts = [shift(one, draws.beta(1, 9, patients), level / 18) for one in known]
        alarms += any(found.alarms(tolerance=0) for found in shifts)
    # Chance of more, were the level exactly 0.2: 1 in 1,000.
    assert alarms <= stats.binom.ppf(0.999, weeks, level)


def test_images_of_the_same_patients_alarm_no_more_often_when_each_counts_once() -> None:
    """What would alarm often if they counted as independent: ten alike images of a patient."""
    draws, once, each = np.random.default_rng(5), 0, 0
    for _ in range(100):
        known = reference(draws.normal(size=1000))
        of_patients = draws.normal(size=40)
        images, patients = np.repeat(of_patients, 10), np.repeat(np.arange(40), 10)
        each += shift(known, images, 0.05).alarms(0)
        once += shift(known, images[first_of_each(patients.tolist())], 0.05).alarms(0)
    assert each > 25
    assert once <= 12


def test_patients_of_several_weeks_count_as_in_the_worst_case() -> None:
    weeks = np.repeat(np.arange(4), 30).tolist()
    assert effective_size([0] * 120, range(120)) == 120
    assert effective_size(weeks, range(120)) == 30
    assert effective_size([0] * 120, weeks) == 4
    assert effective_size([0], [0]) == 1
    # Three of 100 patients twice, if they are the same: 103² / (97 + 3 · 2²).
    assert effective_size([0] * 100 + [1] * 3, range(103)) == 97


def test_no_choice_of_who_is_the_same_is_worth_less_than_the_worst_case() -> None:
    draws = np.random.default_rng(8)
    for _ in range(20):
        weeks = draws.integers(3, size=30)
        patients = draws.integers(8, size=30)  # equal ones are the same in all weeks
        count = np.unique(patients, return_counts=True)[1]
        kish = count.sum() ** 2 / (count**2).sum()
        assert effective_size(weeks.tolist(), patients.tolist()) <= kish


def test_the_same_patients_each_week_alarm_no_more_often_than_the_level() -> None:
    """What would alarm often if each week of the reference had patients of its own."""
    draws, worst, each = np.random.default_rng(6), 0, 0
    weeks = np.repeat(np.arange(6), 60).tolist()
    for _ in range(200):
        known = reference(np.tile(draws.normal(size=60), 6))
        size = {"patients": effective_size(weeks, range(360))}
        found = draws.normal(size=400)
        each += shift(known, found, 0.05).alarms(0)
        worst += shift(known.model_copy(update=size), found, 0.05).alarms(0)
    assert each > 40
    assert worst <= stats.binom.ppf(0.999, 200, 0.05)


def test_a_planted_shift_is_found_and_its_interval_holds_it() -> None:
    draws = np.random.default_rng(1)
    found = shift(reference(draws.normal(size=1000)), draws.normal(1, 1, 300), 0.01 / 18)
    true = 2 * stats.norm.cdf(0.5) - 1
    assert found.low < true < found.high
    assert found.alarms(0.05)


def test_a_small_week_does_not_alarm_where_a_large_one_does() -> None:
    draws = np.random.default_rng(2)
    known = reference(draws.normal(size=1000))
    assert shift(known, draws.normal(0.7, 1, 1000), 0.001).alarms(0.05)
    assert not shift(known, draws.normal(0.7, 1, 12), 0.001).alarms(0.05)


def test_a_certain_shift_within_the_tolerance_is_no_alarm() -> None:
    before = np.linspace(0, 1, 100_000)
    found = shift(reference(before), np.linspace(0.04, 1.04, 100_000), 0.01)
    assert found.low > 0.02
    assert not found.alarms(0.05)


@pytest.mark.parametrize(
    ("before", "found"), [((20, 1000), (40, 300)), ((5, 50), (0, 40)), ((0, 10), (0, 7))]
)
def test_a_difference_of_shares_has_newcombes_interval(
    before: tuple[int, int], found: tuple[int, int]
) -> None:
    low, high = confint_proportions_2indep(*found, *before, method="newcomb", alpha=0.03)
    said = share_shift(before, found, 0.03)
    assert said.distance == pytest.approx(abs(found[0] / found[1] - before[0] / before[1]))
    inside = low <= 0 <= high
    assert said.low == pytest.approx(0 if inside else min(abs(low), abs(high)), abs=1e-6)
    assert said.high == pytest.approx(max(abs(low), abs(high)), abs=1e-6)


@pytest.mark.parametrize(("count", "of"), [(0, 5), (3, 7), (90, 90)])
def test_a_share_has_wilsons_interval(count: int, of: int) -> None:
    wanted = proportion_confint(count, of, 0.05, "wilson")
    assert wilson(count, of, 0.05)[1:] == pytest.approx(wanted, abs=1e-9)


def test_quantiles_of_another_number_or_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least 101"):
        Distribution(quantiles=(0.0, 1.0), patients=2)
    with pytest.raises(ValidationError, match="must not decrease"):
        Distribution(quantiles=tuple(np.linspace(1, 0, 101)), patients=2)
