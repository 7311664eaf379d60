"""The link of focal loss: it gives the probability whose risk the logit minimises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from chestxray.evaluation.focal_link import FocalLink
from chestxray.training.losses import FocalLoss, link_of
from chestxray.training.recipe import Loss

GAMMAS = st.floats(0, 10)
PROBABILITIES = st.floats(0.001, 0.999)


def risk(z: float, p: float, gamma: float, absent: float = 1.0, present: float = 1.0) -> float:
    """Expected focal loss, written from its definition."""
    q = expit(z)
    loss_present = -present * (1 - q) ** gamma * np.log(q)
    return p * loss_present - (1 - p) * absent * q**gamma * np.log1p(-q)


def minimiser(*arguments: float) -> float:
    found = minimize_scalar(risk, (-1, 1), args=arguments, tol=1e-12)
    return float(found.x)


@given(PROBABILITIES, GAMMAS)
def test_the_log_odds_of_the_minimiser_are_those_of_the_probability(p, gamma):
    z = minimiser(p, gamma)
    (log_odds,) = FocalLink(gamma=gamma).log_odds(np.array([z]))
    assert log_odds == pytest.approx(logit(p), abs=1e-4)


@given(PROBABILITIES, GAMMAS, st.floats(0.1, 10), st.floats(0.1, 10))
def test_class_weights_shift_the_log_odds_behind_the_link_by_their_ratio(p, gamma, absent, present):
    z = minimiser(p, gamma, absent, present)
    (log_odds,) = FocalLink(gamma=gamma).log_odds(np.array([z]))
    assert log_odds == pytest.approx(logit(p) + np.log(present / absent), abs=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_the_gradient_of_the_loss_that_trains_vanishes_at_the_linked_probability(gamma):
    z = torch.linspace(-4, 4, 17, dtype=torch.float64)
    p = torch.from_numpy(expit(FocalLink(gamma=gamma).log_odds(z.numpy())))
    weights = torch.tensor([[0.7, 3.0]])
    eta = p.logit() - np.log(3.0 / 0.7)
    loss, total = FocalLoss(weights, gamma), torch.zeros(())
    logits = z.clone().requires_grad_()
    for k, share in enumerate(eta.sigmoid()):
        for label, chance in ((1.0, share), (0.0, 1 - share)):
            total = total + chance * loss(logits[k].view(1, 1), torch.full((1, 1), label))
    total.backward()
    assert logits.grad.abs().max() < 1e-6


def test_gamma_2_stretches_log_odds_by_2_68_to_3():
    z = np.linspace(-50, 50, 100_001)
    slopes = np.diff(FocalLink(gamma=2).log_odds(z)) / np.diff(z)
    assert slopes.min() == pytest.approx(2.676, abs=1e-3)
    assert slopes.max() == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 10.0])
def test_the_link_is_odd_finite_and_strictly_increasing_far_out(gamma):
    z = np.concatenate([np.linspace(-1e4, 1e4, 20_001), np.linspace(-40, 40, 80_001)])
    z = np.unique(z)
    log_odds = FocalLink(gamma=gamma).log_odds(z)
    assert np.isfinite(log_odds).all()
    assert (np.diff(log_odds) > 0).all()
    assert log_odds == pytest.approx(-FocalLink(gamma=gamma).log_odds(-z), abs=1e-9)


def test_gamma_0_is_the_identity():
    z = np.linspace(-30, 30, 61)
    assert np.array_equal(FocalLink().log_odds(z), z)


def test_the_recipes_loss_decides_the_link():
    assert link_of(Loss(kind="bce", gamma=2.0, class_weights=True)) == FocalLink(gamma=0)
    assert link_of(Loss(kind="focal", gamma=1.5)) == FocalLink(gamma=1.5)
