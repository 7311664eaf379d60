"""What the tests let decoder processes do; apart from the tests, so that they start quickly."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

from chestxray.errors import ImageError


def treated(path: Path) -> str:
    """Do what a file's name says; `dies once` leaves a mark beside it."""
    if path.name == "hangs":
        time.sleep(600)
    elif path.name == "dies" or (path.name == "dies once" and not path.exists()):
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif path.name == "bad":
        raise ImageError(path, "bad")
    return path.name


def ended(how: str, *_: object) -> str:
    """End as `treated` does, whatever else the arguments are."""
    return treated(Path("/nowhere", how)) if how == "hangs" else _die()


def page_faults_of_arrays(_: object) -> int:
    """Make and free arrays as the decoding of an image does; how many pages the system gave."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        arrays = [bytearray(4 * 2**20) for _ in range(6)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _die() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""
