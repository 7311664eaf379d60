"""Checkpoints as plain tensors and JSON: opening one never runs code.

A checkpoint is one safetensors file. Its tensors are those of the weights and of the optimiser; all
other state (loops, schedule, history, timer) is JSON in the file's metadata, with a reference where
a tensor belongs. PyTorch's own format is a pickle, which runs code of whoever wrote it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chestxray.artifacts import written
from chestxray.errors import ArtifactError

_FORMAT: Final = "chestxray checkpoint 1"
_SCALARS: Final = (bool, int, float, str, type(None))


class CheckpointFiles(CheckpointIO):
    """Lets Lightning write and read checkpoints by `save` and `load`."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ANN401, ARG002 - Lightning's argument
    ) -> None:
        """Write a checkpoint, whole or not at all."""
        save(Path(path), checkpoint)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,  # noqa: ANN401, ARG002 - Lightning's argument
        weights_only: bool | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Read a checkpoint onto the processor; Lightning moves it to its device."""
        return load(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the file.
        checkpoint: nested dictionaries and sequences of tensors, numbers, texts and None.

    Raises:
        TypeError: it holds something else.
    """
    tensors: dict[str, Tensor] = {}
    state = _plain(checkpoint, "", tensors)
    metadata = {"format": _FORMAT, "state": json.dumps(state)}
    with written(path) as temporary:
        save_file(tensors, temporary, metadata)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save` wrote; tuples come back as lists.

    Raises:
        ArtifactError: not such a file, or damaged.
    """
    try:
        return _read(path)
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not a checkpoint that this version of chestxray wrote ({error}): train "
            f"again with another --out"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    checkpoint = _restored(json.loads(metadata["state"]), tensors)
    if not isinstance(checkpoint, dict):
        raise TypeError("it holds no dictionary")
    return checkpoint


def _plain(value: object, place: str, tensors: dict[str, Tensor]) -> object:
    """Give a value as JSON holds it, and put its tensors into `tensors` under their place."""
    if isinstance(value, Tensor):
        last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
        tensors[place] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": place, "channels_last": last}
    if isinstance(value, dict):
        return {"dict": [_plain_item(*item, place, tensors) for item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_plain(of, f"{place}/{i}", tensors) for i, of in enumerate(value)]}
    if isinstance(value, _SCALARS):
        return value
    raise TypeError(f"a checkpoint cannot hold {place}, which is of type {type(value).__name__}")


def _plain_item(key: object, value: object, place: str, tensors: dict[str, Tensor]) -> object:
    if not isinstance(key, str | int):
        raise TypeError(f"a checkpoint cannot hold {place}, which has the key {key!r}")
    return [key, _plain(value, f"{place}/{key}", tensors)]


def _restored(plain: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401 - whatever it holds
    """Undo `_plain`."""
    if not isinstance(plain, dict):
        if isinstance(plain, _SCALARS):
            return plain
        raise TypeError(f"{type(plain).__name__} has no place in it")
    if "tensor" in plain:
        tensor = tensors[plain["tensor"]]
        # As it was: another order in memory may change the last bit of what is computed.
        last = plain["channels_last"]
        return tensor.contiguous(memory_format=torch.channels_last) if last else tensor
    if "dict" in plain:
        return {key: _restored(value, tensors) for key, value in plain["dict"]}
    return [_restored(value, tensors) for value in plain["list"]]
