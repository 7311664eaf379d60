"""The gateway's memory: one SQLite file that all its processes open.

Write-ahead log and synchronous FULL: what is committed is on the disk. Each write is one
transaction that takes the write lock when it begins, so that processes wait for each other and
never find the database changed halfway. `user_version` says which tables are in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chestxray.errors import ArtifactError

VERSION: Final = 1  # raise it with each change of the tables, and bring older ones up to it
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS images (
    uid TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    source TEXT NOT NULL,
    modality TEXT NOT NULL,
    received REAL NOT NULL,
    removed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS images_here ON images (uid) WHERE NOT removed;
CREATE TABLE IF NOT EXISTS results (
    uid TEXT PRIMARY KEY,
    image TEXT NOT NULL REFERENCES images (uid),
    kind TEXT NOT NULL,
    sha256 TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS results_image ON results (image);
CREATE TABLE IF NOT EXISTS tasks (
    queue TEXT NOT NULL,
    item TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'dead', 'discarded')),
    due REAL NOT NULL,
    holder TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    finished REAL,
    PRIMARY KEY (queue, item)
) STRICT;
CREATE INDEX IF NOT EXISTS tasks_due ON tasks (state, queue, due);
CREATE INDEX IF NOT EXISTS tasks_item ON tasks (item);
CREATE TABLE IF NOT EXISTS positions (
    source TEXT PRIMARY KEY,
    position TEXT NOT NULL,
    asked REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY,
    entry TEXT NOT NULL,
    link TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS audit_stays BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit record is append-only'); END;
CREATE TRIGGER IF NOT EXISTS audit_remains BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit record is append-only'); END;
PRAGMA user_version = {VERSION};
COMMIT;
"""
_SECONDS_TO_WAIT: Final = 60.0  # for another process's transaction


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, make it where there is none; outside transactions it commits at once.

    Raises:
        ArtifactError: it cannot be opened, or a later version of this package made it.
    """
    db = None
    try:
        db = sqlite3.connect(
            path, timeout=_SECONDS_TO_WAIT, isolation_level=None, check_same_thread=False
        )
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        _check_version(db, path)
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        raise ArtifactError(f"{path} cannot be opened: {error}") from error
    return db


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    found, filled = db.execute(  # in one look: another process may be making the tables
        "SELECT user_version, EXISTS (SELECT 1 FROM sqlite_master) FROM pragma_user_version"
    ).fetchone()
    if found == 0 and not filled:
        db.executescript(_SCHEMA)
    elif found != VERSION:
        db.close()
        raise ArtifactError(
            f"{path} has tables of version {found}, this package knows {VERSION}: use the package "
            "that made it, or start with another `state`"
        )


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Do all of what is inside, durably, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
