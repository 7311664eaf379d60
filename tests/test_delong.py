"""DeLong's variance against its definition, pair by pair, and against what it must estimate."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chestxray.evaluation.delong import covariances, delong, difference
from chestxray.evaluation.metrics import value

SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))
LABELS = st.sampled_from([0.0, 1.0, math.nan])
ROWS = st.lists(st.tuples(LABELS, SCORES, SCORES, st.integers(0, 6)), max_size=30)


def columns(rows: list[tuple[float, float, float, int]]) -> np.ndarray:
    return np.array(rows, dtype=float).reshape(-1, 4).T


def wins(y: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Compare every positive with every negative: 1, 0, or 0.5 for a tie."""
    sick, well = score[y == 1], score[y == 0]
    return (sick[:, None] > well) + 0.5 * (sick[:, None] == well)


def by_definition(y: np.ndarray, models: list[np.ndarray]) -> np.ndarray:
    """DeLong et al. 1988, equations 4 to 6, in O(mn)."""
    tables = [wins(y, score) for score in models]
    of_sick = np.cov([table.mean(axis=1) for table in tables], ddof=1)
    of_well = np.cov([table.mean(axis=0) for table in tables], ddof=1)
    return of_sick / tables[0].shape[0] + of_well / tables[0].shape[1]


def by_patient(y: np.ndarray, score: np.ndarray, patients: np.ndarray) -> float:
    """Obuchowski 1997, patient by patient."""
    table = wins(y, score)
    m, n = table.shape
    auroc = table.mean()
    of_sick, of_well = patients[y == 1], patients[y == 0]
    names = np.unique(np.append(of_sick, of_well))
    v10 = {i: (table.mean(axis=1)[of_sick == i] - auroc).sum() for i in names}
    v01 = {i: (table.mean(axis=0)[of_well == i] - auroc).sum() for i in names}
    i10, i01, i = len(np.unique(of_sick)), len(np.unique(of_well)), len(names)
    s10 = i10 / ((i10 - 1) * m) * sum(v10[i] ** 2 for i in names)
    s01 = i01 / ((i01 - 1) * n) * sum(v01[i] ** 2 for i in names)
    s11 = i / (i - 1) * sum(v10[i] * v01[i] for i in names)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


@settings(deadline=None)
@given(ROWS)
def test_variances_and_covariances_are_those_of_the_definition(
    rows: list[tuple[float, float, float, int]],
) -> None:
    y, a, b, _ = columns(rows)
    aurocs, found = covariances(y, np.stack([a, b], axis=1))
    assert aurocs == pytest.approx(
        [value("auroc", y, a), value("auroc", y, b)], abs=1e-12, nan_ok=True
    )
    if min((y == 1).sum(), (y == 0).sum()) < 2:
        assert np.isnan(found).all()
    else:
        assert found == pytest.approx(by_definition(y, [a, b]), abs=1e-12)


@settings(deadline=None)
@given(ROWS)
def test_with_patients_the_variance_is_obuchowskis(
    rows: list[tuple[float, float, float, int]],
) -> None:
    y, a, _, patients = columns(rows)
    found = delong(y, a, patients).variance
    if any(len(np.unique(patients[y == side])) < 2 for side in (0, 1)):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(by_patient(y, a, patients), abs=1e-12)


def drawn(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    shared = rng.normal(size=n)
    return y, y + shared + 0.5 * rng.normal(size=n), 0.6 * y + shared + 0.5 * rng.normal(size=n)


def test_an_image_a_patient_is_plain_delong() -> None:
    y, a, _ = drawn()
    assert delong(y, a, np.arange(400)).variance == pytest.approx(delong(y, a).variance, abs=1e-15)


def test_a_thousand_copies_of_each_image_tell_no_more_than_one() -> None:
    y, a, _ = drawn(50)
    once = delong(y, a).variance
    repeated, patients = [np.repeat(of, 1000) for of in (y, a)], np.repeat(np.arange(50), 1000)
    assert delong(*repeated, patients).variance == pytest.approx(once, rel=1e-9)
    assert delong(*repeated).variance < once / 500


def test_the_variance_is_that_of_repeated_studies() -> None:
    studies = [drawn(200, seed) for seed in range(600)]
    aurocs = [value("auroc", y, a) for y, a, _ in studies]
    said = np.mean([delong(y, a).variance for y, a, _ in studies])
    assert said == pytest.approx(np.var(aurocs), rel=0.2)
    differences = [difference(y, a, b) for y, a, b in studies]
    said = np.mean([of.variance for of in differences])
    assert said == pytest.approx(np.var([of.value for of in differences]), rel=0.2)


def test_without_a_difference_p_is_below_5_percent_in_5_percent_of_studies() -> None:
    rng = np.random.default_rng(1)
    below = 0
    for _ in range(600):
        y, shared = (rng.random(100) < 0.4).astype(float), rng.normal(size=100)
        a, b = (y + shared + rng.normal(size=100) for _ in range(2))
        below += difference(y, a, b).p < 0.05
    assert 14 <= below <= 49  # 30, and three of its standard errors either way


def test_the_interval_stays_within_0_and_1_and_around_the_value() -> None:
    y, a, _ = drawn(60)
    found = delong(y, a)
    low, high = found.interval
    assert 0 < low < found.auroc < high < 1
    nearly = delong(np.array([1.0, 1, 1, 0, 0, 0]), np.array([0.9, 0.8, 0.3, 0.4, 0.1, 0.2]))
    assert 0 < nearly.interval[0] < nearly.auroc < nearly.interval[1] < 1


def test_a_perfect_ranking_has_no_interval() -> None:
    found = delong(np.array([1.0, 1, 0, 0]), np.array([0.9, 0.8, 0.2, 0.1]))
    assert (found.auroc, found.variance) == (1, 0)
    assert np.isnan(found.interval).all()


def test_a_model_against_itself_does_not_differ() -> None:
    y, a, b = drawn()
    same = difference(y, a, a)
    assert (same.value, same.p) == (0, 1)
    assert same.interval == pytest.approx((0, 0), abs=1e-7)
    there, back = difference(y, a, b), difference(y, b, a)
    assert there.value == -back.value
    assert there.p == pytest.approx(back.p, rel=1e-9)
    low, high = there.interval
    assert (low < 0 < high) == (there.p > 0.05)


def test_without_both_sides_nothing_is_defined() -> None:
    nothing = difference(np.ones(4), np.arange(4.0), np.ones(4))
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.p)
    assert np.isnan(nothing.interval).all()
    assert math.isnan(delong(np.array([]), np.array([])).auroc)


def test_a_hundred_thousand_images_take_no_time() -> None:
    rng = np.random.default_rng(0)
    y, p = (rng.random(112_120) < 0.1).astype(float), rng.random(112_120).round(4)
    start = time.process_time()
    delong(y, p, rng.integers(0, 30_805, 112_120))
    assert time.process_time() - start < 1
