"""What some timm models compute between average pooling and classifier, and its share of each cell.

ConvNeXt, MetaFormers, TinyViT, EdgeNeXt, DaViT and some transformers normalise the pooled vector;
MobileNetV3 and V4, LCNet, GhostNet, EfficientViT, InceptionNeXt and MambaOut widen it and apply an
activation. Such a layer is not linear in the feature map, but for a given image it is linear once
its scale is fixed at the pooled vector: the divisor of a layer norm, and the ratio of an
activation's output to its input. With these scales each cell of the map gets a share of the layer's
output, and the mean of the shares is that output exactly. So maps stay exact and the network
computes timm's own function.

Fixing the scale is the usual rule of layer-wise relevance propagation for normalisation (Ali et
al., arXiv 2202.07304) and for activations (Bach et al., doi 10.1371/journal.pone.0130140).

Shapes: B images, C channels of the map, C' of the classifier's input, h × w cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import torch
from timm.layers.norm import LayerNorm2d
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional

# Where timm keeps the layers between pooling and classifier, in the order in which it applies them.
_PLACES: Final = (
    ("head.norm", "head.pre_logits"),  # NormMlpClassifierHead: ConvNeXt, TinyViT, EdgeNeXt, DaViT
    ("head.fc1", "head.act", "head.norm"),  # InceptionNeXt
    ("head.norm",),  # MetaFormer
    ("head.last_conv",),  # HGNet
    ("head.classifier",),  # EfficientViT
    ("fc_norm",),  # transformers that normalise the mean of their tokens
    ("conv_head", "norm_head", "act2"),  # MobileNetV3 and V4, LCNet
    ("conv_head", "act2"),  # GhostNet
)

_Share = Callable[[Any, Tensor, Tensor], Tensor]


class UnsupportedLayerError(TypeError):
    """A layer after the pooling whose output cannot be shared out exactly among the cells."""


class PooledLayers(nn.Sequential):
    """The layers between pooling and classifier; empty for most models.

    In and out: pooled features [B, C, 1, 1] and [B, C', 1, 1].
    """

    def shares(self, cells: Tensor, pooled: Tensor) -> Tensor:
        """Give each cell's share of the output, in evaluation mode.

        Args:
            cells: [B, C, h, w], the feature map.
            pooled: [B, C, 1, 1], its mean.

        Returns:
            [B, C', h, w]; its mean over the cells is `self(pooled)`.
        """
        for layer in self:
            cells, pooled = _share_of(layer)(layer, cells, pooled), layer(pooled)
        return cells


def take_out(model: Any) -> PooledLayers:  # noqa: ANN401 - timm's models have no common type
    """Take the layers between pooling and classifier out of a timm model, in place.

    Raises:
        UnsupportedLayerError: the model has a layer there that cannot be shared out exactly.
    """
    for places in _PLACES:
        layers = [_module_at(model, place) for place in places]
        if layers[0] is not None and None not in layers:
            for place in places:
                model.set_submodule(place, nn.Identity())
            return _checked([part for layer in layers for part in _flat(layer)])
    return PooledLayers()


def _checked(layers: list[nn.Module]) -> PooledLayers:
    for layer in layers:
        _share_of(layer)
        for part in layer.modules():
            if hasattr(part, "inplace"):
                setattr(part, "inplace", False)  # noqa: B010 - `shares` needs the input afterwards
    return PooledLayers(*layers)


def _module_at(model: nn.Module, place: str) -> nn.Module | None:
    try:
        return model.get_submodule(place)
    except AttributeError:
        return None


def _flat(layer: nn.Module | None) -> Iterator[nn.Module]:
    """Give the single layers of a sequence, without those that change nothing here."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            yield from _flat(part)
    elif not isinstance(layer, nn.Identity | nn.Flatten | nn.Dropout | None):
        yield _of_maps(layer)


def _of_maps(layer: nn.Module) -> nn.Module:
    """Give a layer of vectors [B, C] as the same layer of maps [B, C, h, w]."""
    if isinstance(layer, nn.Linear):
        sizes = layer.in_features, layer.out_features
        conv = nn.Conv2d(*sizes, 1, bias=layer.bias is not None, device="meta")  # draws no weights
        tensors = {n: of if of.ndim == 1 else of[:, :, None, None] for n, of in _tensors(layer)}
        conv.load_state_dict(tensors, assign=True)
        return conv
    if isinstance(layer, nn.LayerNorm) and not isinstance(layer, LayerNorm2d):
        norm = LayerNorm2d(layer.normalized_shape[0], layer.eps, layer.elementwise_affine)
        norm.load_state_dict(dict(_tensors(layer)))
        return norm
    return layer


def _tensors(layer: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return layer.state_dict().items()


def _share_of(layer: nn.Module) -> _Share:
    """Give the function that shares out the output of a layer among the cells."""
    if isinstance(layer, BatchNormAct2d):
        return _batch_norm_and_activation
    if isinstance(layer, LayerNorm2d):
        return _layer_norm
    if isinstance(layer, nn.BatchNorm2d) or (
        isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
    ):
        return _affine
    if not list(layer.parameters()) and not layer(torch.zeros(1, 1, 1, 1)).any():
        return _activation
    raise UnsupportedLayerError(f"{type(layer).__name__} after the pooling")


def _affine(layer: nn.Module, cells: Tensor, _: Tensor) -> Tensor:
    shares: Tensor = layer(cells)
    return shares


def _layer_norm(layer: LayerNorm2d, cells: Tensor, pooled: Tensor) -> Tensor:
    """Centre each cell by its own mean over channels; divide by the pooled vector's deviation."""
    divisor = (pooled.var(1, unbiased=False, keepdim=True) + layer.eps).sqrt()
    shares = (cells - cells.mean(1, keepdim=True)) / divisor
    for parameter, combine in ((layer.weight, torch.mul), (layer.bias, torch.add)):
        if parameter is not None:
            shares = combine(shares, parameter[:, None, None])
    return shares


def _activation(layer: nn.Module, cells: Tensor, pooled: Tensor) -> Tensor:
    """Multiply each cell by the activation's output over its input at the pooled vector."""
    out = layer(pooled)
    ratio = torch.where(pooled == 0, torch.zeros_like(out), out / pooled)
    return cells * ratio


def _batch_norm_and_activation(layer: BatchNormAct2d, cells: Tensor, pooled: Tensor) -> Tensor:
    cells, pooled = (
        functional.batch_norm(
            of, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
        )
        for of in (cells, pooled)
    )
    return _activation(layer.act, cells, pooled)
