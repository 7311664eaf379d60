"""A Ray cluster of several nodes on this machine, each with its own processes to be killed."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

MEGABYTE = 2**20
_MARK = "CHESTXRAY_TEST_CLUSTER"
_TOKEN = uuid.uuid4().hex  # of the clusters of this process; Ray reads it once


def environment() -> dict[str, str]:
    """What Ray's processes are to inherit: by it they are found, and find the tests' modules."""
    here = str(Path(__file__).parent)
    return {
        _MARK: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), here))),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        # The tests share their machine: Ray's workers would otherwise wait for everybody else.
        "RAY_worker_niceness": "0",
    }


def of_ray() -> list[psutil.Process]:
    """Every process that Ray started from this process or from its children, or left behind.

    The environment is read as bytes: Ray's processes write their titles over its beginning.
    """
    mark = f"{_MARK}={os.getpid()}".encode()
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if mark in environ and any("ray" in word for word in process.cmdline()[:3]):
                found.append(process)
    return found


@dataclass
class Nodes:
    """A head without cores, and nodes of one core."""

    cluster: Any
    nodes: list[Any]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def workers(self, node: int) -> list[psutil.Process]:
        """The processes of a node that work on a shard."""
        return [p for p in self._below(node) if any("ray::_Worker" in w for w in _words(p))]

    def kill_worker(self, node: int) -> None:
        """Kill one process that works on a shard."""
        wait_until(lambda: bool(self.workers(node)))
        self.workers(node)[0].send_signal(signal.SIGKILL)

    def kill_node(self, node: int) -> None:
        """Kill all processes of a node, as a power cut does."""
        for process in [*self._below(node), psutil.Process(self._raylet(node))]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def _below(self, node: int) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._raylet(node)).children(recursive=True)
        return []

    def _raylet(self, node: int) -> int:
        (raylet,) = self.nodes[node].all_processes["raylet"]
        return int(raylet.process.pid)


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    """Start a head and nodes in the environment that a test has set; end all their processes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 100 * MEGABYTE},
    )
    try:
        started = [
            cluster.add_node(num_cpus=1, object_store_memory=100 * MEGABYTE) for _ in range(count)
        ]
        cluster.wait_for_nodes()
        yield Nodes(cluster, started)
    finally:
        cluster.shutdown()


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.1)


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.cmdline()
    return []
