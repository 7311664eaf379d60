"""The integrity of the database: whether it is there, whole, and the one that was anchored.

SQLite finds a damaged page only when it reads it. So the whole database is checked when the gateway
starts, every hour, and by `chestxray gateway status`; and its audit record is compared with the
anchors, so that one that was deleted, replaced or set back is noticed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from chestxray.errors import ArtifactError
from chestxray.serving.gateway import anchors, audit, backups
from chestxray.serving.gateway.audit import DATABASE

DAMAGED: Final = 3
"""Exit status of a process that found the database damaged."""

_LOCK_TIMEOUT: Final = 60.0  # seconds to wait for another process's transaction
_CODES: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class DamageError(ArtifactError):
    """The database is damaged or missing, or is not the one that was anchored."""


def check(folder: Path) -> None:
    """Check the whole database of a state folder; a new folder has none yet.

    Raises:
        DamageError: it is damaged, missing, or not the one that was anchored.
        ArtifactError: it cannot be opened.
    """
    check_present(folder)
    if not (folder / DATABASE).exists():
        return
    with _opened(folder) as db:
        if finding := backups.quick_check(db):
            raise damage(folder, f"is damaged: {finding}")
    check_anchored(folder)


def check_present(folder: Path) -> None:
    """Check that the database is there, unless nothing was ever received.

    Raises:
        DamageError: it is missing.
    """
    if (folder / DATABASE).exists():
        return
    if (folder / anchors.FILE).exists():
        raise damage(folder, f"is missing, but {anchors.FILE} beside it knows its audit record")
    for name in ("images", "outbox", backups.FOLDER):
        if any((folder / name).glob("[!.]*")):
            raise damage(folder, f"is missing, but there are files in {folder / name}")


def check_anchored(folder: Path) -> None:
    """Check that the audit record has the entry that was anchored last.

    Raises:
        DamageError: it has not, or the anchors are missing.
        ArtifactError: the database cannot be opened.
    """
    anchor = anchors.last(folder)  # before the record, which grows first
    with _opened(folder) as db:
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            end, link, was_anchored = 0, None, False
        else:
            end, _ = audit.last(db)
            link = audit.link_of(db, anchor.number) if anchor else None
            was_anchored = anchor is None and audit.has(db, "anchored")
    if was_anchored:
        raise DamageError(
            f"{folder / anchors.FILE}, the anchors of the audit record, is missing or empty: put "
            "back your copy of it, or record its loss with `chestxray gateway restore`"
        )
    if anchor is None or link == anchor.link:
        return
    if link is not None:
        entry = f"entry {anchor.number} of its audit record"
        raise damage(folder, f"was replaced: {entry} is not the one that was anchored")
    raise damage(
        folder,
        f"was set back or replaced: its audit record has {end} entries, but entry "
        f"{anchor.number} was anchored",
    )


def damage(folder: Path, what: str) -> DamageError:
    """Make an error that names the database and the backup to restore."""
    return DamageError(f"{folder / DATABASE} {what}. {_next_step(folder)}")


def is_damage(error: BaseException | None) -> bool:
    """Tell whether an error, or one that caused it, says that the database is damaged."""
    while error is not None:
        code = getattr(error, "sqlite_errorcode", 0) or 0
        if isinstance(error, DamageError) or (code & 0xFF) in _CODES:
            return True
        error = error.__cause__
    return False


def exit_if_damage(error: BaseException) -> None:
    """End this process where an error says that the database is damaged; the supervisor checks."""
    if is_damage(error):
        os._exit(DAMAGED)


def _next_step(folder: Path) -> str:
    anchor, found = anchors.last(folder), backups.best(folder)
    if found is None:
        needed = f", whose audit record must agree with {folder / anchors.FILE}" if anchor else ""
        return (
            f"There is no intact backup in {folder / backups.FOLDER}: stop the gateway and restore "
            f"a copy of your own with `chestxray gateway restore --backup FILE`{needed}"
        )
    path, number = found
    if path == folder / DATABASE:
        return (
            "No backup has more: stop the gateway and restore a copy of your own with `chestxray "
            "gateway restore --backup FILE`, or record the loss with `chestxray gateway restore`"
        )
    of = f" of {anchor.number}" if anchor else ""
    return (
        f"Stop the gateway and run `chestxray gateway restore`, which restores {path} (audit "
        f"entries up to {number}{of}); images received since are read again"
    )


@contextmanager
def _opened(folder: Path) -> Iterator[sqlite3.Connection]:
    path = folder / DATABASE
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT)) as db:
            yield db
    except sqlite3.Error as error:
        if is_damage(error):
            raise damage(folder, f"is damaged: {error}") from error
        raise ArtifactError(f"{path} cannot be opened: {error}") from error
