"""Files that are on the disk when the function returns, or not there at all.

`chestxray.artifacts` writes for stages that meet in files, one of which writes a file at a time;
here several processes may write the same file at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from pathlib import Path
from typing import IO, Final

from chestxray.artifacts import sync_folder
from chestxray.errors import ConfigError

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


def hold(folder: Path) -> IO[str]:
    """Hold a folder for us alone, until the file that is given is closed or this process ends.

    Raises:
        ConfigError: another process holds it.
    """
    file = (folder / "lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(
            f"state: a gateway runs on {folder} already: end it first, or give this one another"
        ) from error
    return file


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
