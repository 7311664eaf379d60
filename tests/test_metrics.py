"""The metric registry: plain values against scikit-learn, and what must hold for any metric."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

import metric_oracles as oracles
from chestxray.evaluation import metrics
from chestxray.evaluation.metrics import METRICS, Metric, call_metrics, mean_of_defined, value

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
def test_scores_agree_with_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    for name, oracle in oracles.SCORES.items():
        expected = oracle(*table)
        found = value(name, *table)
        assert found == pytest.approx(expected, abs=1e-12, rel=1e-12, nan_ok=True), name


@settings(deadline=None)
@given(tables(), PROBABILITIES)
def test_metrics_of_calls_agree_with_scikit_learn(
    table: tuple[np.ndarray, np.ndarray], threshold: float
) -> None:
    y, p = table
    truth, called = y[~np.isnan(y)].astype(int), p[~np.isnan(y)] >= threshold
    nan = {"zero_division": math.nan}
    expected = {name: oracle(y, p, threshold) for name, oracle in oracles.CALLS.items()}
    if len(truth):
        expected |= {
            "accuracy": sk.accuracy_score(truth, called),
            "precision": sk.precision_score(truth, called, **nan),
            "recall": sk.recall_score(truth, called, **nan),
            "specificity": sk.recall_score(truth, called, pos_label=0, **nan),
            "npv": sk.precision_score(truth, called, pos_label=0, **nan),
            "f1": sk.f1_score(truth, called, **nan),
            "alert_rate": called.mean(),
        }
    assert set(expected) == set(call_metrics())
    for name, of in expected.items():
        found = value(name, y, p, threshold)
        assert found == pytest.approx(of, abs=1e-12, nan_ok=True), name


@settings(deadline=None)
@given(tables())
def test_auroc_is_symmetric_and_unchanged_by_a_rising_transform(
    table: tuple[np.ndarray, np.ndarray],
) -> None:
    y, p = table
    if both_sides(y):
        area = value("auroc", y, p)
        assert value("auroc", 1 - y, p) == pytest.approx(1 - area, abs=1e-12)
        assert value("auroc", y, np.searchsorted(np.unique(p), p) / 100) == area


@settings(deadline=None, max_examples=50)
@given(tables(), PROBABILITIES)
def test_every_value_is_inside_the_range_of_its_metric(
    table: tuple[np.ndarray, np.ndarray], threshold: float
) -> None:
    for name, metric in METRICS.items():
        found = value(name, *table, threshold if metric.needs_threshold else None)
        if not math.isnan(found):
            assert metric.low is None or found >= metric.low - 1e-12, name
            assert metric.high is None or found <= metric.high + 1e-12, name


def test_all_ties_are_guessing() -> None:
    y, p = np.array([1.0, 0, 0, 1, 0]), np.full(5, 0.3)
    assert value("auroc", y, p) == 0.5
    assert value("auprc", y, p) == 0.4


def test_a_metric_that_does_not_exist_is_nan_and_never_zero() -> None:
    nothing = np.array([])
    only_negatives, p = np.zeros(3), np.array([0.1, 0.2, 0.3])
    for y, scores in ((nothing, nothing), (only_negatives, p), (np.ones(3), p)):
        for name in ("auroc", "auprc", "partial_auroc", "calibration_slope"):
            assert math.isnan(value(name, y, scores)), name
        assert math.isnan(value("mcc", y, scores, 0.2))
    assert math.isnan(value("recall", only_negatives, p, 0.2))
    assert math.isnan(value("precision", only_negatives, p, 0.9))
    assert math.isnan(value("specificity", np.ones(3), p, 0.2))
    assert math.isnan(mean_of_defined([math.nan]))


def test_the_mean_is_over_the_defined() -> None:
    assert mean_of_defined([0.5, math.nan, 1.0]) == 0.75


def test_a_call_is_at_or_above_the_threshold() -> None:
    assert value("accuracy", np.array([1.0, 0]), np.array([0.5, 0.4]), 0.5) == 1


def test_a_whole_test_set_takes_no_time() -> None:
    rng = np.random.default_rng(0)
    y, p = (rng.random((22_433, 14)) < 0.05).astype(float), rng.random((22_433, 14))
    start = time.process_time()
    for column in range(14):
        value("auroc", y[:, column], p[:, column])
        value("auprc", y[:, column], p[:, column])
    assert time.process_time() - start < 2


def test_every_metric_has_a_label_and_a_sentence() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.label
        assert metric.meaning.endswith(".")


MEAN_SCORE = Metric(
    name="mean_score",
    label="Mean probability",
    meaning="Mean probability of the images.",
    scores=lambda of: (of.w @ of.column.p) / of.w.sum(axis=1),
)


@pytest.fixture
def mean_score() -> Iterator[str]:
    """A metric registered from outside the package."""
    yield metrics.register(MEAN_SCORE).name
    del METRICS[MEAN_SCORE.name]


def test_a_registered_metric_has_a_plain_value(mean_score: str) -> None:
    assert value(mean_score, np.array([1.0, 0, np.nan]), np.array([0.5, 0.25, 1])) == 0.375


@pytest.mark.parametrize("name", ["auroc", "threshold", "operating_points", "no name", ""])
def test_a_name_that_is_taken_or_cannot_be_an_attribute_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="choose another name"):
        metrics.register(dataclasses.replace(MEAN_SCORE, name=name))


def test_a_metric_is_of_scores_or_of_calls_and_not_of_both() -> None:
    with pytest.raises(ValueError, match="either scores or calls"):
        dataclasses.replace(MEAN_SCORE, calls=lambda of: of.true_positives)
    with pytest.raises(ValueError, match="needs a threshold"):
        value("recall", np.array([1.0, 0]), np.array([0.5, 0.2]))
