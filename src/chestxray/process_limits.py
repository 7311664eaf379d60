"""Limits of what this process may use and keep, where the system has them; Windows has none."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Parameters of mallopt, from malloc.h, and what the library has for the last one by itself.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4
_OWN_MMAP_MAX: Final = 65536
_KEPT: Final = 64 * 2**20

_LIMITING: Final = threading.RLock()  # else one thread would restore what another has set

Kind = Literal["RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE"]


def lower(kind: Kind, most: int) -> None:
    """Let this process use no more of something; a lower limit stays.

    Args:
        kind: the name of the limit in POSIX, such as `RLIMIT_DATA`.
        most: in its unit: bytes, or seconds of CPU time.
    """
    if sys.platform != "win32" and resource is not None:
        number = getattr(resource, kind)
        soft, hard = resource.getrlimit(number)
        if soft == resource.RLIM_INFINITY or soft > most:
            resource.setrlimit(number, (most, hard))


def lower_for_good(kind: Kind, most: int) -> None:
    """Let this process never again use more of something than `most`; see `lower`."""
    if sys.platform != "win32" and resource is not None:
        resource.setrlimit(getattr(resource, kind), (most, most))


@contextmanager
def allocating_at_most(more: int) -> Iterator[None]:
    """Let this process allocate at most so many bytes more for a while, where the system is Linux.

    What exceeds that fails: a `MemoryError` of Python, a `std::bad_alloc` of a library. It holds
    for all threads, of which one at a time is in such a block.
    """
    if sys.platform != "linux" or resource is None:
        yield
        return
    with _LIMITING:
        # Its pages of data, which the limit counts.
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = pages * resource.getpagesize() + more
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def keep_freed_memory() -> None:
    """Let this process keep up to 64 MB that it frees, where the C library is GNU's.

    The library gives the arrays of one image back to the system, which fills them with zeros when
    the next image needs them: that was a third of the processor time of decoding one.
    """
    _set_allocation((_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _KEPT // 2))  # its greatest value


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let this process keep all that it frees for a while, where the C library is GNU's.

    For a training, whose steps need the same large arrays again and again. Afterwards it keeps what
    `keep_freed_memory` says: by itself the library keeps as much once it has seen large arrays, but
    it no longer adapts in a process that has set any of this.
    """
    _set_allocation((_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0))
    try:
        yield
    finally:
        _set_allocation((_MMAP_MAX, _OWN_MMAP_MAX))
        keep_freed_memory()
        give_back = _of_c_library("malloc_trim")
        if give_back is not None:
            give_back(0)


def _set_allocation(*values: tuple[int, int]) -> None:
    mallopt = _of_c_library("mallopt")
    if mallopt is not None:
        for parameter, value in values:
            mallopt(parameter, value)


def _of_c_library(name: str) -> Callable[..., int] | None:
    """Give a function of GNU's C library; None where there is none, as in musl."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def open_files() -> int:
    """Give how many files and connections this process has open; 0 where nothing tells."""
    folder = Path("/dev/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def allow_open_files(wanted: int) -> int | None:
    """Raise the limit of open files and connections as far as that needs no privileges.

    Returns:
        the limit; None where the system has none.
    """
    if sys.platform != "win32" and resource is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted and soft < hard:
            soft = min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return soft
    return None
