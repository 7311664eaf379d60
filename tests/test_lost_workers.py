"""A worker of a cluster that is lost costs its shard, whatever Ray calls its end."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import cluster_work
from chestxray import cluster
from chestxray.cluster import Done
from chestxray.errors import WorkerError
from chestxray.version import __version__
from ray_nodes import environment


def of_ray() -> Any:
    """Give Ray's errors."""
    return pytest.importorskip("ray", reason="needs the scale extra").exceptions


class Actors:
    """One worker in this process, in the place of Ray's.

    What it is asked first ends in the errors: shards, or to get ready.
    """

    def __init__(self, errors: list[Exception], getting_ready: bool = False) -> None:
        self.exceptions = of_ray()
        self.errors = errors
        self.ready = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._ready))
        self.run = SimpleNamespace(remote=lambda number, given: (number, given))
        self._at_ready = getting_ready

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout > 0
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        getting_ready = isinstance(reference, str)
        if self.errors and getting_ready == self._at_ready:
            raise self.errors.pop()
        return None if getting_ready else Done(*reference, "here", 0.1)

    def _ready(self) -> str:
        return "getting ready"


def results(of: Actors) -> Iterator[Done[Any]]:
    work = cluster._Work(of, [of], ((n, n) for n in range(3)))
    yield from work.results()


@pytest.fixture(autouse=True)
def _on_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is imported as in the tests of clusters, in whose process this may be."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster, "_node", lambda: "here/000000")


def errors_of_lost_workers() -> list[Exception]:
    errors = of_ray()
    return [
        errors.ActorDiedError(),
        errors.ActorUnavailableError("is it there?", b"1" * 16),
        errors.OutOfMemoryError("the node runs low on memory"),
        errors.NodeDiedError("its node died"),
        errors.WorkerCrashedError(),
        errors.ObjectLostError("00", None, ""),
    ]


def test_each_error_by_which_ray_tells_of_a_lost_worker_costs_the_shard_and_no_more():
    for error in errors_of_lost_workers():
        found = [done.number for done in results(Actors([error]))]
        assert sorted(found) == [0, 1, 2], type(error).__name__


def test_an_error_of_the_work_itself_is_not_taken_for_a_lost_worker():
    with pytest.raises(of_ray().RayTaskError, match="a bug"):
        list(results(Actors([of_ray().RayTaskError("run", "a bug", ValueError("a bug"))])))


def test_a_worker_that_never_gets_ready_ends_the_run():
    errors = [of_ray().OutOfMemoryError("low on memory") for _ in range(9)]
    said = r"ended 5 times before its first shard \(low on memory\): .* it resumes"
    with pytest.raises(WorkerError, match=said):
        list(results(Actors(errors, getting_ready=True)))
    assert [d.number for d in results(Actors(errors[:4], getting_ready=True))] == [0, 1, 2]


def test_a_worker_that_was_started_again_while_idle_makes_its_function_for_the_next_shard():
    again = cluster._Worker(cluster_work.doubled, __version__)
    done = again.run(3, 21)
    assert isinstance(done, Done)
    assert (done.number, done.result) == (3, 42)


def test_a_worker_of_another_version_says_so_although_it_was_never_asked_to_get_ready():
    failure = cluster._Worker(cluster_work.doubled, "0.0.1").run(3, 21)
    assert isinstance(failure, cluster._Failure)
    assert f"chestxray {__version__} is installed there, 0.0.1 here" in failure.text
