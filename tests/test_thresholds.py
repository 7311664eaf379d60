"""Operating points against trying every threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestxray.evaluation.thresholds import (
    _RULES,
    MAIN,
    Chosen,
    fit_operating_points,
    fit_rules,
    targets,
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
    for name, chosen in fit_rules(y, p).items():
        assert chosen.wanted == _RULES[name].target
        assert (chosen.threshold is None) == bool(chosen.reason)
        assert chosen.threshold is None or chosen.threshold in seen
        if not ((y == 1).any() and (y == 0).any()):
            assert chosen.threshold is None
            assert "in validation" in chosen.reason


@given(ROWS)
@pytest.mark.parametrize(("name", "gain"), [("youden", j), ("f1", f1)])
def test_no_threshold_gains_more_and_none_that_gains_as_much_lies_lower(name, gain, rows):
    y, p = columns(rows)
    chosen = fit_rules(y, p)[name].threshold
    if chosen is not None:
        others = np.unique(p[~np.isnan(y)])
        assert all(gain(y, p, chosen) >= gain(y, p, t) - 1e-12 for t in others)
        assert all(gain(y, p, t) < gain(y, p, chosen) - 1e-12 for t in others if t < chosen)


@given(ROWS)
def test_the_wanted_sensitivity_is_reached_and_by_no_higher_threshold(rows):
    y, p = columns(rows)
    chosen = fit_rules(y, p)["sensitivity"]
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
    chosen = fit_rules(y, p)[name]
    serving = [t for t in np.unique(p[~np.isnan(y)]) if reaches(y, p, t, chosen.wanted)]
    assert chosen.threshold == (serving[0] if serving else None)


def test_ten_images_by_hand():
    y = np.array([1.0, 1, 0, 1, 0, 0, 0, 1, 0, 0])
    p = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert fit_rules(y, p) == {
        "youden": Chosen(None, 0.7),  # 3/4 found, 1/6 false; 0.9 finds 2/4, 0 false
        "f1": Chosen(None, 0.7),  # 2 * 3 / (4 + 4)
        "sensitivity": Chosen(0.9, 0.3),  # the fourth of four
        "precision": Chosen(0.5, 0.3),  # 4 of 8
        "alert_rate": Chosen(0.1, 0.95),
    }


def test_what_cannot_be_reached_is_said():
    y, p = np.array([0.0, 0, 0, 1, 1]), np.array([0.9, 0.9, 0.9, 0.9, 0.1])
    points = fit_rules(y, p)
    assert points["precision"] == Chosen(
        0.5, None, "no threshold reaches a precision of 0.5 in validation"
    )
    assert points["alert_rate"].threshold is None
    assert "more than 0.1 of the validation images" in points["alert_rate"].reason
    assert points["sensitivity"].threshold == 0.1


def test_separated_classes_are_called_without_an_error():
    y, p = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert fit_rules(y, p)["youden"].threshold == 0.6
    assert fit_rules(y, p)["f1"].threshold == 0.6


def study(rng, patients=150, findings=("a", "b", "c"), shift=2.0, prevalence=0.2):
    """Planted probabilities and labels, two images a patient; each AUROC is Φ(shift / √2)."""
    shape = (2 * patients, len(findings))
    labels = (rng.random(shape) < prevalence).astype(float)
    logits = shift * labels + rng.normal(size=shape) - 2
    return 1 / (1 + np.exp(-logits)), labels, np.arange(2 * patients) // 2


def test_a_one_sided_finding_has_no_threshold():
    rng = np.random.default_rng(0)
    probabilities, labels, patients = study(rng)
    labels[:, 1], labels[:, 2] = 0, math.nan
    points = fit_operating_points(probabilities, labels, patients, ["a", "b", "c"])
    assert points.thresholds()["a"] is not None
    for name in targets():
        assert points.thresholds(name)["b"] is points.thresholds(name)["c"] is None
    assert points.not_assessed == {
        "b": "no positives in validation",
        "c": "no positives and no negatives in validation",
    }


def test_a_finding_that_is_ranked_by_chance_has_no_threshold_at_any_operating_point():
    rng = np.random.default_rng(1)
    probabilities, labels, patients = study(rng)
    probabilities[:, 1] = rng.random(len(labels))
    points = fit_operating_points(probabilities, labels, patients, ["a", "useless", "c"])
    assert set(points.chosen) == set(targets())
    assert list(points.not_assessed) == ["useless"]
    assert "no evidence in validation" in points.not_assessed["useless"]
    for name, chosen in points.chosen.items():
        assert chosen["useless"].threshold is None, name
        assert chosen["useless"].reason == points.not_assessed["useless"]
        assert chosen["a"].threshold is not None
        assert chosen["c"].threshold is not None


def test_the_other_rules_are_what_they_are_for_one_finding_alone():
    probabilities, labels, patients = study(np.random.default_rng(2))
    points = fit_operating_points(probabilities, labels, patients, ["a", "b", "c"])
    for k, finding in enumerate("abc"):
        alone = fit_rules(labels[:, k], probabilities[:, k])
        assert points.of(finding) == {MAIN: points.of(finding)[MAIN]} | alone


def test_without_finding_free_radiographs_the_false_alarms_are_bounded_by_their_sum():
    rng = np.random.default_rng(3)
    probabilities, labels, patients = study(rng, prevalence=0.5)
    labels[~(labels == 1).any(axis=1), 0] = 1
    points = fit_operating_points(probabilities, labels, patients, ["a", "b", "c"])
    assert "finding-free radiographs of 0 patients, at least 5 are needed" in points.notes[MAIN]
    for k, threshold in enumerate(points.thresholds().values()):
        called = probabilities[labels[:, k] == 0, k] >= threshold
        assert 0 < called.mean() <= 0.25 / 3
