"""The precision of a training on this machine: float32, or bfloat16 where it is faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Literal

import torch
from torch import Tensor, nn

from chestxray.errors import RecipeError
from chestxray.model.torch_engine import device
from chestxray.training.recipe import Recipe

Precision = Literal["float32", "bfloat16"]
_SMALLEST_IN_BFLOAT16: Final = 32  # pixels of a side, on a processor

_PRECISIONS: Final[dict[Precision, Literal["32-true", "bf16-mixed"]]] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
}


def resolve(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Turn `auto` into bfloat16 where the device has instructions for it, float32 elsewhere.

    A processor without bfloat16 instructions emulates them, about ten times slower than float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"


def precision_of(recipe: Recipe) -> Precision:
    """Give the precision of a training on this machine.

    On a processor, small images are trained on in float32: in bfloat16 oneDNN (of torch 2.15) takes
    the weight gradients of a strided convolution over a map of one cell from memory that nothing
    has written.

    Raises:
        RecipeError: bfloat16 is asked for on a processor, with such images.
    """
    smallest = min((recipe.size, *(side for side, _ in recipe.smaller)))
    if device().type != "cpu" or smallest >= _SMALLEST_IN_BFLOAT16:
        return resolve(recipe.precision, device())
    if recipe.precision == "bfloat16":
        raise RecipeError(
            f"precision: bfloat16 needs images of {_SMALLEST_IN_BFLOAT16} pixels or more on a "
            f"processor, here {smallest}: set precision=float32, or a larger size or progressive"
        )
    return "float32"


def lightning_precision(recipe: Recipe) -> Literal["32-true", "bf16-mixed"]:
    """Give the precision of a training on this machine by Lightning's name; see `precision_of`."""
    return _PRECISIONS[precision_of(recipe)]


@contextmanager
def depthwise_in_float32(network: nn.Module) -> Iterator[None]:
    """Let depthwise convolutions compute in float32 on a processor, also under autocast.

    In bfloat16 oneDNN (of torch 2.15) takes four to ten times as long for their gradients: more
    than all that bfloat16 saves in the rest of an EfficientNet. What they give is rounded to
    bfloat16 as under autocast, and on a GPU they stay as they are.
    """
    with ExitStack() as stack:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels:
                hooks = _InFloat32()
                stack.callback(layer.register_forward_pre_hook(hooks.enter).remove)
                stack.callback(layer.register_forward_hook(hooks.leave, always_call=True).remove)
        yield


class _InFloat32:
    """The hooks around one layer that turn autocast off on a processor, and on again."""

    def __init__(self) -> None:
        self._turned_off = False

    def enter(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        self._turned_off = inputs[0].device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not self._turned_off:
            return inputs
        torch.set_autocast_enabled("cpu", False)
        return (inputs[0].float(),)

    def leave(self, _: nn.Module, __: tuple[Tensor], maps: Tensor | None) -> Tensor | None:
        """Called without maps where the layer failed."""
        if self._turned_off:
            torch.set_autocast_enabled("cpu", True)
            self._turned_off = False
            return None if maps is None else maps.to(torch.get_autocast_dtype("cpu"))
        return maps
