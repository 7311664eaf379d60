"""What each process of the gateway runs; each loads only what it needs.

A process ends when it is told to by SIGTERM, after what it has in hand, and at once when the
supervisor is gone: all that counts is on the disk. A signal tells it, and no event shared between
processes, since the lock of such an event is lost with a process that is killed while it looks.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chestxray.errors import ArtifactError, BundleError, ConfigError, MissingExtraError
from chestxray.serving.gateway import logs
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.destinations import Destination

_log = logging.getLogger(__name__)


def identity(bundle: Path, engine: str) -> str:
    """Name the model of a bundle, which is loaded for it as a worker will.

    Raises:
        BundleError: the bundle cannot be used.
        ConfigError: the engine cannot; the error must be one that gets from process to process.
    """
    from chestxray import load

    try:
        return load(bundle, engine).bundle.identity
    except BundleError:
        raise
    except (ArtifactError, MissingExtraError) as error:
        raise ConfigError(f"read.engine: {error}") from error


def begin(run: Callable[..., None], *arguments: object) -> None:
    """Run one of the functions below in this process, with an event that SIGTERM sets."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the supervisor
    logs.set_up()
    _log.info("started", extra={"event": "started"})
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.join,), daemon=True).start()
    with _Vital():
        run(stop, *arguments)


def receiving(stop: threading.Event, config: Config) -> None:
    """Run the receiver, its pollers and the housekeeping."""
    from chestxray.serving.gateway import housekeeping
    from chestxray.serving.gateway.intake import Intake
    from chestxray.serving.gateway.polling import Poller
    from chestxray.serving.gateway.receiver import Receiver
    from chestxray.serving.gateway.store import Store

    intake = Intake(Store(config.state), config.storage)
    house = housekeeping.House(config.storage, Store(config.state))
    house.keep_once()  # on a full disk it makes room for the rows of what is taken up
    found = intake.take_up()
    if found:
        _log.warning("%d images had no row", found, extra={"event": "taken-up"})
    receiver = Receiver(config.receive, intake)
    receiver.start()
    if config.metrics is not None:
        housekeeping.serve_metrics(config.metrics, config.state)
    pollers = [Poller(source, intake, Store(config.state)) for source in config.poll]
    runs = [house.run, *(poller.run for poller in pollers)]
    threads = [threading.Thread(target=_live, args=(run, stop)) for run in runs]
    for thread in threads:
        thread.start()
    stop.wait()
    receiver.stop()
    for thread in threads:
        thread.join()


def working(stop: threading.Event, config: Config, bundle: Path, number: int) -> None:
    """Run worker number 0, 1, …, on its share of the cores."""
    from chestxray.serving.gateway.store import READ

    name = f"worker-{number}"
    _free(config, READ, name)
    _take_share(number, config.read.workers)
    with _nothing_held():
        from chestxray import load
        from chestxray.serving.gateway.worker import work

        reader = load(bundle, config.read.engine)
    _log.info("ready: reads with %s", reader.engine.name, extra={"event": "ready"})
    work(config, reader, stop, name)


def sending(stop: threading.Event, config: Config, to: Destination) -> None:
    """Run the sender of a destination."""
    from chestxray.serving.gateway import store
    from chestxray.serving.gateway.sender import send

    _free(config, store.sending(to.name), to.name)
    send(config, to, stop)


@contextmanager
def _nothing_held() -> Iterator[None]:
    """Let SIGTERM end this process at once: loading a model may take longer than one waits."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def _free(config: Config, queue: str, name: str) -> None:
    """Free what our predecessor held when it died, before its lease runs out."""
    from chestxray.serving.gateway.store import Store

    store = Store(config.state)
    freed = store.release(queue, name, died=True)
    store.close()
    if freed:
        _log.warning("%d tasks freed", freed, extra={"event": "freed"})


class _Vital:
    """What is raised inside ends the process, whatever threads it has; another takes over.

    It is told by its place alone: a message may quote the file or the answer that it is about.
    """

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End the process where something was raised."""
        if error is not None:
            _log.critical("ended by %s", logs.place(error), extra={"event": "crashed"})
            os._exit(1)


def _live(run: Callable[[threading.Event], None], stop: threading.Event) -> None:
    with _Vital():
        run(stop)


def _end_with(ended: Callable[[], None]) -> None:
    ended()
    os._exit(1)


def _take_share(number: int, workers: int) -> None:
    """Keep workers out of each other's cores: each engine would start a thread for every core."""
    if workers == 1 or not hasattr(os, "sched_setaffinity"):
        return
    mine = sorted(os.sched_getaffinity(0))
    share = max(1, len(mine) // workers)
    first = number * share % len(mine)
    os.sched_setaffinity(0, mine[first : first + share])
