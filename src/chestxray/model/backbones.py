"""Backbones: timm models that end in a feature map, with the errors of those that cannot.

A backbone is accepted where class maps add up to the logits: where timm's own pooled features are
the mean of its last feature map, or of layers whose output can be shared out (`pooled_layers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from chestxray.errors import RecipeError
from chestxray.model.backbone_options import NO_OPTIONS, BackboneOptions
from chestxray.model.feature_maps import NoFeatureMapError, finer_stages
from chestxray.model.origin import PerChannel
from chestxray.model.pooled_layers import PooledLayers, UnsupportedLayerError, take_out


def timm_model(
    name: str,
    size: int,
    drop_path: float = 0.0,
    channels: int = 1,
    own: BackboneOptions = NO_OPTIONS,
) -> Any:  # noqa: ANN401 - no common type
    """Create a timm model of one grey channel, or of three, that ends in its pooled features.

    One that classifies by its class token gives the mean of its patch tokens instead.

    Raises:
        RecipeError: timm has no such model, or it takes no images of this size.
    """
    options = own.given | ({"drop_path_rate": drop_path} if drop_path else {})
    try:
        model = timm.create_model(
            name, pretrained=False, in_chans=channels, **options, **image_size(name, size)
        )
    except AssertionError as error:
        raise no_images_of(size, error) from error
    except TypeError as error:
        if "drop_path" not in str(error):
            raise no_images_of(size, error) from error
        raise RecipeError(
            f"timm's {name} has no residual blocks to skip ({error}): use --set drop_path=0"
        ) from error
    except (RuntimeError, ValueError) as error:
        near = timm.list_models(f"*{name.split('.', maxsplit=1)[0][:8]}*")[:5]
        hint = f"; similar names: {', '.join(near)}" if near else ""
        raise RecipeError(f"timm has no backbone {name!r}{hint}") from error
    untyped: Any = model
    token = getattr(model, "global_pool", None) == "token"
    try:
        untyped.reset_classifier(0, *(["avg"] * token))
    except AssertionError as error:
        raise no_exact_maps(name, str(error)) from error
    return untyped


@cache
def bytes_of(name: str, size: int, channels: int = 1, own: BackboneOptions = NO_OPTIONS) -> int:
    """Give the bytes that `timm_model` takes, parameters and buffers, without taking them.

    Raises:
        RecipeError: as `timm_model` says.
    """
    with torch.device("meta"):  # where tensors have a shape and no values
        model = timm_model(name, size, channels=channels, own=own)
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def without_final_activation(model: Any, name: str) -> None:  # noqa: ANN401
    """Take the activation off the end of a timm DenseNet.

    Keras's DenseNets had none before August 2018 (keras-applications, commit e8a7474).

    Raises:
        RecipeError: another model.
    """
    last: Any = getattr(getattr(model, "features", None), "norm5", None)
    if not hasattr(last, "act"):
        raise RecipeError(f"{name} is no DenseNet, whose last activation can be left out")
    last.act = nn.Identity()


def image_size(name: str, size: int) -> dict[str, Any]:
    """Give the argument for timm that builds a transformer for images of another size."""
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.fixed_input_size or known.input_size[-1] == size:
        return {}
    return {"img_size": size}


def no_images_of(size: int, reason: object) -> RecipeError:
    """Make the error for images that a backbone does not take."""
    return RecipeError(
        f"the backbone takes no images of {size} px ({reason}): choose another size or backbone"
    )


def grey_normalisation(model: Any) -> tuple[float, float]:  # noqa: ANN401
    """Give the mean and standard deviation of a timm model, averaged over its three colours.

    timm sums the first layer's weights over colours when it adapts them to one grey channel.
    """
    return averaged_colours(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])


def averaged_colours(mean: Sequence[float], std: Sequence[float]) -> tuple[float, float]:
    """Give the one normalisation of grey values that stands for those of three colours."""
    averaged = [round(sum(of) / len(of), 6) for of in (mean, std)]
    return averaged[0], averaged[1]


def first_layer(model: Any) -> tuple[str, nn.Conv2d]:  # noqa: ANN401
    """Give the layer that takes the image, and its name, of a whole timm model.

    Raises:
        RecipeError: it has several, or none that timm names.
    """
    name = model.pretrained_cfg.get("first_conv")
    layer = model.get_submodule(name) if isinstance(name, str) else None
    if not isinstance(layer, nn.Conv2d):
        raise RecipeError(f"timm does not name one first layer ({name}): choose another backbone")
    return str(name), layer


def exact_in_grey(layer: nn.Conv2d, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Tell whether a first layer of three colours has an equal one of a single grey channel.

    It has where the colours are normalised alike. Otherwise what the means add is a constant only
    without padding, whose zeros stand for another grey in each colour; and it needs a bias. A layer
    of another class than torch's own may standardise its weights, or pad by the size of the image:
    its weights cannot be added up.
    """
    if type(layer) is not nn.Conv2d:
        return False
    alike = len(set(mean)) == 1 and len(set(std)) == 1
    return alike or (not any(layer.padding) and layer.bias is not None)


def in_grey(model: Any, mean: Sequence[float], std: Sequence[float]) -> None:  # noqa: ANN401
    """Fold a whole timm model's first layer of three colours into one grey channel, in place.

    With grey values normalised by `averaged_colours` its output is that of the three channels of
    the same grey, each normalised by its own mean and deviation.

    Args:
        model: whose first layer `exact_in_grey` accepts.
        mean: of each of the three colours.
        std: of each of them.
    """
    name, layer = first_layer(model)
    centre, scale = averaged_colours(mean, std)
    weight = layer.weight.data.double()
    factors = weight.new_tensor([scale / of for of in std])[:, None, None]
    shifts = weight.new_tensor([(centre - m) / s for m, s in zip(mean, std, strict=True)])
    grey = deepcopy(layer)
    grey.in_channels = 1
    grey.weight = nn.Parameter((weight * factors).sum(1, keepdim=True).to(layer.weight))
    if layer.bias is not None:
        constant = (weight * shifts[:, None, None]).sum((1, 2, 3))
        grey.bias = nn.Parameter((layer.bias.data.double() + constant).to(layer.bias))
    model.set_submodule(name, grey)


def grey_features(model: Any, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:  # noqa: ANN401
    """Give timm's features of the same grey image of noise, [1, C], to compare models by.

    Args:
        model: timm's whole model, of as many channels as there are means.
        size: of the image, pixels.
        mean: of each channel, subtracted from grey values in [0, 1].
        std: of each channel, divided by.
    """
    grey = noise(size)
    centre, scale = (grey.new_tensor(of)[:, None, None] for of in (mean, std))
    return timms_features(model, (grey - centre) / scale)


def colour_normalisation(model: Any) -> tuple[PerChannel, PerChannel]:  # noqa: ANN401
    """Give the mean and standard deviation of each of a timm model's three colours."""
    settings = model.pretrained_cfg
    red, green, blue = settings["mean"]
    deviations = settings["std"]
    return (red, green, blue), (deviations[0], deviations[1], deviations[2])


def noise(size: int, channels: int = 1) -> Tensor:
    """Give one image of noise, always the same, without a draw from torch's own generator."""
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def timms_features(model: Any, image: Tensor) -> Tensor:  # noqa: ANN401
    """Give what timm's own model hands to its classifier, [1, C]."""
    embedding = getattr(model, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    padded = any(getattr(getattr(embedding, "proj", None), "padding", ()))  # patches overlap
    if isinstance(patch, tuple) and not padded and image.shape[-1] % patch[0]:
        reason = f"its patches of {patch[0]} px do not fill them"  # the rest would not be seen
        raise no_images_of(image.shape[-1], reason)
    training = model.training
    try:
        with torch.no_grad():
            features: Tensor = model.eval()(image)
    except (AssertionError, RuntimeError) as error:
        raise no_images_of(image.shape[-1], error) from error
    model.train(training)
    return features


def stages_of(model: Any, name: str) -> tuple[int, ...]:  # noqa: ANN401
    """Give the indices of the stages whose maps the multi-scale head pools."""
    try:
        return finer_stages(model)
    except NoFeatureMapError as error:
        raise RecipeError(
            f"head = multiscale needs feature maps at strides 8 and 16, {name} has none ({error}): "
            f"choose head = plain, or another backbone, such as densenet121"
        ) from error


def divided(model: Any, name: str) -> tuple[nn.Module, PooledLayers]:  # noqa: ANN401
    """Take pooling and all after it off a timm model, so that it ends in its feature map."""
    try:
        _stop_pooling(model)
        return model, take_out(model)
    except (AssertionError, UnsupportedLayerError) as error:
        raise no_exact_maps(name, str(error)) from error


def _stop_pooling(model: Any) -> None:  # noqa: ANN401
    model.reset_classifier(0)
    try:
        model.reset_classifier(0, "")
    except AssertionError:  # a few heads cannot do without, but pool by a layer of this name
        if not hasattr(getattr(model, "head", None), "global_pool"):
            raise
        model.head.global_pool = nn.Identity()


def no_feature_map(name: str, reason: object) -> RecipeError:
    """Make the error for a backbone that ends in something else."""
    return RecipeError(
        f"a backbone must end in a feature map [batch, channels, height, width] or in patch "
        f"tokens, {name} does not ({reason}): choose another one, such as densenet121"
    )


def no_exact_maps(name: str, reason: str) -> RecipeError:
    """Make the error for a backbone whose class maps would not explain its logits."""
    return RecipeError(
        f"class maps of timm's {name} would not add up to its logits ({reason}): choose another "
        f"backbone, such as densenet121, resnet50 or convnext_tiny"
    )
