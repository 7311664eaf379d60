"""What the gateway has done and has left to do, as its operator and its housekeeping ask."""

from __future__ import annotations

import sqlite3
import time
from typing import Any, Final

from chestxray.serving.gateway.store import READ

STATES: Final = ("queued", "done", "dead", "discarded")


def counts(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """Count the tasks of each queue by state."""
    counted = {READ: dict.fromkeys(STATES, 0)}
    for row in db.execute("SELECT queue, state, count(*) AS n FROM tasks GROUP BY queue, state"):
        counted.setdefault(row["queue"], dict.fromkeys(STATES, 0))[row["state"]] = row["n"]
    return counted


def oldest(db: sqlite3.Connection) -> dict[str, float]:
    """Give the age in seconds of the oldest image that waits in each queue; 0 when none does."""
    ages = dict.fromkeys(counts(db), 0.0)
    for row in db.execute(
        "SELECT queue, min(received) AS first FROM tasks "
        "LEFT JOIN results ON results.uid = item "
        "JOIN images ON images.uid = coalesce(results.image, item) "
        "WHERE state = 'queued' GROUP BY queue"
    ):
        ages[row["queue"]] = max(0.0, time.time() - row["first"])
    return ages


def asked(db: sqlite3.Connection) -> dict[str, float]:
    """Give the seconds since all was taken in from each polled source."""
    rows = db.execute("SELECT source, asked FROM positions")
    return {row["source"]: max(0.0, time.time() - row["asked"]) for row in rows}


def troubled(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """List tasks that wait after something went wrong, with what it was, the newest 20."""
    rows = db.execute(
        "SELECT queue, item, attempts, reason FROM tasks WHERE state = 'queued' AND reason != '' "
        "ORDER BY due DESC LIMIT 20"
    )
    return [dict(row) for row in rows]


def served(db: sqlite3.Connection, before: float) -> list[str]:
    """List images whose files may go, the longest served first.

    Those that were read, and all of whose results were sent, before a time (seconds since 1970);
    or discarded.
    """
    rows = db.execute(
        "SELECT uid FROM images CROSS JOIN tasks ON item = uid AND queue = ? "  # few are here
        "WHERE NOT removed AND state IN ('done', 'discarded') AND finished < ? AND NOT EXISTS ("
        "  SELECT 1 FROM results JOIN tasks AS sending ON sending.item = results.uid"
        "  WHERE results.image = images.uid"
        "  AND (sending.state NOT IN ('done', 'discarded') OR sending.finished >= ?)) "
        "ORDER BY finished",
        (READ, before, before),
    )
    return [row["uid"] for row in rows]


def results_of(db: sqlite3.Connection, image: str) -> list[str]:
    """Name the results of an image."""
    rows = db.execute("SELECT uid FROM results WHERE image = ? ORDER BY uid", (image,))
    return [row["uid"] for row in rows]


def note_removed(db: sqlite3.Connection, image: str) -> None:
    """Note that the files of an image are gone."""
    db.execute("UPDATE images SET removed = 1 WHERE uid = ?", (image,))
