"""Dead letters: what was given up, and what its operator makes of it.

A dead letter keeps its files until it is queued again, or discarded: then they go like those of any
image that has served. Each step stands in the audit record.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from typing import Any

from chestxray.serving.gateway import audit
from chestxray.serving.gateway import queue as tasks
from chestxray.serving.gateway.database import transaction
from chestxray.serving.gateway.queue import Task


def listed(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """List what was given up, with the reason, the longest dead first."""
    rows = db.execute(
        "SELECT queue, item, attempts, reason FROM tasks WHERE state = 'dead' ORDER BY finished"
    )
    return [dict(row) for row in rows]


def retry(db: sqlite3.Connection, items: Collection[str] = ()) -> int:
    """Queue again what was given up: these items, or all; how many letters it were."""
    with transaction(db):
        found = _letters(db, items)
        for letter in found:
            tasks.remove(db, letter["queue"], letter["item"])
            tasks.add(db, letter["queue"], letter["item"])
            audit.append(db, "retry", {"queue": letter["queue"], "item": letter["item"]})
    return len(found)


def discard(db: sqlite3.Connection, items: Collection[str]) -> int:
    """Let go for good of these items that were given up, or all; how many letters it were."""
    with transaction(db):
        found = _letters(db, items)
        for letter in found:
            db.execute(
                "UPDATE tasks SET state = 'discarded', finished = ? WHERE queue = ? AND item = ?",
                (time.time(), letter["queue"], letter["item"]),
            )
            audit.append(db, "discarded", letter)
    return len(found)


def give_up_strangers(db: sqlite3.Connection, queues: Collection[str]) -> int:
    """Make dead letters of what waits in queues that nobody serves any more; how many it were."""
    with transaction(db):
        rows = db.execute("SELECT queue, item, attempts FROM tasks WHERE state = 'queued'")
        strangers = [Task(*row) for row in rows.fetchall() if row["queue"] not in queues]
        for task in strangers:
            tasks.give_up(db, task, "its destination is no longer in gateway.toml")
    return len(strangers)


def _letters(db: sqlite3.Connection, items: Collection[str]) -> list[dict[str, Any]]:
    return [letter for letter in listed(db) if not items or letter["item"] in items]
