from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision import transforms

from chestxray.evaluation import predictions
from chestxray.model import bundle as bundles
from chestxray.model.network import Classifier, to_input
from chestxray.model.origin import Crops
from chestxray.model.test_time import (
    _overlap,
    _parts,
    averaged,
    log_odds_of_mean,
    read_crops,
    secant_weights,
)
from chestxray.model.torch_engine import batches
from chestxray.training import fit
from chestxray.training import recipe as recipes
from conftest import TINY

VIEWS = (("flip",), ("crops",), ("flip", "crops"))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 1, 64, 64)


def network(*views: str) -> Classifier:
    torch.manual_seed(0)
    classifier = Classifier("resnet10t", ("A", "B", "C"), 64, tta=views).eval()
    torch.nn.init.normal_(classifier.head.bias)
    return classifier


@pytest.mark.parametrize("views", VIEWS)
def test_the_mean_of_an_averaged_class_map_and_the_bias_are_the_averaged_logit(views, images):
    classifier = network(*views)
    with torch.inference_mode():
        logits, maps, features = classifier.explain(images)
        assert torch.allclose(maps.mean((2, 3)) + classifier.head.bias, logits, atol=1e-5)
        assert torch.allclose(classifier.head(features), logits, atol=1e-5)
        assert torch.equal(classifier(images), logits)


def test_an_averaged_flip_is_the_mean_over_image_and_mirror_with_the_map_turned_back(images):
    plain, flipped = network(), network("flip")
    with torch.inference_mode():
        (one, map_one, _), (two, map_two, _) = plain.explain(images), plain.explain(images.flip(-1))
        logits, maps, _ = flipped.explain(images)
    assert torch.allclose(logits, (one + two) / 2, atol=1e-6)
    assert torch.allclose(maps, (map_one + map_two.flip(-1)) / 2, atol=1e-6)


def test_a_mirrored_image_has_the_same_logits_and_the_mirrored_map(images):
    with torch.inference_mode():
        logits, maps, _ = network("flip").explain(images)
        turned, turned_maps, _ = network("flip").explain(images.flip(-1))
    assert torch.allclose(logits, turned, atol=1e-5)
    assert torch.allclose(maps, turned_maps.flip(-1), atol=1e-5)


def test_the_map_of_a_part_lies_where_the_part_lies():
    """A model that sees brightness itself, in cells of 8 px."""
    image = torch.zeros(1, 1, 64, 64)
    image[..., 48:56, 8:16] = 1

    def explain(images):
        maps = torch.nn.functional.avg_pool2d(images, 8)
        return maps.mean((2, 3)), maps, maps.mean((2, 3))

    _, maps, _ = averaged(explain, image, ("crops",))
    row, column = divmod(int(maps[0, 0].argmax()), 8)
    assert (row, column) == (6, 1)
    assert maps[0, 0, 6, 1] > 0.6 * maps.sum()


def test_a_part_spread_over_cells_keeps_its_sum_and_stays_inside():
    for part in _parts(64, ("crops",))[1:]:
        spread = _overlap(8, part.top / 64, part.side / 64)
        assert torch.allclose(spread.sum(0), torch.full((8,), part.side / 64).double())
        covered = torch.arange(8) * 8
        outside = (covered + 8 <= part.top) | (covered >= part.top + part.side)
        assert (spread[outside] == 0).all()


def test_an_export_averages_the_same_views(images):
    """One graph, which needs to know nothing of it."""
    pytest.importorskip("onnxruntime")
    from chestxray.model.engines import OnnxEngine
    from chestxray.model.export import to_onnx
    from chestxray.model.torch_engine import TorchEngine

    classifier = network("flip", "crops")
    pixels = (images[:, 0] * 255).byte().numpy()
    theirs, ours = OnnxEngine(to_onnx(classifier)).run(pixels), TorchEngine(classifier).run(pixels)
    for exported, own in zip(theirs, ours, strict=True):
        assert np.allclose(exported, own, atol=1e-4)


def test_training_is_never_averaged(images):
    plain, flipped = network().train(), network("flip").train()
    assert torch.equal(plain(images), flipped(images))


def test_validation_calibration_and_the_bundle_average_the_same_views(dataset, tmp_path):
    recipe = recipes.load("quick", [*TINY, "tta=[flip]", "max_epochs=1"])
    finished = fit.train(dataset, recipe, tmp_path / "run")
    card = json.loads((finished.bundle / "bundle.json").read_text(encoding="utf-8"))
    assert card["tta"] == ["flip"]
    bundle = bundles.load(finished.bundle)
    pixels = dataset.images[dataset.rows("val")]
    logits = np.concatenate([answer[0] for answer in batches(bundle.classifier, pixels)])
    bundle.classifier.tta = ()
    with torch.inference_mode():
        inputs = to_input(torch.from_numpy(pixels))
        each = [bundle.classifier(view) for view in (inputs, inputs.flip(-1))]
    assert np.allclose(logits, torch.stack(each).mean(0), atol=1e-4)
    table = predictions.read(finished.validation).rows.filter(like="prob_").to_numpy()
    assert np.allclose(bundle.card.calibration.apply(logits.astype(float)), table, atol=1e-4)
    labels = torch.from_numpy(dataset.labels(dataset.rows("val")))
    bce = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), labels)
    found = finished.history.query("split == 'val'")["loss"].item()
    assert found == pytest.approx(float(bce), rel=1e-4)


# crops of imported models


def cropped(rule: str) -> Classifier:
    torch.manual_seed(0)
    crops = Crops(side=56, rule=rule)
    classifier = Classifier("resnet10t", ("A", "B", "C"), 64, channels=3, crops=crops).eval()
    torch.nn.init.normal_(classifier.head.weight, std=0.5)
    torch.nn.init.normal_(classifier.head.bias)
    return classifier


def of_colour(classifier: Classifier, crops: torch.Tensor) -> torch.Tensor:
    """The logits of crops by the same network of three channels, each normalised by ImageNet's."""
    colours = crops.expand(-1, 3, -1, -1)
    normal = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    features = classifier.backbone(normal(colours))
    return features.mean((2, 3)) @ classifier.head.weight.T + classifier.head.bias


def test_the_probability_of_ten_crops_is_the_mean_probability_of_torchvisions_ten_crops(images):
    classifier = cropped("ten")
    with torch.inference_mode():
        each = [of_colour(classifier, crop).sigmoid() for crop in transforms.TenCrop(56)(images)]
        found = classifier(images).sigmoid()
    expected = torch.stack(each).mean(0)
    assert torch.stack(each).std(0).min() > 1e-3
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_centre_crop_is_torchvisions(images):
    classifier = cropped("centre")
    with torch.inference_mode():
        expected = of_colour(classifier, transforms.CenterCrop(56)(images))
        assert torch.allclose(classifier(images), expected, atol=1e-5)


@pytest.mark.parametrize("rule", ["ten", "centre"])
def test_the_mean_of_the_class_map_of_crops_and_the_bias_are_the_logit_of_their_probability(
    rule, images
):
    classifier = cropped(rule)
    with torch.inference_mode():
        logits, maps, _ = classifier.explain(images)
        assert torch.equal(classifier(images), logits)
    assert torch.allclose(maps.mean((2, 3)) + classifier.head.bias, logits, atol=1e-5)
    assert len(maps[0, 0]) == round(64 / 56 * 2)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3, 1.0, 30.0, 90.0])
def test_weights_of_crops_are_positive_add_up_to_one_and_give_the_logit_of_the_mean(spread):
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(10, 50, generator=generator) - 3
    joint = log_odds_of_mean(logits)
    weights = secant_weights(logits, joint)
    expected = logits.double().sigmoid().mean(0).logit()
    assert torch.allclose(joint.double(), expected, atol=1e-4) or spread > 30
    assert (weights > 0).all() or spread > 1
    assert torch.allclose(weights.sum(0), torch.ones(50))
    assert torch.allclose((weights * logits).sum(0), joint, atol=1e-4, rtol=1e-4)


def test_maps_of_crops_lie_where_the_crops_lie():
    """A model that sees brightness itself, in cells of 8 px: what ten crops of it see in common."""
    image = torch.zeros(1, 1, 64, 64)
    image[..., 48:56, 8:16] = 1

    def explain(images):
        maps = torch.nn.functional.avg_pool2d(images, 8)
        return maps.mean((2, 3)), maps, maps.mean((2, 3))

    _, maps, _ = read_crops(explain, image, Crops(side=48, rule="ten"))
    row, column = divmod(int(maps[0, 0].argmax()), 8)
    assert (row, column) == (6, 1)
    assert maps[0, 0, 6, 1] > 0.9 * maps.sum()
