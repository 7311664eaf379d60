"""Dead letters: tasks that were given up, and what an operator can do with them.

A dead letter keeps its files until it is queued again or discarded; the files of discarded ones are
removed like those of delivered images. Each step is recorded in the audit record.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from typing import Any

from chestxray.errors import ArtifactError
from chestxray.serving.gateway import audit, queue
from chestxray.serving.gateway.queue import Task
from chestxray.serving.gateway.store import transaction


def dead_letters(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """List dead letters as `queue`, `item`, `attempts` and `reason`, the oldest first."""
    rows = db.execute(
        "SELECT queue, item, attempts, reason FROM tasks WHERE state = 'dead' ORDER BY finished"
    )
    return [dict(row) for row in rows]


def retry(db: sqlite3.Connection, items: Collection[str] = (), queues: Collection[str] = ()) -> int:
    """Queue dead letters again.

    Args:
        db: the database.
        items: SOP instance UIDs; all dead letters where it is empty.
        queues: that are served; the letters of others stay. All where it is empty.

    Returns:
        The number of dead letters that were queued.

    Raises:
        ArtifactError: an item is no dead letter.
    """
    with transaction(db):
        letters = [of for of in _selected(db, items) if not queues or of["queue"] in queues]
        for letter in letters:
            queue.remove(db, letter["queue"], letter["item"])
            queue.add(db, letter["queue"], letter["item"])
            audit.append(db, "retry", {"queue": letter["queue"], "item": letter["item"]})
    return len(letters)


def discard(db: sqlite3.Connection, items: Collection[str]) -> int:
    """Discard dead letters for good.

    Args:
        db: the database.
        items: SOP instance UIDs; all dead letters where it is empty.

    Returns:
        The number of dead letters that were discarded.

    Raises:
        ArtifactError: an item is no dead letter.
    """
    with transaction(db):
        letters = _selected(db, items)
        for letter in letters:
            db.execute(
                "UPDATE tasks SET state = 'discarded', finished = ? WHERE queue = ? AND item = ?",
                (time.time(), letter["queue"], letter["item"]),
            )
            audit.append(db, "discarded", letter)
    return len(letters)


def mark_unserved(db: sqlite3.Connection, queues: Collection[str]) -> int:
    """Make dead letters of all tasks that wait in other queues than these; give how many."""
    with transaction(db):
        rows = db.execute("SELECT queue, item, attempts FROM tasks WHERE state = 'queued'")
        unserved = [Task(*row) for row in rows.fetchall() if row["queue"] not in queues]
        for task in unserved:
            queue.mark_dead(db, task, "its destination is no longer in gateway.toml")
    return len(unserved)


def _selected(db: sqlite3.Connection, items: Collection[str]) -> list[dict[str, Any]]:
    letters = dead_letters(db)
    unknown = set(items).difference(letter["item"] for letter in letters)
    if unknown:
        raise ArtifactError(
            f"no dead letter has the UID {min(unknown)}: give UIDs that `gateway dead` lists"
        )
    return [letter for letter in letters if not items or letter["item"] in items]
