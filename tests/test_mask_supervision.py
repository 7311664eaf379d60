"""The mask loss, and that masks move with their images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from chestxray.dataset import Dataset
from chestxray.errors import RecipeError
from chestxray.model import bundle as bundles
from chestxray.model.network import Classifier
from chestxray.training import initial_weights, train
from chestxray.training import recipe as recipes
from chestxray.training.augmentation import augmentation, augmented_with_masks
from chestxray.training.mask_supervision import MaskedPart, check_masks, mask_loss
from chestxray.training.recipe_keys import Augment

MOVES = {"flip": 0.5, "crop": [0.6, 1], "rotate": 30, "translate": 0.2, "shear": 10}
OTHERS = {"gamma": 0.2, "contrast": 0.2, "blur": 0.02, "noise": 0.02}


def test_the_loss_is_the_divergence_of_the_cells_from_an_even_spread_over_the_mask():
    maps = torch.tensor([[[[1.0, 0.0], [2.0, -1.0]]]])
    masks = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    p = np.exp([1, 0, 2, -1]) / np.exp([1, 0, 2, -1]).sum()
    expected = 0.5 * np.log(0.5 / p[0]) + 0.5 * np.log(0.5 / p[2])
    assert mask_loss(maps, masks, torch.ones(1, 1)).item() == pytest.approx(expected, abs=1e-6)


def test_a_constant_added_to_a_map_changes_neither_loss_nor_the_sum_of_its_gradient():
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    masks, labels = torch.rand(2, 3, 4, 4) > 0.7, torch.ones(2, 3)
    loss = mask_loss(maps, masks, labels)
    assert mask_loss(maps + 5, masks, labels).item() == pytest.approx(loss.item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, maps)
    assert gradient.abs().max() > 0
    assert torch.allclose(gradient.sum((2, 3)), torch.zeros(2, 3), atol=1e-6)


def test_only_present_findings_with_a_mask_count():
    maps = torch.randn(1, 4, 4, 4)
    masks = torch.zeros(1, 4, 8, 8)
    masks[0, (0, 2, 3), 2:4, 2:4] = 1
    labels = torch.tensor([[1.0, 1.0, 0.0, torch.nan]])  # with, without a mask, absent, unknown
    alone = mask_loss(maps[:, :1], masks[:, :1], labels[:, :1])
    assert mask_loss(maps, masks, labels).item() == pytest.approx(alone.item(), abs=1e-6)
    assert mask_loss(maps, torch.zeros(1, 4, 8, 8), labels).item() == 0
    assert alone > 0


def test_the_best_map_is_high_in_the_mask_and_low_elsewhere():
    masks = torch.zeros(1, 1, 8, 8)
    masks[0, 0, 1:3, 5:7] = 1
    best = mask_loss(100 * masks, masks, torch.ones(1, 1))
    assert best.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("changes", [{"rotate": 30, "crop": [0.6, 1]}, {"flip": 1}, MOVES | OTHERS])
def test_masks_move_with_their_images_and_images_as_without_masks(changes):
    """A disc is drawn into image and mask; after the changes both have it in the same place."""
    off = {"flip": 0, "rotate": 0, "gamma": 0, "contrast": 0}
    steps = augmentation(Augment.model_validate(off | changes))
    y, x = np.mgrid[:64, :64]
    discs = np.stack([(x - 20 - n) ** 2 + (y - 40 + n) ** 2 < 100 for n in range(16)])
    masks = torch.from_numpy(discs).view(16, 1, 32, 2, 32, 2).float().mean((3, 5)) > 0.5
    images = torch.from_numpy(discs)[:, None].float() * 0.5
    torch.manual_seed(5)
    alone = steps(images)
    torch.manual_seed(5)
    moved, with_them = augmented_with_masks(steps, images, masks)
    assert torch.equal(moved, alone)
    assert not torch.equal(moved, images)
    seen = torch.nn.functional.avg_pool2d(moved, 2)[:, 0] > 0.25
    covered = with_them[:, 0] > 0.5
    union = (seen | covered).sum((1, 2)).clamp(min=1)
    overlap = (seen & covered).sum((1, 2)) / union
    assert overlap[covered.sum((1, 2)) > 20].min() > 0.7
    assert (covered.sum((1, 2)) > 20).sum() > 8


def test_a_recipe_with_masks_needs_a_dataset_with_masks(dataset: Dataset):
    recipe = recipes.load("quick", {"mask_weight": 0.1})
    check_masks(dataset, recipe)
    bare = dataclasses.replace(dataset, masks=None)
    with pytest.raises(RecipeError, match=r"mask_weight = 0\.1: .* has no masks"):
        check_masks(bare, recipe)
    check_masks(bare, recipes.load("quick"))


def test_a_training_with_masks_gives_a_bundle_with_fine_maps_that_add_up(dataset, tmp_path):
    tiny = {"backbone": "resnet10t", "size": 32, "batch_size": 32, "max_epochs": 1}
    fine = {**tiny, "head": "multiscale", "mixup": 0.2}
    weights = []
    for weight in (0.0, 0.5):
        done = train(dataset, "quick", tmp_path / f"{weight:g}", fine | {"mask_weight": weight})
        bundle = bundles.load(done.bundle)
        assert bundle.card.head == "multiscale"
        with torch.inference_mode():
            logits, maps, _ = bundle.classifier.explain(torch.rand(2, 1, 32, 32))
        assert maps.shape[-2:] == (4, 4)
        assert torch.allclose(maps.mean((2, 3)) + bundle.classifier.head.bias, logits, atol=1e-5)
        weights.append(bundle.classifier.head.weight)
    assert not torch.allclose(weights[0], weights[1], atol=1e-3)


def test_the_backbone_of_a_plain_bundle_starts_a_multiscale_one(run: Path):
    card = bundles.load(run / "bundle").card
    values = {"weights": str(run / "bundle"), "size": card.size, "backbone": card.backbone}
    recipe = recipes.load("quick", values | {"head": "multiscale"})
    network = Classifier(card.backbone, card.findings, card.size, head="multiscale")
    before = network.head.weight.clone()
    initial_weights.load(network, recipe)
    plain = bundles.load(run / "bundle").classifier.backbone.state_dict()
    assert all(torch.equal(of, plain[name]) for name, of in network.backbone.state_dict().items())
    assert torch.equal(network.head.weight, before)


def test_a_batch_has_the_masks_of_its_images(dataset: Dataset):
    part = MaskedPart(dataset, "train")
    images, labels, masks = part[[5, 2]]
    rows = dataset.rows("train")[[5, 2]]
    assert np.array_equal(masks, dataset.masks[rows])
    assert np.array_equal(images, dataset.images[rows])
    assert np.array_equal(labels, dataset.labels(rows))
