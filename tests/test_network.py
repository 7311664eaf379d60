from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from chestxray.errors import RecipeError
from chestxray.model.network import Classifier, to_input
from chestxray.sources.nih import FINDINGS

SIZE = 96


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier("densenet121", FINDINGS, SIZE, dropout=0.5).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = np.random.default_rng(0)
    return to_input(torch.from_numpy(generator.integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)))


def test_the_mean_of_a_class_map_and_the_bias_are_the_logit(classifier, images):
    with torch.inference_mode():
        logits, maps, _ = classifier.explain(images)
        assert torch.allclose(maps.mean((2, 3)) + classifier.head.bias, logits, atol=1e-5)
        assert torch.equal(logits, classifier(images))


def test_class_maps_are_grad_cam_at_the_last_feature_map_for_every_finding(classifier, images):
    with torch.inference_mode():
        _, maps, _ = classifier.explain(images)
    with GradCAM(classifier, [classifier.backbone.features.norm5]) as cam:
        for k, finding in enumerate(FINDINGS):
            theirs = cam(images.clone(), [ClassifierOutputTarget(k)] * len(images))
            ours = maps[:, k].clamp(min=0).numpy()
            for image in range(len(images)):
                enlarged = cv2.resize(stretched(ours[image]), (SIZE, SIZE))
                assert np.abs(theirs[image] - stretched(enlarged)).max() < 1e-4, finding


def stretched(cam: np.ndarray) -> np.ndarray:
    """The rescaling of pytorch-grad-cam, which it does before and after enlarging a map."""
    return (cam - cam.min()) / (1e-7 + cam.max() - cam.min())


def test_each_map_follows_its_own_finding_and_not_its_place_in_the_batch(classifier, images):
    with torch.inference_mode():
        _, together, _ = classifier.explain(images)
        alone = torch.cat([classifier.explain(image[None])[1] for image in images])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together[:, 0], together[:, 1], atol=1e-3)


def test_a_planted_feature_lights_its_own_cell_and_finding_alone():
    """The wrong axis of the classifier's weight is the field's oldest heatmap fault."""
    planted = Classifier("densenet121", FINDINGS, SIZE).eval()
    with torch.no_grad():
        planted.head.weight.zero_()
        planted.head.weight[5, 700] = 2.0
    features = torch.zeros(1, 1024, 3, 3)
    features[0, 700, 2, 1] = 1.0
    planted._features = lambda _: features
    _, maps, _ = planted.explain(torch.zeros(1, 1, SIZE, SIZE))
    expected = torch.zeros(1, 14, 3, 3)
    expected[0, 5, 2, 1] = 2.0
    assert torch.equal(maps, expected)


@pytest.mark.parametrize(
    "backbone", ["resnet18", "efficientnet_b0", "convnext_atto", "mobilenetv3_small_050"]
)
def test_other_backbones_work_by_name(backbone):
    network = Classifier(backbone, FINDINGS, 64).eval()
    with torch.inference_mode():
        logits, maps, _ = network.explain(torch.rand(2, 1, 64, 64))
    assert logits.shape == (2, 14)
    assert torch.allclose(maps.mean((2, 3)) + network.head.bias, logits, atol=1e-4)


def test_a_backbone_without_a_feature_map_is_refused():
    with pytest.raises(RecipeError, match="feature map"):
        Classifier("vit_tiny_patch16_224", FINDINGS, 224)
    with pytest.raises(RecipeError, match="112 px"):
        Classifier("vit_tiny_patch16_224", FINDINGS, 112)


def test_an_unknown_backbone_is_refused_with_near_names():
    with pytest.raises(RecipeError, match="densenet121"):
        Classifier("densenet12", FINDINGS, 64)


def _timm_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Small weights in the format of timm's hub files: three colours, 1000 classes."""
    torch.manual_seed(7)
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    safetensors.torch.save_file(state, path)
    return state


def test_pretrained_weights_of_a_file_are_summed_over_colours(tmp_path):
    state = _timm_checkpoint(tmp_path / "weights.safetensors")
    network = Classifier("resnet18", FINDINGS, 64)
    network.load_pretrained(str(tmp_path / "weights.safetensors"), "resnet18")
    loaded = network.backbone.state_dict()
    assert torch.allclose(loaded["conv1.weight"], state["conv1.weight"].sum(1, keepdim=True))
    others = [name for name in loaded if name != "conv1.weight"]
    assert len(others) > 100
    assert all(torch.equal(loaded[name], state[name]) for name in others)


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen", "truncated", "empty"])
def test_a_half_matching_checkpoint_is_refused(tmp_path, fault):
    path = tmp_path / "weights.safetensors"
    state = _timm_checkpoint(path)
    if fault == "missing":
        del state["layer3.0.conv1.weight"]
    elif fault == "extra":
        state["layer9.weight"] = torch.zeros(3)
    elif fault == "misshapen":
        state["layer3.0.conv1.weight"] = torch.zeros(3, 3)
    safetensors.torch.save_file(state, path)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif fault == "empty":
        path.write_bytes(b"")
    with pytest.raises(RecipeError, match="not a complete timm checkpoint"):
        Classifier("resnet18", FINDINGS, 64).load_pretrained(str(path), "resnet18")


def test_imagenet_weights_offline_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    network = Classifier("densenet121.tv_in1k", FINDINGS, 64)
    with pytest.raises(RecipeError, match="--set weights=FILE"):
        network.load_pretrained("imagenet", "densenet121.tv_in1k")


def test_weights_that_are_not_a_file_are_refused():
    with pytest.raises(RecipeError, match="the weights file"):
        Classifier("resnet18", FINDINGS, 64).load_pretrained("imagnet", "resnet18")
