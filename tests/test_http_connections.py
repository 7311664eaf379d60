"""The table of connections: who is closed when there are too many, and when one takes too long."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest

from chestxray.serving.http_connections import ConnectionTable
from conftest import Clock


class Toy:
    """A connection whose phase is set by hand."""

    def __init__(self, table: ConnectionTable, client: str | None, phase: str = "waiting") -> None:
        self.now, self.unsent, self.open, self.client = "waiting", 0, True, client
        self.table = table
        table.add(self, client)
        if phase != "waiting":
            self.become(phase)

    def become(self, phase: str, unsent: int = 0) -> None:
        self.now, self.unsent = phase, unsent
        self.table.update(self)

    def phase(self) -> str:
        return self.now

    def unsent_bytes(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.open = False


@pytest.fixture
def table(clock: Clock) -> ConnectionTable:
    return ConnectionTable(6, 3, 10, 60, 1000, clock)


def test_one_too_many_of_a_client_displaces_its_oldest_that_waits(table):
    busy, first, second, third = (Toy(table, "a", phase) for phase in ("busy", *["waiting"] * 3))
    other = Toy(table, "b")
    assert [c.open for c in (busy, first, second, third, other)] == [True, False, True, True, True]
    assert len(table) == 4


def test_one_too_many_in_all_displaces_the_oldest_of_the_client_with_most(table):
    single = Toy(table, "a")
    crowd = [Toy(table, "b") for _ in range(3)]
    others = [Toy(table, "c"), Toy(table, "d")]
    newest = Toy(table, "e")
    assert [c.open for c in crowd] == [False, True, True]
    assert all(c.open for c in (single, *others, newest))


def test_where_all_are_busy_the_new_one_is_closed(table):
    busy = [Toy(table, "a", "busy") for _ in range(3)]
    new = Toy(table, "a")
    assert not new.open
    assert all(c.open for c in busy)
    assert Toy(table, "b").open


def test_an_unloading_client_gives_way_where_none_of_its_connections_waits(table):
    slow, *_ = [Toy(table, "a", phase) for phase in ("unloading", "busy", "busy")]
    assert Toy(table, "a").open
    assert not slow.open


def test_a_proxy_may_use_all_connections(table):
    assert all(c.open for c in [Toy(table, None) for _ in range(6)])


def test_a_head_and_an_answer_have_their_time_and_work_has_no_limit_here(table, clock):
    waiting, busy, unloading = (Toy(table, "a", p) for p in ("waiting", "busy", "unloading"))
    clock.seconds = 9.9
    table.close_slow()
    assert waiting.open
    clock.seconds = 10
    table.close_slow()
    assert [c.open for c in (waiting, busy, unloading)] == [False, True, True]
    clock.seconds = 60
    table.close_slow()
    assert [c.open for c in (busy, unloading)] == [True, False]


def test_the_time_begins_again_with_each_phase_also_with_one_that_was_not_told(table, clock):
    connection = Toy(table, "a", "busy")
    clock.seconds = 100
    connection.become("waiting")
    clock.seconds = 109
    connection.now = "unloading"
    table.close_slow()
    clock.seconds = 168
    table.close_slow()
    assert connection.open
    clock.seconds = 169
    table.close_slow()
    assert not connection.open


def test_answers_that_nobody_takes_are_bounded_together(table):
    slow = [Toy(table, client) for client in "abcd"]
    for connection in slow:
        connection.become("unloading", 400)
    assert [c.open for c in slow] == [False, False, True, True]


def test_what_an_answer_has_grown_by_since_counts_too(table):
    slow = [Toy(table, client, "unloading") for client in "ab"]
    for connection in slow:
        connection.unsent = 600  # more lines of a batch, written without a change of phase
    table.close_slow()
    assert [c.open for c in slow] == [False, True]


def test_a_client_that_takes_its_answer_in_parts_has_the_time_for_each(table, clock):
    slow = Toy(table, "a", "unloading")
    for clock.seconds in (59, 118):
        table.update(slow, anew=True)
        table.close_slow()
        assert slow.open
    clock.seconds = 178
    table.close_slow()
    assert not slow.open


def test_whatever_happens_the_limits_hold_and_counts_agree():
    rng = np.random.default_rng(0)
    table = ConnectionTable(20, 6, 10, 60, 5000, clock := Clock())
    connections: list[Toy] = []
    for _ in range(4000):
        clock.seconds += rng.exponential(0.5)
        connections = [c for c in connections if c.open]
        kind = rng.integers(4)
        if kind <= 1 or not connections:
            connections.append(Toy(table, "abcdef"[rng.integers(6)]))
        elif kind == 2:
            phase = ("waiting", "busy", "unloading")[rng.integers(3)]
            connections[rng.integers(len(connections))].become(phase, int(rng.integers(900)))
        else:
            gone = connections.pop(rng.integers(len(connections)))
            table.remove(gone)
        table.close_slow()
        alive = [c for c in connections if c.open]
        assert len(table) == len(alive) <= 20
        assert all(sum(c.client == name for c in alive) <= 6 for name in "abcdef")
        assert sum(c.unsent for c in alive if c.now == "unloading") <= 5000
    assert table.closed > 100


_POSSIBLE = """
import resource, sys
from chestxray.serving.http_connections import connections_possible
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(connections_possible(512), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def possible(soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _POSSIBLE, str(soft), str(hard)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_connections_leave_descriptors_in_reserve():
    kept, limit = map(int, possible(256, 256).stdout.split())
    assert limit == 256
    assert 100 < kept <= 256 - 64


def test_the_limit_of_descriptors_is_raised_where_it_may_be():
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("this system allows fewer open files")
    kept, limit = map(int, possible(256, 4096).stdout.split())
    assert kept == 512
    assert 512 < limit < 4096


def test_too_few_descriptors_are_refused_with_the_next_step():
    done = possible(70, 70)
    assert done.returncode == 1
    assert "ulimit -n 1024" in done.stderr
