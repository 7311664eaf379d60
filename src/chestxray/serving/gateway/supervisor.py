"""The supervisor: checks the configuration, then keeps all processes of the gateway running.

A process that ends unasked is restarted, with a delay that grows each time it dies soon after its
start. On SIGTERM or SIGINT all processes are told to stop: the receiver accepts no more
associations, workers complete the task in progress, pollers and senders end within seconds, and
the rest waits in the queue.
"""

from __future__ import annotations

import atexit
import errno
import logging
import multiprocessing
import os
import signal
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Final, NamedTuple

from chestxray.errors import ArtifactError, ChestXrayError, ConfigError
from chestxray.findings import Findings
from chestxray.serving.gateway import dead_letters, integrity, processes
from chestxray.serving.gateway.access import check_unlocked, is_locked, lock, require_private
from chestxray.serving.gateway.config import TLS, Config, Shadow, StoreSCP
from chestxray.serving.gateway.config_errors import did_you_mean
from chestxray.serving.gateway.health import SHADOW, ProcessRecord
from chestxray.serving.gateway.integrity import DAMAGED, DamageError
from chestxray.serving.gateway.receiver import check_address
from chestxray.serving.gateway.store import Store, check_version, served_queues

_STOP_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


def check(config: Config, bundle: Path, *, starting: bool = True) -> str:
    """Check everything that would end a process at its start; give the identity of the model.

    Args:
        config: of the gateway.
        bundle: of the model.
        starting: the gateway is about to start, so its state folder is made. Otherwise nothing is
            made or changed, and the addresses may be those of the gateway that runs.

    Raises:
        ConfigError: a gateway runs on the state folder already, an address is in use or not local,
            a certificate cannot be read, the state folder cannot be made, the engine cannot read
            with this bundle, or a rule names a finding that the model does not have.
        ArtifactError: the bundle or the queue cannot be used, other users can access the state
            folder, or its database is damaged, missing, not the one that was anchored, or made by
            a later version of this package.
    """
    receive = config.receive
    if starting:
        check_unlocked(config.state)
    if starting or not is_locked(config.state):
        _check_addresses(config)
    if receive.tls is not None:
        _check_tls("receive.tls", receive.tls, receive.tls.server_context)
    for number, to in enumerate(config.destinations):
        if isinstance(to, StoreSCP) and to.tls is not None:
            _check_tls(f"destinations[{number}].tls", to.tls, to.tls.client_context)
    _try(f"state: {config.state}", _make_state if starting else _check_state, config.state)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=processes.end_with_parent) as pool:
        read = config.read
        model = pool.submit(
            processes.load_model,
            bundle,
            read.engine,
            read.operating_point,
            read.require_signature,
        ).result()
        _check_rules(config, model.findings)
        if config.shadow is not None and not starting:  # it must not keep the first from starting
            _check_shadow(pool, config.shadow, config)
    return model.identity


def _check_shadow(pool: ProcessPoolExecutor, shadow: Shadow, config: Config) -> None:
    """Load the shadow's bundle.

    Raises:
        ConfigError: it cannot be used.
    """
    signed = config.read.require_signature
    try:
        pool.submit(
            processes.load_model, shadow.bundle, shadow.engine, shadow.operating_point, signed
        ).result()
    except ChestXrayError as error:
        raise ConfigError(f"shadow: {error}") from error


def _check_rules(config: Config, findings: Findings) -> None:
    """Check that the model has all findings that the rules name, under any spelling.

    Raises:
        ConfigError: it does not have one of them.
    """
    for place, to in enumerate(config.destinations):
        for number, rule in enumerate(to.rules):
            for name in rule.findings:
                if findings.place(name) is None:
                    suggestion = did_you_mean(name, findings)
                    raise ConfigError(
                        f"destinations[{place}].rules[{number}].findings: the model does not have "
                        f"{name!r}{suggestion or ', it has ' + ', '.join(findings)}"
                    )


def _check_tls(what: str, tls: TLS, make_context: Callable[[], object]) -> None:
    for key, path in tls:
        _try(f"{what}.{key}: {path}", path.read_bytes)
    _try(f"{what}: not PEM, or certificate and key do not match", make_context)


def _check_addresses(config: Config) -> None:
    receive, metrics = config.receive, config.metrics
    _try(f"receive: {receive.host}:{receive.port}", check_address, receive.host, receive.port)
    if metrics is not None:
        _try(f"metrics: {metrics.host}:{metrics.port}", check_address, metrics.host, metrics.port)


def _make_state(folder: Path) -> None:
    _check_state(folder)
    Store(folder).close()


def _check_state(folder: Path) -> None:
    """Check a state folder as it is; where there is none, whether it could be made."""
    if folder.is_dir():
        require_private(folder)
        integrity.check(folder)
        check_version(folder)
        return
    parent = next(path for path in folder.parents if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"this user cannot make a folder in {parent}")


def _try(what: str, attempt: Callable[..., object], *arguments: object) -> None:
    try:
        attempt(*arguments)
    except ssl.SSLError as error:
        raise ConfigError(f"{what} ({error})") from error
    except OSError as error:
        raise ConfigError(f"{what}: {error.strerror or error}") from error


class _Pace(NamedTuple):
    """How soon a process that died is started again: later each time it dies early.

    Attributes:
        early: seconds after its start.
        first: delay after its first death, seconds.
        longest: delay, seconds.
    """

    early: float = 5.0
    first: float = 0.1
    longest: float = 5.0


_PROMPT: Final = _Pace()
_UNHURRIED: Final = _Pace(early=3600.0, first=10.0, longest=600.0)


@dataclass
class _Child:
    """One process of the gateway.

    Attributes:
        pace: how soon it is started again.
        started: when it was started, seconds of the monotonic clock.
        early_deaths: how often in a row it died soon after its start.
        due: when it may be started again.
    """

    name: str
    target: Callable[..., None]
    arguments: tuple[object, ...]
    pace: _Pace = _PROMPT
    process: SpawnProcess | None = None
    started: float = 0.0
    early_deaths: int = 0
    due: float = 0.0

    @property
    def delay(self) -> float:
        """Seconds until it is started again."""
        return min(self.pace.longest, self.pace.first * 2.0 ** min(self.early_deaths, 10))


class Gateway:
    """All processes of a gateway; `run` returns when it was told to stop.

    Raises:
        ConfigError: another gateway runs on the same state folder.
    """

    def __init__(self, config: Config, bundle: Path) -> None:
        multiprocessing.current_process().name = "supervisor"  # in the log
        self._lock = lock(config.state)
        _mark_unserved(config)
        self._state = config.state
        self._record = ProcessRecord(config.state, dry_run=config.dry_run)
        if config.dry_run:
            _log.warning("dry run: results are kept and sent nowhere", extra={"event": "dry-run"})
        self._damage: DamageError | None = None
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._stop = threading.Event()
        self._monitor = _Child("monitor", processes.run_monitor, (config,))
        self._serves_health = config.metrics is not None
        self._children = [
            self._monitor,
            _Child("receiver", processes.run_receiver, (config,)),
            *(
                _Child(f"poller-{number}", processes.run_poller, (config, service))
                for number, service in enumerate(config.poll)
            ),
            *(
                _Child(SHADOW, processes.run_shadow, (config, shadow), _UNHURRIED)
                for shadow in (config.shadow,)
                if shadow is not None
            ),
            *(
                _Child(f"worker-{number}", processes.run_worker, (config, bundle, number))
                for number in range(config.read.workers)
            ),
            *(
                _Child(f"sender-{to.name}", processes.run_sender, (config, to))
                for to in config.destinations
                if not config.dry_run
            ),
        ]

        atexit.register(self._kill_children)  # else an exit by an error would wait for them

    def run(self) -> None:
        """Start all processes and keep them running until SIGTERM or SIGINT.

        Raises:
            DamageError: the database is damaged.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        while not self._stop.wait(0.2):
            for child in tuple(self._children):
                if child in self._children:  # else the gateway halted
                    self._keep_running(child)
        _log.info("stopping", extra={"event": "stopping"})
        self._stop_children(self._children)
        self._lock.close()
        _log.info("stopped", extra={"event": "stopped"})
        if self._damage is not None:
            raise self._damage

    def _keep_running(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is not None and child.process.is_alive():
            return
        if child.process is not None:
            code = child.process.exitcode
            extra = {"event": "process-died"}
            _log.error("%s ended with exit code %s", child.name, code, extra=extra)
            early = now - child.started < child.pace.early
            child.early_deaths = child.early_deaths + 1 if early else 0
            child.due = now + child.delay
            child.process.close()
            child.process = None
            self._record.died(child.name)
            if code == DAMAGED and child.name != SHADOW and self._damage is None:
                self._halt_if_damaged()
                return
        if now >= child.due:
            child.process = self._context.Process(
                target=processes.start,
                args=(child.target, *child.arguments),
                name=child.name,
                daemon=False,  # else a worker could not start its decoder
            )
            child.process.start()
            child.started = now

    def _kill_children(self) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.kill()

    def _halt_if_damaged(self) -> None:
        """Stop all processes where the database is damaged; the health endpoint then says so."""
        try:
            integrity.check(self._state)
        except DamageError as error:
            self._damage = error
        except ArtifactError:  # such as a full disk: whoever meets it waits
            return
        if self._damage is None:
            return
        self._record.halt(str(self._damage))
        _log.critical("halted: %s", self._damage, extra={"event": "halted"})
        others = [child for child in self._children if child is not self._monitor]
        self._stop_children(others)
        if self._serves_health:
            self._children = [self._monitor]
        else:
            self._stop.set()

    @staticmethod
    def _stop_children(children: Sequence[_Child]) -> None:
        """Tell processes to stop, and wait until they completed the task in progress."""
        alive = [child.process for child in children if child.process is not None]
        for process in alive:
            process.terminate()
        end = time.monotonic() + _STOP_SECONDS
        for process in alive:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                _log.error("%s did not stop", process.name, extra={"event": "process-killed"})
                process.kill()


def _mark_unserved(config: Config) -> None:
    """Make dead letters of what waits for a destination that is no longer configured."""
    store = Store(config.state)
    try:
        queues = served_queues(to.name for to in config.destinations)
        found = dead_letters.mark_unserved(store.db, queues)
    finally:
        store.close()
    if found:
        message = "dead letters whose destination is no longer in gateway.toml: %d"
        _log.error(message, found, extra={"event": "dead"})
