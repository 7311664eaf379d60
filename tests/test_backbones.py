"""timm's own function is kept: with timm's classifier as the head, the logits are timm's."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from chestxray.errors import RecipeError
from chestxray.model.engines import OnnxEngine
from chestxray.model.export import to_onnx
from chestxray.model.network import Classifier, to_input

SIZE = 64

# Layers between pooling and classifier, by family: none, norms, hidden layers.
FAMILIES = {
    "resnet10t": 0, "regnety_002": 0, "densenet121": 0, "tf_efficientnet_lite0": 0,
    "mobilevit_xxs": 0, "pvt_v2_b0": 0, "fastvit_t8": 0, "starnet_s1": 0,
    "convnext_atto": 1, "edgenext_xx_small": 1, "tiny_vit_5m_224": 1, "inception_next_atto": 3,
    "mambaout_femto": 4, "efficientvit_b0": 3, "mobilenetv3_small_050": 2, "lcnet_050": 2,
    "mobilenetv4_conv_small": 2, "ghostnet_100": 2,
    "vit_tiny_patch16_224": 0, "xcit_nano_12_p16_224": 0, "resmlp_12_224": 0, "mixer_s32_224": 0,
    "vit_relpos_small_patch16_224": 1, "beit_base_patch16_224": 1,
    "swin_tiny_patch4_window7_224": 0, "poolformer_s12": 1, "davit_tiny": 1, "hgnet_tiny": 2,
    "vgg11_bn": 0, "mvitv2_tiny": 0, "convnextv2_atto": 1, "swinv2_cr_tiny_224": 0,
    "eva02_tiny_patch14_224": 1, "vit_small_patch14_dinov2": 0, "vit_small_patch14_reg4_dinov2": 0,
    "vit_small_patch16_dinov3": 0,
}  # fmt: skip
FAST = (
    "resnet10t", "tf_efficientnet_lite0", "convnext_atto", "inception_next_atto", "mambaout_femto",
    "efficientvit_b0", "mobilenetv3_small_050", "vit_tiny_patch16_224", "regnety_002",
    "xcit_nano_12_p16_224", "eva02_tiny_patch14_224", "pvt_v2_b0",
)  # fmt: skip
# Features are compared for each kind of layers, and where timm's classifier is not one layer.
LAYERED = {
    "resnet10t": 0, "convnext_atto": 1, "tiny_vit_5m_224": 1, "edgenext_xx_small": 1,
    "davit_tiny": 1, "caformer_s18": 1, "maxvit_tiny_tf_224": 3, "mobilenetv3_small_050": 2,
    "mobilenetv4_conv_small": 2, "lcnet_050": 2, "hgnet_tiny": 2, "ghostnet_100": 2,
}  # fmt: skip
SLOW = ("davit_tiny", "maxvit_tiny_tf_224", "hgnet_tiny")  # seconds each


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in FAMILIES],
)
def test_with_timms_classifier_as_the_head_the_logits_are_timms(backbone, tmp_path):
    torch.manual_seed(0)
    size = 56 if "patch14" in backbone else SIZE
    known = timm.get_pretrained_cfg(backbone)
    theirs = timm.create_model(backbone, **({"img_size": size} if known.fixed_input_size else {}))
    _disturb(theirs.eval())
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    head = theirs.get_classifier()
    if not isinstance(head, torch.nn.Linear):  # DINO: features only
        head = torch.nn.Linear(theirs.num_features, 7)
    ours = Classifier(backbone, [f"class {k}" for k in range(head.out_features)], size).eval()
    ours.load_pretrained(str(tmp_path / "weights.safetensors"), backbone)
    ours.head.load_state_dict(head.state_dict())
    if getattr(theirs, "global_pool", None) == "token":  # the class token has no place
        theirs.global_pool = "avg"
    images = torch.rand(2, 1, size, size)
    with torch.inference_mode():
        expected = theirs(_colours(theirs, ours, images))
        if not theirs.num_classes:
            expected = head(expected)
        logits, maps, _ = ours.explain(images)
    scale = float(expected.abs().max())
    assert expected.std() > 0
    assert torch.allclose(logits / scale, expected / scale, atol=1e-5)
    assert torch.allclose((maps.mean((2, 3)) + ours.head.bias) / scale, expected / scale, atol=1e-5)
    assert len(ours.pooled_layers) == FAMILIES[backbone]


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LAYERED],
)
def test_features_are_those_of_timm_and_maps_add_up_whatever_stands_after_the_pooling(
    backbone, tmp_path
):
    """At 224 px, with random norms."""
    torch.manual_seed(0)
    theirs = timm.create_model(backbone, pretrained=False).eval()
    _disturb(theirs)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    network = Classifier(backbone, ("Mass", "Edema"), 224).eval()
    network.load_pretrained(str(tmp_path / "weights.safetensors"), backbone)
    assert len(network.pooled_layers) == LAYERED[backbone]
    images = torch.rand(2, 1, 224, 224)
    normalised = _colours(theirs, network, images)
    theirs.reset_classifier(0)
    with torch.inference_mode():
        expected = theirs(normalised)
        logits, maps, features = network.explain(images)
    scale = expected.abs().max()
    assert scale > 0
    assert torch.allclose(features / scale, expected / scale, atol=1e-5)
    found = maps.mean((2, 3)) + network.head.bias
    assert torch.allclose(found, logits, atol=1e-5 * float(logits.abs().max()))
    assert maps.std((2, 3)).min() > 0
    assert torch.equal(network(images), logits)


def _colours(theirs, ours: Classifier, images: torch.Tensor) -> torch.Tensor:
    """The input of timm's model: the same grey in three colours, normalised as timm says.

    Next to padding one grey channel stands for the three only where these are normalised alike;
    there the average of the three is what both are given. Layers of timm's own class pad by the
    size of the image, as TensorFlow does.
    """
    names = theirs.pretrained_cfg["first_conv"]
    layer = theirs.get_submodule(names if isinstance(names, str) else names[0])
    if type(layer) is not torch.nn.Conv2d or any(layer.padding):
        return ((images - ours.mean) / ours.std).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(theirs.pretrained_cfg[of])[:, None, None] for of in ("mean", "std"))
    return (images - mean) / std


def _disturb(model: torch.nn.Module) -> None:
    """Give norms, biases and layer scales random values, as training does."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "gamma" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(torch.rand_like(buffer) * 0.3)


def test_twenty_families_are_compared():
    assert len(FAMILIES) >= 20
    assert set(FAST) <= set(FAMILIES)


@pytest.mark.parametrize(("size", "side"), [(224, 14), (112, 7)])
def test_a_vision_transformer_is_mapped_token_by_token_at_any_size(size, side):
    network = Classifier("vit_tiny_patch16_224", ("Mass", "Edema"), size).eval()
    image = torch.rand(1, 1, size, size)
    with torch.no_grad():
        logits, maps, features = network.explain(image)
        tokens = network.backbone.forward_features((image - network.mean) / network.std)
    assert maps.shape == (1, 2, side, side)
    assert torch.allclose(features, tokens[:, 1:].mean(1), atol=1e-5)
    assert torch.allclose(logits, maps.mean((2, 3)) + network.head.bias, atol=1e-5)
    row, column = side - 1, 2
    token = tokens[0, 1 + row * side + column]
    assert torch.allclose(maps[0, :, row, column], network.head.weight @ token, atol=1e-5)


def test_maps_with_channels_last_are_turned():
    network = Classifier("swin_tiny_patch4_window7_224", ("Mass",), SIZE).eval()
    image = torch.rand(1, 1, SIZE, SIZE)
    with torch.no_grad():
        _, maps, _ = network.explain(image)
        cells = network.backbone.forward_features((image - network.mean) / network.std)
    assert cells.shape == (1, 2, 2, 768)
    assert torch.allclose(maps[0, 0, 1, 0], network.head.weight[0] @ cells[0, 1, 0], atol=1e-5)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "inception_next_atto"])
def test_an_exported_graph_gives_the_same_logits_and_maps(backbone):
    network = Classifier(backbone, ("Mass", "Edema"), SIZE).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE), dtype=np.uint8)
    answer = OnnxEngine(to_onnx(network)).run(images)
    with torch.no_grad():
        logits, maps, features = network.explain(to_input(torch.from_numpy(images)))
    for ours, theirs in zip((logits, maps, features), answer, strict=True):
        assert np.abs(ours.numpy() - theirs).max() < 1e-4 * max(1, float(ours.abs().max()))


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("deit_tiny_distilled_patch16_224", "class and distillation tokens"),
        ("pit_ti_224", "Only token pooling"),
    ],
)
def test_a_backbone_whose_maps_would_not_add_up_is_refused_with_the_reason(backbone, words):
    with pytest.raises(
        RecipeError, match=rf"{backbone} would not add up to its logits \(.*{words}"
    ):
        Classifier(backbone, ("Mass",), 224)
