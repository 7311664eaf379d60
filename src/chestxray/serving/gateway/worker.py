"""The worker: claims an image, reads it through the one door, lays the results into the outbox.

It may be killed at any moment: what it held is claimed again when its lease runs out, and makes the
same result objects (their UIDs are derived); those already in the outbox stay as they are.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Final

from chestxray import artifacts as durable
from chestxray.errors import ImageError, RefusedError
from chestxray.reading.reader import Reader, Reading
from chestxray.serving.gateway import logs, objects
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.destinations import Destination, Rule
from chestxray.serving.gateway.queue import Task, within
from chestxray.serving.gateway.store import READ, Image, Result, Store

_IDLE_SECONDS: Final = 0.1
_PAUSE_SECONDS: Final = 30.0  # after trouble that is the machine's, not the image's
_log = logging.getLogger(__name__)


def work(config: Config, reader: Reader, stop: threading.Event, name: str) -> None:
    """Read images until told to stop; the one in hand is finished first.

    Args:
        config: of the gateway.
        reader: the model.
        stop: set when it shall end.
        name: of this worker, by which its successor frees what it held.
    """
    store = Store(config.state)
    failed = False
    try:
        while not stop.is_set():
            try:
                if failed:
                    store.release(READ, name, died=False)
                    failed = False
                busy = _work_once(config, reader, store, name)
            except sqlite3.OperationalError as error:  # a full disk, which keeps no row either
                failed = True
                _log.error("the queue cannot be written: %s", error, extra={"event": "waits"})
                stop.wait(_PAUSE_SECONDS)
            else:
                stop.wait(0 if busy else _IDLE_SECONDS)
    finally:
        store.close()


def _work_once(config: Config, reader: Reader, store: Store, name: str) -> bool:
    """Read one image, where one is due; whether one was."""
    task = store.claim(READ, config.read.lease, config.read.attempts, name)
    if task is None:
        return False
    with within(config.read.lease):
        handle(task, config, reader, store)
    return True


def handle(task: Task, config: Config, reader: Reader, store: Store) -> None:
    """Read one image and finish it, or say why not."""
    started = time.monotonic()
    image = store.image(task.item)
    about = {"uid": image.uid, "source": image.source}
    try:
        outcome = _read(image, reader, store)
        results = list(_laid_out(image, outcome, config, reader, store))
        refusal = _why(outcome) if isinstance(outcome, RefusedError) else ""
        store.finish_reading(task, reader.bundle.identity, results, refusal)
    except ImageError as error:  # no later attempt can mend the file
        store.fail(task, error.reason, most=0)
        _log.error("image dead: %s", error.reason, extra={"event": "dead", **about})
    except (OSError, sqlite3.OperationalError) as error:  # a full disk: the image is not to blame
        _log.error("image waits: %s", error, extra={"event": "waits", **about})
        store.give_back(task, str(error), _PAUSE_SECONDS)
    except Exception as error:  # noqa: BLE001 (anything else may pass: it is tried again)
        reason = logs.place(error)
        dead = store.fail(task, reason, config.read.attempts)
        _log.error(
            "image failed: %s", reason, extra={"event": "dead" if dead else "failed"} | about
        )
    else:
        event, seconds = "refused" if refusal else "read", round(time.monotonic() - started, 3)
        _log.info("image %s", event, extra={"event": event, "seconds": seconds, **about})


def _read(image: Image, reader: Reader, store: Store) -> Reading | RefusedError:
    path = store.image_file(image.uid)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise ImageError(path, "is gone from the state folder") from error
    if found != image.sha256:
        raise ImageError(path, "was altered on the disk after it was received")
    try:
        return reader.read(path)
    except RefusedError as refusal:
        return refusal


def _laid_out(
    image: Image,
    outcome: Reading | RefusedError,
    config: Config,
    reader: Reader,
    store: Store,
) -> Iterator[Result]:
    """Make the result objects that somebody wants, and lay them into the outbox."""
    if isinstance(outcome, RefusedError) and not config.read.send_refusals:
        return
    wanted = [to for to in config.destinations if goes(image, outcome, to)]
    kinds = {kind for to in wanted for kind in to.send}
    # All are made before one is laid out: what has no row would stay in the outbox.
    for made in list(objects.make(store.image_file(image.uid), outcome, reader, kinds)):
        path = store.result_file(made.uid)
        durable.write_once(path, made.content)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        names = [to.name for to in wanted if made.kind in to.send]
        yield Result(made.uid, made.kind, digest, names)


def goes(image: Image, outcome: Reading | RefusedError, to: Destination) -> bool:
    """Tell whether a destination gets the results of an image."""
    return not to.rules or any(_holds(rule, image, outcome) for rule in to.rules)


def _holds(rule: Rule, image: Image, outcome: Reading | RefusedError) -> bool:
    return (
        _calls_hold(rule, outcome)
        and (not rule.modalities or image.modality in rule.modalities)
        and (not rule.calling or image.source in rule.calling)
    )


def _calls_hold(rule: Rule, outcome: Reading | RefusedError) -> bool:
    if not rule.findings and rule.called is None:
        return True
    if isinstance(outcome, RefusedError):
        return False
    asked = rule.findings or list(outcome.calls)
    return any(outcome.calls.get(finding) for finding in asked) == (rule.called is not False)


def _why(refusal: RefusedError) -> str:
    return "; ".join(f"{notice.code}: {notice}" for notice in refusal.notices if notice.refuses)
