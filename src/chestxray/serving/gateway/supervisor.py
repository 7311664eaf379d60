"""The supervisor: keeps receiver, workers and a sender a destination alive.

It only watches. A process that ends unasked is started again, later each time it dies young. On
SIGTERM or SIGINT all are told to end: the receiver takes no more associations, the others finish
what they hold, and what is left waits in the queue.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Final

from chestxray import artifacts as durable
from chestxray.errors import ConfigError
from chestxray.serving.gateway import dead_letters as letters
from chestxray.serving.gateway import dimse as transport
from chestxray.serving.gateway import processes
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.destinations import TLS, StoreSCP
from chestxray.serving.gateway.store import READ, Store, sending

_PATIENCE: Final = 60.0
_YOUNG_SECONDS: Final = 5.0
_LONGEST_WAIT: Final = 5.0
_log = logging.getLogger(__name__)


def check(config: Config, bundle: Path) -> str:
    """Try what would end each process at its start; the identity of the model.

    Raises:
        ConfigError: an address is taken or not ours, a certificate cannot be read, the state
            folder cannot be made, or the engine cannot read with this bundle.
        ArtifactError: the bundle or the queue cannot be used.
    """
    receive, metrics = config.receive, config.metrics
    _try(
        f"receive: {receive.host}:{receive.port}", transport.check_free, receive.host, receive.port
    )
    if metrics is not None:
        _try(
            f"metrics: {metrics.host}:{metrics.port}",
            transport.check_free,
            metrics.host,
            metrics.port,
        )
    if receive.tls is not None:
        _check_tls("receive.tls", receive.tls, transport.server_context)
    for number, to in enumerate(config.destinations):
        if isinstance(to, StoreSCP) and to.tls is not None:
            _check_tls(f"destinations[{number}].tls", to.tls, transport.client_context)
    _try(f"state: {config.state}", _check_state, config.state)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(processes.identity, bundle, config.read.engine).result()


def _check_tls(what: str, tls: TLS, context: Callable[[TLS], object]) -> None:
    for key, path in tls:
        _try(f"{what}.{key}: {path}", path.read_bytes)
    _try(f"{what}: not PEM, or certificate and key do not belong together", context, tls)


def _check_state(folder: Path) -> None:
    Store(folder).close()


def _try(what: str, attempt: Callable[..., object], *arguments: object) -> None:
    try:
        attempt(*arguments)
    except ssl.SSLError as error:
        raise ConfigError(f"{what} ({error})") from error
    except OSError as error:
        raise ConfigError(f"{what}: {error.strerror or error}") from error


def _give_up_strangers(config: Config) -> None:
    """Show what waits for a destination that is no longer configured: nobody would send it."""
    store = Store(config.state)
    try:
        queues = {READ, *(sending(to.name) for to in config.destinations)}
        found = letters.give_up_strangers(store.db, queues)
    finally:
        store.close()
    if found:
        _log.error("%d deliveries have no destination any more", found, extra={"event": "dead"})


@dataclass
class Job:
    """One process of the gateway and how it does.

    Attributes:
        started: when, seconds of the monotonic clock.
        deaths: how often it died young, one after the other.
        due: when it may be started again.
    """

    name: str
    target: Callable[..., None]
    arguments: tuple[object, ...]
    process: SpawnProcess | None = None
    started: float = 0.0
    deaths: int = 0
    due: float = 0.0


class Gateway:
    """All processes; `run` returns when it was told to stop.

    Raises:
        ConfigError: another gateway runs on the same state.
    """

    def __init__(self, config: Config, bundle: Path) -> None:
        self._lock = durable.hold(config.state)
        _give_up_strangers(config)
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._stop = threading.Event()
        self._jobs = [
            Job("receiver", processes.receiving, (config,)),
            *(
                Job(f"worker-{number}", processes.working, (config, bundle, number))
                for number in range(config.read.workers)
            ),
            *(
                Job(f"sender-{to.name}", processes.sending, (config, to))
                for to in config.destinations
            ),
        ]

    def run(self) -> None:
        """Start all and keep them alive until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        while not self._stop.wait(0.2):
            for job in self._jobs:
                self._keep_alive(job)
        _log.info("stopping", extra={"event": "stopping"})
        self._wind_down()
        _log.info("stopped", extra={"event": "stopped"})

    def _keep_alive(self, job: Job) -> None:
        now = time.monotonic()
        if job.process is not None and job.process.is_alive():
            return
        if job.process is not None:
            code = job.process.exitcode
            _log.error("%s ended with %s", job.name, code, extra={"event": "process-died"})
            job.deaths = job.deaths + 1 if now - job.started < _YOUNG_SECONDS else 0
            job.due = now + min(_LONGEST_WAIT, 0.1 * 2 ** min(job.deaths, 10))
            job.process.close()
            job.process = None
        if now >= job.due:
            job.process = self._context.Process(
                target=processes.begin,
                args=(job.target, *job.arguments),
                name=job.name,
                daemon=True,
            )
            job.process.start()
            job.started = now

    def _wind_down(self) -> None:
        """Tell everyone, and wait until they finished what they hold."""
        alive = [job.process for job in self._jobs if job.process is not None]
        for process in alive:
            process.terminate()
        end = time.monotonic() + _PATIENCE
        for process in alive:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                _log.error("%s did not stop", process.name, extra={"event": "process-killed"})
                process.kill()
        self._lock.close()
