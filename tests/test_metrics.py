"""Metrics against scikit-learn, and against what must hold for any of them."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from chestxray.evaluation import metrics

PROBABILITIES = st.one_of(
    st.floats(0, 1, allow_subnormal=True),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),  # ties
    st.floats(0, 1, width=32),
)
LABELS = st.sampled_from([0.0, 1.0, math.nan])


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rows = draw(st.lists(st.tuples(LABELS, PROBABILITIES), max_size=60))
    return np.array([y for y, _ in rows]), np.array([p for _, p in rows])


def both_sides(y: np.ndarray) -> bool:
    return bool((y == 1).any() and (y == 0).any())


@settings(deadline=None)
@given(tables())
def test_ranking_metrics_agree_with_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = table
    known = ~np.isnan(y)
    if not both_sides(y):
        assert math.isnan(metrics.auroc(y, p))
        assert math.isnan(metrics.average_precision(y, p))
        return
    truth = y[known].astype(int)
    assert metrics.auroc(y, p) == pytest.approx(oracle.roc_auc_score(truth, p[known]), abs=1e-12)
    assert metrics.average_precision(y, p) == pytest.approx(
        oracle.average_precision_score(truth, p[known]), abs=1e-12
    )


@settings(deadline=None)
@given(tables())
def test_partial_auroc_agrees_with_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = table
    known = ~np.isnan(y)
    if not both_sides(y):
        assert math.isnan(metrics.partial_auroc(y, p))
        return
    expected = oracle.roc_auc_score(y[known].astype(int), p[known], max_fpr=metrics.PARTIAL_FPR)
    assert metrics.partial_auroc(y, p) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(tables())
def test_brier_agrees_with_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = table
    known = ~np.isnan(y)
    if known.any():
        expected = oracle.brier_score_loss(y[known].astype(int), p[known], labels=[0, 1])
        assert metrics.brier(y, p) == pytest.approx(expected, abs=1e-12)
    else:
        assert math.isnan(metrics.brier(y, p))


@settings(deadline=None)
@given(tables())
def test_cross_entropy_agrees_with_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = table
    known = ~np.isnan(y)
    if known.any():
        expected = oracle.log_loss(y[known].astype(int), p[known], labels=[0, 1])
        assert metrics.cross_entropy(y, p) == pytest.approx(expected, abs=1e-12, rel=1e-12)
    else:
        assert math.isnan(metrics.cross_entropy(y, p))


@settings(deadline=None)
@given(tables(), PROBABILITIES)
def test_calling_metrics_agree_with_scikit_learn(
    table: tuple[np.ndarray, np.ndarray], threshold: float
) -> None:
    y, p = table
    known = ~np.isnan(y)
    truth, called = y[known].astype(int), (p[known] >= threshold).astype(int)
    if not len(truth):
        assert math.isnan(metrics.accuracy(y, p, threshold))
        return
    nan = {"zero_division": math.nan}
    pairs = (
        (metrics.accuracy, oracle.accuracy_score(truth, called)),
        (metrics.precision, oracle.precision_score(truth, called, **nan)),
        (metrics.recall, oracle.recall_score(truth, called, **nan)),
        (metrics.specificity, oracle.recall_score(truth, called, pos_label=0, **nan)),
        (metrics.npv, oracle.precision_score(truth, called, pos_label=0, **nan)),
        (metrics.f1, oracle.f1_score(truth, called, **nan)),
        (metrics.alert_rate, called.mean()),
    )
    for ours, theirs in pairs:
        assert ours(y, p, threshold) == pytest.approx(theirs, abs=1e-12, nan_ok=True)


@settings(deadline=None)
@given(tables(), PROBABILITIES)
def test_mcc_agrees_with_scikit_learn_and_is_undefined_where_it_gives_0_for_want_of_contrast(
    table: tuple[np.ndarray, np.ndarray], threshold: float
) -> None:
    y, p = table
    known = ~np.isnan(y)
    truth, called = y[known] == 1, p[known] >= threshold
    if any(side.all() or not side.any() for side in (truth, called)):
        assert math.isnan(metrics.mcc(y, p, threshold))
    else:
        expected = oracle.matthews_corrcoef(truth, called)
        assert metrics.mcc(y, p, threshold) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(tables())
def test_auroc_is_symmetric_and_blind_to_a_rising_transform(
    table: tuple[np.ndarray, np.ndarray],
) -> None:
    y, p = table
    if both_sides(y):
        area = metrics.auroc(y, p)
        assert metrics.auroc(1 - y, p) == pytest.approx(1 - area, abs=1e-12)
        assert metrics.auroc(y, np.searchsorted(np.unique(p), p) / 100) == area


def test_all_ties_are_guessing() -> None:
    y, p = np.array([1.0, 0, 0, 1, 0]), np.full(5, 0.3)
    assert metrics.auroc(y, p) == 0.5
    assert metrics.average_precision(y, p) == 0.4


def test_a_metric_that_does_not_exist_is_nan_and_never_zero() -> None:
    nothing = np.array([])
    only_negatives, p = np.zeros(3), np.array([0.1, 0.2, 0.3])
    for y, scores in ((nothing, nothing), (only_negatives, p), (np.ones(3), p)):
        assert math.isnan(metrics.auroc(y, scores))
        assert math.isnan(metrics.average_precision(y, scores))
        assert math.isnan(metrics.partial_auroc(y, scores))
        assert math.isnan(metrics.mcc(y, scores, 0.2))
    assert math.isnan(metrics.recall(only_negatives, p, 0.2))
    assert math.isnan(metrics.precision(only_negatives, p, 0.9))
    assert math.isnan(metrics.specificity(np.ones(3), p, 0.2))
    assert math.isnan(metrics.mean_of_defined([math.nan]))


def test_the_mean_is_over_the_defined() -> None:
    assert metrics.mean_of_defined([0.5, math.nan, 1.0]) == 0.75


def test_a_call_is_at_or_above_the_threshold() -> None:
    assert metrics.confusion(np.array([1.0, 0]), np.array([0.5, 0.4]), 0.5) == (1, 0, 1, 0)


def test_a_whole_test_set_takes_no_time() -> None:
    rng = np.random.default_rng(0)
    y, p = (rng.random((22_433, 14)) < 0.05).astype(float), rng.random((22_433, 14))
    start = time.perf_counter()
    for column in range(14):
        metrics.auroc(y[:, column], p[:, column])
        metrics.average_precision(y[:, column], p[:, column])
    assert time.perf_counter() - start < 2
