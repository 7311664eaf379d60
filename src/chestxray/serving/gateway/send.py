"""The sender: brings results from the outbox to one destination.

A destination that turns a result down is asked again some times, later; while it cannot be reached
at all, results wait, nothing is counted, and it is asked ever more rarely.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from typing import Final

from chestxray.serving.gateway import tasks
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.destinations import Destination, Stow
from chestxray.serving.gateway.links import (
    Link,
    NotDeliveredError,
    StoreLink,
    StowLink,
    UnreachableError,
)
from chestxray.serving.gateway.store import Store, sending
from chestxray.serving.gateway.tasks import Task
from chestxray.serving.gateway.watchdog import within

_IDLE_SECONDS: Final = 0.2
_LONGEST_SILENCE: Final = 60.0
_log = logging.getLogger(__name__)


def send(config: Config, to: Destination, stop: threading.Event) -> None:
    """Bring results to a destination until told to stop; the one in hand is finished first."""
    store = Store(config.state)
    link = StowLink(to) if isinstance(to, Stow) else StoreLink(to, config.receive.ae_title)
    silences, failed = 0, False
    try:
        while not stop.is_set():
            try:
                if failed:
                    store.release(sending(to.name), to.name, died=False)
                    failed = False
                reached = _send_once(to, link, store)
            except sqlite3.OperationalError as error:  # a full disk
                failed, reached = True, False
                _log.error("the queue cannot be written: %s", error, extra={"event": "waits"})
            if reached is None:
                link.rest()
                stop.wait(_IDLE_SECONDS)
                continue
            silences = 0 if reached else silences + 1
            stop.wait(min(_LONGEST_SILENCE, tasks.wait(silences)) if silences else 0)
    finally:
        link.close()
        store.close()


def _send_once(to: Destination, link: Link, store: Store) -> bool | None:
    """Send one result, where one is due; whether the destination was reached, None without one."""
    task = store.claim(sending(to.name), to.lease, to.attempts, to.name)
    if task is None:
        return None
    with within(to.lease):
        return deliver(task, link, store, to)


def deliver(task: Task, link: Link, store: Store, to: Destination) -> bool:
    """Send one result and note what came of it; False when the destination cannot be reached."""
    about = {"uid": task.item, "destination": to.name}
    try:
        link.send(store.result_file(task.item))
    except UnreachableError as error:
        store.give_back(task, str(error), 0)
        _log.warning("%s", error, extra={"event": "unreachable", **about})
        return False
    except (NotDeliveredError, OSError) as error:
        dead = store.fail(task, str(error), to.attempts)
        event = "delivery-dead" if dead else "delivery-failed"
        _log.error("result not sent: %s", error, extra={"event": event, **about})
    else:
        store.finish_sending(task)
        _log.info("result sent", extra={"event": "sent", **about})
    return True
