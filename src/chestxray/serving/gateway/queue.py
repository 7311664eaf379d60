"""A process that hangs ends itself, so that another takes up what it held.

Queues of tasks, each claimed with a lease, so that whoever works on one may be killed.

A task is `queued` until it is `done`, or given up as `dead` (`letters.py`). Whoever claims it holds
it until its lease runs out, or its successor says that it is gone; then it is claimed again, and
one that ends its worker every time is given up after some attempts. All functions but `claim` run
inside the caller's transaction.
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
from chestxray.serving.gateway.database import transaction


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End this process, telling where it was, when what is inside takes longer.

    It needs nothing of what hangs: a decoder that never gives Python its turn is ended too.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


WORKER_DIED: Final = "whoever worked on it died of it, or held it for longer than the lease"
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 600.0
_SLACK: Final = 60.0
_DUE: Final = (
    "SELECT item, attempts FROM tasks WHERE queue = ? AND state = 'queued' "
    "AND (due <= ? OR due > ?) ORDER BY due, rowid LIMIT 1"
)


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


def remove(db: sqlite3.Connection, queue: str, item: str) -> None:
    """Forget an item."""
    db.execute("DELETE FROM tasks WHERE queue = ? AND item = ?", (queue, item))


def claim(
    db: sqlite3.Connection, queue: str, lease: float, most: int, holder: str = ""
) -> Task | None:
    """Take the task that is due longest; None when none is due.

    A task that is due later than any wait could make it was queued before the clock was set back:
    it is due too.

    Args:
        db: the database.
        queue: name of the queue.
        lease: seconds after which another may take it.
        most: attempts after which a task whose lease ran out is dead.
        holder: who takes it, for `release`.
    """
    now = time.time()
    due = (queue, now, now + max(lease, _LONGEST_WAIT) + _SLACK)
    if db.execute(_DUE, due).fetchone() is None:  # most often: no write has to wait for this look
        return None
    with transaction(db):
        while (found := db.execute(_DUE, due).fetchone()) is not None:
            if found["attempts"] < most:
                db.execute(
                    "UPDATE tasks SET due = ?, holder = ?, attempts = attempts + 1, reason = '' "
                    "WHERE queue = ? AND item = ?",
                    (now + lease, holder, queue, found["item"]),
                )
                return Task(queue, found["item"], found["attempts"] + 1)
            give_up(db, Task(queue, found["item"], found["attempts"]), WORKER_DIED)
    return None


def release(db: sqlite3.Connection, queue: str, holder: str, *, died: bool) -> int:
    """Free what a holder held; how much it was. The attempt counts where it died of it, perhaps."""
    changed = db.execute(
        "UPDATE tasks SET due = ?, holder = '', attempts = attempts - ? "
        "WHERE queue = ? AND holder = ? AND state = 'queued'",
        (time.time(), 0 if died else 1, queue, holder),
    )
    return changed.rowcount


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
        give_up(db, task, reason)
        return True
    db.execute(
        "UPDATE tasks SET due = ?, holder = '', reason = ? WHERE queue = ? AND item = ?",
        (time.time() + wait(task.attempts), reason, task.queue, task.item),
    )
    return False


def give_back(db: sqlite3.Connection, task: Task, reason: str, seconds: float) -> None:
    """Put a task that we still hold back for some seconds and count no attempt."""
    if _is_ours(db, task):
        db.execute(
            "UPDATE tasks SET due = ?, holder = '', attempts = attempts - 1, reason = ? "
            "WHERE queue = ? AND item = ?",
            (time.time() + seconds, reason, task.queue, task.item),
        )


def give_up(db: sqlite3.Connection, task: Task, reason: str) -> None:
    """Make a dead letter of a task."""
    db.execute(
        "UPDATE tasks SET state = 'dead', reason = ?, finished = ? WHERE queue = ? AND item = ?",
        (reason, time.time(), task.queue, task.item),
    )
    about = {"queue": task.queue, "item": task.item, "attempts": task.attempts, "reason": reason}
    audit.append(db, "dead", about)


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
