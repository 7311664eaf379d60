"""Pretrained weights of timm's models: from the Hugging Face hub, its cache, or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import timm
from torch import nn

from chestxray.errors import BundleError, RecipeError
from chestxray.hub import WHOLE, Repository, first_line
from chestxray.model.backbone_options import NO_OPTIONS, BackboneOptions
from chestxray.model.backbones import exact_in_grey, image_size, in_grey

_HUB_FILES: Final = (WHOLE, "pytorch_model.bin")  # what timm looks for on the hub


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
    file = _file_of(weights, backbone)
    make = partial(
        timm.create_model,
        backbone,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file)} if file else None,
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
        RecipeError: there are none, or they are not in the cache and the hub does not answer.
    """
    known = timm.get_pretrained_cfg(backbone)
    if known is None or not known.has_weights:
        raise RecipeError(
            f"timm has no ImageNet weights for {backbone}: give a file with --set weights=FILE, or "
            f"start from scratch with --set weights=none"
        )
    if not known.hf_hub_id or _cached(backbone):
        return
    failure = Repository(known.hf_hub_id).failure()
    if failure is not None:
        raise RecipeError(_cannot_load("imagenet", backbone, failure)) from failure


def _file_of(weights: str, backbone: str) -> Path | None:
    """Give the file of weights; None where timm has to fetch those of ImageNet.

    Of the hub `model.safetensors` alone is taken: other formats can run code when they are opened.
    """
    if weights == "imagenet":
        check_reachable(backbone)
        return _cached(backbone)
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
        return (
            f"the ImageNet weights of {backbone} cannot be downloaded ({first}): go online, "
            f"or give a file with --set weights=FILE, or start from scratch with --set weights=none"
        )
    return (
        f"{weights} is not a complete timm checkpoint of {backbone} ({first}): give the weights "
        f"file of this backbone"
    )
