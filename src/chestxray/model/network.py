"""The classifier: a timm backbone, global average pooling, dropout, one linear layer.

Where timm's model has layers between pooling and classifier, they stay there (see `pooled_layers`).
The head `multiscale` pools the backbone's maps at strides 8 and 16 too, each channel normalised by
batch statistics in training and by running ones afterwards, which is linear. A transformer's last
map are its patch tokens; its class token is not used.

Because the head is linear after an average, the class activation map of a finding (Zhou et al.,
arXiv 1512.04150) is the classifier's weights applied to the last feature map: its mean plus the
bias is the logit, and its positive part is Grad-CAM at that layer (Selvaraju et al.,
arXiv 1610.02391) up to a positive factor. So one forward pass gives all K maps, without autograd.
With the head `multiscale` the class map is the sum of those of its strides on the finest grid, and
its mean plus the bias is the logit too: 28 × 28 cells at 224 px.

Shapes: B images of S × S pixels, K findings, C channels of the last feature map, h × w its size.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import timm
import torch
from torch import Tensor, nn

from chestxray.errors import BundleError, RecipeError
from chestxray.model.feature_maps import (
    NoFeatureMapError,
    feature_maps,
    finer_stages,
    spread,
)
from chestxray.model.model_card import Head
from chestxray.model.pooled_layers import PooledLayers, UnsupportedLayerError, take_out
from chestxray.model.test_time import View, averaged

_HUB_FILES: Final = ("model.safetensors", "pytorch_model.bin")  # what timm looks for on the hub
_SECONDS: Final = 10.0  # to wait for the hub


class Classifier(nn.Module):
    """Canonical grey images in, one logit per finding out; findings are not exclusive.

    Args:
        backbone: a timm model whose features are a map or patch tokens, such as `densenet121`.
        findings: K names, in the order of the logits.
        size: S, the side of the images in pixels.
        dropout: probability of dropping a pooled feature in training.
        drop_path: probability of skipping the last residual block in training.
        tta: views that are averaged in evaluation mode, see `test_time`.
        head: `plain` pools the last feature map, `multiscale` those at strides 8 and 16 as well.

    Raises:
        RecipeError: timm has no such backbone, it takes no images of this size, or gives no maps
            from which the logits follow exactly.
    """

    def __init__(
        self,
        backbone: str,
        findings: Sequence[str],
        size: int,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        tta: Sequence[View] = (),
        head: Head = "plain",
    ) -> None:
        super().__init__()
        self.findings = tuple(findings)
        self.size = size
        self.tta = tuple(tta)
        model = _timm_model(backbone, size, drop_path)
        mean, std = _grey_normalisation(model)
        image = _probe(size)
        expected = _timms_features(model, image)
        self.finer = _finer_stages(model, backbone) if head == "multiscale" else ()
        self.backbone, self.pooled_layers = _divided(model, backbone)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.mean: Tensor
        self.std: Tensor
        channels = _check_features(self, backbone, image, expected)
        self.norms = nn.ModuleList(nn.BatchNorm2d(count, affine=False) for count in channels)
        self.widths = [*channels, expected.shape[1]]
        self.head = nn.Linear(sum(self.widths), len(self.findings))

    def forward(self, images: Tensor) -> Tensor:
        """Give logits, float32 [B, K], for float images [B, 1, S, S] in [0, 1]."""
        if self.tta and not self.training:
            return self.explain(images)[0]
        features = self._features(images)
        with _in_float32(features[-1]):
            return self._classify(self._pooled(self._normalised(features)))

    def explain(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give logits [B, K], class maps [B, K, h, w] and the head's input [B, C], in float32.

        The maps are in logits: `maps.mean((2, 3)) + head.bias == logits` in evaluation mode.
        """
        if self.tta and not self.training:
            return averaged(self._explain, images, self.tta)
        return self._explain(images)

    def _explain(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do `explain` for one view."""
        features = self._features(images)
        with _in_float32(features[-1]):
            features = self._normalised(features)
            pooled = self._pooled(features)
            return self._classify(pooled), self._class_maps(features), pooled

    @property
    def normalisation(self) -> tuple[float, float]:
        """Mean and standard deviation that grey values in [0, 1] are normalised by."""
        return round(self.mean.item(), 6), round(self.std.item(), 6)

    def load_pretrained(self, weights: str, backbone: str) -> None:
        """Start the backbone from ImageNet weights (`imagenet`) or from a timm checkpoint file.

        A file holds the whole state of timm's `backbone`, classifier included; a checkpoint with a
        missing, extra or misshapen tensor is refused.

        Raises:
            RecipeError: the weights cannot be fetched, read, or do not fit the backbone.
        """
        if weights == "imagenet":
            check_reachable(backbone)
        file = _cached(backbone) if weights == "imagenet" else _existing(weights)
        overlay = {"file": str(file)} if file else None
        try:
            whole = timm.create_model(
                backbone,
                pretrained=True,
                in_chans=1,
                pretrained_cfg_overlay=overlay,
                **_image_size(backbone, self.size),
            )
        except Exception as error:  # timm, torch, safetensors and the hub each raise their own
            raise RecipeError(_cannot_load(weights, backbone, error)) from error
        trained, layers = _divided(whole, backbone)
        self.backbone.load_state_dict(trained.state_dict())
        self.pooled_layers.load_state_dict(layers.state_dict())

    def check_side(self, side: int) -> None:
        """Check that training can take images of another side than `size`, in pixels.

        Raises:
            RecipeError: the backbone takes none of this side.
        """
        image, training = _probe(side).to(self.mean), self.training
        self.eval()
        try:
            with torch.no_grad():
                self._features(image)
        except (AssertionError, NoFeatureMapError, RuntimeError) as error:
            raise _no_images_of(side, error) from error
        self.train(training)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Give the backbone's feature maps, the finest first, each [B, C, h, w]."""
        return feature_maps(self.backbone, (images - self.mean) / self.std, self.finer)

    def _normalised(self, features: list[Tensor]) -> list[Tensor]:
        """Normalise the finer maps by channel; all in float32."""
        *finer, last = (of.float() for of in features)
        return [*(norm(of) for norm, of in zip(self.norms, finer, strict=True)), last]

    def _pooled(self, features: list[Tensor]) -> Tensor:
        """Give the head's input [B, C] for normalised feature maps."""
        *finer, last = map(_means, features)
        return torch.cat([of.flatten(1) for of in (*finer, self.pooled_layers(last))], 1)

    def _class_maps(self, features: list[Tensor]) -> Tensor:
        """Give the class maps [B, K, h, w] of normalised feature maps, on the finest grid."""
        *finer, last = features
        shares = [*finer, self.pooled_layers.shares(last, _means(last))]
        weights = torch.split(self.head.weight, self.widths, 1)
        maps = [
            nn.functional.conv2d(share, weight[:, :, None, None])
            for share, weight in zip(shares, weights, strict=True)
        ]
        side = int(maps[0].shape[-1])  # a tensor while the graph is traced
        return torch.stack([spread(of, side) for of in maps]).sum(0) if finer else maps[0]

    def _classify(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


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
    failure = _hub_failure(known.hf_hub_id)
    if failure is not None:
        raise RecipeError(_cannot_load("imagenet", backbone, failure)) from failure


def _hub_failure(repository: str) -> Exception | None:
    """Ask the hub for a repository; give what failed, also where no answer comes in time.

    A thread asks: the hub's own timeout does not cover the look-up of its address.
    """
    failures: list[Exception] = [TimeoutError(f"no answer from the hub in {_SECONDS:g} s")]

    def ask() -> None:
        try:
            huggingface_hub.model_info(repository, timeout=_SECONDS)
            failures.clear()
        except Exception as error:  # noqa: BLE001 - its classes change with the hub's HTTP library
            failures[:] = [error]

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return failures[0] if failures else None


def to_input(images: Tensor) -> Tensor:
    """Turn canonical images uint8 [B, S, S] into the network's input, float32 [B, 1, S, S]."""
    return images.unsqueeze(1).float().div_(255)


def _means(features: Tensor) -> Tensor:
    # In float32: under bfloat16 autocast a mean over 49 cells loses two digits.
    return features.float().mean((2, 3), keepdim=True)


def _in_float32(features: Tensor) -> torch.autocast:
    """Turn autocast off: rounding a logit to bfloat16 moves a probability by up to 0.01."""
    return torch.autocast(features.device.type, enabled=False)


def _timm_model(name: str, size: int, drop_path: float = 0.0) -> Any:  # noqa: ANN401 - no common type
    """Create a timm model of one grey channel that ends in its pooled features.

    One that classifies by its class token gives the mean of its patch tokens instead.
    """
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        model = timm.create_model(
            name, pretrained=False, in_chans=1, **options, **_image_size(name, size)
        )
    except AssertionError as error:
        raise _no_images_of(size, error) from error
    except TypeError as error:
        if "drop_path" not in str(error):
            raise _no_images_of(size, error) from error
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
        raise RecipeError(_no_exact_maps(name, str(error))) from error
    return untyped


def _image_size(name: str, size: int) -> dict[str, Any]:
    """Give the argument for timm that builds a transformer for images of another size."""
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.fixed_input_size or known.input_size[-1] == size:
        return {}
    return {"img_size": size}


def _no_images_of(size: int, reason: object) -> RecipeError:
    return RecipeError(
        f"the backbone takes no images of {size} px ({reason}): choose another size or backbone"
    )


def _grey_normalisation(model: Any) -> tuple[float, float]:  # noqa: ANN401
    """Give the mean and standard deviation of a timm model, averaged over its three colours.

    timm sums the first layer's weights over colours when it adapts them to one grey channel.
    """
    settings = model.pretrained_cfg
    mean, std = (round(sum(settings[of]) / len(settings[of]), 6) for of in ("mean", "std"))
    return mean, std


def _probe(size: int) -> Tensor:
    """Give one image of noise, always the same, without a draw from torch's own generator."""
    return torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))


def _timms_features(model: Any, image: Tensor) -> Tensor:  # noqa: ANN401
    """Give what timm's own model hands to its classifier, [1, C]."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and image.shape[-1] % patch[0]:
        reason = f"its patches of {patch[0]} px do not fill them"  # the rest would not be seen
        raise _no_images_of(image.shape[-1], reason)
    training = model.training
    try:
        with torch.no_grad():
            features: Tensor = model.eval()(image)
    except (AssertionError, RuntimeError) as error:
        raise _no_images_of(image.shape[-1], error) from error
    model.train(training)
    return features


def _finer_stages(model: Any, name: str) -> tuple[int, ...]:  # noqa: ANN401
    try:
        return finer_stages(model)
    except NoFeatureMapError as error:
        raise RecipeError(
            f"head = multiscale needs feature maps at strides 8 and 16, {name} has none ({error}): "
            f"choose head = plain, or another backbone, such as densenet121"
        ) from error


def _divided(model: Any, name: str) -> tuple[nn.Module, PooledLayers]:  # noqa: ANN401
    """Take pooling and all after it off a timm model, so that it ends in its feature map."""
    try:
        _stop_pooling(model)
        return model, take_out(model)
    except (AssertionError, UnsupportedLayerError) as error:
        raise RecipeError(_no_exact_maps(name, str(error))) from error


def _stop_pooling(model: Any) -> None:  # noqa: ANN401
    model.reset_classifier(0)
    try:
        model.reset_classifier(0, "")
    except AssertionError:  # a few heads cannot do without, but pool by a layer of this name
        if not hasattr(getattr(model, "head", None), "global_pool"):
            raise
        model.head.global_pool = nn.Identity()


def _check_features(
    classifier: Classifier, name: str, image: Tensor, expected: Tensor
) -> list[int]:
    """Check that pooling the feature map gives what timm's own model hands to its classifier.

    Returns:
        The channels of the finer maps.
    """
    backbone, layers = classifier.backbone, classifier.pooled_layers
    training = backbone.training
    try:
        with torch.no_grad():
            *finer, last = feature_maps(backbone.eval(), image, classifier.finer)
            means = _means(last)
            sides = layers.eval()(means).flatten(1), layers.shares(last, means).mean((2, 3))
    except (NoFeatureMapError, RuntimeError) as error:  # RuntimeError: another number of channels
        raise _no_feature_map(name, error) from error
    backbone.train(training)
    layers.train(training)
    if sides[0].shape != expected.shape:
        raise _no_feature_map(name, f"it gives {tuple(last.shape)}")
    if not all(torch.allclose(side, expected, rtol=1e-3, atol=1e-4) for side in sides):
        raise RecipeError(_no_exact_maps(name, "it does more than average its feature map"))
    return [of.shape[1] for of in finer]


def _no_feature_map(name: str, reason: object) -> RecipeError:
    return RecipeError(
        f"a backbone must end in a feature map [batch, channels, height, width] or in patch "
        f"tokens, {name} does not ({reason}): choose another one, such as densenet121"
    )


def _no_exact_maps(name: str, reason: str) -> str:
    return (
        f"class maps of timm's {name} would not add up to its logits ({reason}): choose another "
        f"backbone, such as densenet121, resnet50 or convnext_tiny"
    )


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
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if weights == "imagenet":
        return (
            f"the ImageNet weights of {backbone} cannot be downloaded ({first}): go online, "
            f"or give a file with --set weights=FILE, or start from scratch with --set weights=none"
        )
    return (
        f"{weights} is not a complete timm checkpoint of {backbone} ({first}): give the weights "
        f"file of this backbone"
    )


def check_finite(classifier: Classifier) -> None:
    """Raise `BundleError` when a weight is NaN or infinite."""
    for name, tensor in classifier.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise BundleError(f"weight {name} contains NaN or infinity: train again")
