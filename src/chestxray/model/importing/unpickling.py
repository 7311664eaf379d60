"""Converts a pickle of whole torch objects to safetensors. A script for a process of its own.

A pickle names functions to call, so opening one can run any program. This reader calls only those
that rebuild torch's tensors. A class of a network is never imported: a stand-in takes its place,
which holds the attributes that the file gives it and does nothing. Every other name ends the
conversion. Before the file is opened the process gives up the network, child processes and all
files but its result, and limits its memory and time, each where the platform can.

It imports torch and safetensors alone, so that it runs with Python's isolated mode (`-I`):

    python -I unpickling.py SOURCE RESULT CLASS...

with each CLASS as `module.name`. It prints the reason and exits with 1 where it refuses.
"""

from __future__ import annotations

import collections
import ctypes
import importlib
import mmap
import os

# Its reader is restricted, see `restricted`.
import pickle  # nosec B403
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from safetensors.torch import save_file

from chestxray import process_limits

SECONDS: Final = 300

_MEMORY: Final = 2**30  # bytes beyond what the file needs
_NEW_NETWORK: Final = 0x40000000 | 0x10000000  # Linux: CLONE_NEWNET | CLONE_NEWUSER
_STATES: Final = ("state_dict", "model_state_dict", "model", "net")


def _of_torch(name: str) -> Any:  # noqa: ANN401
    return getattr(importlib.import_module("torch._utils"), name)


_REBUILT: Final[Mapping[tuple[str, str], Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_parameter"): _of_torch("_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor"): _of_torch("_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"): _of_torch("_rebuild_tensor_v2"),
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
_DONE_WITHOUT: Final = frozenset({  # values beside the network, such as the best loss
    "_codecs.encode",
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
})  # fmt: skip
_FORBIDDEN: Final = (
    "ctypes.", "os.chmod", "os.exec", "os.fork", "os.kill", "os.link", "os.mkdir", "os.posix_spawn",
    "os.putenv", "os.remove", "os.rename", "os.rmdir", "os.spawn", "os.symlink", "os.system",
    "os.truncate", "pty.", "shutil.", "signal.", "socket.", "subprocess.",
)  # fmt: skip


class RefusedNameError(pickle.UnpicklingError):
    """The pickle names something that is not allowed."""


class StandIn:
    """Stands for an object of another class; holds its attributes and does nothing."""

    dump_patches = False  # torch writes a file where it is true

    def __init__(self, *_given: object, **_named: object) -> None:
        """Take whatever the pickle gives."""

    def __setstate__(self, state: object) -> None:
        """Keep the attributes of an object."""
        if isinstance(state, dict):
            self.__dict__.update(state)


def restricted(classes: frozenset[str]) -> Any:  # noqa: ANN401 - torch takes a module
    """Give what torch takes for the module `pickle`, with a reader of these classes alone.

    Args:
        classes: as `module.name`, of which stand-ins are made.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:  # noqa: ANN401
            if (module, name) in _REBUILT:
                return _REBUILT[module, name]
            if f"{module}.{name}" in classes | _DONE_WITHOUT:
                return StandIn
            raise RefusedNameError(f"{module}.{name}")

    class Module:
        @staticmethod
        def load(file: BinaryIO, **options: Any) -> Any:  # noqa: ANN401
            return Unpickler(file, **options).load()

    Module.Unpickler = Unpickler  # type: ignore[attr-defined]
    Module.UnpicklingError = pickle.UnpicklingError  # type: ignore[attr-defined]
    Module.__name__ = "pickle"
    return Module


def tensors_of(value: object) -> dict[str, torch.Tensor]:
    """Give the tensors of a network, of its state, or of a dictionary that holds either."""
    if isinstance(value, StandIn):
        return dict(_module_state(value, ""))
    if not isinstance(value, dict):
        return {}
    for name in _STATES:
        if isinstance(value.get(name), StandIn | dict):
            return tensors_of(value[name])
    return {str(name): of for name, of in value.items() if isinstance(of, torch.Tensor)}


def _module_state(module: StandIn, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Give parameters and buffers under the names that torch's `state_dict` gives them."""
    for kind in ("_parameters", "_buffers"):
        of = getattr(module, kind, None)
        for name, tensor in (of if isinstance(of, dict) else {}).items():
            if isinstance(tensor, torch.Tensor):
                yield f"{prefix}{name}", tensor
    children = getattr(module, "_modules", None)
    for name, child in (children if isinstance(children, dict) else {}).items():
        if isinstance(child, StandIn):
            yield from _module_state(child, f"{prefix}{name}.")


def _confine(source: Path, result: Path) -> None:
    """Give up what the conversion does not need; what the platform cannot do stays."""
    process_limits.lower_for_good("RLIMIT_CORE", 0)
    process_limits.lower_for_good("RLIMIT_CPU", SECONDS)
    process_limits.lower_for_good("RLIMIT_FSIZE", 2 * _size(source))
    usage = Path("/proc/self/statm")
    if usage.exists():
        most = int(usage.read_text().split()[0]) * mmap.PAGESIZE + _MEMORY + 4 * _size(source)
        process_limits.lower_for_good("RLIMIT_AS", most)
    if sys.platform == "linux":
        ctypes.CDLL(None).unshare(_NEW_NETWORK)

    def refuse(event: str, given: tuple[Any, ...]) -> None:
        if (_writes(event, given) and str(given[0]) != str(result)) or event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not allowed while a pickle is converted")

    sys.addaudithook(refuse)


def _writes(event: str, given: tuple[Any, ...]) -> bool:
    """Tell whether an audit event is the opening of a file for writing, by `open` or `os.open`."""
    if event != "open":
        return False
    _, mode, flags = given
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else not {*mode} <= {*"rb"}


def _size(path: Path) -> int:
    return path.stat().st_size + 2**20


def check_archive(source: Path) -> None:
    """Refuse archives that torch opens in other ways than by its reader or this one.

    Raises:
        UnpicklingError: a TorchScript program, compressed, or no file of `torch.save`.
    """
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise RefusedNameError("a TorchScript program")
            if any(of.compress_type != zipfile.ZIP_STORED for of in archive.infolist()):
                raise pickle.UnpicklingError("it is compressed, which torch.save never does")
        return
    with source.open("rb") as file:
        if file.read(2) != b"\x80\x02":  # of protocol 2, which torch writes; a tar has none
            raise pickle.UnpicklingError("it is no file of torch.save")


def convert(source: Path, result: Path, classes: frozenset[str]) -> None:
    """Write the tensors of a pickle of whole objects to a safetensors file.

    Raises:
        UnpicklingError: the file is damaged, or names something that is not allowed.
    """
    check_archive(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the source of classes has changed
        # By the restricted reader.
        value = torch.load(  # nosec B614
            source, "cpu", restricted(classes), weights_only=False
        )
    tensors = {name: of.detach().clone().contiguous() for name, of in tensors_of(value).items()}
    save_file(tensors, result)


def _main(source: str, result: str, *classes: str) -> None:
    torch.set_num_threads(1)
    try:
        _confine(Path(source), Path(result))
        convert(Path(source), Path(result), frozenset(classes))
    except RefusedNameError as error:
        sys.exit(f"it names {error}, which no file of this format needs")
    except MemoryError:
        sys.exit("it needs more memory than a network of its size")
    except Exception as error:  # noqa: BLE001 - a hostile file can raise anything
        sys.exit((str(error).strip().splitlines() or [type(error).__name__])[0][:300])


if __name__ == "__main__":
    _main(*sys.argv[1:])
