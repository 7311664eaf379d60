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
from collections.abc import Callable
from pathlib import Path

from chestxray.serving.gateway import logs
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.destinations import Destination

_log = logging.getLogger(__name__)


def identity(bundle: Path) -> str:
    """Name the model of a bundle, which is loaded and checked for it."""
    from chestxray.model import bundle as bundles

    return bundles.load(bundle).identity


def receiving(config: Config) -> None:
    """Run the receiver, its pollers and the housekeeping."""
    from chestxray.serving.gateway.housekeeping import keep_house, serve_metrics
    from chestxray.serving.gateway.intake import Intake
    from chestxray.serving.gateway.poll import Poller
    from chestxray.serving.gateway.receive import Receiver
    from chestxray.serving.gateway.store import Store

    stop = _begin()
    intake = Intake(Store(config.state), config.storage)
    found = intake.take_up()
    if found:
        _log.warning("%d images had no row", found, extra={"event": "taken-up"})
    receiver = Receiver(config.receive, intake)
    receiver.start()
    if config.metrics is not None:
        serve_metrics(config.metrics, config.state)
    pollers = [Poller(source, intake, Store(config.state)) for source in config.poll]
    threads = [threading.Thread(target=keep_house, args=(config, stop))]
    threads += [threading.Thread(target=poller.run, args=(stop,)) for poller in pollers]
    for thread in threads:
        thread.start()
    stop.wait()
    receiver.stop()
    for thread in threads:
        thread.join()


def working(config: Config, bundle: Path, number: int) -> None:
    """Run worker number 0, 1, …, on its share of the cores."""
    stop = _begin()
    _take_share(number, config.read.workers)
    from chestxray import load
    from chestxray.serving.gateway.work import work

    work(config, load(bundle), stop)


def sending(config: Config, to: Destination) -> None:
    """Run the sender of a destination."""
    from chestxray.serving.gateway.send import send

    send(config, to, _begin())


def _begin() -> threading.Event:
    """Give the event that SIGTERM sets; SIGINT is for the supervisor."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.set_up()
    _log.info("started", extra={"event": "started"})
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.join,), daemon=True).start()
    return stop


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
