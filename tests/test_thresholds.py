"""Thresholds against trying every one."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chestxray.evaluation.metrics import recall, specificity
from chestxray.evaluation.thresholds import fit_thresholds, youden

ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, math.nan]), st.integers(0, 8).map(lambda k: k / 8)),
    min_size=1,
    max_size=40,
)


@given(ROWS)
def test_no_threshold_has_a_greater_j_and_none_as_great_lies_lower(
    rows: list[tuple[float, float]],
) -> None:
    y, p = np.array([y for y, _ in rows]), np.array([p for _, p in rows])
    chosen = youden(y, p)
    if not ((y == 1).any() and (y == 0).any()):
        assert chosen is None
        return
    assert chosen is not None

    def j(threshold: float) -> float:
        return recall(y, p, threshold) + specificity(y, p, threshold)

    seen = np.unique(p[~np.isnan(y)])
    assert chosen in seen
    assert all(j(chosen) >= j(t) - 1e-12 for t in seen)
    assert all(j(t) < j(chosen) - 1e-12 for t in seen if t < chosen)


def test_separated_classes_are_called_without_an_error() -> None:
    y, p = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert youden(y, p) == 0.6


def test_a_one_sided_finding_has_no_threshold() -> None:
    labels = np.array([[1.0, 0, math.nan], [0, 0, math.nan]])
    probabilities = np.array([[0.7, 0.5, 0.5], [0.2, 0.4, 0.4]])
    chosen = fit_thresholds(probabilities, labels, ["a", "b", "c"])
    assert chosen == {"a": 0.7, "b": None, "c": None}
