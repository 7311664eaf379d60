"""The tensors of a checkpoint, by their names in the file; nothing that a file names is run.

A safetensors file and a Keras file hold tensors alone. A file of `torch.save` is a pickle: it is
opened with torch's own reader of plain tensors (`weights_only=True`). Where it holds more, it is
converted in a process of its own, see `unpickling`.
"""

from __future__ import annotations

import os

# For its error alone.
import pickle  # nosec B403

# For one script of this package.
import subprocess  # nosec B404
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from chestxray.errors import BundleError, MissingExtraError
from chestxray.model.importing import unpickling

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")  # of the environment, for the conversion


class Tensors(NamedTuple):
    """What a file holds.

    Attributes:
        of: by name.
        converted: whether it was a pickle of whole objects.
    """

    of: dict[str, Tensor]
    converted: bool = False


def read_tensors(path: Path, classes: Sequence[str]) -> Tensors:
    """Read the tensors of a checkpoint.

    Args:
        path: of the file; its content decides what it is.
        classes: of networks, as `module.name`, that a pickle may hold.

    Raises:
        BundleError: not a checkpoint, damaged, without tensors, or a pickle with other contents.
        MissingExtraError: a Keras file, and h5py is not installed.
    """
    if not path.is_file():
        raise BundleError(f"{path} is not a file: give the checkpoint to import")
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(_HDF5):
        found = Tensors(_of_keras(path))
    elif start[8:9] == b"{":
        found = Tensors(_of_safetensors(path))
    elif start.startswith((b"PK\x03\x04", b"\x80\x02")):
        found = _of_torch(path, classes)
    else:
        raise BundleError(
            f"{path} is not a checkpoint: give a file of torch.save, a safetensors file, or a "
            f"Keras .h5 file"
        )
    if not found.of:
        raise BundleError(f"{path} holds no tensors: give a checkpoint with the network's weights")
    for name, tensor in found.of.items():
        if not _is_plain(tensor):
            raise BundleError(
                f"{name} of {path} is sparse, quantised or without values: save the network's "
                f"state_dict() with plain tensors"
            )
    if sum(tensor.nbytes for tensor in found.of.values()) > _most(path):
        raise BundleError(
            f"the tensors of {path} are larger than the file: save copies of them, by clone()"
        )
    return found


def _most(path: Path) -> int:
    """Give the bytes that the tensors of a file may have; some may share values, or be packed."""
    return 4 * path.stat().st_size + 2**20


def _is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor has its values in memory, one after another."""
    strided = tensor.layout is torch.strided and not tensor.is_nested
    return strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is damaged ({error}): download it again") from error


def _of_torch(path: Path, classes: Sequence[str]) -> Tensors:
    try:
        unpickling.check_archive(path)
    except (pickle.UnpicklingError, zipfile.BadZipFile, NotImplementedError) as error:
        raise BundleError(f"{path} holds no tensors of torch.save ({error})") from error
    try:
        found = unpickling.tensors_of(torch.load(path, "cpu", weights_only=True))
    except pickle.UnpicklingError:  # more than tensors
        return Tensors(_converted(path, classes), converted=True)
    except Exception as error:  # a hostile file can raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise BundleError(f"{path} is damaged ({reason}): download it again") from error
    return Tensors(found)


def _converted(path: Path, classes: Sequence[str]) -> dict[str, Tensor]:
    """Convert a pickle of whole objects in a process of its own."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "tensors.safetensors"
        command = [
            sys.executable,
            "-I",
            unpickling.__file__,
            str(path.resolve()),
            str(result),
            *classes,
        ]
        try:
            # This interpreter, a script of this package.
            run = subprocess.run(  # noqa: S603  # nosec B603
                command,
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                env=environment,
                timeout=2 * unpickling.SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise _not_converted(path, f"it took more than {error.timeout:g} s") from error
        if run.returncode:
            lines = run.stderr.strip().splitlines()
            raise _not_converted(path, lines[-1] if lines else f"signal {-run.returncode}")
        return load_file(result)


def _not_converted(path: Path, reason: str) -> BundleError:
    return BundleError(
        f"{path} is a pickle of more than tensors and was not converted ({reason}): choose the "
        f"format that it is of, or save the network's state_dict() as safetensors where it was made"
    )


def _of_keras(path: Path) -> dict[str, Tensor]:
    try:
        import h5py  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("h5py", "keras") from error
    found: dict[str, Tensor] = {}
    left = _most(path)

    def keep(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
            return
        if item.shape is None or item.dtype.itemsize not in {2, 4, 8}:
            raise ValueError(f"{name} holds no values of 16 to 64 bits")
        nonlocal left
        left -= item.size * item.dtype.itemsize
        if item.is_virtual or item.external or left < 0:
            raise ValueError(f"{name} lies in another file or is too large")
        native = np.asarray(item[()], item.dtype.newbyteorder("="))
        found[name] = torch.from_numpy(native)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path} is damaged ({error}): download it again") from error
    return found
