"""Shards of a dataset, worked on by the processes of a Ray cluster.

Ray places the processes on the nodes, tells which died, starts them again and carries what they are
given and what they return. This module keeps to one pattern of it, actors and `ray.wait`: a worker
that is free is given the next shard, one at a time, so that neither this process nor Ray holds more
shards than there are workers. A shard whose worker or node died is given to another worker. When no
shard is left, a free worker repeats the one that runs far longer than the others did, and the first
result counts: a shard has the same bytes whoever makes it.

Ray Data is not used: shards go from storage to storage, so there are no blocks to move between
operators, and it does not run through Ray's client (`ray://`).
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from chestxray.errors import ChestXrayError, MissingExtraError, WorkerError
from chestxray.parallel import cores
from chestxray.version import __version__

LOCAL: Final = "local"
_OBJECT_STORE: Final = 256 * 2**20  # bytes on one machine: lists of files pass through, no images
_MOST_ATTEMPTS: Final = 5  # workers that may die of one shard
_STRAGGLES: Final = 3.0  # times the median of the finished shards
_CLIENT_PORT: Final = 10001  # of ray:// without a port
_SECONDS_TO_ANSWER: Final = 10.0
_SECONDS_TO_LOOK: Final = 1.0  # between two looks at the shards that run long

_log = logging.getLogger(__name__)
_Given = TypeVar("_Given")
_Result = TypeVar("_Result")
Processor = Literal["CPU", "GPU"]


@dataclass(frozen=True)
class Done(Generic[_Result]):
    """A finished shard.

    Attributes:
        number: of the shard.
        result: of the work on it.
        node: that it was made on, see `execution.NodeShare`.
        seconds: that it took there.
    """

    number: int
    result: _Result
    node: str
    seconds: float


@contextmanager
def joined(address: str) -> Iterator[Cluster]:
    """Connect to a Ray cluster, or start one on this machine, and leave it at the end.

    A connection that this process has already is used and kept.

    Args:
        address: `local` starts a cluster on all cores of this machine; `auto` is the one that this
            machine belongs to; else `ray://HOST:PORT`, or `HOST:PORT` of a cluster's head.

    Raises:
        MissingExtraError: Ray is not installed.
        WorkerError: no cluster answers at the address.
    """
    ray = _ray()
    start = time.perf_counter()
    if ray.is_initialized():
        yield Cluster(ray, address, 0.0)
        return
    before = signal.getsignal(signal.SIGTERM)
    _connect(ray, address)
    try:
        yield Cluster(ray, address, time.perf_counter() - start)
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put one of its own in its place


def _ray() -> Any:  # noqa: ANN401 - Ray's module
    """Import Ray, which then reports its use to nobody and prints nothing among our results."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # which it prints to standard output
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", "scale") from error


def _connect(ray: Any, address: str) -> None:  # noqa: ANN401
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {
            "num_cpus": cores(),
            "object_store_memory": _OBJECT_STORE,
            "include_dashboard": False,
        }
    try:
        _check_reachable(address)
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise WorkerError(
            f"no Ray cluster can be used at {address} ({reason}): check that it was started, and "
            f"that RAY_AUTH_MODE and RAY_AUTH_TOKEN are set here as on its nodes, or give "
            f"--cluster {LOCAL}"
        ) from error


def _check_reachable(address: str) -> None:
    """Raise `OSError` or `ValueError` where nobody listens: Ray would try for a quarter of an hour.

    `local` and `auto` name no place.
    """
    if address in {LOCAL, "auto"}:
        return
    place = urlsplit(address if "://" in address else f"ray://{address}")
    if place.hostname is None:
        raise ValueError("the address names no host")
    socket.create_connection(
        (place.hostname, place.port or _CLIENT_PORT), _SECONDS_TO_ANSWER
    ).close()


class Cluster:
    """A connection to a Ray cluster.

    Attributes:
        address: as it was given.
        seconds_to_start: that the connection took.
        version: of Ray.
        lost: workers that died, those of lost nodes included.
    """

    def __init__(self, ray: Any, address: str, seconds_to_start: float) -> None:  # noqa: ANN401
        self._ray = ray
        self.address = address
        self.seconds_to_start = seconds_to_start
        self.version = str(ray.__version__)
        self.lost = 0

    def count(self, of: Processor) -> int:
        """Give the number of processors in the cluster."""
        return int(self._ray.cluster_resources().get(of, 0))

    def cores(self, on: Processor) -> int:
        """Give the cores of a worker: one, or a GPU's share of those of its node, at least one.

        Nodes differ; a worker must fit on each of them.
        """
        if on == "CPU":
            return 1
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        shares = [int(of.get("CPU", 0) // of[on]) for of in nodes if of.get(on)]
        return max(1, min(shares, default=1))

    def map(
        self,
        make: Callable[[], Callable[[_Given], _Result]],
        given: Iterable[tuple[int, _Given]],
        shards: int,
        on: Processor = "CPU",
    ) -> Iterator[Done[_Result]]:
        """Work on shards, and give each result once, in the order in which they are finished.

        Args:
            make: gives a worker its function, such as one that holds a model; called once in each
                worker process, and pickled.
            given: number and input of each shard; taken one at a time.
            shards: how many there are: more workers are not started.
            on: what a worker takes one of. One on a GPU also takes cores, see `cores`.

        Raises:
            WorkerError: a worker reports an error, a shard ended several workers, or a worker ended
                several times before its first shard.
        """
        if not shards:
            return
        workers = min(self.count(on), shards)
        if not workers:
            raise WorkerError(
                f"the Ray cluster at {self.address} has no {on}: add a node that has one"
            )
        remote = self._ray.remote(_Worker)
        actor = remote.options(max_restarts=-1, num_cpus=self.cores(on), num_gpus=int(on == "GPU"))
        actors = [actor.remote(make, __version__) for _ in range(workers)]
        work = _Work(self._ray, actors, iter(given))
        try:
            yield from work.results()
        finally:
            self.lost += work.lost
            work.end()


@dataclass(frozen=True)
class _Failure:
    """An error that a worker reports; errors themselves do not all survive pickling."""

    text: str
    node: str


class _Worker:
    """What runs in a process of the cluster: it keeps its function from shard to shard.

    Ray may start the process again between two shards, and says so to nobody: the function is then
    made for the next shard.

    Args:
        make: gives the function.
        version: of chestxray where the shards come from.
    """

    def __init__(self, make: Callable[[], Callable[[Any], Any]], version: str) -> None:
        self._make = make
        self._version = version
        self._work: Callable[[Any], Any] | None = None

    def ready(self) -> _Failure | None:
        """Make the function; say what prevents it."""
        made = self._made()
        return made if isinstance(made, _Failure) else None

    def run(self, number: int, given: Any) -> Done[Any] | _Failure:  # noqa: ANN401
        """Work on a shard."""
        node, start = _node(), time.perf_counter()
        work = self._made()
        if isinstance(work, _Failure):
            return work
        try:
            result = work(given)
        except (ChestXrayError, OSError) as error:
            return _Failure(str(error), node)
        return Done(number, result, node, time.perf_counter() - start)

    def _made(self) -> Callable[[Any], Any] | _Failure:
        """Give the function, made where this process has none yet."""
        if self._version != __version__:
            return _Failure(
                f"chestxray {__version__} is installed there, {self._version} here: install the "
                f"same",
                _node(),
            )
        try:
            self._work = self._work or self._make()
        except (ChestXrayError, OSError) as error:
            return _Failure(str(error), _node())
        return self._work


def _node() -> str:
    """Name the node of this process: its host, and the start of its identity in the cluster."""
    return f"{socket.gethostname()}/{_ray().get_runtime_context().get_node_id()[:6]}"


@dataclass(frozen=True)
class _Task:
    """What a worker does: a shard since a time, or getting ready where there is none.

    `attempt` counts how often it gets ready without an answer.
    """

    actor: Any
    number: int | None
    given: Any
    since: float
    attempt: int = 1


class _Work:
    """The shards of one `Cluster.map`, and who works on them."""

    def __init__(self, ray: Any, actors: list[Any], given: Iterator[tuple[int, Any]]) -> None:  # noqa: ANN401
        self._ray = ray
        self._actors = actors
        self._rest = given
        self._again: deque[tuple[int, Any]] = deque()  # of workers that died
        self._tasks: dict[Any, _Task] = {}
        self._idle: list[Any] = []
        self._seconds: list[float] = []
        self._attempts: Counter[int] = Counter()
        self._finished: set[int] = set()
        self.lost = 0

    def results(self) -> Iterator[Done[Any]]:
        """Give each finished shard once; see `Cluster.map`."""
        for actor in self._actors:
            self._prepare(actor)
        while self._give():
            ready, _ = self._ray.wait(list(self._tasks), timeout=_SECONDS_TO_LOOK)
            for reference in ready:
                done = self._answer(reference, self._tasks.pop(reference))
                if done is not None and done.number not in self._finished:
                    self._finished.add(done.number)
                    self._seconds.append(done.seconds)
                    yield done

    def end(self) -> None:
        """End the workers, those that repeat a finished shard too."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _prepare(self, actor: Any, attempt: int = 1) -> None:  # noqa: ANN401
        """Let a worker get ready, wherever Ray starts it (again)."""
        reference = actor.ready.options(max_task_retries=-1).remote()
        self._tasks[reference] = _Task(actor, None, None, time.monotonic(), attempt)

    def _give(self) -> bool:
        """Give shards to the workers that are free; say whether any shard is still to be done."""
        while self._idle and (next_one := self._next()):
            actor = self._idle.pop()
            reference = actor.run.remote(*next_one)
            self._tasks[reference] = _Task(actor, *next_one, time.monotonic())
        return bool(self._running or self._again or not self._idle)

    def _next(self) -> tuple[int, Any] | None:
        if self._again:
            return self._again.popleft()
        return next(self._rest, None) or self._straggler()

    @property
    def _running(self) -> list[_Task]:
        """The shards that are worked on and not finished, the longest first."""
        return [
            task
            for task in self._tasks.values()
            if task.number is not None and task.number not in self._finished
        ]

    def _straggler(self) -> tuple[int, Any] | None:
        """Give a shard that one worker alone has had for far longer than the others took."""
        by_number = Counter(task.number for task in self._running)
        limit = _STRAGGLES * median(self._seconds) if self._seconds else float("inf")
        for task in self._running:
            long = time.monotonic() - task.since > max(limit, _SECONDS_TO_LOOK)
            if long and task.number is not None and by_number[task.number] == 1:
                return task.number, task.given
        return None

    def _answer(self, reference: Any, task: _Task) -> Done[Any] | None:  # noqa: ANN401
        """Take what a worker returned; None where it is ready, or died."""
        try:
            answer = self._ray.get(reference)
        except _lost_with(self._ray) as error:
            self._died(task, error)
            return None
        if isinstance(answer, _Failure) and task.number not in self._finished:
            raise WorkerError(f"node {answer.node}: {answer.text}")
        self._idle.append(task.actor)
        return answer if isinstance(answer, Done) else None

    def _died(self, task: _Task, error: Exception) -> None:
        self.lost += 1
        _log.warning("a worker of the cluster died%s", _shard_goes_on(task.number))
        if task.number is None:
            if task.attempt >= _MOST_ATTEMPTS:
                raise _ended(
                    f"a worker ended {task.attempt} times before its first shard", error
                ) from error
            self._prepare(task.actor, task.attempt + 1)
            return
        if task.number not in self._finished:
            self._attempts[task.number] += 1
            if self._attempts[task.number] >= _MOST_ATTEMPTS:
                raise _ended(
                    f"shard {task.number} ended {_MOST_ATTEMPTS} workers", error
                ) from error
            if all(other.number != task.number for other in self._running):
                self._again.append((task.number, task.given))
        self._prepare(task.actor)


def _lost_with(ray: Any) -> tuple[type[Exception], ...]:  # noqa: ANN401
    """Give the errors by which Ray tells that a worker ended, and not that its work failed.

    The memory monitor of a node ends a worker with an error of its own, `OutOfMemoryError`.
    """
    errors = ray.exceptions
    return (
        errors.RayActorError,
        errors.WorkerCrashedError,
        errors.NodeDiedError,
        errors.OutOfMemoryError,
        errors.ObjectLostError,
    )


def _ended(what: str, error: Exception) -> WorkerError:
    reason = str(error).strip().partition("\n")[0]
    return WorkerError(
        f"{what} ({reason}): check the memory of the nodes and Ray's logs, then run the same "
        f"command again; it resumes"
    )


def _shard_goes_on(number: int | None) -> str:
    return "" if number is None else f": its shard {number} is given to another one"
