"""Artefacts are whole or absent: written to a temporary name, synced, renamed.

This module writes and reads files safely; it does not know what is in them. `written` and the
functions built on it are for stages that meet in files, where one process writes a file at a time.
`write_bytes` and `write_once` are for the gateway, where several processes may write the same file
at the same time and a leftover of a killed process must be recognisable (`PART`). `lock` keeps
other processes out.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from chestxray import file_locks
from chestxray.csv_cells import without_formulas
from chestxray.errors import ArtifactError, ChestXrayError

if TYPE_CHECKING:  # the gateway's receiver starts without pandas
    import pandas as pd

PART: Final = ".part"
"""Ends the name of the temporary files of `write_bytes` and `write_once`."""

LONGEST: Final = 64 * 2**20
"""Bytes of a text between stages; the manifest of 100,000 radiographs that fail has 20 MB."""

_LOOKS: Final = 3
_SECONDS_OF_A_LOOK: Final = 0.05  # `is_locked` takes a lock for less


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut; Windows cannot open a folder for that."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def written(path: Path, *, once: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it to `path`.

    With `once`, a file that is at `path` by then stays as it is.

    On an exception the temporary file is removed and `path` stays as it was. The temporary name
    keeps the suffix, since some writers choose the format by it. The file gets the mode that the
    umask gives a new file: safetensors makes its files readable by their owner only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        mode = _mode_of_new(temporary)
        yield temporary
        temporary.chmod(mode)
        with temporary.open("r+b") as file:  # Windows syncs only what can be written
            os.fsync(file.fileno())
        if once:
            _name_once(temporary, path)
        else:
            temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _name_once(temporary: Path, path: Path) -> None:
    """Give a file its name, unless another one has it; it keeps the temporary one, or loses it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links: two files at the same moment are not seen
        if not path.exists():
            temporary.replace(path)


def _mode_of_new(path: Path) -> int:
    """Give the mode of a new file at a path, by making one: to read the umask is to change it."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


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
        ArtifactError: as `read_text` says, not JSON, nested too deeply, or not an object.
    """
    text = read_text(path, made_by)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}): write it again with `{made_by}`"
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} does not hold a JSON object: write it again with `{made_by}`")
    return value


def read_text(path: Path, made_by: str) -> str:
    """Read a text of at most `LONGEST` bytes.

    Args:
        path: the file.
        made_by: the command that makes it, named in the error as the next step.

    Raises:
        ArtifactError: missing, not a regular file, too long, or not UTF-8.
    """
    require(path, made_by)
    if not path.is_file():  # a device or a pipe may never end
        raise ArtifactError(f"{path} is not a regular file: write it again with `{made_by}`")
    with path.open("rb") as file:
        content = file.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise ArtifactError(
            f"{path} is longer than {LONGEST // 2**20} MB, the most that is read: write it again "
            f"with `{made_by}`"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path} is not UTF-8 text ({error}): write it again with `{made_by}`"
        ) from error


def require(path: Path, made_by: str) -> None:
    """Raise `ArtifactError` unless `path` exists, naming the command that makes it."""
    if not path.exists():
        raise ArtifactError(f"{path} does not exist: make it with `{made_by}`")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV without formulas or as Parquet, by the suffix, whole or not at all."""
    with written(path) as temporary:
        if path.suffix.lower() == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            without_formulas(table).to_csv(temporary, index=False)


def sha256(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file durably: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: the file was not written; no temporary file is left.
    """
    temporary = _write_temporary(path, content)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_once(files: Mapping[Path, bytes]) -> None:
    """Write files durably, each unless it exists; an existing file stays as it is.

    Raises:
        OSError: a file, and those after it, were not written; no temporary file is left.
    """
    for path, content in files.items():
        temporary = _write_temporary(path, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # an earlier attempt wrote it, and its bytes may already have been sent
        finally:
            temporary.unlink(missing_ok=True)
    for folder in {path.parent for path in files}:
        sync_folder(folder)


def lock(path: Path, refusal: ChestXrayError) -> IO[bytes]:
    """Lock a file, made where there is none, until the returned one is closed or the process ends.

    Args:
        path: of the file, whose content stays.
        refusal: raised where another process holds the lock, and does not merely look at it.

    Raises:
        ChestXrayError: `refusal`.
        OSError: the file cannot be made.
    """
    file = path.open("a+b")
    for _ in range(_LOOKS):
        if file_locks.take(file.fileno()):
            return file
        time.sleep(_SECONDS_OF_A_LOOK)
    file.close()
    raise refusal


def is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock of a file; False where there is no file."""
    try:
        with path.open("rb") as file:
            return file_locks.is_taken(file.fileno())
    except FileNotFoundError:
        return False


def _write_temporary(path: Path, content: bytes) -> Path:
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
