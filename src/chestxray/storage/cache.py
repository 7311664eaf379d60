"""The cache: what was read from a store, on this machine, up to a number of GiB.

    CACHE/objects/KEY            a file or a folder, named by the hash of what it holds
    CACHE/objects/KEY.lock       who uses it
    CACHE/objects/KEY.part       room that is reserved while it is made
    CACHE/objects/.KEY.tmp       what is being made or deleted

An entry appears and disappears whole, by a rename, and never changes, so that what is there is what
was checked when it was made. Several processes may use the cache: the first makes an entry while
the others wait for it. To make room, the entries that were not used for longest are deleted, never
one that a process holds. A process that is killed leaves no lock, and what it was making or
deleting is deleted by the next one that needs room.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple

from chestxray.errors import StorageError
from chestxray.storage.urls import is_url, path_of

LIMIT: Final = "CHESTXRAY_CACHE_GIB"
"""The environment variable that bounds the cache, which `--cache-gib` sets."""
DEFAULT_GIB: Final = 50.0
_GIB: Final = 2**30
_FOLDER: Final = "objects"
_LOCK, _PART, _TEMPORARY = ".lock", ".part", ".tmp"

try:
    import fcntl
except ImportError:  # Windows, which deletes no file that is open
    fcntl = None  # type: ignore[assignment]

_held: Final[dict[str, tuple[int, int]]] = {}
"""The descriptor of the lock of each entry that this process holds, and how often it holds it."""
_guard: Final = threading.Lock()


def folder() -> Path:
    """Give the folder in which the package keeps what it can make again.

    `$CHESTXRAY_CACHE`, or else `chestxray` in `$XDG_CACHE_HOME` or in `~/.cache`. A relative
    `$XDG_CACHE_HOME` is ignored, as the XDG Base Directory Specification says.

    Raises:
        StorageError: `$CHESTXRAY_CACHE` is the URL of a store or a relative path, or the user has
            no home folder.
    """
    own = os.environ.get("CHESTXRAY_CACHE")
    if own and is_url(own):
        raise StorageError(f"CHESTXRAY_CACHE = {own!r} is a URL: give a folder of this machine")
    if own:
        path = path_of(own)
        if not path.is_absolute():
            raise StorageError(
                f"CHESTXRAY_CACHE = {own!r} is relative, so that each working folder would have a "
                f"cache of its own: give a whole path, such as {path.absolute()}"
            )
        return path
    user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if user.is_absolute():
        return user / "chestxray"
    try:
        return Path.home() / ".cache/chestxray"
    except RuntimeError as error:
        raise StorageError(
            f"this user has no home folder: set CHESTXRAY_CACHE to a folder for the cache ({error})"
        ) from error


def limit() -> int:
    """Give the bytes that the cache may hold.

    Raises:
        StorageError: the environment states something else than a positive number of GiB.
    """
    text = os.environ.get(LIMIT, "")
    try:
        gib = float(text or DEFAULT_GIB)
    except ValueError:
        gib = 0.0
    if not 0 < gib < float("inf"):
        raise StorageError(f"{LIMIT} = {text!r}: give a positive number of GiB, such as 50")
    return int(gib * _GIB)


def keep(key: str, size: int, make: Callable[[Path], None]) -> Path:
    """Give an entry of the cache, which is made where it is not there, and hold it.

    Args:
        key: its name: letters and digits that differ for other contents.
        size: bytes that it takes.
        make: writes it to a path, as a file or a folder.

    Raises:
        StorageError: it does not fit beside what is held.
        OSError: the cache cannot be written.
    """
    path = folder() / _FOLDER / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with _guard:
        while not _hold(path):
            _make(path, size, make)
    return path


def release(path: Path) -> None:
    """Let an entry that `keep` gave be deleted when room is needed; held twice, let go twice."""
    with _guard:
        descriptor, count = _held.pop(str(path))
        if count > 1:
            _held[str(path)] = descriptor, count - 1
        else:
            os.close(descriptor)


def _hold(path: Path) -> bool:
    """Hold an entry if it is there, and note that it is used."""
    if str(path) in _held:
        descriptor, count = _held[str(path)]
        _held[str(path)] = descriptor, count + 1
        return True
    descriptor = _lock_of(path)
    _flock(descriptor, "shared")
    if not path.exists():
        os.close(descriptor)
        return False
    os.utime(path)
    _held[str(path)] = descriptor, 1
    return True


def _lock_of(path: Path) -> int:
    """Open the lock file of an entry; it stays, since a deleted one might be locked by another."""
    return os.open(path.with_name(path.name + _LOCK), os.O_RDWR | os.O_CREAT, 0o666)


_How = Literal["shared", "alone", "at once"]


def _flock(descriptor: int, how: _How) -> None:
    """Lock a file, shared or alone; `at once` raises `BlockingIOError` instead of waiting."""
    if sys.platform != "win32" and fcntl is not None:
        kinds = {"shared": fcntl.LOCK_SH, "alone": fcntl.LOCK_EX}
        fcntl.flock(descriptor, kinds.get(how, fcntl.LOCK_EX | fcntl.LOCK_NB))


@contextmanager
def _locked(path: Path, how: _How) -> Iterator[None]:
    """Lock an entry; raises `BlockingIOError` as `_flock` does."""
    descriptor = _lock_of(path)
    try:
        _flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _make(path: Path, size: int, make: Callable[[Path], None]) -> None:
    """Make an entry, unless another process has made it meanwhile."""
    with _locked(path, "alone"):
        if path.exists():
            return
        temporary, part = _temporary(path), path.with_name(path.name + _PART)
        _delete(temporary)
        _reserve(part, size)
        try:
            temporary.mkdir()
            make(temporary / path.name)
            (temporary / path.name).replace(path)
        finally:
            _delete(temporary)
            part.unlink(missing_ok=True)


class _Entry(NamedTuple):
    path: Path
    bytes: int
    used: float


def _reserve(part: Path, size: int) -> None:
    """Take room for an entry, at the expense of those that were not used for longest."""
    with _locked(part.parent / "room", "alone"):
        entries = sorted(_entries(part.parent), key=lambda entry: entry.used)
        excess = sum(entry.bytes for entry in entries) + size - limit()
        for entry in entries:
            if excess > 0 and entry.path != part and _evicted(entry.path):
                excess -= entry.bytes
        if excess > 0:
            raise StorageError(
                f"the cache {part.parent} has no room for {size} bytes: {excess} bytes are in use "
                f"beyond the limit of {limit() / _GIB:g} GiB; raise --cache-gib"
            )
        with part.open("wb") as file:
            file.truncate(size)  # takes no blocks: it says how much to leave


def _entries(inside: Path) -> Iterator[_Entry]:
    for path in inside.iterdir():
        entry = _entry_of(path)
        made = path == _temporary(entry) and entry.with_name(entry.name + _PART).exists()
        if made or path.suffix == _LOCK:  # what is being made counts by its reservation
            continue
        with suppress(FileNotFoundError):  # another process has just deleted it
            status = path.stat()
            size = _size(path) if path.is_dir() else status.st_size
            yield _Entry(path, size, status.st_mtime)


def _size(inside: Path) -> int:
    return sum(path.stat().st_size for path in inside.rglob("*") if path.is_file())


def _evicted(path: Path) -> bool:
    """Delete an entry, or what a killed process left; tells whether its room is free."""
    entry = _entry_of(path)
    temporary = _temporary(entry)
    try:
        with _locked(entry, "at once"):
            _delete(temporary)
            if path.exists():
                path.replace(temporary)  # half an entry must not be found under its name
                _delete(temporary)
    except OSError:  # held; of Windows: open
        return False
    return not path.exists() and not temporary.exists()


def _temporary(entry: Path) -> Path:
    return entry.with_name(f".{entry.name}{_TEMPORARY}")


def _entry_of(path: Path) -> Path:
    """Give the entry to which a file or folder of the cache belongs."""
    name = path.name.removesuffix(_PART)
    return path.with_name(name.removeprefix(".").removesuffix(_TEMPORARY))


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
