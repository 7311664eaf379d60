"""Queues of tasks in SQLite, each task claimed with a lease, so that any process may be killed.

A task is `queued` until it is `done`, or given up and `dead` (`dead_letters.py`). A process that
claims a task holds it until its lease expires or its successor releases it; then it is claimed
again. A task that ends its process at every attempt becomes dead after a number of attempts.

All functions on the database run inside the caller's transaction. `exit_after` is the other half of
a lease: it ends the process that exceeds one.
"""

from __future__ import annotations

import faulthandler
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from chestxray.serving.gateway import audit

STATES: Final = ("queued", "done", "dead", "discarded")
_LEASE_EXPIRED: Final = "the process that worked on it died or exceeded the lease"

_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 600.0
_CLOCK_TOLERANCE: Final = 60.0
_DUE: Final = (
    "SELECT item, attempts FROM tasks WHERE queue = ? AND state = 'queued' "
    "AND (due <= ? OR due > ?) ORDER BY due, rowid LIMIT 1"
)


@dataclass(frozen=True)
class Task:
    """A task that this process holds.

    Attributes:
        queue: name of the queue.
        item: SOP instance UID.
        attempts: how often it was claimed, including this time.
    """

    queue: str
    item: str
    attempts: int


@contextmanager
def exit_after(seconds: float) -> Iterator[None]:
    """End this process and print its stack when the block takes longer.

    It works from a thread of the C runtime, so it also ends a decoder that never releases Python's
    global lock.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def add(db: sqlite3.Connection, queue: str, item: str) -> None:
    """Queue an item, unless the queue already has it in any state."""
    db.execute(
        "INSERT INTO tasks (queue, item, due) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (queue, item, time.time()),
    )


def add_done(db: sqlite3.Connection, queue: str, item: str) -> None:
    """Enter an item that nobody has to work on, unless the queue already has it in any state."""
    now = time.time()
    db.execute(
        "INSERT INTO tasks (queue, item, state, due, finished) VALUES (?, ?, 'done', ?, ?) "
        "ON CONFLICT DO NOTHING",
        (queue, item, now, now),
    )


def remove(db: sqlite3.Connection, queue: str, item: str) -> None:
    """Delete a task."""
    db.execute("DELETE FROM tasks WHERE queue = ? AND item = ?", (queue, item))


def has_due(db: sqlite3.Connection, queue: str, lease: float) -> bool:
    """Tell whether a queue has a task to claim, without a transaction that others wait for."""
    return db.execute(_DUE, _due(queue, lease)).fetchone() is not None


def claim(
    db: sqlite3.Connection, queue: str, lease: float, max_attempts: int, holder: str = ""
) -> Task | None:
    """Claim the task that has been due longest.

    Args:
        db: the database.
        queue: name of the queue.
        lease: seconds after which another process may claim it.
        max_attempts: attempts after which a task whose lease expired becomes dead.
        holder: name of the claiming process, for `release`.

    Returns:
        The task; None when none is due.
    """
    while (found := db.execute(_DUE, _due(queue, lease)).fetchone()) is not None:
        if found["attempts"] < max_attempts:
            db.execute(
                "UPDATE tasks SET due = ?, holder = ?, attempts = attempts + 1, reason = '' "
                "WHERE queue = ? AND item = ?",
                (time.time() + lease, holder, queue, found["item"]),
            )
            return Task(queue, found["item"], found["attempts"] + 1)
        mark_dead(db, Task(queue, found["item"], found["attempts"]), _LEASE_EXPIRED)
    return None


def release(db: sqlite3.Connection, queue: str, holder: str, *, died: bool) -> int:
    """Make all tasks of a holder due now; give how many.

    Args:
        db: the database.
        queue: name of the queue.
        holder: name of the process that claimed them.
        died: whether the holder died; the attempt counts then, since the task may be the cause.
    """
    changed = db.execute(
        "UPDATE tasks SET due = ?, holder = '', attempts = attempts - ? "
        "WHERE queue = ? AND holder = ? AND state = 'queued'",
        (time.time(), 0 if died else 1, queue, holder),
    )
    return changed.rowcount


def finish(db: sqlite3.Connection, task: Task, reason: str = "") -> bool:
    """Mark a task done; give False when it is no longer queued, so another process was first."""
    changed = db.execute(
        "UPDATE tasks SET state = 'done', reason = ?, finished = ? "
        "WHERE queue = ? AND item = ? AND state = 'queued'",
        (reason, time.time(), task.queue, task.item),
    )
    return changed.rowcount == 1


def fail(db: sqlite3.Connection, task: Task, reason: str, max_attempts: int) -> bool:
    """Retry a task later, or mark it dead after its last attempt, if this process still holds it.

    Returns:
        Whether it became dead.
    """
    if not _is_held(db, task):
        return False
    if task.attempts >= max_attempts:
        mark_dead(db, task, reason)
        return True
    db.execute(
        "UPDATE tasks SET due = ?, holder = '', reason = ? WHERE queue = ? AND item = ?",
        (time.time() + backoff(task.attempts), reason, task.queue, task.item),
    )
    return False


def defer(db: sqlite3.Connection, task: Task, reason: str, seconds: float) -> None:
    """Retry a task after some seconds without counting the attempt, if it is still held."""
    if _is_held(db, task):
        db.execute(
            "UPDATE tasks SET due = ?, holder = '', attempts = attempts - 1, reason = ? "
            "WHERE queue = ? AND item = ?",
            (time.time() + seconds, reason, task.queue, task.item),
        )


def mark_dead(db: sqlite3.Connection, task: Task, reason: str) -> None:
    """Make a task a dead letter."""
    db.execute(
        "UPDATE tasks SET state = 'dead', reason = ?, finished = ? WHERE queue = ? AND item = ?",
        (reason, time.time(), task.queue, task.item),
    )
    entry = {"queue": task.queue, "item": task.item, "attempts": task.attempts, "reason": reason}
    audit.append(db, "dead", entry)


def backoff(attempts: int) -> float:
    """Give the seconds until the next attempt: doubling up to a limit, with jitter."""
    longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (min(attempts, 32) - 1))
    # Jitter is no secret.
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # nosec B311


def _due(queue: str, lease: float) -> tuple[str, float, float]:
    """Give the parameters of `_DUE`.

    A task that is due later than any wait could make it was queued before the clock was set back,
    so it counts as due.
    """
    now = time.time()
    return queue, now, now + max(lease, _LONGEST_WAIT) + _CLOCK_TOLERANCE


def _is_held(db: sqlite3.Connection, task: Task) -> bool:
    """Tell whether no other process claimed a task after this one: each claim counts an attempt."""
    found = db.execute(
        "SELECT 1 FROM tasks WHERE queue = ? AND item = ? AND state = 'queued' AND attempts = ?",
        (task.queue, task.item, task.attempts),
    )
    return found.fetchone() is not None
