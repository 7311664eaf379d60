"""Queues of tasks, each claimed with a lease, so that whoever works on one may be killed.

A task is `queued` until it is `done`, or given up as `dead`. Whoever claims it holds it until its
lease runs out; then it is claimed again, and one that ends its worker every time is given up after
some attempts. All functions but `claim` run inside the caller's transaction.
"""

from __future__ import annotations

import random
import sqlite3
import time
from dataclasses import dataclass
from typing import Final

from chestxray.serving.gateway import audit
from chestxray.serving.gateway.database import transaction

WORKER_DIED: Final = "whoever worked on it died of it, or held it for longer than the lease"
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 600.0


@dataclass(frozen=True)
class Task:
    """An item of a queue that we hold.

    Attributes:
        queue: name of the queue.
        item: SOP instance UID.
        attempts: how often it was claimed, this time included.
    """

    queue: str
    item: str
    attempts: int


def add(db: sqlite3.Connection, queue: str, item: str) -> None:
    """Queue an item, unless it ever was."""
    db.execute(
        "INSERT INTO tasks (queue, item, due) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (queue, item, time.time()),
    )


def claim(db: sqlite3.Connection, queue: str, lease: float, most: int) -> Task | None:
    """Take the task that is due longest; None when none is due.

    Args:
        db: the database.
        queue: name of the queue.
        lease: seconds after which another may take it.
        most: attempts after which a task whose lease ran out is dead.
    """
    now = time.time()
    due = db.execute(
        "SELECT 1 FROM tasks WHERE queue = ? AND state = 'queued' AND due <= ? LIMIT 1",
        (queue, now),
    )
    if due.fetchone() is None:  # most often: nobody's write has to wait for this look
        return None
    with transaction(db):
        lapsed = db.execute(
            "SELECT * FROM tasks WHERE queue = ? AND state = 'queued' AND due <= ? "
            "AND attempts >= ?",
            (queue, now, most),
        )
        for row in lapsed.fetchall():
            _give_up(db, _task(row), WORKER_DIED)
        found = db.execute(
            "UPDATE tasks SET due = ?, attempts = attempts + 1, reason = '' WHERE rowid = ("
            "SELECT rowid FROM tasks WHERE queue = ? AND state = 'queued' AND due <= ? "
            "ORDER BY due, rowid LIMIT 1) RETURNING *",
            (now + lease, queue, now),
        ).fetchone()
    return None if found is None else _task(found)


def finish(db: sqlite3.Connection, task: Task, reason: str = "") -> bool:
    """Note that a task is done; False when it is no longer open, so somebody was first."""
    changed = db.execute(
        "UPDATE tasks SET state = 'done', reason = ?, finished = ? "
        "WHERE queue = ? AND item = ? AND state = 'queued'",
        (reason, time.time(), task.queue, task.item),
    )
    return changed.rowcount == 1


def fail(db: sqlite3.Connection, task: Task, reason: str, most: int) -> bool:
    """Put a task that we still hold back for a while, or give it up after `most` attempts.

    Returns:
        Whether it was given up.
    """
    if not _is_ours(db, task):
        return False
    if task.attempts >= most:
        _give_up(db, task, reason)
        return True
    db.execute(
        "UPDATE tasks SET due = ?, reason = ? WHERE queue = ? AND item = ?",
        (time.time() + wait(task.attempts), reason, task.queue, task.item),
    )
    return False


def give_back(db: sqlite3.Connection, task: Task, reason: str, seconds: float) -> None:
    """Put a task that we still hold back for some seconds and count no attempt."""
    if _is_ours(db, task):
        db.execute(
            "UPDATE tasks SET due = ?, attempts = attempts - 1, reason = ? "
            "WHERE queue = ? AND item = ?",
            (time.time() + seconds, reason, task.queue, task.item),
        )


def retry(db: sqlite3.Connection) -> int:
    """Queue everything again that was given up; how much it was."""
    changed = db.execute(
        "UPDATE tasks SET state = 'queued', due = ?, attempts = 0, reason = '', finished = NULL "
        "WHERE state = 'dead'",
        (time.time(),),
    )
    if changed.rowcount:
        audit.append(db, "retry", {"tasks": changed.rowcount})
    return changed.rowcount


def wait(attempts: int) -> float:
    """Seconds until the next attempt: doubling, with jitter, so that all do not come at once."""
    longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (min(attempts, 32) - 1))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (jitter, no secret)


def _is_ours(db: sqlite3.Connection, task: Task) -> bool:
    """Tell whether nobody took it after our lease ran out: each claim counts an attempt."""
    found = db.execute(
        "SELECT 1 FROM tasks WHERE queue = ? AND item = ? AND state = 'queued' AND attempts = ?",
        (task.queue, task.item, task.attempts),
    )
    return found.fetchone() is not None


def _give_up(db: sqlite3.Connection, task: Task, reason: str) -> None:
    db.execute(
        "UPDATE tasks SET state = 'dead', reason = ?, finished = ? WHERE queue = ? AND item = ?",
        (reason, time.time(), task.queue, task.item),
    )
    about = {"queue": task.queue, "item": task.item, "attempts": task.attempts, "reason": reason}
    audit.append(db, "dead", about)


def _task(row: sqlite3.Row) -> Task:
    return Task(row["queue"], row["item"], row["attempts"])
