"""Backups of the database: one a day in the state folder, and how one takes its place.

A backup is a database of its own, checked when it is made. It lacks the key by which `readings`
knows the radiographs of a patient, which lives for a week only. After a restoration the receiver
finds the images that came after the backup by their files and queues them again; their results have
the same UIDs as before, so destinations that have them already keep one set.

These lie on the same disk. Against its loss only copies elsewhere help.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from chestxray.artifacts import PART, sync_folder
from chestxray.errors import ArtifactError
from chestxray.serving.gateway import anchors, audit, readings
from chestxray.serving.gateway.anchors import Anchor
from chestxray.serving.gateway.audit import DATABASE

FOLDER: Final = "backups"
"""Name of the folder in the state folder."""

KEPT: Final = 7
"""Backups that are kept."""

_INTERVAL_SECONDS: Final = 86400.0
_CLOCK_TOLERANCE: Final = 60.0
_PATTERN: Final = "queue-*.sqlite"


def is_due(folder: Path) -> bool:
    """Tell whether the newest backup is a day old, or all are from the future."""
    age = seconds_since(folder)
    return age is None or not -_CLOCK_TOLERANCE <= age < _INTERVAL_SECONDS


def seconds_since(folder: Path) -> float | None:
    """Give the age of the newest backup of a state folder; None where there is none."""
    newest = next(iter(_newest_first(folder)), None)
    return None if newest is None else time.time() - newest.stat().st_mtime


def make(db: sqlite3.Connection, folder: Path) -> Path:
    """Write a backup and remove old ones; give its path.

    Raises:
        sqlite3.Error: the database cannot be read, or the disk is full.
        ArtifactError: what was copied is damaged.
    """
    into = folder / FOLDER
    into.mkdir(mode=0o700, exist_ok=True)
    for left in into.glob(f".*{PART}*"):  # by a process that was killed; only one makes backups
        left.unlink()
    name = _name(time.time())
    temporary = into / f".{name}{PART}"
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        with closing(sqlite3.connect(temporary)) as copy:
            db.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, whatever becomes of it
            copy.execute("PRAGMA secure_delete = ON")
            with copy:
                readings.forget_keys(copy)
            if finding := quick_check(copy):
                raise ArtifactError(f"the backup of {folder / DATABASE} is damaged: {finding}")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(into / name)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(into)
    for path in _newest_first(folder)[KEPT:]:
        path.unlink()
    return into / name


def quick_check(db: sqlite3.Connection) -> str:
    """Check the structure of a database; give what is wrong, empty text where nothing is.

    Raises:
        sqlite3.Error: it cannot be read, which may be damage too.
    """
    found = [str(row[0]) for row in db.execute("PRAGMA quick_check(3)")]
    return "" if found == ["ok"] else "; ".join(" ".join(text.split()) for text in found)


def best(folder: Path) -> tuple[Path, int] | None:
    """Give what `restore` restores: the longest intact record, and the number of its last entry.

    That is an intact backup, the newest of equals, or the database itself, which an operator may
    have put there.
    """
    paths = (folder / DATABASE, *_newest_first(folder))
    intact = (one for one in (_intact(path, folder) for path in paths) if one is not None)
    return max(intact, key=lambda one: one[1], default=None)


def restore(folder: Path, backup: Path | None = None) -> str:
    """Put a backup in the place of the database, and record it; no gateway may be running.

    What lay there before is kept beside it.

    Args:
        folder: state folder.
        backup: a copy of the database; where None is given, what `best` finds.

    Returns:
        What was done, in one sentence.

    Raises:
        ArtifactError: the backup is damaged or of another record, or there is none.
        OSError: a file cannot be moved or written.
    """
    path, anchored = folder / DATABASE, anchors.last(folder)
    backup, number = _best(folder) if backup is None else (backup, _last_entry(backup, folder))
    if backup != path:
        _replace(path, backup)
    details: dict[str, Any] = {"backup": backup.name, "entries": number}
    if anchored is not None:
        details["anchored"] = {"number": anchored.number, "link": anchored.link}
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = FULL")
        with db:
            audit.append(db, "restored", details)
        anchors.append(folder, Anchor.now(*audit.last(db), restored=True))
    lost = max(0, anchored.number - number) if anchored else 0
    return f"{backup} is the database: {number} audit entries, {lost} anchored ones are lost"


def _name(seconds: float) -> str:
    """Name a backup of a time, seconds since 1970; names are sorted as times are."""
    return f"queue-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(seconds))}.sqlite"


def _newest_first(folder: Path) -> list[Path]:
    """List the backups; those from the future come last, as the clock was wrong."""
    now = _name(time.time() + _CLOCK_TOLERANCE)
    paths = (folder / FOLDER).glob(_PATTERN)
    return sorted(paths, key=lambda path: (path.name <= now, path.name), reverse=True)


def _best(folder: Path) -> tuple[Path, int]:
    found = best(folder)
    if found is None:
        raise ArtifactError(
            f"there is no intact backup in {folder / FOLDER}: name a copy of {DATABASE} with "
            "--backup"
        )
    return found


def _intact(path: Path, folder: Path) -> tuple[Path, int] | None:
    try:
        return path, _last_entry(path, folder)
    except ArtifactError:
        return None


def _last_entry(path: Path, folder: Path) -> int:
    """Give the number of the last audit entry of an intact database of this state folder.

    Raises:
        ArtifactError: it is damaged, or its record is not one of this state folder.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as db:
            db.row_factory = sqlite3.Row
            if finding := quick_check(db):
                raise ArtifactError(f"{path} is damaged: {finding}")
            number = sum(1 for _ in audit.verified_entries(db))
            audit.check_anchors(db, _up_to(number, folder), anchors.FILE)
    except (sqlite3.Error, OSError) as error:
        raise ArtifactError(f"{path} cannot be opened as a database: {error}") from error
    return number


def _up_to(number: int, folder: Path) -> list[Anchor]:
    """Give the anchors of a record as long as that."""
    file = folder / anchors.FILE
    if not file.exists():
        return []
    with file.open(encoding="utf-8", errors="replace") as lines:
        return [anchor for anchor in anchors.valid(lines) if anchor.number <= number]


def _replace(path: Path, backup: Path) -> None:
    """Copy a backup to the place of the database, whose files are kept in a folder beside it."""
    aside = path.with_name(f"damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    aside.mkdir(mode=0o700)
    temporary = path.with_name(f".{path.name}{PART}")
    shutil.copyfile(backup, temporary)
    temporary.chmod(0o600)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        if path.with_name(name).exists():
            path.with_name(name).replace(aside / name)
    temporary.replace(path)
    sync_folder(path.parent)
