"""The gateway's queue: leases, attempts, and a database that survives its opening."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from chestxray.errors import ArtifactError
from chestxray.serving.gateway import dead_letters, queue, statistics
from chestxray.serving.gateway.store import READ, VERSION, Result, Store, connect
from gateway_parts import add, counted


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


def make_due(store: Store) -> None:
    """Let the time pass that tasks wait for."""
    store.db.execute("UPDATE tasks SET due = 0 WHERE state = 'queued'")


def test_images_are_claimed_in_the_order_in_which_they_came(store: Store) -> None:
    add(store, "1.3", "1.1", "1.2")
    assert [store.claim(READ, 60, 5).item for _ in range(3)] == ["1.3", "1.1", "1.2"]
    assert store.claim(READ, 60, 5) is None


def test_a_task_whose_lease_ran_out_is_claimed_again(store: Store) -> None:
    add(store, "1.1")
    first = store.claim(READ, 0.05, 5)
    assert store.claim(READ, 60, 5) is None
    time.sleep(0.06)
    assert store.claim(READ, 60, 5) == queue.Task(READ, "1.1", first.attempts + 1)


def test_what_a_worker_held_when_it_died_is_free_when_the_next_one_starts(store: Store) -> None:
    add(store, "1.1", "1.2", "1.3")
    for holder in ("worker-0", "worker-1"):
        store.claim(READ, 60, 5, holder)
    store.fail(store.claim(READ, 60, 5, "worker-0"), "broke", 5)
    assert store.release(READ, "worker-0", died=True) == 1
    assert store.claim(READ, 60, 5, "worker-2") == queue.Task(READ, "1.1", 2)
    assert store.release(READ, "worker-2", died=False) == 1
    assert store.claim(READ, 60, 5) == queue.Task(READ, "1.1", 2)
    assert store.claim(READ, 60, 5) is None, "the other one's, and one that waits"


def test_a_clock_that_is_set_back_keeps_nothing_waiting(store: Store) -> None:
    add(store, "1.1")
    year = 365 * 86400.0
    store.db.execute("UPDATE tasks SET due = due + ?", (year,))
    assert store.claim(READ, 60, 5)
    assert store.claim(READ, 60, 5) is None
    add(store, "1.2")
    assert store.claim(READ, 3600, 5)
    assert store.claim(READ, 3600, 5) is None, "a long lease is no clock set back"


def test_one_that_ends_its_worker_each_time_is_dead_after_its_attempts(store: Store) -> None:
    add(store, "1.1")
    for _ in range(3):
        assert store.claim(READ, 0, 3)
    assert store.claim(READ, 0, 3) is None
    assert [row["reason"] for row in dead_letters.dead_letters(store.db)] == [queue._LEASE_EXPIRED]


def test_a_failure_is_tried_again_later_each_time_and_then_given_up(store: Store) -> None:
    add(store, "1.1")
    waits = []
    for attempt in range(1, 5):
        task = store.claim(READ, 60, 4)
        assert task.attempts == attempt
        before = time.time()
        dead = store.fail(task, "broke", 4)
        assert dead == (attempt == 4)
        waits.append(store.db.execute("SELECT due FROM tasks").fetchone()["due"] - before)
        make_due(store)
    for wait, longest in zip(waits[:3], (1, 2, 4), strict=True):
        assert longest / 2 <= wait <= longest + 0.1
    assert store.claim(READ, 60, 4) is None
    assert dead_letters.retry(store.db) == 1
    assert store.claim(READ, 60, 4).attempts == 1


def test_backoff_is_spread_and_bounded() -> None:
    assert len({queue.backoff(4) for _ in range(20)}) > 10
    assert max(queue.backoff(10_000) for _ in range(50)) <= 600


def test_giving_back_counts_no_attempt(store: Store) -> None:
    add(store, "1.1")
    for _ in range(20):
        task = store.claim(READ, 60, 2)
        assert task.attempts == 1
        store.defer(task, "no space left", 0)


def test_whoever_lost_its_lease_does_not_disturb_who_has_it_now(store: Store) -> None:
    add(store, "1.1")
    late = store.claim(READ, 0, 5)
    now = store.claim(READ, 60, 5)
    assert not store.fail(late, "too late", 0)
    store.defer(late, "too late", 0)
    assert store.claim(READ, 60, 5) is None
    assert store.finish_reading(now, "model", [])
    assert not store.finish_reading(late, "model", [Result("1.9", "sr", "ab", ["pacs"])])
    assert not store.is_known("1.9")


def test_no_two_claimers_get_the_same_task(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, *(f"1.{number}" for number in range(60)))
    store.close()
    taken: list[str] = []

    def claim_all() -> None:
        own = Store(tmp_path)
        while task := own.claim(READ, 60, 5):
            taken.append(task.item)
        own.close()

    threads = [threading.Thread(target=claim_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"1.{number}" for number in range(60))


def test_finishing_an_image_is_all_or_nothing(store: Store) -> None:
    add(store, "1.1")
    task = store.claim(READ, 60, 5)
    wrong = Result("1.9", "sr", None, ["pacs"])  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        store.finish_reading(task, "model", [wrong])
    assert statistics.counts(store.db) == {READ: counted(queued=1)}


def test_a_database_of_a_later_version_or_a_damaged_one_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    connect(path).close()
    connect(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    with pytest.raises(ArtifactError, match="version 3, this package supports version 2"):
        connect(path)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ArtifactError, match="cannot be opened"):
        connect(path)


def test_tables_of_before_there_were_versions_are_not_taken_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE tasks (queue TEXT, item TEXT)")
    with pytest.raises(ArtifactError, match="version 0, this package supports version 2"):
        connect(path)
