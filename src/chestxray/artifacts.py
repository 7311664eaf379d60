"""Files between stages are whole or absent: written to a temporary name, synced, renamed.

This module knows how to write and read them safely; it does not know what is in them.

Files that are on the disk when the function returns, or not there at all.

`chestxray.artifacts` writes for stages that meet in files, one of which writes a file at a time;
here several processes may write the same file at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from chestxray.errors import ArtifactError, ConfigError

if TYPE_CHECKING:  # processes that only keep files start without it
    import pandas as pd


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it to `path`.

    On an exception the temporary file is removed and `path` stays as it was. The temporary name
    keeps the suffix, since some writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Write strict JSON (no NaN), whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        made_by: the command that makes it, named in the error as the next step.

    Raises:
        ArtifactError: missing, not JSON, or not an object.
    """
    require(path, made_by)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}): make it anew with `{made_by}`"
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds no JSON object: make it anew with `{made_by}`")
    return value


def require(path: Path, made_by: str) -> None:
    """Raise `ArtifactError` unless `path` exists, naming the command that makes it."""
    if not path.exists():
        raise ArtifactError(f"{path} does not exist: make it with `{made_by}`")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV or Parquet, by the suffix, whole or not at all."""
    with written(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)


def sha256(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
