"""Curves against scikit-learn's, and their bands against resamples drawn the long way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.curves import GRID, bands, curves, heights_at, thin
from chestxray.evaluation.weighted_counts import Column
from evaluation_parts import dumped

SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
ROWS = st.lists(st.tuples(st.booleans(), SCORES, st.integers(0, 3)), min_size=1, max_size=40)


def drawn(n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = (rng.random(n) < 0.3).astype(float)
    return y, (0.3 * y + 0.7 * rng.random(n)).round(2), rng.integers(0, n // 3, n)


def roc_heights(y: np.ndarray, p: np.ndarray, grid: np.ndarray) -> list[float]:
    """The highest point of scikit-learn's curve at each place, ends of ties joined."""
    fpr, tpr, _ = oracle.roc_curve(y, p, drop_intermediate=False)
    return [max(np.interp(x, fpr, tpr), tpr[fpr <= x + 1e-12].max()) for x in grid]


def pr_heights(y: np.ndarray, p: np.ndarray, grid: np.ndarray) -> list[float]:
    """Precision at the highest threshold that reaches each recall."""
    precision, recall, threshold = oracle.precision_recall_curve(y, p)
    reaches = [recall[:-1] >= max(x, 1e-9) - 1e-12 for x in grid]
    return [precision[:-1][of][threshold[of].argmax()] for of in reaches]


@settings(deadline=None)
@given(ROWS)
def test_heights_of_a_row_of_weights_are_those_of_repeated_images(
    rows: list[tuple[bool, float, int]],
) -> None:
    y, p, count = (np.array(of) for of in zip(*rows, strict=True))
    column = Column(y.astype(float), p.astype(float))
    roc, pr = np.split(heights_at(column, count[column.rows][None].astype(float), GRID)[0], 2)
    y, p = np.repeat(y, count), np.repeat(p, count)
    if len(set(y)) < 2:
        assert np.isnan(roc).all()
        assert np.isnan(pr).all()
        return
    assert roc == pytest.approx(roc_heights(y, p, GRID), abs=1e-9)
    assert pr == pytest.approx(pr_heights(y, p, GRID), abs=1e-9)


def test_bands_are_quantiles_over_the_resamples_of_patients() -> None:
    y, p, patients = drawn()
    draws = Draws.of(patients, 60)
    on_roc, on_pr = bands(Column(y, p), draws)
    heights = []
    for counts in draws.counts[1:61]:
        count = counts[draws.patient]
        resample = np.repeat(y, count), np.repeat(p, count)
        heights.append([roc_heights(*resample, GRID), pr_heights(*resample, GRID)])
    low_and_high = np.quantile(heights, [0.025, 0.975], axis=0)
    assert on_roc == pytest.approx(low_and_high[:, 0], abs=1e-9)
    assert on_pr == pytest.approx(low_and_high[:, 1], abs=1e-9)


def test_a_band_lies_around_its_curve_and_is_named_for_the_report() -> None:
    y, p, patients = drawn()
    found = curves(y, p, Draws.of(patients, 200))
    assert found is not None
    shown = dumped(found)
    for curve, x, height in ((shown["roc"], "fpr", "tpr"), (shown["pr"], "recall", "precision")):
        band = curve["band"]
        assert set(band) == {x, "low", "high"}
        assert band[x] == GRID.round(5).tolist()
        # At a recall of 1 the curve drops on, below where it first gets there.
        middle = np.interp(band[x], curve[x], curve[height])[1:-1]
        low, high = np.array(band["low"])[1:-1], np.array(band["high"])[1:-1]
        assert (low <= middle + 0.02).all()
        assert (middle <= high + 0.02).all()


def test_without_draws_or_resamples_there_is_no_band() -> None:
    y, p, patients = drawn()
    for draws in (None, Draws.of(patients, 0)):
        found = curves(y, p, draws)
        assert found is not None
        assert found.roc.band is None
        assert found.pr.band is None


def test_without_both_sides_there_is_no_curve() -> None:
    for y in (np.zeros(3), np.ones(3), np.array([]), np.array([np.nan])):
        assert curves(y, np.linspace(0, 1, len(y)), Draws.of(np.arange(len(y)), 5)) is None


def test_resamples_without_positives_are_left_out() -> None:
    y, p = np.array([1.0, 0, 0, 0]), np.array([0.5, 0.1, 0.6, 0.2])
    draws = Draws.of(np.arange(4), 100)
    without = (draws.counts[1:101, 0] == 0).sum()
    assert 0 < without < 100
    on_roc, _ = bands(Column(y, p), draws)
    assert on_roc is not None
    assert np.isfinite(on_roc).all()


def test_curves_are_scikit_learns_ends_and_area() -> None:
    y, p, _ = drawn(5000)
    found = curves(y, p)
    assert found is not None
    roc, pr = found.roc, found.pr
    assert (roc.fpr[0], roc.tpr[0], roc.fpr[-1], roc.tpr[-1]) == (0, 0, 1, 1)
    assert oracle.auc(roc.fpr, roc.tpr) == pytest.approx(oracle.roc_auc_score(y, p), abs=1e-3)
    assert pr.precision[-1] == pytest.approx(y.mean(), abs=1e-5)


def test_a_thinned_line_keeps_its_ends_and_corners() -> None:
    line = np.array([[0, 0], [0.2, 0.2], [0.5, 0.5], [0.5, 0.9], [1, 1]])
    assert thin(line, 4).tolist() == [[0, 0], [0.5, 0.5], [0.5, 0.9], [1, 1]]
    assert len(thin(np.random.default_rng(0).random((1000, 2)))) == 200
