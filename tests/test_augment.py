from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chestxray.training.augmentation import augmentation, mixed
from chestxray.training.recipe import Augment
from chestxray.training.registry import AUGMENTATIONS

STILL = {"flip": 0, "rotate": 0, "gamma": 0, "contrast": 0}


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


def only(**amounts: float | tuple[float, float]) -> torch.nn.Module:
    """These changes and no others."""
    return augmentation(Augment(**{**STILL, **amounts}))


@pytest.mark.parametrize("name", AUGMENTATIONS.names)
def test_each_change_alone_changes_images_and_keeps_shape_range_and_type(name, images):
    entry = AUGMENTATIONS[name]
    amount = {"crop": 0.4, "rotate": 20, "shear": 20, "blur": 0.05}.get(name, 0.3)
    torch.manual_seed(0)
    changed = only(**{name: amount})(images.clone())
    assert not torch.equal(changed, images)
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(only(**{name: entry.off})(images.clone()), images)


def corner(at: tuple[int, int], side: int = 100, count: int = 400) -> torch.Tensor:
    """Images of one bright 4 px square."""
    image = torch.zeros(count, 1, side, side)
    image[:, :, at[0] : at[0] + 4, at[1] : at[1] + 4] = 1
    return image


def centre(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of the centre of mass of each image."""
    places = torch.arange(float(images.shape[-1]))
    mass = images.sum((1, 2, 3))
    rows = (images.sum(3)[:, 0] * places).sum(1) / mass
    return rows, (images.sum(2)[:, 0] * places).sum(1) / mass


def test_a_translation_moves_by_at_most_its_share_in_every_direction():
    torch.manual_seed(0)
    rows, columns = centre(only(translate=0.1)(corner((48, 48))))
    for moved in (rows - 49.5, columns - 49.5):
        assert -10.05 <= moved.min() < -9
        assert 9 < moved.max() <= 10.05


def test_a_shear_moves_along_the_rows_alone():
    torch.manual_seed(0)
    rows, columns = centre(only(shear=20)(corner((18, 48))))
    assert (rows - 19.5).abs().max() < 0.1
    most = 30 * torch.tan(torch.deg2rad(torch.tensor(20.0)))
    assert 0.9 * most < (columns - 49.5).abs().max() <= most + 0.1


def test_a_crop_keeps_the_share_of_the_area_that_its_range_says():
    """A square in the middle grows by 1 / share."""
    torch.manual_seed(0)
    image = torch.zeros(300, 1, 96, 96)
    image[:, :, 38:58, 38:58] = 1
    areas = only(crop=(0.5, 0.6))(image).sum((1, 2, 3))
    whole = areas[areas > 0.98 * areas.median()]  # not cut by the border
    assert whole.min() > 400 / 0.6 * 0.97
    assert areas.max() < 400 / 0.5 * 1.03


def test_a_pair_gives_both_ends_of_a_range():
    torch.manual_seed(0)
    grey = torch.full((500, 1, 2, 2), 0.25)
    factors = only(contrast=(1.2, 1.5))(grey)[:, 0, 0, 0] / 0.25
    assert 1.2 <= factors.min() < 1.22
    assert 1.48 < factors.max() <= 1.5001


def test_a_blur_spreads_a_point_by_its_deviation_and_keeps_its_sum():
    torch.manual_seed(0)
    image = torch.zeros(200, 1, 101, 101)
    image[:, :, 50, 50] = 1
    blurred = only(blur=(0.02, 0.02))(image)
    places = torch.arange(101.0) - 50
    deviation = (blurred.sum(2)[:, 0] * places**2).sum(1).sqrt()
    assert torch.allclose(blurred.sum((1, 2, 3)), torch.ones(200), atol=1e-4)
    assert torch.allclose(deviation, torch.full((200,), 2.02), atol=0.05)


def test_noise_has_the_deviation_of_its_range_and_leaves_black_alone():
    torch.manual_seed(0)
    image = torch.full((50, 1, 64, 64), 0.5)
    image[:, :, :10] = 0
    noisy = only(noise=(0.05, 0.05))(image)
    assert (noisy[:, :, :10] == 0).all()
    assert noisy[:, :, 10:].std() == pytest.approx(0.05, rel=0.02)


def test_an_erased_rectangle_has_its_share_of_the_area_and_the_mean_as_value():
    torch.manual_seed(0)
    large = torch.rand(200, 1, 100, 100)
    erased = only(erasing=(0.1, 0.2))(large.clone())
    shares = (erased != large).float().mean((1, 2, 3))
    assert 0.09 < shares.min() < shares.max() < 0.21
    first = erased[0][erased[0] != large[0]]
    assert torch.allclose(first, large[0].mean().expand_as(first))


def test_collimation_blackens_borders_and_nothing_else():
    torch.manual_seed(0)
    seen = only(collimation=0.2)(torch.ones(200, 1, 50, 50))
    assert (seen[:, :, 10:40, 10:40] == 1).all()
    widths = (seen[:, 0, 25] == 0).sum(1)
    assert 14 < widths.max() <= 20
    assert widths.min() < 5
    assert ((seen == 0) | (seen == 1)).all()


def test_changes_of_place_are_one_interpolation_and_equal_their_sequence():
    """A smooth image, so that interpolating twice costs little."""
    grid = torch.linspace(-1, 1, 96)
    image = torch.exp(-4 * ((grid[:, None] - 0.1) ** 2 + (grid[None] + 0.2) ** 2))[None, None]
    steps = {"rotate": (7, 7), "translate": (0.05, 0.05), "shear": (6, 6)}
    together = only(**steps)(image)
    apart = image
    for name, amount in steps.items():
        apart = only(**{name: amount})(apart)
    inner = slice(15, 80)
    difference = (together - apart)[..., inner, inner].abs().max()
    assert difference < 0.005
    assert len(list(only(**steps).children())) == 1


def test_mixing_keeps_each_image_with_its_labels():
    generator = np.random.default_rng(0)
    values = torch.linspace(0, 1, 8)
    images, labels = values[:, None, None, None].expand(8, 1, 4, 4), values[:, None].clone()
    labels[3] = float("nan")
    pictures, mixes = mixed(images, labels, 0.4, generator)
    known = ~torch.isnan(mixes)
    assert torch.allclose(pictures[:, 0, :1, 0][known], mixes[known], atol=1e-6)
    assert 1 <= (~known).sum() <= 2
    assert not torch.allclose(mixes[known], labels[known])
