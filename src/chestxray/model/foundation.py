"""Backbones of the Hugging Face hub, as their own files describe them: `hub:OWNER/NAME`.

Image size and normalisation are read, never guessed:

- timm's repositories have `architecture` and `pretrained_cfg` in config.json;
- DINOv2 of transformers, such as RAD-DINO, `model_type` there and preprocessor_config.json;
- open_clip with a timm tower, such as BiomedCLIP, open_clip_config.json;
- EVA-X is told by the name of its file (`hub:MapleF/eva_x/eva_x_small_patch16_….pt`), and its
  values are those of its source code.

timm builds all of them, and its own filters rename the rest. Each tensor must be there and fit.
Weights that are pickled are read by the restricted reader of `importing`, in a process of its own.

The first layer takes one grey channel where that changes nothing: where the three colours have one
normalisation, or where it has no padding, so that what each colour's mean adds is a constant. Else
the network keeps three channels. The folded network must give the features of the original.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import timm
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from chestxray import hub, plain_yaml
from chestxray.artifacts import read_json, sha256
from chestxray.errors import ArtifactError, BundleError, RecipeError
from chestxray.model.backbone_options import NO_OPTIONS, BackboneOptions
from chestxray.model.backbones import (
    averaged_colours,
    bytes_of,
    exact_in_grey,
    first_layer,
    grey_features,
    image_size,
    in_grey,
)
from chestxray.model.importing.tensors import read_tensors
from chestxray.model.origin import PerChannel, check_normalisation
from chestxray.sources.overlaps import public_model

_CONFIG: Final = "config.json"
_PROCESSOR: Final = "preprocessor_config.json"
_OPEN_CLIP: Final = "open_clip_config.json"
_README: Final = "README.md"
_WEIGHTS: Final = (
    "model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)  # fmt: skip
_EVA_X: Final = re.compile(r"eva_x_(tiny|small|base)_patch16_.*\.(?:pt|pth|safetensors)")
_EVA_X_COLOURS: Final = (0.49185243, 0.28509309)  # mean and deviation in hustvl/EVA-X @dc4f32a
_ROUNDING: Final = 1e-3  # of features by float32, of the largest; a wrong fold changes far more
_DINOV2: Final = {  # hidden size, layers, heads → timm's name
    (384, 12, 6): "small", (768, 12, 12): "base", (1024, 24, 16): "large", (1536, 40, 24): "giant",
}  # fmt: skip
_META: Final = (  # names of transformers' Dinov2Model → those of its first publication
    (r"^dinov2(_with_registers)?\.", ""),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
)

_TIMM_NAME: Final = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_SIZES: Final = range(16, 4097)  # px; a network for larger images takes gigabytes
_OUTPUTS: Final = range(100_001)
_MOST_BYTES: Final = 32 * 2**30  # the largest of timm, vit_7b_patch16_dinov3, takes 25

Colours = tuple[float, float, float]


@dataclass(frozen=True)
class Foundation:
    """A trained backbone of the hub.

    Attributes:
        repository: `OWNER/NAME@COMMIT`.
        backbone: timm's name of its architecture.
        options: what it has otherwise than timm's model of this name.
        size: side of the images that it was trained on, pixels.
        mean, std: of the three colours in [0, 1].
        file: with the weights, in the hub's cache or to be fetched into it.
        outputs: of its classifier; 0 without one.
        kind: which names its tensors have: `timm`, `dinov2`, `open_clip` or `eva_x`.
        licence: as the repository states it; empty where it does not.

    Raises:
        ValueError: timm would look for the backbone elsewhere, or does not have it, or a number is
            out of range.
    """

    repository: str
    backbone: str
    options: BackboneOptions
    size: int
    mean: Colours
    std: Colours
    file: str
    outputs: int
    kind: str
    licence: str

    def __post_init__(self) -> None:
        """Refuse what would make timm contact another repository, or fill the memory."""
        name = self.backbone
        if not (isinstance(name, str) and _TIMM_NAME.fullmatch(name) and timm.is_model(name)):
            raise ValueError(f"its backbone {name!r} is no model of timm")
        if self.size not in _SIZES:
            raise ValueError(f"its images of {self.size} px are not of 16 to 4,096 px")
        if self.outputs not in _OUTPUTS:
            raise ValueError(f"its classifier of {self.outputs} outputs is not of 0 to 100,000")
        check_normalisation(self.mean, self.std)
        try:
            taken = bytes_of(name, self.size, channels=3, own=self.options)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        if taken > _MOST_BYTES:
            raise ValueError(
                f"its network takes {taken / 2**30:.0f} GiB, and at most "
                f"{_MOST_BYTES / 2**30:g} GiB are allowed"
            )

    @property
    def channels(self) -> int:
        """Channels of the network's input: 1 where the colours can be folded into one exactly."""
        with torch.device("meta"):
            _, layer = first_layer(self._model(self.size))
        return 1 if exact_in_grey(layer, self.mean, self.std) else 3

    @property
    def normalisation(self) -> tuple[PerChannel, PerChannel]:
        """Mean and standard deviation of the network's input, for as many channels as it has."""
        if self.channels == 3:
            return self.mean, self.std
        return averaged_colours(self.mean, self.std)

    @property
    def sentence(self) -> str:
        """What it is, its licence, and what is known of the images that it has seen."""
        seen = public_model(self.repository.partition("@")[0])
        exposure = (
            f"it learned from {', '.join(seen.sets)} {'with' if seen.with_labels else 'without'} "
            f"their labels: {seen.images}"
            if seen
            else "the images that it learned from are not recorded"
        )
        return (
            f"{hub.PREFIX}{self.repository} is timm's {self.backbone}, trained at {self.size} px; "
            f"licence {self.licence or 'not stated'}; {exposure}"
        )

    def weights(self) -> Path:
        """Give the file with the weights, from the hub unless it is in the cache.

        Raises:
            RecipeError: it cannot be fetched.
        """
        with _as_recipe_error():
            return self._place.file(self.file)

    def check(self) -> None:
        """Check without a download that the hub has the weights, or the cache.

        Raises:
            RecipeError: neither.
        """
        with _as_recipe_error():
            self._place.check(self.file)

    def origin(self) -> dict[str, Any]:
        """Describe it for the record of a run, see `InitialWeights`."""
        return {
            "kind": "hub",
            "sha256": sha256(self.weights()),
            "repository": self.repository,
            "licence": self.licence or None,
        }

    def whole(self, size: int) -> Any:  # noqa: ANN401 - timm's models have no common type
        """Give timm's whole model with the trained weights, of as many channels as `channels`.

        Args:
            size: of the images, pixels; positions are interpolated where it is another.

        Raises:
            RecipeError: a tensor is missing, extra or misshapen, or the file cannot be read.
        """
        path = self.weights()
        try:
            tensors = _renamed(self.kind, read_tensors(path, ()).of)
            model = self._model(size, tensors)
        except Exception as error:  # timm, torch and the readers each raise their own
            raise RecipeError(
                f"{path.name} of {self.repository} is not the whole of timm's {self.backbone} "
                f"({hub.first_line(error)}): give another repository"
            ) from error
        if self.channels == 1:
            self._fold(model, size)
        return model

    def _fold(self, model: Any, size: int) -> None:  # noqa: ANN401
        """Fold the colours of timm's model into one channel, in place; refuse what that changes."""
        colours = grey_features(model, size, self.mean, self.std)
        in_grey(model, self.mean, self.std)
        mean, std = averaged_colours(self.mean, self.std)
        grey = grey_features(model, size, [mean], [std])
        difference = float((grey - colours).abs().max() / colours.abs().max().clamp_min(1e-12))
        if not difference < _ROUNDING:
            raise RecipeError(
                f"{self.backbone} of {self.repository} does not give with one grey channel what it "
                f"gives with three (features differ by {difference:.1g} of the largest): choose "
                f"another backbone"
            )

    @property
    def _place(self) -> hub.Repository:
        name, _, commit = self.repository.partition("@")
        return hub.Repository(name, commit)

    def _model(self, size: int, tensors: Mapping[str, Tensor] | None = None) -> Any:  # noqa: ANN401
        """Make timm's model of three channels, with weights where there are any."""
        if tensors is not None and not tensors:  # timm would take its own weights instead
            raise ValueError("none of its tensors are there")
        own = {"input_size": (3, self.size, self.size), "num_classes": self.outputs}
        given = None if tensors is None else {**own, "state_dict": dict(tensors)}
        return timm.create_model(
            self.backbone,
            pretrained=tensors is not None,
            pretrained_cfg_overlay=given,
            num_classes=self.outputs,
            in_chans=3,
            **self.options.given,
            **image_size(self.backbone, size),
        )


@cache
def foundation(name: str) -> Foundation:
    """Give the backbone that a repository of the hub describes; asked once in a process.

    Args:
        name: `hub:OWNER/NAME`, `hub:OWNER/NAME@REVISION`, or with `/FILE` after the name.

    Raises:
        RecipeError: no such repository, no answer and not in the cache, or none of the formats
            that this module reads.
    """
    found = hub.BACKBONE.fullmatch(name)
    if found is None:
        raise RecipeError(f"{name!r} is no backbone of the hub: give hub:OWNER/NAME")
    repository, file, revision = found.groups()
    place = hub.Repository(repository, revision)
    with _as_recipe_error():
        folder = place.folder_of((_CONFIG, _PROCESSOR, _OPEN_CLIP, _README))
    try:
        facts = _described(folder, file or "", place)
        return Foundation(
            repository=f"{repository}@{folder.name}", licence=_licence(folder), **facts
        )
    except (ArtifactError, KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{place} does not describe a backbone that can be read ({_why(error)}): give a "
            f"repository of timm, of DINOv2 or of open_clip, or hub:MapleF/eva_x/FILE"
        ) from error


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"its {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"it has no {error}" if isinstance(error, KeyError) else hub.first_line(error)


@contextmanager
def _as_recipe_error() -> Iterator[None]:
    """Let an error of the hub be one of the recipe that names the backbone."""
    try:
        yield
    except BundleError as error:
        raise RecipeError(str(error)) from error


def _described(folder: Path, file: str, place: hub.Repository) -> dict[str, Any]:
    """Give what the files of a repository say of its backbone."""
    if found := _EVA_X.fullmatch(file):
        return _eva_x(found[1], file)
    weights = file or next((of for of in _WEIGHTS if of in place.files()), _WEIGHTS[0])
    if (folder / _OPEN_CLIP).exists():
        return _open_clip(read_json(folder / _OPEN_CLIP, "its authors")) | {"file": weights}
    config = read_json(folder / _CONFIG, "its authors")
    if "architecture" in config:
        return _of_timm(config) | {"file": weights}
    if config.get("model_type") in {"dinov2", "dinov2_with_registers"}:
        processor = read_json(folder / _PROCESSOR, "its authors")
        return _dinov2(config, processor) | {"file": weights}
    raise ValueError(f"its {_CONFIG} is of {config.get('model_type') or 'no known model'!r}")


def _of_timm(config: dict[str, Any]) -> dict[str, Any]:
    about = config.get("pretrained_cfg") or config
    return {
        "backbone": config["architecture"],
        "options": BackboneOptions(**(config.get("model_args") or {})),
        "size": int(about["input_size"][-1]),
        "mean": _colours(about["mean"]),
        "std": _colours(about["std"]),
        "outputs": int(config.get("num_classes", about.get("num_classes", 0))),
        "kind": "timm",
    }


def _dinov2(config: dict[str, Any], processor: dict[str, Any]) -> dict[str, Any]:
    wanted = {"mlp_ratio": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True}
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise ValueError(f"its {name} is {config[name]!r}, timm's DINOv2 has {value!r}")
    registers = config.get("num_register_tokens", 4) if "registers" in config["model_type"] else 0
    if registers not in {0, 4}:
        raise ValueError(f"it has {registers} registers, timm's DINOv2 has 4")
    shape = (config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"])
    size = _DINOV2.get(shape, "giant" if config.get("use_swiglu_ffn") else "small")
    own = {"embed_dim": shape[0], "depth": shape[1], "num_heads": shape[2]}
    usual = {} if shape not in _DINOV2 else own
    return {
        "backbone": f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2",
        "options": BackboneOptions.beside(
            usual | {"patch_size": 14}, own | {"patch_size": config["patch_size"]}
        ),
        "size": _side(processor.get("crop_size") or processor["size"]),
        "mean": _colours(processor["image_mean"]),
        "std": _colours(processor["image_std"]),
        "outputs": 0,
        "kind": "dinov2",
    }


def _open_clip(config: dict[str, Any]) -> dict[str, Any]:
    vision, about = config["model_cfg"]["vision_cfg"], config["preprocess_cfg"]
    if "timm_model_name" not in vision:
        raise ValueError("its tower is not one of timm")
    return {
        "backbone": vision["timm_model_name"],
        "options": NO_OPTIONS,
        "size": _side(vision.get("image_size", about.get("size", 224))),
        "mean": _colours(about["mean"]),
        "std": _colours(about["std"]),
        "outputs": 0,
        "kind": "open_clip",
    }


def _eva_x(size: str, file: str) -> dict[str, Any]:
    mean, std = _EVA_X_COLOURS
    return {
        "backbone": f"eva02_{size}_patch14_224",
        "options": BackboneOptions(patch_size=16, ref_feat_shape=(14, 14)),
        "size": 224,
        "mean": (mean, mean, mean),
        "std": (std, std, std),
        "outputs": 0,
        "kind": "eva_x",
        "file": file,
    }


def _colours(values: Any) -> Colours:  # noqa: ANN401 - of a stranger's JSON
    red, green, blue = (float(of) for of in values)
    return red, green, blue


def _side(size: Any) -> int:  # noqa: ANN401
    """Give the side of a square, as the different files state it."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if isinstance(size, list | tuple):
        size = size[-1]
    return int(size)


def _licence(folder: Path) -> str:
    """Give the licence in the front matter of a repository's model card."""
    path = folder / _README
    text = ""
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(plain_yaml.LONGEST)
    head = re.match(r"\A---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        values = plain_yaml.load(head[1]) if head else {}
    except yaml.YAMLError:
        return ""
    values = values if isinstance(values, dict) else {}
    stated = values.get("license_name") or values.get("license") or ""
    return str(stated)[:80]


def _renamed(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors under names that timm's own filter of the architecture knows."""
    if kind == "dinov2":
        return _joined({_meta_name(name): of for name, of in tensors.items()})
    if kind == "open_clip":
        return {name: of for name, of in tensors.items() if name.startswith("visual.")}
    if kind == "eva_x":
        return {name: of for name, of in tensors.items() if not name.startswith("head.")}
    return dict(tensors)


def _meta_name(name: str) -> str:
    for pattern, by in _META:
        name = re.sub(pattern, by, name)
    return name


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join query, key and value of each attention into one tensor; leave a classifier out."""
    found = {name: of for name, of in tensors.items() if not name.startswith("classifier.")}
    for name in [of for of in found if ".attn.query." in of]:
        parts = (name.replace(".query.", f".{part}.") for part in ("query", "key", "value"))
        found[name.replace(".query.", ".qkv.")] = torch.cat([found.pop(part) for part in parts])
    return found
