from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.losses import binary_focal_loss_with_logits
from sklearn.metrics import log_loss
from torch.nn.functional import binary_cross_entropy_with_logits

from chestxray.training.losses import (
    FocalLoss,
    binary_cross_entropy,
    class_weights,
    label_weights,
    loss_of,
)
from chestxray.training.recipe import Loss

seeds = st.integers(0, 2**31)


def _batch(seed: int, unknown: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 14, generator=generator) * 4
    labels = (torch.rand(6, 14, generator=generator) < 0.4).float()
    labels[torch.rand(6, 14, generator=generator) < unknown] = float("nan")
    return logits, labels


@settings(deadline=None)
@given(seeds)
def test_gamma_zero_without_weights_is_binary_cross_entropy(seed):
    logits, labels = _batch(seed)
    ours = FocalLoss(torch.ones(14, 2), 0.0)(logits, labels)
    assert torch.allclose(ours, binary_cross_entropy(logits, labels), rtol=1e-4)


@settings(deadline=None)
@given(seeds)
def test_focal_loss_equals_kornias(seed):
    logits, labels = _batch(seed)
    theirs = binary_focal_loss_with_logits(logits, labels, alpha=None, gamma=2.0, reduction="mean")
    ours = FocalLoss(torch.ones(14, 2), 2.0)(logits, labels)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)


@settings(deadline=None)
@given(seeds)
def test_cross_entropy_equals_scikit_learns_over_known_labels(seed):
    logits, labels = _batch(seed, unknown=0.3)
    known = ~torch.isnan(labels)
    theirs = log_loss(
        labels[known].numpy(), logits[known].double().sigmoid().numpy(), labels=[0, 1]
    )
    assert np.isclose(binary_cross_entropy(logits, labels).item(), theirs, rtol=1e-4)


@settings(deadline=None)
@given(seeds)
def test_unknown_labels_change_neither_loss_nor_gradient(seed):
    logits, labels = _batch(seed, unknown=0.5)
    logits.requires_grad_()
    loss = FocalLoss(torch.rand(14, 2) + 0.5, 2.0)(logits, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert (logits.grad[torch.isnan(labels)] == 0).all()


def test_the_loss_of_a_certain_and_right_answer_is_finite_and_zero():
    logits = torch.tensor([[200.0, -200.0]])
    loss = FocalLoss(torch.ones(2, 2), 2.0)(logits, torch.tensor([[1.0, 0.0]]))
    assert loss.item() == 0.0


def test_the_loss_of_a_certain_and_wrong_answer_is_finite():
    logits = torch.tensor([[200.0, -200.0]])
    loss = FocalLoss(torch.ones(2, 2), 2.0)(logits, torch.tensor([[0.0, 1.0]]))
    assert torch.isfinite(loss)
    assert loss.item() > 100


def test_a_batch_without_any_known_label_costs_nothing():
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = FocalLoss(torch.ones(3, 2), 2.0)(logits, torch.full((2, 3), float("nan")))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_class_weights_give_both_sides_of_a_finding_the_same_total():
    generator = np.random.default_rng(0)
    labels = (generator.random((500, 14)) < 0.07).astype(np.float32)
    labels[generator.random((500, 14)) < 0.1] = np.nan
    weights = class_weights(labels)
    for k in range(14):
        present, absent = (labels[:, k] == 1).sum(), (labels[:, k] == 0).sum()
        assert np.isclose(weights[k, 1] * present, weights[k, 0] * absent)
        assert np.isclose(weights[k, 1] * present + weights[k, 0] * absent, present + absent)


def test_a_finding_that_is_never_present_or_never_absent_weighs_one():
    labels = np.zeros((10, 2), np.float32)
    labels[0, 1] = 1
    assert class_weights(labels)[0].tolist() == [1, 1]


@settings(deadline=None)
@given(seeds)
def test_asymmetric_loss_is_the_papers_formula(seed):
    """Equations 4 to 6 of arXiv 2009.14119, in float64."""
    logits, labels = _batch(seed)
    p = logits.double().sigmoid()
    shifted = (p - 0.05).clamp(min=0)
    positive = (1 - p) ** 1 * p.log()
    negative = shifted**4 * (1 - shifted).log()
    expected = -(labels * positive + (1 - labels) * negative).mean()
    ours = loss_of(Loss(kind="asymmetric", gamma=4, gamma_present=1), np.ones((14, 2)))
    assert torch.allclose(ours(logits, labels).double(), expected, rtol=1e-3, atol=1e-6)


@settings(deadline=None)
@given(seeds, st.floats(0, 0.9))
def test_smoothing_is_cross_entropy_of_softened_labels(seed, smoothing):
    logits, labels = _batch(seed)
    soft = labels * (1 - smoothing) + smoothing / 2
    ours = loss_of(Loss(smoothing=smoothing), np.ones((14, 2)))(logits, labels)
    assert torch.allclose(ours, binary_cross_entropy_with_logits(logits, soft), rtol=1e-4)


def test_pos_weight_is_torchs():
    logits, labels = _batch(0)
    weights = label_weights(Loss(pos_weight=3.0), labels.numpy())
    theirs = binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.tensor(3.0))
    assert torch.allclose(loss_of(Loss(), weights)(logits, labels), theirs, rtol=1e-5)


def test_opposite_class_weights_are_the_others_share():
    """Section 2.1 of arXiv 1711.05225: w+ = |N| / (|P| + |N|)."""
    labels = np.zeros((100, 1), np.float32)
    labels[:8] = 1
    labels[90:] = np.nan
    weights = label_weights(Loss(class_weights="opposite"), labels)
    assert np.allclose(weights, [[8 / 90, 82 / 90]])


@pytest.mark.parametrize("kind", ["bce", "focal", "asymmetric"])
def test_a_gradient_is_finite_for_any_logit_and_unknown_labels_have_none(kind):
    logits = torch.tensor([[-200.0, 200, 0, 90, -90]] * 3, requires_grad=True)
    labels = torch.tensor([[0.0] * 5, [1.0] * 5, [float("nan")] * 5])
    choice = Loss(kind=kind, gamma=0.5, gamma_present=0.5)
    loss_of(choice, np.ones((5, 2)))(logits, labels).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[2] == 0).all()


def test_a_loss_waits_for_nothing_on_the_device():
    """Selecting by a mask must know how many are selected, so it waits; the meta device refuses."""
    for kind in ("bce", "focal", "asymmetric"):
        loss = loss_of(Loss(kind=kind), np.ones((3, 2))).to("meta")
        logits = torch.zeros(4, 3, device="meta", requires_grad=True)
        loss(logits, torch.zeros(4, 3, device="meta"), torch.ones(4, device="meta")).backward()
