"""Limits of what this process may use, where the system has them; Windows has none of these."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

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
