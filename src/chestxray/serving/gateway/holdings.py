"""What the state folder holds, since when, and when it is removed: in numbers only.

`retention` removes files and figures; here is what it will do. Rows that say which images are known
and the audit record are never removed, since they keep an image from being read twice and prove
what was done.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from chestxray.serving.gateway import anchors, backups, shadow_store
from chestxray.serving.gateway.audit import DATABASE
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.retention import DAY
from chestxray.serving.gateway.shadow_store import ShadowCounts
from chestxray.serving.gateway.store import READ, Store

_MIB: Final = 2**20
_WEEK: Final = 7 * DAY
_NEVER: Final = "never"
_SERVED: Final = """
SELECT count(*) AS number, min(served) AS first FROM (
  SELECT max(reading.finished, coalesce((
    SELECT max(sending.finished) FROM results JOIN tasks AS sending ON sending.item = results.uid
    WHERE results.image = images.uid), 0)) AS served
  FROM images CROSS JOIN tasks AS reading ON reading.item = images.uid AND reading.queue = ?
  WHERE NOT removed AND reading.state IN ('done', 'discarded') AND NOT EXISTS (
    SELECT 1 FROM results JOIN tasks AS sending ON sending.item = results.uid
    WHERE results.image = images.uid AND sending.state NOT IN ('done', 'discarded')))
"""


class Holding(NamedTuple):
    """One kind of what is kept.

    Attributes:
        what: in words.
        where: name in the state folder.
        number: of files, rows or lines; None where the file cannot be read.
        mib: on the disk, MiB; None where it is part of another file.
        since: of the oldest, seconds since 1970; None where there is none.
        rule: when it is removed.
        next: when the next of it is removed, seconds since 1970; None where none is due.
        held: how many are not yet removed at any time, since they were not read or not sent.
    """

    what: str
    where: str
    number: int | None
    mib: float | None
    since: float | None
    rule: str
    next: float | None = None
    held: int = 0


def holdings(config: Config, store: Store, shadow: ShadowCounts | None) -> Iterator[Holding]:
    """List what a state folder holds.

    Args:
        config: of the gateway.
        store: of the state folder.
        shadow: what it has read; None where its database is not there or cannot be read.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    yield from _files(config, store)
    yield _figures(config, store)
    yield from _records(store)
    yield from _others(store.folder, shadow)


def _files(config: Config, store: Store) -> Iterator[Holding]:
    days = config.storage.keep_days
    served = store.db.execute(_SERVED, (READ,)).fetchone()
    here, first = store.db.execute(
        "SELECT count(*), min(received) FROM images WHERE NOT removed"
    ).fetchone()
    due = None if served["first"] is None else served["first"] + days * DAY
    rule = f"{days:g} days after the last delivery; earlier below {config.storage.spare_mib} MiB"
    number, mib, _ = _of_folder(store.images)
    held = here - served["number"]
    yield Holding("radiographs as received", "images/", number, mib, first, rule, due, held)
    number, mib, oldest = _of_folder(store.outbox)
    yield Holding("results as sent", "outbox/", number, mib, oldest, "with their radiograph", due)


def _figures(config: Config, store: Store) -> Holding:
    number, first = store.db.execute("SELECT count(*), min(time) FROM readings").fetchone()
    weeks = config.drift.keep_weeks
    rule = f"after {weeks} weeks" + ("; the baseline stays" if config.drift.baseline else "")
    due = None if first is None or config.drift.baseline else first + weeks * _WEEK
    return Holding("figures of readings", DATABASE, number, None, first, rule, due)


def _records(store: Store) -> Iterator[Holding]:
    path = store.folder / DATABASE
    number, first = store.db.execute("SELECT count(*), min(received) FROM images").fetchone()
    mib = sum(_size(path.with_name(path.name + end)) for end in ("", "-wal")) / _MIB
    yield Holding("known radiographs", DATABASE, number, mib, first, _NEVER)
    number = store.db.execute("SELECT count(*) FROM audit").fetchone()[0]
    yield Holding("entries of the audit record", DATABASE, number, None, first, _NEVER)
    path = store.folder / anchors.FILE
    lines = 0
    if path.exists():
        with path.open("rb") as file:
            lines = sum(1 for _ in file)
    yield Holding(
        "anchors of the audit record", anchors.FILE, lines, _size(path) / _MIB, first, _NEVER
    )


def _others(folder: Path, shadow: ShadowCounts | None) -> Iterator[Holding]:
    number, mib, oldest = _of_folder(folder / backups.FOLDER)
    rule = f"when {backups.KEPT} newer ones exist"
    yield Holding("backups of the database", f"{backups.FOLDER}/", number, mib, oldest, rule)
    path = folder / shadow_store.FILE
    if path.exists():
        read = None if shadow is None else shadow.read
        mib = sum(_size(path.with_name(path.name + end)) for end in ("", "-wal")) / _MIB
        rule = "with the figures of readings"
        yield Holding("figures of the shadow", path.name, read, mib, None, rule)
    for aside in sorted(folder.glob("damaged-*")):
        number, mib, oldest = _of_folder(aside)
        yield Holding(
            "a damaged database", f"{aside.name}/", number, mib, oldest, "remove it yourself"
        )


def _of_folder(folder: Path) -> tuple[int, float, float | None]:
    """Give the number of files, their MiB, and the time of the oldest."""
    if not folder.is_dir():
        return 0, 0.0, None
    number, size, oldest = 0, 0, None
    for path in folder.iterdir():
        try:
            found = path.stat()
        except FileNotFoundError:  # it was removed meanwhile
            continue
        if not path.name.startswith("."):
            number, size = number + 1, size + found.st_size
            oldest = found.st_mtime if oldest is None else min(oldest, found.st_mtime)
    return number, size / _MIB, oldest


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
