"""A row of weights must give what plain metrics give for images repeated that often."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as oracle

import metric_oracles as oracles
from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.metrics import (
    call_metrics,
    measure,
    rates,
    score_metrics,
    value,
)
from chestxray.evaluation.weighted_counts import Column, equal_mass_bins

RANKING = ("auroc", "auprc", "partial_auroc")
PROPER = ("brier", "bce")
LINE = ("calibration_slope", "calibration_intercept")
PROBABILITIES = st.one_of(
    st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1, width=32)
)
LABELS = st.sampled_from([0.0, 0.0, 1.0, math.nan])
ROWS = st.lists(st.tuples(LABELS, PROBABILITIES, st.integers(0, 3)), max_size=60)


def of_calls(column: Column, w: np.ndarray, threshold: float) -> np.ndarray:
    return np.stack(list(rates(column.calls(w, threshold)).values()), axis=1)


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels at 20 %, with probabilities that know a little about them, some tied."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-1.5, 1, n)
    return (rng.random(n) < expit(x)).astype(float), expit(x + rng.normal(0, 0.5, n)).round(3)


def counted(rows: list[tuple[float, float, int]]) -> tuple[Column, np.ndarray, tuple[Any, Any]]:
    """Give the column, its weights as one row, and the same with the images repeated."""
    y, p = np.array([y for y, _, _ in rows]), np.array([p for _, p, _ in rows])
    count = np.array([count for _, _, count in rows], dtype=int)
    column = Column(y, p)
    w = count[column.rows][None].astype(float) if rows else np.zeros((1, 0))
    return column, w, (np.repeat(y, count), np.repeat(p, count))


@settings(deadline=None)
@given(ROWS)
def test_ranking_by_weight_is_ranking_of_repeated_images(
    rows: list[tuple[float, float, int]],
) -> None:
    column, w, repeated = counted(rows)
    for name, found in zip(RANKING, measure(column, w, RANKING)[0], strict=True):
        expected = oracles.SCORES[name](*repeated)
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True), name


@settings(deadline=None)
@given(ROWS)
def test_auroc_by_weight_is_that_of_scikit_learn(rows: list[tuple[float, float, int]]) -> None:
    column, w, _ = counted(rows)
    auroc, auprc = measure(column, w, RANKING[:2])[0]
    has = w[0] > 0
    if not math.isnan(auroc):
        y, p, weights = column.present[has], column.p[has], w[0][has]
        expected = oracle.roc_auc_score(y, p, sample_weight=weights)
        assert auroc == pytest.approx(expected, abs=1e-12)
        expected = oracle.average_precision_score(y, p, sample_weight=weights)
        assert auprc == pytest.approx(expected, abs=1e-12)
    else:
        assert len(set(column.present[has])) < 2


@settings(deadline=None)
@given(ROWS, PROBABILITIES)
def test_calling_by_weight_is_calling_of_repeated_images(
    rows: list[tuple[float, float, int]], threshold: float
) -> None:
    column, w, repeated = counted(rows)
    found = of_calls(column, w, threshold)[0]
    for name, of in zip(call_metrics(), found, strict=True):
        expected = oracles.CALLS[name](*repeated, threshold)
        assert of == pytest.approx(expected, abs=1e-12, nan_ok=True), name


@settings(deadline=None)
@given(ROWS)
def test_proper_scores_by_weight_are_those_of_repeated_images(
    rows: list[tuple[float, float, int]],
) -> None:
    column, w, repeated = counted(rows)
    for name, found in zip(PROPER, measure(column, w, PROPER)[0], strict=True):
        expected = oracles.SCORES[name](*repeated)
        assert found == pytest.approx(expected, abs=1e-12, rel=1e-12, nan_ok=True)


@settings(deadline=None)
@given(st.lists(st.tuples(LABELS, st.floats(1e-4, 0.999)), max_size=60))
def test_weights_of_one_give_the_full_fit_of_the_calibration_line(
    rows: list[tuple[float, float]],
) -> None:
    column, w, _ = counted([(y, p, 1) for y, p in rows])
    expected = (column.line.slope, column.line.intercept)
    found = measure(column, w, LINE)[0]
    assert found == pytest.approx(expected, abs=1e-10, rel=1e-8, nan_ok=True)


def test_the_calibration_error_of_a_resample_is_taken_over_the_bins_of_the_data() -> None:
    y, p = drawn(500)
    column = Column(y, p)
    bins = equal_mass_bins(column.p)
    count = np.random.default_rng(1).poisson(1, len(bins))
    gaps = [
        np.repeat(column.present - column.p, count * (bins == place)).sum() for place in range(10)
    ]
    expected = np.abs(gaps).sum() / count.sum()
    found = measure(column, count[None].astype(float), ("ece",))[0, 0]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("images", "level"), [(2000, -1.5), (5000, -4.0)])
def test_one_step_misses_a_full_refit_by_little_of_what_resamples_vary(
    images: int, level: float
) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(level, 1, images)
    y = (rng.random(images) < expit(0.8 * x + 0.3)).astype(float)
    column, counts = Column(y, expit(x)), rng.poisson(1, (50, images)).astype(float)
    steps = measure(column, counts, LINE)
    refits = []
    for count in counts.astype(int):
        repeated = np.repeat(column.present.astype(float), count), np.repeat(column.p, count)
        refits.append([value(name, *repeated) for name in LINE])
    refitted = np.array(refits)
    missed = np.sqrt(np.mean((steps - refitted) ** 2, axis=0))
    assert (missed < 0.03 * refitted.std(axis=0)).all()
    assert steps.std(axis=0) == pytest.approx(refitted.std(axis=0), rel=0.02)


def test_a_resample_that_one_threshold_separates_has_no_slope_but_an_intercept() -> None:
    y, p = np.array([1.0, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    column = Column(y, p)
    assert column.p.tolist() == [0.9, 0.7, 0.8, 0.2, 0.1]
    rows = np.array([[1.0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 0, 1, 1, 1]])
    whole, parted, one_sided = measure(column, rows, LINE)
    assert np.isfinite(whole).all()
    assert math.isnan(parted[0])
    assert math.isfinite(parted[1])
    assert np.isnan(one_sided).all()


def test_many_rows_give_what_each_row_gives_alone() -> None:
    y, p = drawn(300)
    column = Column(y, p)
    w = np.random.default_rng(1).poisson(1, (7, 300)).astype(float)
    for metrics in (
        lambda w: measure(column, w, score_metrics()),
        lambda w: of_calls(column, w, 0.3),
    ):
        alone = np.concatenate([metrics(row[None]) for row in w])
        assert metrics(w) == pytest.approx(alone, abs=1e-14)


def test_pooled_pairs_are_weighted_by_their_image() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.random((40, 3)).round(1)
    labels = rng.choice([0.0, 1.0, math.nan], (40, 3), p=[0.6, 0.3, 0.1])
    patients = rng.integers(0, 15, 40)
    column, draws = Column.pooled(labels, probabilities), Draws.of(patients, 30)
    values = draws.apply(lambda w: measure(column, w, RANKING), column.rows)
    for row in (0, 1, 30, 40):
        count = draws.counts[row][draws.patient]
        repeated = [np.repeat(of, count, axis=0).ravel() for of in (labels, probabilities)]
        expected = [oracles.SCORES[name](*repeated) for name in RANKING]
        assert values[row] == pytest.approx(expected, abs=1e-12)


def test_rates_of_summed_counts_are_micro_averages() -> None:
    rng = np.random.default_rng(4)
    labels, probabilities = (rng.random((2, 50, 3)) < 0.4).astype(float), rng.random((2, 50, 3))
    y, p, thresholds = labels[0], probabilities[0], (0.2, 0.5, 0.9)
    counts = [
        Column(*of).calls(np.ones((1, 50)), t) for *of, t in zip(y.T, p.T, thresholds, strict=True)
    ]
    micro = {name: of[0] for name, of in rates(np.sum(counts, axis=0)).items()}
    called = p >= thresholds
    assert micro["f1"] == oracle.f1_score(y.ravel(), called.ravel())
    assert micro["npv"] == oracle.precision_score(y.ravel(), called.ravel(), pos_label=0)


def test_counts_of_a_million_stay_exact() -> None:
    y, p = drawn(1000)
    column, w = Column(y, p), np.full((1, 1000), 1000.0)
    assert measure(column, w, ("auroc",))[0, 0] == value("auroc", y, p)
    mcc = rates(column.calls(w, 0.3))["mcc"][0]
    assert mcc == pytest.approx(oracles.mcc(y, p, 0.3), abs=1e-15)


def test_without_images_or_weights_nothing_is_defined() -> None:
    empty, some = Column(np.array([]), np.array([])), Column(*drawn(5))
    for column, w in ((empty, np.zeros((2, 0))), (some, np.zeros((2, 5)))):
        for values in (measure(column, w, score_metrics()), of_calls(column, w, 0.5)):
            assert len(values) == 2
            assert np.isnan(values).all()
