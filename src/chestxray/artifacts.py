"""Files between stages are whole or absent: written to a temporary name, synced, renamed.

This module knows how to write and read them safely; it does not know what is in them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chestxray.errors import ArtifactError

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
