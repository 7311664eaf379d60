"""The classifier: a timm backbone, global average pooling, dropout, one linear layer.

Because the head is linear after an average, the class activation map of a finding (Zhou et al.,
arXiv 1512.04150) is the classifier's weights applied to the last feature map: its mean plus the
bias is the logit, and its positive part is Grad-CAM at that layer (Selvaraju et al.,
arXiv 1610.02391) up to a positive factor. So one forward pass gives all K maps, without autograd.

Shapes: B images of S × S pixels, K findings, C channels of the last feature map, h × w its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import timm
import torch
from torch import Tensor, nn

from chestxray.errors import BundleError, RecipeError

# ImageNet's mean and standard deviation, averaged over its three colours: timm sums the first
# layer's weights over colours when it adapts them to one grey channel.
GREY_MEAN: Final = 0.449
GREY_STD: Final = 0.226

_HUB_FILES: Final = ("model.safetensors", "pytorch_model.bin")  # what timm looks for on the hub
_SECONDS: Final = 10.0  # to wait for the hub


class Classifier(nn.Module):
    """Canonical grey images in, one logit per finding out; findings are not exclusive.

    Args:
        backbone: a timm model whose features are a map [B, C, h, w], such as `densenet121`.
        findings: K names, in the order of the logits.
        size: S, the side of the images in pixels.
        dropout: probability of dropping a pooled feature in training.
    """

    def __init__(
        self, backbone: str, findings: Sequence[str], size: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.findings = tuple(findings)
        self.size = size
        self.backbone = _bare_backbone(backbone)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self._channels(), len(self.findings))
        self.register_buffer("mean", torch.tensor(GREY_MEAN))
        self.register_buffer("std", torch.tensor(GREY_STD))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Give logits [B, K] for float images [B, 1, S, S] in [0, 1]."""
        return self._classify(_pooled(self._features(images)))

    def explain(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give logits [B, K], class maps [B, K, h, w] and the pooled features [B, C].

        The maps are in logits: `maps.mean((2, 3)) + head.bias == logits` in evaluation mode.
        """
        features = self._features(images)
        maps = nn.functional.conv2d(features, self.head.weight[:, :, None, None])
        pooled = _pooled(features)
        return self._classify(pooled), maps, pooled

    def load_pretrained(self, weights: str, backbone: str) -> None:
        """Start the backbone from ImageNet weights (`imagenet`) or from a timm checkpoint file.

        A file holds the whole state of timm's `backbone`, classifier included; a checkpoint with a
        missing, extra or misshapen tensor is refused.

        Raises:
            RecipeError: the weights cannot be fetched, read, or do not fit the backbone.
        """
        if weights == "imagenet":
            check_reachable(backbone)
        overlay = None if weights == "imagenet" else {"file": str(_existing(weights))}
        try:
            whole = timm.create_model(
                backbone, pretrained=True, in_chans=1, pretrained_cfg_overlay=overlay
            )
        except Exception as error:  # timm, torch, safetensors and the hub each raise their own
            raise RecipeError(_cannot_load(weights, backbone, error)) from error
        self.backbone.load_state_dict(_without_head(whole).state_dict())

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features

    def _classify(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def _channels(self) -> int:
        """Run one blank image: timm states the shape of a feature map nowhere."""
        training = self.backbone.training
        try:
            with torch.inference_mode():
                features = self.backbone.eval()(torch.zeros(1, 1, self.size, self.size))
        except (AssertionError, RuntimeError) as error:
            raise RecipeError(
                f"the backbone takes no images of {self.size} px ({error}): choose another size or "
                f"backbone"
            ) from error
        self.backbone.train(training)
        # Some timm models widen the features once more before their classifier.
        widths = (self.backbone.num_features, getattr(self.backbone, "head_hidden_size", None))
        if features.ndim != 4 or features.shape[1] not in widths:
            raise RecipeError(
                f"a backbone must end in a feature map [batch, channels, height, width], "
                f"this one gives {tuple(features.shape)}: choose a convolutional one, "
                f"such as densenet121"
            )
        return int(features.shape[1])


def check_reachable(backbone: str) -> None:
    """Check without a download that timm can get the ImageNet weights of a backbone.

    It takes a second at most, where the download's own retries would take most of a minute.

    Raises:
        RecipeError: there are none, or they are not in the cache and the hub does not answer.
    """
    known = timm.get_pretrained_cfg(backbone)
    if known is None or not known.has_weights:
        raise RecipeError(
            f"timm has no ImageNet weights for {backbone}: give a file with --set weights=FILE, or "
            f"start from scratch with --set weights=none"
        )
    if not known.hf_hub_id or _cached(known.hf_hub_id):
        return
    try:
        huggingface_hub.model_info(known.hf_hub_id, timeout=_SECONDS)
    except Exception as error:  # its classes change with the hub's HTTP library
        raise RecipeError(_cannot_load("imagenet", backbone, error)) from error


def to_input(images: Tensor) -> Tensor:
    """Turn canonical images uint8 [B, S, S] into the network's input, float32 [B, 1, S, S]."""
    return images.unsqueeze(1).float().div_(255)


def _pooled(features: Tensor) -> Tensor:
    # In float32: under bfloat16 autocast a mean over 49 cells loses two digits.
    return features.float().mean((2, 3))


def _bare_backbone(name: str) -> nn.Module:
    try:
        backbone = timm.create_model(name, pretrained=False, in_chans=1)
    except (RuntimeError, ValueError) as error:
        near = timm.list_models(f"*{name.split('.', maxsplit=1)[0][:8]}*")[:5]
        hint = f"; similar names: {', '.join(near)}" if near else ""
        raise RecipeError(f"timm has no backbone {name!r}{hint}") from error
    return _without_head(backbone)


def _cached(repository: str) -> bool:
    cached = (huggingface_hub.try_to_load_from_cache(repository, name) for name in _HUB_FILES)
    return any(isinstance(path, str) for path in cached)


def _without_head(model: Any) -> nn.Module:  # noqa: ANN401 - timm's models have no common type
    """Take pooling and classifier off a timm model, so that it ends in its feature map."""
    model.reset_classifier(0, "")
    bare: nn.Module = model
    return bare


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
