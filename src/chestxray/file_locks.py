"""Locks of files, which the system releases with the process that holds them, however it ends.

POSIX systems lock the whole file by `flock`. Windows locks one byte, far behind the end of any file
that is locked here, since nobody else can read a locked byte there.
"""

from __future__ import annotations

import os
import sys
from typing import Final

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if sys.platform == "win32":
    import msvcrt

FLOCK: Final = fcntl is not None
"""Whether locks are those of POSIX, which several processes can look at without taking them."""

_BYTE: Final = 2**40


def take(handle: int) -> bool:
    """Lock an open file for this process alone, without waiting.

    Args:
        handle: its descriptor; closing it releases the lock.

    Returns:
        False where another process or descriptor holds the lock.
    """
    try:
        if sys.platform == "win32":
            os.lseek(handle, _BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        elif fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter on Windows
        return False
    return True


def release(handle: int) -> None:
    """Release a lock that `take` took."""
    if sys.platform == "win32":
        os.lseek(handle, _BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
    elif fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)


def is_taken(handle: int) -> bool:
    """Tell whether another process or descriptor holds the lock of a file, without keeping it."""
    if sys.platform != "win32" and fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        release(handle)
        return False
    if not take(handle):
        return True
    release(handle)
    return False
