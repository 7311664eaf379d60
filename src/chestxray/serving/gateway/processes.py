"""What each process of the gateway runs; each imports only what it needs.

A process ends on SIGTERM, after the task in progress, and at once when the supervisor is gone:
everything that counts is on the disk. SIGTERM is used, and no event shared between processes, since
the lock of such an event is lost with a process that is killed while holding it. A process that
waits for another system ends some seconds after SIGTERM in any case.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from chestxray.errors import (
    ArtifactError,
    BundleError,
    ConfigError,
    MissingExtraError,
    SignatureError,
)
from chestxray.findings import Findings
from chestxray.serving.gateway import logs
from chestxray.serving.gateway.access import private_files
from chestxray.serving.gateway.config import Config, Destination, Poll, Shadow
from chestxray.serving.gateway.integrity import DAMAGED, is_damage

_STOP_SECONDS: Final = 2.0
_PR_SET_PDEATHSIG: Final = 1
_log = logging.getLogger(__name__)


class _LoadedModel(NamedTuple):
    """What the supervisor needs to know of the model."""

    identity: str
    findings: Findings


def load_model(
    bundle: Path, engine: str, operating_point: str | None, require_signature: Path | None = None
) -> _LoadedModel:
    """Load a bundle as a worker will, to see whether that works.

    Raises:
        BundleError: the bundle cannot be used.
        SignatureError: bundle or export are not as the holder of the required key signed them.
        ConfigError: the engine cannot be used; unlike the original error, it can be pickled.
    """
    from chestxray.reading.reader import load

    try:
        reader = load(bundle, engine, operating_point, require_signature)
    except (BundleError, SignatureError):
        raise
    except (ArtifactError, MissingExtraError) as error:
        raise ConfigError(f"read.engine: {error}") from error
    return _LoadedModel(reader.bundle.identity, Findings(reader.findings))


def start(target: Callable[..., None], *arguments: object) -> None:
    """Run one of the functions below in this process, with an event that SIGTERM sets."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles it
    logs.set_up()
    _log.info("started", extra={"event": "started"})
    end_with_parent()
    with _exit_on_error(), private_files():
        target(stop, *arguments)


def end_with_parent() -> None:
    """End this process when the one that started it ends, even by SIGKILL.

    On Linux the kernel does so, whatever this process is busy with. The thread is for other
    systems, and for a parent that ended before the kernel was told.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.join,), daemon=True).start()


def run_receiver(stop: threading.Event, config: Config) -> None:
    """Run the Storage SCP and retention."""
    from chestxray.serving.gateway.intake import Intake
    from chestxray.serving.gateway.receiver import Receiver
    from chestxray.serving.gateway.retention import Retention
    from chestxray.serving.gateway.store import Store

    intake = Intake(Store(config.state), config.storage)
    retention = Retention(config.storage, Store(config.state), config.drift)
    retention.run_once()  # on a full disk it makes room for the rows of recovered images
    recovered = intake.recover()
    if recovered:
        _log.warning("images recovered from disk: %d", recovered, extra={"event": "recovered"})
    receiver = Receiver(config.receive, intake)
    receiver.start()
    removing = threading.Thread(target=_run_loop, args=(retention.run, stop))
    removing.start()
    stop.wait()
    receiver.stop()
    removing.join()


def run_poller(stop: threading.Event, config: Config, service: Poll) -> None:
    """Run the poller of a DICOMweb service."""
    from chestxray.serving.gateway.intake import Intake
    from chestxray.serving.gateway.polling import Poller
    from chestxray.serving.gateway.store import Store

    _exit_soon_after(stop)
    intake = Intake(Store(config.state), config.storage, can_wait=True)
    max_bytes = config.receive.object_mib * 2**20
    rule = config.receive.capture_rule
    Poller(service, intake, Store(config.state), max_bytes, stop, rule).run()


def run_monitor(stop: threading.Event, config: Config) -> None:
    """Run the monitor of the database, and the endpoint for metrics and health."""
    from chestxray.serving.gateway import endpoint
    from chestxray.serving.gateway.drift_metrics import DriftMetrics
    from chestxray.serving.gateway.monitor import Monitor

    monitor = Monitor(config)
    if config.metrics is not None:
        collector = DriftMetrics(config.drift, config.state)
        endpoint.serve(config.metrics, config.state, monitor.problems, [collector])
    monitor.run(stop)


def run_worker(stop: threading.Event, config: Config, bundle: Path, number: int) -> None:
    """Run worker number 0, 1, …, on its share of the cores."""
    from chestxray.serving.gateway.store import READ

    name = f"worker-{number}"
    _release_predecessor(config, READ, name)
    _use_share_of_cores(number, config.read.workers)
    with _terminable():
        from chestxray.reading.reader import load
        from chestxray.serving.gateway import worker

        read = config.read
        reader = load(bundle, read.engine, read.operating_point, read.require_signature)
    _log.info("ready: reads with %s", reader.engine.name, extra={"event": "ready"})
    worker.run(config, reader, stop, name)


def run_shadow(stop: threading.Event, config: Config, shadow: Shadow) -> None:
    """Run the shadow, behind everything else."""
    from chestxray.serving.gateway.shadow_store import ShadowStore
    from chestxray.serving.gateway.store import Store

    store = Store(config.state)
    last = store.db.execute("SELECT coalesce(max(number), 0) FROM readings").fetchone()[0]
    store.close()
    ShadowStore.open(config.state, last).close()  # what is read while the model loads counts
    from chestxray.serving.gateway.shadow import step_back

    step_back()
    _exit_soon_after(stop)
    from chestxray.reading.reader import load
    from chestxray.serving.gateway import shadow as process

    reader = load(
        shadow.bundle, shadow.engine, shadow.operating_point, config.read.require_signature
    )
    _log.info("ready: reads with %s", reader.engine.name, extra={"event": "ready"})
    process.run(config, reader, stop)


def run_sender(stop: threading.Event, config: Config, to: Destination) -> None:
    """Run the sender of a destination."""
    from chestxray.serving.gateway import sender
    from chestxray.serving.gateway.store import send_queue

    _release_predecessor(config, send_queue(to.name), to.name)
    _exit_soon_after(stop)
    sender.run(config, to, stop)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end this process at once: loading a model may take longer than a stop may."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def _release_predecessor(config: Config, queue: str, name: str) -> None:
    """Release what the predecessor held when it died, before its lease expires."""
    from chestxray.serving.gateway.store import Store

    store = Store(config.state)
    released = store.release(queue, name, died=True)
    store.close()
    if released:
        _log.warning("tasks released: %d", released, extra={"event": "released"})


@contextmanager
def _exit_on_error() -> Iterator[None]:
    """End the process when the block raises, whatever threads it has; the supervisor restarts it.

    The exit status tells the supervisor where the database may be damaged. Only the place of the
    error is logged: its message may quote a file or an answer.
    """
    try:
        yield
    except BaseException as error:  # noqa: BLE001 (the process ends)
        _log.critical("ended by %s", logs.place(error), extra={"event": "crashed"})
        os._exit(DAMAGED if is_damage(error) else 1)


def _run_loop(loop: Callable[[threading.Event], None], stop: threading.Event) -> None:
    with _exit_on_error():
        loop(stop)


def _exit_soon_after(stop: threading.Event) -> None:
    """End this process some seconds after it was told to stop, whatever it waits for."""

    def wait() -> None:
        stop.wait()
        time.sleep(_STOP_SECONDS)

    threading.Thread(target=_exit_after, args=(wait,), daemon=True).start()


def _exit_after(ended: Callable[[], None]) -> None:
    ended()
    os._exit(1)


def _use_share_of_cores(number: int, workers: int) -> None:
    """Give each worker its own cores: every engine would start a thread for each core."""
    if sys.platform == "linux" and workers > 1:
        cores = sorted(os.sched_getaffinity(0))
        share = max(1, len(cores) // workers)
        first = number * share % len(cores)
        os.sched_setaffinity(0, cores[first : first + share])
