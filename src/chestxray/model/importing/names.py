"""The names of tensors in checkpoints, turned into those of timm's models.

torchvision's DenseNets and ResNets have timm's names. What stands around them differs: the prefix
of `DataParallel`, that of the attribute which held the network, a classifier within a `Sequential`
beside its sigmoid, and the dotted names that DenseNets had before torchvision 0.2.1. Keras has
names and axis orders of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from chestxray.errors import BundleError

Renaming = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
Rule = tuple[str, str]

DATA_PARALLEL: Final[Rule] = (r"^module\.", "")
WITHIN: Final[Rule] = (r"^(?:densenet121|model|net)\.", "")
DOTTED: Final[Rule] = (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.")
BESIDE_SIGMOID: Final[Rule] = (r"^classifier\.0\.", "classifier.")

TORCH: Final[tuple[Rule, ...]] = (DATA_PARALLEL, WITHIN, DOTTED)
CHEXNET: Final[tuple[Rule, ...]] = (*TORCH, BESIDE_SIGMOID)

COUNTER: Final = ".num_batches_tracked"
"""Ends the names of counters that inference does not need; files of old torch lack them."""

_FLOATS: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

_KERAS: Final = re.compile(r"^(?:model_weights/)?(?P<layer>.+)/(?P=layer)/(?P<weight>\w+):0$")
_KERAS_LAYERS: Final = (
    (r"^conv1/conv$", "features.conv0"),
    (r"^conv1/bn$", "features.norm0"),
    (r"^pool([234])_bn$", r"features.transition{0}.norm"),
    (r"^pool([234])_conv$", r"features.transition{0}.conv"),
    (r"^conv([2345])_block(\d+)_0_bn$", r"features.denseblock{0}.denselayer{1}.norm1"),
    (r"^conv([2345])_block(\d+)_1_conv$", r"features.denseblock{0}.denselayer{1}.conv1"),
    (r"^conv([2345])_block(\d+)_1_bn$", r"features.denseblock{0}.denselayer{1}.norm2"),
    (r"^conv([2345])_block(\d+)_2_conv$", r"features.denseblock{0}.denselayer{1}.conv2"),
    (r"^bn$", "features.norm5"),
    (r"^predictions$", "classifier"),
)
_KERAS_WEIGHTS: Final = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_EPSILON: Final = 1.001e-5 - 1e-5  # of Keras's DenseNet beyond torch's


def by(rules: Sequence[Rule]) -> Renaming:
    """Give the renaming by patterns, each of which is replaced in turn; others' names stay."""

    def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            new = name
            for pattern, replacement in rules:
                new = re.sub(pattern, replacement, new)
            _put(found, new, tensor)
        return found

    return rename


def keras_densenet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of Keras's DenseNet-121 and bring their axes into torch's order.

    Kernels [h, w, in, out] become [out, in, h, w], those of dense layers [out, in]. The larger
    epsilon of its batch normalisation is added to the variances, which is the same function. The
    state of the optimiser is left out.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer_weights/"):
            continue
        parts = _KERAS.match(name)
        layer = _keras_layer(parts["layer"]) if parts else None
        weight = _KERAS_WEIGHTS.get(parts["weight"]) if parts else None
        if layer is None or weight is None:
            _put(found, name, tensor)  # is reported as extra
            continue
        value = tensor.double() + _EPSILON if weight == "running_var" else tensor
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, tuple(range(value.ndim)))
        _put(found, f"{layer}.{weight}", value.permute(axes).float().contiguous())
    return found


def _keras_layer(name: str) -> str | None:
    for pattern, layer in _KERAS_LAYERS:
        if given := re.match(pattern, name):
            number, *rest = given.groups() or ("2",)
            return layer.format(int(number) - 1, *rest)
    return None


def _put(found: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in found:
        raise BundleError(f"two tensors of the file are the network's {name}: give another file")
    found[name] = tensor


def check_fits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Check that tensors are a network's own, each of them, with its shape and finite values.

    Args:
        found: by timm's names.
        wanted: the state of the network.
        what: the network, for people.

    Raises:
        BundleError: one is missing, extra, misshapen, not of floating point, or has a value that
            is not possible.
    """
    needed = {name: of for name, of in wanted.items() if not name.endswith(COUNTER)}
    given = {name: found[name] for name in needed if name in found}
    fit = {name: of for name, of in given.items() if of.shape == needed[name].shape}
    faults = {
        "missing": sorted({*needed} - {*given}),
        "extra": sorted({*found} - {*wanted}),
        "misshapen": [
            f"{name} {list(of.shape)} instead of {list(needed[name].shape)}"
            for name, of in given.items()
            if name not in fit
        ],
        "not of floating point of 16 bits or more": [
            name for name, of in given.items() if of.dtype not in _FLOATS
        ],
        "not possible (NaN, infinite, or a variance below 0)": [
            name for name, of in fit.items() if of.dtype in _FLOATS and not _possible(name, of)
        ],
    }
    told = [f"{len(names)} {fault}: {_some(names)}" for fault, names in faults.items() if names]
    if told:
        raise BundleError(
            f"the file is not a {what}: {len(given)} of {len(needed)} tensors match by name; "
            f"{'; '.join(told)}: give a file of this format, or another --from"
        )


def _possible(name: str, tensor: Tensor) -> bool:
    negative = name.endswith("running_var") and bool((tensor < 0).any())
    return bool(torch.isfinite(tensor).all()) and not negative


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
