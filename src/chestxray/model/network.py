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

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from chestxray.errors import BundleError
from chestxray.model.backbone_options import NO_OPTIONS, BackboneOptions
from chestxray.model.backbones import (
    colour_normalisation,
    divided,
    grey_normalisation,
    no_exact_maps,
    no_feature_map,
    no_images_of,
    noise,
    stages_of,
    timm_model,
    timms_features,
    without_final_activation,
)
from chestxray.model.feature_maps import NoFeatureMapError, feature_maps, spread
from chestxray.model.model_card import Head
from chestxray.model.origin import Crops, PerChannel
from chestxray.model.pretrained import pretrained_model
from chestxray.model.test_time import View, averaged, read_crops


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
        channels: of the backbone's input. With three each gets the grey image in its own
            normalisation, as models do that were made for colour.
        crops: parts of the image that are read in evaluation mode instead of the whole, without
            `tta`; the backbone's images are then of their side.
        final_activation: the backbone ends in timm's activation; a DenseNet that was trained
            without has none.
        options: what the backbone has otherwise than timm's model of this name.

    Attributes:
        timm_name: of the backbone.
        backbone_context: makes the context that the backbone alone computes in.

    Raises:
        RecipeError: timm has no such backbone, it takes no images of this size, or gives no maps
            from which the logits follow exactly.
    """

    def __init__(  # noqa: PLR0913 - the choices of one architecture
        self,
        backbone: str,
        findings: Sequence[str],
        size: int,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        tta: Sequence[View] = (),
        head: Head = "plain",
        *,
        channels: int = 1,
        crops: Crops | None = None,
        final_activation: bool = True,
        options: BackboneOptions = NO_OPTIONS,
    ) -> None:
        super().__init__()
        self.findings = tuple(findings)
        self.size = size
        self.tta = tuple(tta)
        self.timm_name, self.options = backbone, options
        self.backbone_context: Callable[[], AbstractContextManager[object]] = nullcontext
        self.crops = crops
        side = crops.side if crops else size
        model = timm_model(backbone, side, drop_path, channels, options)
        if not final_activation:
            without_final_activation(model, backbone)
        normalisation = grey_normalisation(model) if channels == 1 else colour_normalisation(model)
        mean, std = map(_buffer, normalisation)
        image = noise(side, channels)
        expected = timms_features(model, image)
        self.finer = stages_of(model, backbone) if head == "multiscale" else ()
        self.backbone, self.pooled_layers = divided(model, backbone)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.mean: Tensor
        self.std: Tensor
        finer = _check_features(self, backbone, image, expected)
        self.norms = nn.ModuleList(nn.BatchNorm2d(count, affine=False) for count in finer)
        self.widths = [*finer, expected.shape[1]]
        self.head = nn.Linear(sum(self.widths), len(self.findings))

    def forward(self, images: Tensor) -> Tensor:
        """Give logits, float32 [B, K], for float images [B, 1, S, S] in [0, 1]."""
        if (self.tta or self.crops) and not self.training:
            return self.explain(images)[0]
        features = self._features(images)
        with _in_float32(features[-1]):
            return self._classify(self._pooled(self._normalised(features)))

    def explain(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give logits [B, K], class maps [B, K, h, w] and the head's input [B, C], in float32.

        The maps are in logits: `maps.mean((2, 3)) + head.bias == logits` in evaluation mode.
        """
        if self.tta and not self.training:
            return averaged(self.explain_view, images, self.tta)
        if self.crops and not self.training:
            return read_crops(self.explain_view, images, self.crops)
        return self.explain_view(images)

    def explain_view(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do `explain` for one view, of the backbone's own side."""
        features = self._features(images)
        with _in_float32(features[-1]):
            features = self._normalised(features)
            pooled = self._pooled(features)
            return self._classify(pooled), self._class_maps(features), pooled

    @property
    def normalisation(self) -> tuple[PerChannel, PerChannel]:
        """Mean and standard deviation that grey values in [0, 1] are normalised by."""
        return _values(self.mean), _values(self.std)

    def normalise_by(self, mean: PerChannel, std: PerChannel) -> None:
        """Set mean and standard deviation, of as many channels as the classifier has."""
        self.mean.copy_(_buffer(mean))
        self.std.copy_(_buffer(std))

    def load_pretrained(self, weights: str, backbone: str) -> None:
        """Start the backbone from `imagenet`, `hub:OWNER/NAME`, or a timm checkpoint file.

        A file holds the whole state of timm's `backbone`, classifier included; a checkpoint with a
        missing, extra or misshapen tensor is refused.

        Raises:
            RecipeError: the weights cannot be fetched, read, or do not fit the backbone.
        """
        whole = pretrained_model(weights, backbone, self.size, self.options)
        self.take_backbone(whole, backbone)

    def take_backbone(self, whole: Any, backbone: str) -> None:  # noqa: ANN401 - timm has no common type
        """Take the weights of a whole timm model of the same backbone, which is used up."""
        trained, layers = divided(whole, backbone)
        self.backbone.load_state_dict(trained.state_dict())
        self.pooled_layers.load_state_dict(layers.state_dict())

    def check_side(self, side: int) -> None:
        """Check that training can take images of another side than `size`, in pixels.

        Raises:
            RecipeError: the backbone takes none of this side.
        """
        image, training = noise(side).to(self.mean), self.training
        self.eval()
        try:
            with torch.no_grad():
                self._features(image)
        except (AssertionError, NoFeatureMapError, RuntimeError) as error:
            raise no_images_of(side, error) from error
        self.train(training)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Give the backbone's feature maps, the finest first, each [B, C, h, w]."""
        with self.backbone_context():
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


def colour_convolution(classifier: nn.Module) -> str:
    """Name the weights of the convolution of three channels in the state of a classifier."""
    state = classifier.state_dict()
    return next(name for name, of in state.items() if of.ndim == 4 and of.shape[1] == 3)


def _buffer(values: PerChannel) -> Tensor:
    """Give one number as it is, those of three channels as [3, 1, 1]."""
    found = torch.tensor(values)
    return found[:, None, None] if found.ndim else found


def _values(buffer: Tensor) -> PerChannel:
    """Give the numbers of a buffer, rounded to six significant digits."""
    values = [float(f"{value:.6g}") for value in buffer.flatten().tolist()]
    return (values[0], values[1], values[2]) if buffer.ndim else values[0]


def to_input(images: Tensor) -> Tensor:
    """Turn canonical images uint8 [B, S, S] into the network's input, float32 [B, 1, S, S]."""
    return images.unsqueeze(1).float().div_(255)


def _means(features: Tensor) -> Tensor:
    # In float32: under bfloat16 autocast a mean over 49 cells loses two digits.
    return features.float().mean((2, 3), keepdim=True)


def _in_float32(features: Tensor) -> torch.autocast:
    """Turn autocast off: rounding a logit to bfloat16 moves a probability by up to 0.01."""
    return torch.autocast(features.device.type, enabled=False)


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
        raise no_feature_map(name, error) from error
    backbone.train(training)
    layers.train(training)
    if sides[0].shape != expected.shape:
        raise no_feature_map(name, f"it gives {tuple(last.shape)}")
    if not all(torch.allclose(side, expected, rtol=1e-3, atol=1e-4) for side in sides):
        raise no_exact_maps(name, "it does more than average its feature map")
    return [of.shape[1] for of in finer]


def check_finite(classifier: nn.Module) -> None:
    """Raise `BundleError` when a weight is NaN or infinite."""
    for name, tensor in classifier.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise BundleError(f"weight {name} contains NaN or infinity: train again")
