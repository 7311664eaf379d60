"""The shadow: a second bundle reads what the first has read, and nothing of it is ever sent.

It can neither delay nor fail the first reading:

- It is a process of its own, which reads an image only after its first reading was recorded, and
  only while no image waits for its first.
- It writes into a database of its own, `shadow.sqlite`, so that no reading shares a lock; of the
  queue it reads rows and changes none. Where its database is damaged, it begins anew.
- It runs when nothing else wants the processor (SCHED_IDLE on Linux), and is the first to end when
  memory runs out.
- It holds no file back: an image that retention has removed before is counted as missed.
- Where it dies again and again, it is started at growing intervals, and neither health nor alarms
  of the gateway change; `status` and `report` say so.

An image during which it ended is tried once more and then counted as failed. So is one for which
the machine had no time, memory or file handle. Since this process comes last, all its limits of
time are ten times those of a worker.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from chestxray.errors import (
    ChestXrayError,
    DecodingTimeError,
    ImageError,
    RefusedError,
    WorkerError,
)
from chestxray.reading.reader import Reader
from chestxray.serving.gateway import image_decoding, logs, queue, readings
from chestxray.serving.gateway.audit import DATABASE
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.image_decoding import Decoder
from chestxray.serving.gateway.queue import exit_after
from chestxray.serving.gateway.shadow_store import ShadowStore
from chestxray.serving.gateway.store import READ

_IDLE_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 30.0
_ATTEMPTS: Final = 2
_PATIENCE: Final = 10.0
_LOCK_TIMEOUT: Final = 60.0
_log = logging.getLogger(__name__)


class _MachineError(ChestXrayError):
    """The machine lacks time, memory or files; the message names the image and what happened."""


class _Image(NamedTuple):
    """An image that the first bundle has read.

    Attributes:
        number: of the row of its reading.
        uid: SOP instance UID.
        sha256: of the file.
    """

    number: int
    uid: str
    sha256: str


def step_back() -> None:
    """Let every other process go first, for the processor and for memory."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    elif sys.platform != "win32":
        os.nice(19)


def run(config: Config, reader: Reader, stop: threading.Event) -> None:
    """Read what the first bundle has read until told to stop.

    Args:
        config: of the gateway.
        reader: the second bundle's.
        stop: set when the process shall end.
    """
    decoder = image_decoding.decoder(reader.size, config.read.lease, _PATIENCE)
    with closing(_opened(config.state)) as first, closing(decoder):
        own = ShadowStore.open(config.state, _last(first))
        own.remember_model(reader.bundle.identity, reader.bundle.card)
        decoder.start()
        while not stop.is_set():
            try:
                busy = _read_next(config, reader, decoder, first, own)
            except (sqlite3.OperationalError, _MachineError) as error:  # such as a full disk
                _log.error("the shadow waits: %s", error, extra={"event": "postponed"})
                stop.wait(_PAUSE_SECONDS)
            except sqlite3.DatabaseError as error:
                _log.error("the shadow begins anew: %s", error, extra={"event": "shadow-damaged"})
                own.close()
                own = ShadowStore.anew(config.state, _last(first))
                own.remember_model(reader.bundle.identity, reader.bundle.card)
            else:
                if not busy:
                    stop.wait(_IDLE_SECONDS)
        own.close()


def _read_next(
    config: Config,
    reader: Reader,
    decoder: Decoder,
    first: sqlite3.Connection,
    own: ShadowStore,
) -> bool:
    """Read one image; give False where none is due, or one waits for its first reading.

    Raises:
        _MachineError: it could not be read now; it is tried once more.
        sqlite3.Error: a database cannot be read or written.
    """
    if queue.has_due(first, READ, config.read.lease):
        return False
    image = _next(first, own.position())
    if image is None:
        return False
    if own.begin(image.number, image.uid) > _ATTEMPTS:
        own.fail(image.number, "no attempt came to an end")
        return True
    with exit_after(_PATIENCE * config.read.lease):
        _read(image, config.state, reader, decoder, own)
    return True


def _read(image: _Image, state: Path, reader: Reader, decoder: Decoder, own: ShadowStore) -> None:
    started = time.monotonic()
    path = state / "images" / f"{image.uid}.dcm"
    try:
        decoded = image_decoding.decoded(decoder, image.uid, path, image.sha256)
        outcome = reader.read(decoded.judged)
    except FileNotFoundError:
        own.miss(image.number)
    except RefusedError:
        own.finish(image.number, reader.bundle.identity, time.monotonic() - started, refused=True)
    except (DecodingTimeError, WorkerError, OSError) as error:
        raise _MachineError(f"{image.uid} was not read: {logs.place(error)}") from error
    except ImageError as error:
        own.fail(image.number, type(error).__name__)
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001 - it is recorded
        own.fail(image.number, logs.place(error))
    else:
        own.finish(
            image.number,
            reader.bundle.identity,
            time.monotonic() - started,
            readings.probabilities_bytes(list(outcome.probabilities.values())),
            readings.calls_text(list(outcome.calls.values())),
        )


def _opened(state: Path) -> sqlite3.Connection:
    """Open the gateway's database to read only."""
    uri = f"{(state / DATABASE).absolute().as_uri()}?mode=ro"
    db = sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT, isolation_level=None)
    db.row_factory = sqlite3.Row
    return db


def _last(first: sqlite3.Connection) -> int:
    """Give the number of the last reading; 0 where there is none."""
    return int(first.execute("SELECT coalesce(max(number), 0) FROM readings").fetchone()[0])


def _next(first: sqlite3.Connection, position: int) -> _Image | None:
    row: Any = first.execute(
        "SELECT number, uid, sha256 FROM readings JOIN images ON uid = image "
        "WHERE number > ? ORDER BY number LIMIT 1",
        (position,),
    ).fetchone()
    return None if row is None else _Image(*row)
