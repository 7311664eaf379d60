"""What the shadow has read: `shadow.sqlite` in the state folder, which locks nothing else.

A row has the number of the first bundle's reading (`readings.py`), and what became of the second:
its figures, or why there are none. The first row only says from which reading on the shadow reads.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from chestxray.findings import Findings

if TYPE_CHECKING:
    from chestxray.model.model_card import ModelCard

FILE: Final = "shadow.sqlite"
"""Name of the database in the state folder."""

_BEGUN: Final = "begun"
_MISSED: Final = "missed"
_TABLES: Final = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS models (
    identity TEXT PRIMARY KEY,
    findings TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS readings (
    number INTEGER PRIMARY KEY,
    image TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    time REAL,
    problem TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL DEFAULT '',
    seconds REAL NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    probabilities BLOB NOT NULL DEFAULT x'',
    calls TEXT NOT NULL DEFAULT ''
) STRICT;
COMMIT;
"""
_LOCK_TIMEOUT: Final = 10.0
_log = logging.getLogger(__name__)


class ShadowRow(NamedTuple):
    """A reading of the shadow.

    Attributes:
        number: of the first bundle's reading of the same image.
        image: SOP instance UID.
        model: identity of the shadow.
        seconds: that decoding and reading took.
        refused: whether its gate refused the image.
        probabilities: as `readings` writes them; empty where refused.
        calls: likewise.
    """

    number: int
    image: str
    model: str
    seconds: float
    refused: bool
    probabilities: bytes
    calls: str


class ShadowCounts(NamedTuple):
    """What became of the images that the shadow was to read.

    Attributes:
        read: that have a reading or a refusal.
        missed: whose file was removed before.
        failed: that it could not read.
        position: number of the last reading of the first bundle that was taken up.
    """

    read: int
    missed: int
    failed: int
    position: int


class ShadowStore:
    """The database of the shadow."""

    def __init__(self, path: Path) -> None:
        new = not path.exists()
        if new:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        self.db = sqlite3.connect(path, timeout=_LOCK_TIMEOUT, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.executescript(_TABLES)

    @classmethod
    def open(cls, state: Path, last: int) -> Self:
        """Open the database, or begin one where there is none or it is damaged.

        Args:
            state: state folder.
            last: number of the first bundle's last reading; those up to it are not read again.
        """
        try:
            made = cls(state / FILE)
            made._begin_at(last)
        except sqlite3.OperationalError:  # a full disk
            raise
        except sqlite3.DatabaseError as error:
            _log.error("%s is damaged: %s", FILE, error, extra={"event": "shadow-damaged"})
            return cls.anew(state, last)
        return made

    @classmethod
    def anew(cls, state: Path, last: int) -> Self:
        """Begin a database anew; what was in the old one is lost."""
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
            (state / name).unlink(missing_ok=True)
        made = cls(state / FILE)
        made._begin_at(last)
        return made

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def position(self) -> int:
        """Give the number of the last reading that is finished, whatever became of it."""
        row = self.db.execute("SELECT coalesce(max(number), 0) FROM readings WHERE time NOTNULL")
        return int(row.fetchone()[0])

    def begin(self, number: int, image: str) -> int:
        """Note that a reading is begun; give how often it was."""
        self.db.execute(
            "INSERT INTO readings (number, image, attempts) VALUES (?, ?, 1) "
            "ON CONFLICT (number) DO UPDATE SET attempts = attempts + 1",
            (number, image),
        )
        row = self.db.execute("SELECT attempts FROM readings WHERE number = ?", (number,))
        return int(row.fetchone()[0])

    def finish(
        self,
        number: int,
        model: str,
        seconds: float,
        probabilities: bytes = b"",
        calls: str = "",
        *,
        refused: bool = False,
    ) -> None:
        """Note a reading or a refusal."""
        self.db.execute(
            "UPDATE readings SET time = ?, model = ?, seconds = ?, probabilities = ?, calls = ?, "
            "refused = ? WHERE number = ?",
            (time.time(), model, seconds, probabilities, calls, int(refused), number),
        )

    def miss(self, number: int) -> None:
        """Note that the image was no longer there."""
        self.fail(number, _MISSED)

    def fail(self, number: int, problem: str) -> None:
        """Note that an image was not read."""
        self.db.execute(
            "UPDATE readings SET time = ?, problem = ? WHERE number = ?",
            (time.time(), problem, number),
        )

    def remember_model(self, identity: str, card: ModelCard) -> None:
        """Keep the findings of the shadow, in the order of its rows."""
        self.db.execute(
            "INSERT INTO models VALUES (?, ?) ON CONFLICT DO NOTHING",
            (identity, json.dumps(list(card.findings))),
        )

    def _begin_at(self, last: int) -> None:
        """Begin after a reading; rows of readings that a restored backup lost are removed."""
        self.db.execute("DELETE FROM readings WHERE number > ?", (last,))
        self.db.execute(
            "INSERT INTO readings (number, image, time, problem) SELECT ?, '', ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM readings)",
            (last, time.time(), _BEGUN),
        )


def shadow_rows(state: Path, numbers: Sequence[int]) -> tuple[list[ShadowRow], dict[str, Findings]]:
    """Give the shadow's readings between two numbers of the first bundle's, and its models.

    Args:
        state: state folder.
        numbers: of the first bundle's readings, in their order.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    if not numbers or not (state / FILE).exists():
        return [], {}
    with closing(_reading(state)) as db:
        found = db.execute(
            "SELECT number, image, model, seconds, refused, probabilities, calls FROM readings "
            "WHERE number BETWEEN ? AND ? AND time NOTNULL AND problem = '' ORDER BY number",
            (numbers[0], numbers[-1]),
        )
        rows = [ShadowRow(*row) for row in found]
        models = {
            row["identity"]: Findings(json.loads(row["findings"]))
            for row in db.execute("SELECT * FROM models")
        }
    return rows, models


def shadow_counts(state: Path) -> ShadowCounts | None:
    """Count what became of the images; None where no shadow has run.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    if not (state / FILE).exists():
        return None
    with closing(_reading(state)) as db:
        row = db.execute(
            "SELECT coalesce(sum(problem = ''), 0), coalesce(sum(problem = ?), 0), "
            "coalesce(sum(problem NOT IN ('', ?, ?)), 0), coalesce(max(number), 0) "
            "FROM readings WHERE time NOTNULL",
            (_MISSED, _MISSED, _BEGUN),
        ).fetchone()
    return ShadowCounts(*row)


def remove_old(state: Path, before: float) -> None:
    """Remove what was read before a time, by a shadow that no longer runs too.

    The last row stays without figures, since it is the position.

    Args:
        state: state folder.
        before: seconds since 1970.

    Raises:
        sqlite3.Error: the database cannot be written.
    """
    if not (state / FILE).exists():
        return
    with closing(_connected(state, "rw")) as db, db:
        db.execute(
            "DELETE FROM readings WHERE time < ? "
            "AND number < (SELECT max(number) FROM readings WHERE time NOTNULL)",
            (before,),
        )
        db.execute(
            "UPDATE readings SET image = '', problem = ?, model = '', seconds = 0, refused = 0, "
            "probabilities = x'', calls = '' WHERE time < ?",
            (_BEGUN, before),
        )


def _reading(state: Path) -> sqlite3.Connection:
    return _connected(state, "ro")


def _connected(state: Path, mode: str) -> sqlite3.Connection:
    uri = f"{(state / FILE).absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT)
    db.row_factory = sqlite3.Row
    return db
