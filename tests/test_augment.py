from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chestxray.training.augmentation import augmentation
from chestxray.training.recipe import Augment


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(16, 1, 32, 32)


def test_nothing_asked_for_is_nothing_done(images):
    still = augmentation(Augment(flip=0, rotate=0, gamma=0, contrast=0))
    assert torch.equal(still(images.clone()), images)


def test_a_certain_flip_is_an_exact_mirror(images):
    flip = augmentation(Augment(flip=1, rotate=0, gamma=0, contrast=0))
    assert torch.equal(flip(images.clone()), images.flip(-1))


def test_half_the_images_are_flipped_each_on_its_own():
    images = torch.rand(400, 1, 4, 4)
    torch.manual_seed(0)
    flipped = augmentation(Augment(flip=0.5, rotate=0, gamma=0, contrast=0))(images.clone())
    share = (flipped != images).flatten(1).any(1).float().mean()
    assert 0.4 < share < 0.6


def test_a_rotation_moves_a_point_by_no_more_than_its_angle():
    image = torch.zeros(64, 1, 101, 101)
    image[:, :, 48:53, 88:93] = 1  # 40 pixels right of the centre
    torch.manual_seed(0)
    turned = augmentation(Augment(flip=0, rotate=10, gamma=0, contrast=0))(image)
    rows = torch.arange(101.0)[:, None]
    height = (turned[:, 0] * rows).sum((1, 2)) / turned[:, 0].sum((1, 2)) - 50
    most = 40 * torch.sin(torch.deg2rad(torch.tensor(10.0)))
    assert height.abs().max() <= most + 0.5
    assert height.abs().max() > 0.7 * most
    assert (height > 0).any()
    assert (height < 0).any()


@settings(deadline=None, max_examples=25)
@given(
    st.floats(0, 1), st.floats(0, 45), st.floats(0, 0.9), st.floats(0, 0.9), st.integers(0, 10**6)
)  # fmt: skip
def test_values_stay_between_0_and_1(flip, rotate, gamma, contrast, seed):
    torch.manual_seed(seed)
    images = torch.rand(4, 1, 16, 16)
    augment = Augment(flip=flip, rotate=rotate, gamma=gamma, contrast=contrast)
    changed = augmentation(augment)(images)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 0.9), st.floats(0, 0.9), st.integers(0, 10**6))
def test_black_stays_black_and_grey_values_keep_their_order(gamma, contrast, seed):
    """Padding and collimation are black in every radiograph, so they must not tell one view."""
    torch.manual_seed(seed)
    ramp = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8).repeat(4, 1, 1, 1)
    changed = augmentation(Augment(flip=0, rotate=0, gamma=gamma, contrast=contrast))(ramp)
    assert (changed[:, 0, 0, 0] == 0).all()
    assert (changed.flatten(1).diff() >= 0).all()


def test_gamma_and_contrast_reach_their_limits_and_go_no_further():
    grey = torch.full((2000, 1, 2, 2), 0.25)
    torch.manual_seed(0)
    contrast = augmentation(Augment(flip=0, rotate=0, gamma=0, contrast=0.2))(grey)[:, 0, 0, 0]
    assert contrast.min() == pytest.approx(0.25 * 0.8, abs=5e-4)
    assert contrast.max() == pytest.approx(0.25 * 1.2, abs=5e-4)
    gamma = augmentation(Augment(flip=0, rotate=0, gamma=0.2, contrast=0))(grey)[:, 0, 0, 0]
    assert gamma.min() == pytest.approx(0.25**1.2, abs=5e-4)
    assert gamma.max() == pytest.approx(0.25**0.8, abs=5e-4)
    assert abs(float(contrast.mean()) - 0.25) < 0.003


def test_the_same_seed_gives_the_same_images(images):
    change = augmentation(Augment(flip=0.5, rotate=10, gamma=0.2, contrast=0.2))
    results = []
    for _ in range(2):
        torch.manual_seed(4)
        results.append(change(images.clone()))
    assert torch.equal(*results)
