"""Operating points against trying every threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestxray.evaluation.thresholds import (
    OPERATING_POINTS,
    Chosen,
    fit_operating_points,
    fit_thresholds,
)
from metric_oracles import alert_rate, f1, precision, recall, specificity

ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, math.nan]), st.integers(0, 8).map(lambda k: k / 8)),
    min_size=1,
    max_size=40,
)


def j(y, p, threshold):
    return recall(y, p, threshold) + specificity(y, p, threshold)


def columns(rows):
    return np.array([y for y, _ in rows]), np.array([p for _, p in rows])


@given(ROWS)
def test_an_operating_point_is_a_probability_seen_and_none_is_chosen_for_one_side(rows):
    y, p = columns(rows)
    seen = p[~np.isnan(y)]
    for name, chosen in fit_operating_points(y, p).items():
        assert chosen.wanted == OPERATING_POINTS[name].target
        assert (chosen.threshold is None) == bool(chosen.reason)
        assert chosen.threshold is None or chosen.threshold in seen
        if not ((y == 1).any() and (y == 0).any()):
            assert chosen.threshold is None
            assert "in validation" in chosen.reason


@given(ROWS)
@pytest.mark.parametrize(("name", "gain"), [("youden", j), ("f1", f1)])
def test_no_threshold_gains_more_and_none_that_gains_as_much_lies_lower(name, gain, rows):
    y, p = columns(rows)
    chosen = fit_operating_points(y, p)[name].threshold
    if chosen is not None:
        others = np.unique(p[~np.isnan(y)])
        assert all(gain(y, p, chosen) >= gain(y, p, t) - 1e-12 for t in others)
        assert all(gain(y, p, t) < gain(y, p, chosen) - 1e-12 for t in others if t < chosen)


@given(ROWS)
def test_the_wanted_sensitivity_is_reached_and_by_no_higher_threshold(rows):
    y, p = columns(rows)
    chosen = fit_operating_points(y, p)["sensitivity"]
    if (y == 1).any() and (y == 0).any():
        assert recall(y, p, chosen.threshold) >= chosen.wanted
        higher = [t for t in np.unique(p[~np.isnan(y)]) if t > chosen.threshold]
        assert all(recall(y, p, t) < chosen.wanted for t in higher)


@given(ROWS)
@pytest.mark.parametrize(
    ("name", "reaches"),
    [
        ("precision", lambda y, p, t, wanted: precision(y, p, t) >= wanted),
        ("alert_rate", lambda y, p, t, wanted: alert_rate(y, p, t) <= wanted),
    ],
)
def test_what_is_wanted_is_reached_by_no_lower_threshold_or_by_none_at_all(name, reaches, rows):
    y, p = columns(rows)
    if not ((y == 1).any() and (y == 0).any()):
        return
    chosen = fit_operating_points(y, p)[name]
    serving = [t for t in np.unique(p[~np.isnan(y)]) if reaches(y, p, t, chosen.wanted)]
    assert chosen.threshold == (serving[0] if serving else None)


def test_ten_images_by_hand():
    y = np.array([1.0, 1, 0, 1, 0, 0, 0, 1, 0, 0])
    p = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert fit_operating_points(y, p) == {
        "youden": Chosen(None, 0.7),  # 3/4 found, 1/6 false; 0.9 finds 2/4, 0 false
        "f1": Chosen(None, 0.7),  # 2 * 3 / (4 + 4)
        "sensitivity": Chosen(0.9, 0.3),  # the fourth of four
        "precision": Chosen(0.5, 0.3),  # 4 of 8
        "alert_rate": Chosen(0.1, 0.95),
    }


def test_what_cannot_be_reached_is_said():
    y, p = np.array([0.0, 0, 0, 1, 1]), np.array([0.9, 0.9, 0.9, 0.9, 0.1])
    points = fit_operating_points(y, p)
    assert points["precision"] == Chosen(
        0.5, None, "no threshold reaches a precision of 0.5 in validation"
    )
    assert points["alert_rate"].threshold is None
    assert "more than 0.1 of the validation images" in points["alert_rate"].reason
    assert points["sensitivity"].threshold == 0.1


def test_separated_classes_are_called_without_an_error():
    y, p = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert fit_operating_points(y, p)["youden"].threshold == 0.6
    assert fit_operating_points(y, p)["f1"].threshold == 0.6


def test_a_one_sided_finding_has_no_threshold():
    labels = np.array([[1.0, 0, math.nan], [0, 0, math.nan]])
    probabilities = np.array([[0.7, 0.5, 0.5], [0.2, 0.4, 0.4]])
    chosen = fit_thresholds(probabilities, labels, ["a", "b", "c"])
    assert chosen == {"a": 0.7, "b": None, "c": None}
