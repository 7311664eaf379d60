"""The gateway's queue: leases, attempts, dead letters, and the audit record of all of it."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from chestxray.errors import ArtifactError
from chestxray.serving.gateway import audit, housekeeping, survey, tasks
from chestxray.serving.gateway.config import Storage
from chestxray.serving.gateway.store import READ, Image, Result, Store, sending


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


def add(store: Store, *uids: str) -> None:
    for uid in uids:
        store.image_file(uid).write_bytes(uid.encode())
        store.add(Image(uid, "ab" * 32, "SENDER", "DX"))


def make_due(store: Store) -> None:
    """Let the time pass that tasks wait for."""
    store.db.execute("UPDATE tasks SET due = 0 WHERE state = 'queued'")


def read(store: Store, uid: str, *destinations: str) -> None:
    """Do what a worker does: one result, named after the image."""
    task = store.claim(READ, 60, 5)
    assert task
    assert task.item == uid
    result = f"{uid}.9"
    store.result_file(result).write_bytes(b"result")
    store.finish_reading(task, "model", [Result(result, "sr", "cd" * 32, destinations)])


def send(store: Store, destination: str) -> None:
    task = store.claim(sending(destination), 60, 5)
    assert task
    store.finish_sending(task)


def test_images_are_claimed_in_the_order_in_which_they_came(store: Store) -> None:
    add(store, "1.3", "1.1", "1.2")
    assert [store.claim(READ, 60, 5).item for _ in range(3)] == ["1.3", "1.1", "1.2"]
    assert store.claim(READ, 60, 5) is None


def test_a_task_whose_lease_ran_out_is_claimed_again(store: Store) -> None:
    add(store, "1.1")
    first = store.claim(READ, 0.05, 5)
    assert store.claim(READ, 60, 5) is None
    time.sleep(0.06)
    assert store.claim(READ, 60, 5) == tasks.Task(READ, "1.1", first.attempts + 1)


def test_one_that_ends_its_worker_each_time_is_dead_after_its_attempts(store: Store) -> None:
    add(store, "1.1")
    for _ in range(3):
        assert store.claim(READ, 0, 3)
    assert store.claim(READ, 0, 3) is None
    assert [row["reason"] for row in survey.dead(store.db)] == [tasks.WORKER_DIED]


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
    assert store.retry() == 1
    assert store.claim(READ, 60, 4).attempts == 1


def test_backoff_is_spread_and_bounded() -> None:
    assert len({tasks.wait(4) for _ in range(20)}) > 10
    assert max(tasks.wait(10_000) for _ in range(50)) <= 600


def test_giving_back_counts_no_attempt(store: Store) -> None:
    add(store, "1.1")
    for _ in range(20):
        task = store.claim(READ, 60, 2)
        assert task.attempts == 1
        store.give_back(task, "no space left", 0)


def test_whoever_lost_its_lease_does_not_disturb_who_has_it_now(store: Store) -> None:
    add(store, "1.1")
    late = store.claim(READ, 0, 5)
    now = store.claim(READ, 60, 5)
    assert not store.fail(late, "too late", 0)
    store.give_back(late, "too late", 0)
    assert store.claim(READ, 60, 5) is None
    assert store.finish_reading(now, "model", [])
    assert not store.finish_reading(late, "model", [Result("1.9", "sr", "ab", ["pacs"])])
    assert not store.known("1.9")


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
    assert survey.counts(store.db) == {READ: {"queued": 1, "done": 0, "dead": 0}}


def test_the_audit_record_tells_what_became_of_an_image(store: Store) -> None:
    add(store, "1.1")
    read(store, "1.1", "pacs")
    send(store, "pacs")
    entries = [json.loads(entry["entry"]) for entry in audit.verified(store.db)]
    assert [entry["event"] for entry in entries] == ["received", "read", "sent"]
    assert entries[1]["sha256"] == entries[0]["sha256"] == "ab" * 32
    assert entries[1]["model"] == "model"
    assert entries[1]["results"] == {"1.1.9": "cd" * 32}
    assert entries == sorted(entries, key=lambda entry: entry["time"])


@pytest.mark.parametrize(
    "crime",
    [
        "UPDATE audit SET entry = replace(entry, '1.2', '1.7') WHERE number = 2",
        "DELETE FROM audit WHERE number = 2",
        "DELETE FROM audit WHERE number = 1",
        "INSERT INTO audit VALUES (4, '{}', '00')",
        "UPDATE audit SET link = 'ab' WHERE number = 3",
    ],
)
def test_tampering_with_the_audit_record_is_found(store: Store, crime: str) -> None:
    add(store, "1.1", "1.2", "1.3")
    assert len(list(audit.verified(store.db))) == 3
    if "INSERT" not in crime:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.db.execute(crime)
    store.db.executescript("DROP TRIGGER audit_stays; DROP TRIGGER audit_remains;")
    store.db.execute(crime)
    with pytest.raises(ArtifactError, match="altered"):
        list(audit.verified(store.db))


def test_an_audit_record_cut_off_or_made_anew_differs_from_its_export(
    store: Store, tmp_path: Path
) -> None:
    add(store, "1.1", "1.2")
    export = tmp_path / "audit.jsonl"
    export.write_text("".join(json.dumps(e) + "\n" for e in audit.verified(store.db)))
    audit.check_against(store.db, export)
    add(store, "1.3")
    audit.check_against(store.db, export)
    store.db.executescript("DROP TRIGGER audit_remains; DELETE FROM audit WHERE number > 1;")
    list(audit.verified(store.db))  # the chain alone does not show it
    with pytest.raises(ArtifactError, match=r"entry 2 of .* is missing"):
        audit.check_against(store.db, export)
    add(store, "1.4")
    with pytest.raises(ArtifactError, match="another now"):
        audit.check_against(store.db, export)


def test_only_what_was_read_and_sent_to_all_is_removed_and_stays_known(store: Store) -> None:
    add(store, "1.1", "1.2", "1.3")
    read(store, "1.1", "pacs", "archive")
    read(store, "1.2", "pacs")
    send(store, "pacs")
    send(store, "pacs")
    now = Storage(keep_days=0, spare_mib=0, free_mib=0)
    assert housekeeping.tidy(Storage(spare_mib=0), store) == 0  # seven days
    assert housekeeping.tidy(now, store) == 1
    assert housekeeping.tidy(now, store) == 0
    assert {path.stem for path in store.images.iterdir()} == {"1.1", "1.3"}
    assert {path.stem for path in store.outbox.iterdir()} == {"1.1.9"}
    assert store.known("1.2")
    assert store.known("1.2.9")


def test_on_a_full_disk_what_has_served_goes_before_its_time(store: Store) -> None:
    add(store, "1.1", "1.2")
    read(store, "1.1")
    assert housekeeping.tidy(Storage(spare_mib=2**40), store) == 1
    assert {path.stem for path in store.images.iterdir()} == {"1.2"}


def test_what_a_killed_process_was_writing_is_removed(store: Store) -> None:
    import os

    old, new = store.images / ".1.1.dcm.ab.part", store.outbox / ".1.2.dcm.cd.part"
    old.write_bytes(b"")
    new.write_bytes(b"")
    os.utime(old, (0, 0))
    housekeeping.tidy(Storage(), store)
    assert not old.exists()
    assert new.exists()
