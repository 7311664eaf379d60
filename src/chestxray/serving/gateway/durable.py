"""Files that are on the disk when the function returns, or not there at all.

`chestxray.artifacts` writes for stages that meet in files; this is for processes that are many and
start often, and loads no tables library.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Final

PART: Final = ".part"  # ends the name of a file that is being written


def write(path: Path, content: bytes) -> None:
    """Write a file durably: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: nothing of it is left then.
    """
    temporary = _written(path, content)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_once(path: Path, content: bytes) -> None:
    """Write a file durably, unless it is there: then it stays as it is.

    Raises:
        OSError: nothing of it is left then.
    """
    temporary = _written(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another attempt at the same image came first; its bytes may be on their way already
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed or made inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_mib(folder: Path) -> int:
    """Give the free space of the disk that a folder lies on, MiB."""
    return shutil.disk_usage(folder).free // 2**20


def _written(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
