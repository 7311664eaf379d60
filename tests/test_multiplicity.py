"""p-values of differences against a t-test, and Holm's adjustment against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from chestxray.evaluation.bootstrap import Draws, holm, p_value


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
    assert p_value(draws, mean, patients) == pytest.approx(
        stats.ttest_1samp(values, 0).pvalue, rel=0.1
    )


def test_what_has_no_spread_or_no_value_has_no_p() -> None:
    draws = Draws.of(np.arange(50), resamples=20)
    same = draws.apply(lambda w: np.full(len(w), 0.3))
    assert p_value(draws, same, 50) is None
    assert p_value(draws, same * np.nan, 50) is None
