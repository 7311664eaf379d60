from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from chestxray.errors import RecipeError
from chestxray.model import bundle as bundles
from chestxray.model.engines import OnnxEngine, OpenVinoEngine
from chestxray.model.export import to_onnx, to_openvino
from chestxray.model.feature_maps import spread, spread_weights
from chestxray.model.model_card import ModelCard, read
from chestxray.model.network import Classifier, to_input
from chestxray.model.randomization import randomized

FINDINGS = ("Mass", "Edema", "Hernia")


def _network(size: int = 64, backbone: str = "resnet10t") -> Classifier:
    """A classifier whose norms have seen other statistics than 0 and 1."""
    torch.manual_seed(0)
    network = Classifier(backbone, FINDINGS, size, head="multiscale")
    for norm in network.norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize(
    ("cells", "side"), [(4, 14), (7, 14), (7, 28), (3, 7), (1, 5), (2, 3), (5, 5)]
)
def test_spreading_keeps_the_mean_and_follows_the_line_between_the_centres(cells, side):
    values = np.random.default_rng(0).normal(size=cells)
    fine = (np.arange(side * 1000) + 0.5) / 1000 * cells / side  # 1000 points in each new cell
    line = np.interp(fine, np.arange(cells) + 0.5, values)
    found = spread_weights(cells, side) @ values
    assert np.allclose(found, line.reshape(side, 1000).mean(1), atol=1e-4)
    assert found.mean() == pytest.approx(values.mean(), abs=1e-12)


def test_a_coarse_cell_stays_in_its_place_when_it_is_spread():
    coarse = torch.zeros(1, 1, 7, 7)
    coarse[0, 0, 5, 1] = 1
    fine = spread(coarse, 28)[0, 0]
    assert fine.mean() == pytest.approx(1 / 49)
    assert fine[20:24, 4:8].sum() > fine.sum() / 2
    assert fine[21:23, 5:7].min() > fine[:20].max()


@pytest.mark.parametrize("backbone", ["resnet10t", "convnext_atto", "mobilenetv3_small_050"])
@pytest.mark.parametrize("training", [False, True])
def test_the_mean_of_the_summed_class_map_and_the_bias_are_the_logit(backbone, training):
    network = _network(224, backbone)
    if training:
        network.norms.train()
    images = torch.rand(2, 1, 224, 224)
    with torch.inference_mode():
        logits, maps, features = network.explain(images)
        assert torch.equal(network(images), logits)
        assert torch.allclose(network.head(features), logits, atol=1e-6)
    assert maps.shape == (2, 3, 28, 28)
    assert torch.allclose(maps.mean((2, 3)) + network.head.bias, logits, atol=1e-5)


def test_the_logit_is_the_sum_over_the_strides_of_timms_own_pyramid():
    network = _network(96)
    pyramid = timm.create_model("resnet10t", features_only=True, in_chans=1, out_indices=(2, 3, 4))
    pyramid.load_state_dict(network.backbone.state_dict())
    image = torch.rand(1, 1, 96, 96)
    with torch.inference_mode():
        logits, maps, _ = network.explain(image)
        features = pyramid.eval()((image - network.mean) / network.std)
    weight, expected, start = network.head.weight.detach(), network.head.bias.detach().clone(), 0
    for of, norm in zip(features, (*network.norms, None), strict=True):
        pooled = of.mean((2, 3))[0]
        if norm is not None:
            pooled = (pooled - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        expected += weight[:, start : start + len(pooled)] @ pooled
        start += len(pooled)
    assert [of.shape[-1] for of in features] == [12, 6, 3]
    assert start == weight.shape[1]
    assert torch.allclose(logits[0], expected, atol=1e-5)
    assert maps.shape[-1] == 12


def test_a_feature_at_stride_8_lights_its_own_cell_alone():
    network = _network()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.weight[1, 5] = 3.0  # of the 128 features at stride 8
    fine = torch.zeros(1, 128, 8, 8) + network.norms[0].running_mean[:, None, None]
    fine[0, 5, 6, 2] += (network.norms[0].running_var[5] + network.norms[0].eps).sqrt()
    network._features = lambda _: [fine, torch.rand(1, 256, 4, 4), torch.rand(1, 512, 2, 2)]
    _, maps, _ = network.explain(torch.zeros(1, 1, 64, 64))
    expected = torch.zeros(1, 3, 8, 8)
    expected[0, 1, 6, 2] = 3.0
    assert torch.allclose(maps, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_the_exported_graph_gives_the_same_maps_and_they_add_up(kind):
    network = _network(112)
    onnx = to_onnx(network)
    engine = OnnxEngine(onnx) if kind == "onnx" else OpenVinoEngine(to_openvino(onnx))
    images = np.random.default_rng(0).integers(0, 256, (3, 112, 112), dtype=np.uint8)
    answer = engine.run(images)
    with torch.inference_mode():
        logits, maps, features = network.explain(to_input(torch.from_numpy(images)))
    assert answer.maps.shape == (3, 3, 14, 14)
    for ours, theirs in zip((logits, maps, features), answer, strict=True):
        assert np.abs(ours.numpy() - theirs).max() < 1e-4
    means = answer.maps.mean((2, 3)) + network.head.bias.detach().numpy()
    assert np.abs(means - answer.logits).max() < 1e-5


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "levit_128s"])
def test_a_backbone_without_finer_maps_is_refused_with_its_strides(backbone):
    with pytest.raises(RecipeError, match=rf"{backbone} has none \(its feature maps have .* 16"):
        Classifier(backbone, FINDINGS, 224, head="multiscale")


def test_a_bundle_keeps_its_head_and_one_without_the_key_is_plain(run: Path, tmp_path: Path):
    card = read(run / "bundle").card
    network = Classifier(card.backbone, card.findings, card.size, head="multiscale").eval()
    saved = bundles.save(
        tmp_path / "bundle", network, card.model_copy(update={"head": "multiscale"})
    )
    opened = bundles.load(tmp_path / "bundle")
    images = torch.rand(2, 1, card.size, card.size)
    with torch.inference_mode():
        assert torch.allclose(opened.classifier(images), saved.classifier(images), atol=1e-6)
        assert opened.classifier.explain(images)[1].shape[-1] == card.size // 8
    copy = randomized(opened.card, opened.classifier, 0.5, seed=1)
    assert copy.explain(images)[1].shape[-1] == card.size // 8
    values = json.loads((tmp_path / "bundle/bundle.json").read_text())
    del values["head"]
    assert ModelCard.model_validate(values).head == "plain"
