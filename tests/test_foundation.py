"""Backbones of the hub: files in the original format, features equal to the reference's."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from chestxray.errors import RecipeError
from chestxray.findings import Findings
from chestxray.model import bundle as bundles
from chestxray.model.backbones import exact_in_grey
from chestxray.model.foundation import foundation
from chestxray.training import initial_weights, loop, recipe, train
from hub_server import Repository, serving

SIZE = 42  # three patches of 14 px along each side
GREY = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}
COLOURS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
DINOV2 = {
    "model_type": "dinov2", "architectures": ["Dinov2Model"], "hidden_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": SIZE,
    "mlp_ratio": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True,
    "use_swiglu_ffn": False, "layerscale_value": 1.0,
}  # fmt: skip
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2}
README = b"---\nlicense: mit\ntags: [x]\n---\n# A model\n"


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """Put files into a repository; the client of this process takes the server for the hub."""
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    foundation.cache_clear()

    def put(name: str, files: dict[str, object]) -> str:
        server.repositories[name] = Repository()
        commit = server.repositories[name].commit(
            {
                path: of if isinstance(of, bytes) else _content(path, of)
                for path, of in files.items()
            }
        )
        return f"{name}@{commit}"

    return put


def _content(path: str, of: object) -> bytes:
    if isinstance(of, bytes):
        return of
    if path.endswith(".safetensors"):
        return safetensors.torch.save(of)
    if path.endswith((".bin", ".pt")):
        file = io.BytesIO()
        torch.save(of, file)
        return file.getvalue()
    return json.dumps(of).encode()


def reference(name: str, **options) -> torch.nn.Module:
    """timm's own model, with the values that training leaves everywhere."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's DINOv2 by the names of transformers' Dinov2Model, written out by hand."""
    found = {"embeddings.mask_token": torch.zeros(1, 24)}
    inner = {
        "attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1", "norm1": "norm1", "norm2": "norm2",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    outer = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
    }  # fmt: skip
    for name, tensor in state.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if block is None:
            found[outer[name]] = tensor.clone()
            continue
        layer, rest = f"encoder.layer.{block[1]}", block[2]
        if rest.startswith("attn.qkv"):
            for part, of in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                end = rest.rpartition(".")[2]
                found[f"{layer}.attention.attention.{part}.{end}"] = of.clone()
            continue
        stem, end = (rest, "") if "gamma" in rest else rest.rsplit(".", 1)
        found[f"{layer}.{inner[stem]}{'.' if end else ''}{end}"] = tensor.clone()
    return found


def classifier_of(name: str, size: int, **keys):
    chosen = recipe.load("quick", {"backbone": name, "size": size, "weights": "imagenet", **keys})
    return loop.classifier_of(chosen, Findings(("Mass", "Edema")), resumed=False).eval(), chosen


def check_features(network, theirs, mean, std, size: int, prefix: int) -> None:
    """Features are the mean of the reference's patch tokens, and maps add up to the logits."""
    images = torch.rand(2, 1, size, size)
    colour = [torch.tensor(of)[:, None, None] for of in (mean, std)]
    with torch.inference_mode():
        tokens = theirs.forward_features((images.expand(-1, 3, -1, -1) - colour[0]) / colour[1])
        logits, maps, features = network.explain(images)
    expected = tokens[:, prefix:].mean(1) if prefix is not None else tokens
    assert expected.std() > 0.01
    assert torch.allclose(features, expected, atol=1e-5)
    assert torch.allclose(maps.mean((2, 3)) + network.head.bias, logits, atol=1e-5)


@pytest.mark.parametrize("processor", [GREY, COLOURS])
def test_transformers_dinov2_gives_the_features_of_timms_dinov2(hub, processor):
    theirs = reference("vit_small_patch14_dinov2", img_size=SIZE, **TINY)
    size = {"height": SIZE, "width": SIZE}
    place = hub("someone/rad", {
        "config.json": DINOV2, "preprocessor_config.json": processor | {"crop_size": size},
        "model.safetensors": as_transformers(theirs.state_dict()), "README.md": README,
    })  # fmt: skip
    network, chosen = classifier_of("hub:someone/rad", SIZE)
    assert network.backbone.patch_embed.proj.weight.shape[1] == 1  # nothing pads: one grey channel
    check_features(network, theirs, processor["image_mean"], processor["image_std"], SIZE, 1)
    origin = initial_weights.origin(chosen, network.findings)
    assert origin["repository"] == place
    assert origin["licence"] == "mit"
    assert network.timm_name == "vit_small_patch14_dinov2"
    assert network.options.given == TINY
    assert foundation("hub:someone/rad").size == SIZE


def test_registers_of_dinov2_are_no_places(hub):
    theirs = reference("vit_small_patch14_reg4_dinov2", img_size=SIZE, **TINY)
    state = theirs.state_dict()
    registers = state.pop("reg_token")
    # The originals add a position to the class token, none to the registers.
    place = torch.randn(1, 1, 24) * 0.05
    state["pos_embed"] = torch.cat([place, state["pos_embed"]], 1)
    state["cls_token"] = state["cls_token"] - place
    files = as_transformers(state) | {"embeddings.register_tokens": registers.clone()}
    config = DINOV2 | {"model_type": "dinov2_with_registers", "num_register_tokens": 4}
    hub("someone/reg", {
        "config.json": config, "preprocessor_config.json": COLOURS | {"size": {"height": SIZE}},
        "model.safetensors": files,
    })  # fmt: skip
    network, _ = classifier_of("hub:someone/reg", SIZE)
    check_features(network, theirs, *COLOURS.values(), SIZE, 5)


@pytest.mark.parametrize(
    ("architecture", "normalisation"),
    [("convnext_atto", (0.5, 0.25)), ("resnet10t", ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))],
    ids=["patches in grey", "a padded layer in three channels"],
)
def test_a_repository_of_timm_says_itself_what_it_is(hub, architecture, normalisation):
    theirs = reference(architecture)
    about = {"input_size": [3, 64, 64], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    config = {"architecture": architecture, "num_classes": 0, "pretrained_cfg": about}
    hub("timm/own", {"config.json": config, "model.safetensors": theirs.state_dict()})
    network, _ = classifier_of("hub:timm/own", 64)
    images = torch.rand(2, 1, 64, 64)
    mean, std = (torch.tensor(about[of])[:, None, None] for of in ("mean", "std"))
    with torch.inference_mode():
        expected = theirs((images.expand(-1, 3, -1, -1) - mean) / std)
        *_, features = network.explain(images)
    assert network.normalisation == normalisation
    assert torch.allclose(features, expected, atol=1e-5 * max(1, float(expected.abs().max())))


def test_the_vision_tower_of_an_open_clip_model_is_taken_without_its_text(hub):
    theirs = reference("vit_tiny_patch16_224", img_size=32)
    state = {f"visual.trunk.{name}": of for name, of in theirs.state_dict().items()}
    state |= {"visual.head.proj.weight": torch.zeros(8, 192), "text.x": torch.zeros(3)}
    state["logit_scale"] = torch.zeros(())
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "image_size": 32}
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    config = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": vision},
        "preprocess_cfg": {"mean": mean, "std": std},
    }
    hub("someone/clip", {
        "open_clip_config.json": config, "open_clip_pytorch_model.bin": state,
        "README.md": b"# no front matter",
    })  # fmt: skip
    network, chosen = classifier_of("hub:someone/clip", 32)
    check_features(network, theirs, mean, std, 32, 1)
    assert initial_weights.origin(chosen, network.findings)["licence"] is None


def test_eva_x_is_told_by_its_file_and_has_patches_of_16_pixels(hub):
    theirs = reference("eva02_tiny_patch14_224", patch_size=16, ref_feat_shape=(14, 14))
    renames = {
        "mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3",
        "mlp.norm": "mlp.ffn_ln", "attn.norm": "attn.inner_attn_ln", "fc_norm": "norm",
    }  # fmt: skip
    state = {}
    for ours, of in theirs.state_dict().items():
        name = ours
        for timms, original in renames.items():
            name = name.replace(timms, original)
        state[name] = of
    state |= {
        "mask_token": torch.zeros(1, 1, 192), "lm_head.weight": torch.zeros(4, 192),
        "lm_head.bias": torch.zeros(4), "rope.freqs_cos": torch.zeros(196, 64),
        "rope.freqs_sin": torch.zeros(196, 64),
    }  # fmt: skip
    file = "eva_x_tiny_patch16_merged520k_mim.pt"
    place = hub("MapleF/eva_x", {file: {"model": state}})
    name = f"hub:MapleF/eva_x/{file}"
    network, chosen = classifier_of(name, 224)
    images = torch.rand(1, 1, 224, 224)
    mean, std = 0.49185243, 0.28509309
    with torch.inference_mode():
        expected = theirs((images.expand(-1, 3, -1, -1) - mean) / std)
        *_, features = network.explain(images)
    assert torch.allclose(features, expected, atol=2e-5)
    origin = initial_weights.origin(chosen, network.findings)
    assert origin["repository"] == place
    assert [of["sources"] for of in origin["seen"]] == [["nih"]]
    assert "it learned from nih without their labels" in foundation(name).sentence


@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen"])
def test_weights_that_are_not_the_whole_backbone_are_refused(hub, damage):
    state = as_transformers(
        reference("vit_small_patch14_dinov2", img_size=SIZE, **TINY).state_dict()
    )
    if damage == "missing":
        del state["encoder.layer.1.norm2.bias"]
    elif damage == "extra":
        state["encoder.layer.2.norm2.bias"] = torch.zeros(24)
    else:
        state["encoder.layer.0.mlp.fc1.bias"] = torch.zeros(7)
    hub(f"someone/{damage}", {
        "config.json": DINOV2, "preprocessor_config.json": GREY | {"size": {"height": SIZE}},
        "model.safetensors": state,
    })  # fmt: skip
    with pytest.raises(RecipeError, match="is not the whole of timm's vit_small_patch14_dinov2"):
        classifier_of(f"hub:someone/{damage}", SIZE)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": {"model_type": "llama"}}, "its config.json is of 'llama'"),
        ({"config.json": DINOV2}, "preprocessor_config.json does not exist"),
        ({"config.json": DINOV2 | {"hidden_act": "relu"},
          "preprocessor_config.json": GREY | {"size": SIZE}}, "its hidden_act is 'relu'"),
        ({"README.md": README}, "config.json does not exist"),
        ({"config.json": {"architecture": "x", "model_args": {"depth": 9999},
                          "pretrained_cfg": {}}}, "depth"),
    ],
)  # fmt: skip
def test_a_repository_that_describes_no_backbone_is_refused(hub, files, words):
    hub("someone/no", files)
    with pytest.raises(RecipeError, match=r"does not describe a backbone .*" + words):
        foundation("hub:someone/no")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "hf-hub:evil/other"}, "'hf-hub:evil/other' is no model of timm"),
        ({"architecture": "local-dir:/tmp"}, "'local-dir:/tmp' is no model of timm"),
        ({"architecture": "resnet9999"}, "'resnet9999' is no model of timm"),
        ({"architecture": ["resnet10t"]}, "is no model of timm"),
        ({"num_classes": 10**9}, "1000000000 outputs is not of 0 to 100,000"),
        ({"num_classes": -1}, "-1 outputs"),
        ({"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}}, "1000000 px are not of 16 to"),
        (
            {
                "architecture": "vit_base_patch16_224",
                "model_args": {"embed_dim": 4096, "depth": 64, "num_heads": 64},
            },
            "takes 48 GiB, and at most 32 GiB are allowed",
        ),
        ({"pretrained_cfg": {"std": [0.2, 1e-50, 0.2]}}, "std must be from 1e-06"),
        ({"pretrained_cfg": {"mean": [0.5, float("nan"), 0.5]}}, "mean must be from -10"),
    ],
)
def test_timm_looks_nowhere_else_for_what_a_repository_names(hub, change, words):
    about = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.2] * 3}
    config = {"architecture": "resnet10t", "num_classes": 0} | change
    config["pretrained_cfg"] = about | config.get("pretrained_cfg", {})
    hub("timm/evil", {"config.json": config})
    with pytest.raises(RecipeError, match=r"does not describe a backbone .*" + words):
        foundation("hub:timm/evil")


def test_the_tower_of_an_open_clip_model_is_one_of_timm(hub):
    vision = {"timm_model_name": "hf-hub:evil/other", "image_size": 32}
    preprocessing = {"mean": [0.5] * 3, "std": [0.2] * 3}
    config = {"model_cfg": {"vision_cfg": vision}, "preprocess_cfg": preprocessing}
    hub("someone/evil", {"open_clip_config.json": config})
    with pytest.raises(RecipeError, match="'hf-hub:evil/other' is no model of timm"):
        foundation("hub:someone/evil")


def test_a_file_without_any_tensor_of_the_backbone_is_not_replaced_by_timms_weights(hub):
    vision = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 32}
    preprocessing = {"mean": [0.5] * 3, "std": [0.2] * 3}
    hub("someone/text", {
        "open_clip_config.json": {
            "model_cfg": {"vision_cfg": vision}, "preprocess_cfg": preprocessing},
        "open_clip_model.safetensors": {"text.x": torch.zeros(3)},
    })  # fmt: skip
    with pytest.raises(RecipeError, match="none of its tensors are there"):
        foundation("hub:someone/text").whole(32)


def test_a_first_layer_is_folded_only_where_that_is_exact():
    def layer(**own) -> torch.nn.Conv2d:
        return torch.nn.Conv2d(3, 4, 4, stride=4, **own)

    alike, differing = ([0.5] * 3, [0.25] * 3), ([0.4, 0.5, 0.6], [0.2] * 3)
    assert exact_in_grey(layer(), *differing)
    assert exact_in_grey(layer(padding=1), *alike)
    assert not exact_in_grey(layer(padding=1), *differing)
    assert not exact_in_grey(layer(bias=False), *differing)
    standardised = timm.layers.StdConv2d(3, 4, 4, stride=4, padding=0, bias=True)
    assert not any(standardised.padding)
    assert not exact_in_grey(standardised, *alike)  # the sum is standardised again
    padded = timm.layers.create_conv2d(3, 4, 3, stride=2, padding="same", bias=True)
    assert not any(padded.padding)  # it pads when it runs
    assert not exact_in_grey(padded, *differing)


@pytest.mark.parametrize("colours", [([0.5] * 3, [0.25] * 3), ([0.4, 0.5, 0.6], [0.2] * 3)])
def test_a_first_layer_that_standardises_its_weights_keeps_three_channels(hub, colours):
    theirs = reference("test_nfnet")
    mean, std = colours
    about = {"input_size": [3, 64, 64], "mean": mean, "std": std}
    config = {"architecture": "test_nfnet", "num_classes": 0, "pretrained_cfg": about}
    hub("timm/nf", {"config.json": config, "model.safetensors": theirs.state_dict()})
    network, _ = classifier_of("hub:timm/nf", 64)
    images = torch.rand(2, 1, 64, 64)
    middle, scale = (torch.tensor(of)[:, None, None] for of in colours)
    with torch.inference_mode():
        expected = theirs((images.expand(-1, 3, -1, -1) - middle) / scale)
        *_, features = network.explain(images)
    assert torch.allclose(features, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_fold_that_changes_the_features_is_refused(hub):
    """A network may pad its image itself, before a first layer without padding."""
    hub("timm/padding", {"config.json": {
        "architecture": "convnext_atto", "num_classes": 0, "pretrained_cfg": {
            "input_size": [3, 64, 64], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
    }})  # fmt: skip
    found, whole = foundation("hub:timm/padding"), reference("convnext_atto")
    whole.stem = torch.nn.Sequential(torch.nn.ZeroPad2d(2), *whole.stem)
    whole.pretrained_cfg["first_conv"] = "stem.1"
    with pytest.raises(RecipeError, match="does not give with one grey channel what it gives"):
        found._fold(whole, 64)
    found._fold(reference("convnext_atto"), 64)


def test_a_probe_and_a_training_start_from_it_and_their_bundles_need_no_hub(
    hub, server, dataset, tmp_path, monkeypatch, capsys
):
    theirs = reference("vit_small_patch14_dinov2", img_size=32, patch_size=8, **TINY)
    hub("microsoft/rad-dino", {
        "config.json": DINOV2 | {"patch_size": 8}, "README.md": README,
        "preprocessor_config.json": GREY | {"size": {"height": 32}},
        "model.safetensors": as_transformers(theirs.state_dict()),
    })  # fmt: skip
    keys = {"backbone": "hub:microsoft/rad-dino", "size": 32}
    probe = train(dataset, "probe", tmp_path / "probe", keys | {"tta": []})
    said = capsys.readouterr().err
    assert "licence mit; it learned from nih" in said
    assert "all 25,596 images of NIH's official test" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    foundation.cache_clear()
    tuned = train(dataset, "quick", tmp_path / "tuned", keys | {"max_epochs": 1, "threads": 1})
    asked = len(server.asked)
    for run in (probe, tuned):
        card = bundles.load(run.bundle).card
        assert card.backbone == "vit_small_patch14_dinov2"
        assert card.backbone_options.given == {"patch_size": 8, **TINY}
        assert (card.mean, card.std) == (0.5307, 0.2583)
        start = card.trained_on.initial_weights
        assert start.repository.startswith("microsoft/rad-dino@")
        assert start.licence == "mit"
        assert "nih" in card.trained_on.seen[0].sources
        assert not card.trained_on.seen[0].labels
    assert len(server.asked) == asked
    network = bundles.load(probe.bundle).classifier
    check_features(network, theirs, GREY["image_mean"], GREY["image_std"], 32, 1)


def test_weights_of_timm_are_folded_exactly_too(tmp_path):
    """ConvNeXt's patches have no padding, and ImageNet's colours differ."""
    torch.manual_seed(1)
    path = tmp_path / "model.safetensors"
    whole = timm.create_model("convnext_atto").eval()
    safetensors.torch.save_file(whole.state_dict(), path)
    chosen = recipe.load("quick", {"backbone": "convnext_atto", "size": 64, "weights": str(path)})
    network = loop.classifier_of(chosen, Findings(("Mass",)), resumed=False).eval()
    whole.reset_classifier(0)
    images = torch.rand(2, 1, 64, 64)
    about = whole.pretrained_cfg
    mean, std = (torch.tensor(about[of])[:, None, None] for of in ("mean", "std"))
    with torch.inference_mode():
        expected = whole((images.expand(-1, 3, -1, -1) - mean) / std)
        *_, features = network.explain(images)
    assert np.abs((features - expected).numpy()).max() < 1e-5
