"""Prior shift: the EM algorithm's fixed point, a planted prevalence found, calibration restored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from chestxray.errors import PredictionsError
from chestxray.evaluation.metrics import value
from chestxray.evaluation.prior_shift import correct, estimate_prevalence


def drawn(n, prevalence, fitted, seed, separation=1.5):
    """Labels, and probabilities that are calibrated where the prevalence is `fitted`."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < prevalence).astype(float)
    score = rng.normal(separation * y, 1)
    log_ratio = separation * score - separation**2 / 2
    return y, expit(log_ratio + np.log(fitted / (1 - fitted)))


def em(p, fitted, steps=20_000):
    """Saerens 2002, section 2.2, with half an image of either kind added."""
    here = fitted
    for _ in range(steps):
        odds = here / (1 - here) * (1 - fitted) / fitted
        posterior = odds * p / (odds * p + 1 - p)
        here = (posterior.sum() + 0.5) / (len(p) + 1)
    return here


@pytest.mark.parametrize("prevalence", [0.02, 0.1, 0.5, 0.9])
def test_the_estimate_is_the_fixed_point_of_the_em_algorithm(prevalence):
    _, p = drawn(400, prevalence, 0.05, 0)
    assert estimate_prevalence(p, 0.05) == pytest.approx(em(p, 0.05), abs=1e-8)


def test_a_planted_prevalence_is_found_without_labels():
    found = [estimate_prevalence(drawn(3000, 0.104, 0.0305, s)[1], 0.0305) for s in range(300)]
    assert np.mean(found) == pytest.approx(0.104, abs=0.002)


def test_correction_restores_calibration_and_keeps_the_ranking():
    y, p = drawn(20_000, 0.104, 0.0305, 1)
    after = correct(p, 0.0305, estimate_prevalence(p, 0.0305))
    assert abs(value("calibration_intercept", y, p)) > 1
    assert abs(value("calibration_intercept", y, after)) < 0.1
    assert value("ece", y, after) < value("ece", y, p) / 4
    assert roc_auc_score(y, after) == pytest.approx(roc_auc_score(y, p), abs=1e-12)


def test_without_a_shift_the_probabilities_hardly_change():
    _, p = drawn(20_000, 0.05, 0.05, 2)
    assert np.abs(correct(p, 0.05, estimate_prevalence(p, 0.05)) - p).max() < 0.05
    assert correct(p, 0.05, 0.05) == pytest.approx(p, abs=1e-15)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
    st.floats(1e-4, 1 - 1e-4),
)
def test_the_estimate_lies_between_0_and_1_whatever_the_probabilities(p, fitted):
    assert 0 < estimate_prevalence(np.array(p), fitted) < 1


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 2])
def test_a_prevalence_outside_0_and_1_is_refused(wrong):
    with pytest.raises(PredictionsError, match="between 0 and 1"):
        correct(np.array([0.5]), 0.1, wrong)
