"""Dead letters, statistics, the audit record, and retention."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from chestxray.errors import ArtifactError
from chestxray.serving.gateway import audit, dead_letters, retention, statistics
from chestxray.serving.gateway.config import Storage
from chestxray.serving.gateway.store import READ, Result, Store, send_queue, served_queues
from command_line import run_command
from gateway_parts import add, config, counted, full_once, wait_for

NOW = Storage(keep_days=0, spare_mib=0, free_mib=0)


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


def read(store: Store, uid: str, *destinations: str) -> None:
    """Do what a worker does: one result, named after the image."""
    task = store.claim(READ, 60, 5)
    assert task
    assert task.item == uid
    result = f"{uid}.9"
    store.result_file(result).write_bytes(b"result")
    store.finish_reading(task, "model", [Result(result, "sr", "cd" * 32, destinations)])


def send(store: Store, destination: str) -> None:
    task = store.claim(send_queue(destination), 60, 5)
    assert task
    store.finish_sending(task)


def lose(store: Store, queue: str) -> str:
    """Give up what is due in a queue; its UID."""
    task = store.claim(queue, 60, 5)
    assert task
    store.fail(task, "broke", max_attempts=0)
    return task.item


def events(store: Store) -> list[str]:
    return [json.loads(entry["entry"])["event"] for entry in audit.verified_entries(store.db)]


def test_one_letter_is_queued_again_and_the_others_stay_dead(store: Store) -> None:
    add(store, "1.1", "1.2")
    assert [lose(store, READ), lose(store, READ)] == ["1.1", "1.2"]
    with pytest.raises(ArtifactError, match=r"no dead letter has the UID 1\.7"):
        dead_letters.retry(store.db, ["1.2", "1.7"])
    assert dead_letters.retry(store.db, ["1.2"]) == 1
    assert store.claim(READ, 60, 5).item == "1.2"
    assert [letter["item"] for letter in dead_letters.dead_letters(store.db)] == ["1.1"]
    assert events(store)[-3:] == ["dead", "dead", "retry"]


def test_letters_to_a_destination_that_is_gone_stay_dead(store: Store) -> None:
    add(store, "1.1")
    read(store, "1.1", "pacs", "gone")
    assert lose(store, send_queue("pacs")) == lose(store, send_queue("gone")) == "1.1.9"
    assert dead_letters.retry(store.db, queues=served_queues(["pacs"])) == 1
    (left,) = dead_letters.dead_letters(store.db)
    assert left["queue"] == send_queue("gone")
    config(store.folder.parent)
    told = run_command("gateway", "retry", "--config", store.folder.parent / "gateway.toml")
    assert told.stdout == "0 queued again; 1 stay, whose destination is no longer in gateway.toml\n"


def test_what_is_discarded_is_told_of_and_goes_and_never_comes_back(store: Store) -> None:
    add(store, "1.1", "1.2")
    read(store, "1.1", "pacs", "archive")
    send(store, "archive")
    assert lose(store, READ) == "1.2"
    assert lose(store, send_queue("pacs")) == "1.1.9"
    assert retention._remove_expired(NOW, store) == 0, "dead letters keep their files"
    assert dead_letters.discard(store.db, ["1.2", "1.1.9"]) == 2
    with pytest.raises(ArtifactError, match=r"no dead letter has the UID 1\.2"):
        dead_letters.discard(store.db, ["1.2"])
    assert dead_letters.dead_letters(store.db) == []
    assert dead_letters.retry(store.db) == 0
    assert statistics.counts(store.db) == {
        READ: counted(done=1, discarded=1),
        send_queue("pacs"): counted(discarded=1),
        send_queue("archive"): counted(done=1),
    }
    last = [json.loads(entry["entry"]) for entry in audit.verified_entries(store.db)][-2:]
    assert {(entry["event"], entry["item"], entry["reason"]) for entry in last} == {
        ("discarded", "1.2", "broke"),
        ("discarded", "1.1.9", "broke"),
    }
    assert retention._remove_expired(NOW, store) == 2
    assert not [*store.images.iterdir(), *store.outbox.iterdir()]
    assert store.is_known("1.2")


def test_what_waits_for_a_destination_that_is_gone_is_a_dead_letter(store: Store) -> None:
    add(store, "1.1", "1.2")
    read(store, "1.1", "pacs", "archive")
    assert dead_letters.mark_unserved(store.db, {READ, send_queue("pacs")}) == 1
    found = dead_letters.dead_letters(store.db)
    assert [(letter["queue"], letter["item"]) for letter in found] == [("send:archive", "1.1.9")]
    assert "no longer in gateway.toml" in found[0]["reason"]
    assert statistics.counts(store.db)[READ] == counted(queued=1, done=1)


def test_the_oldest_that_waits_is_told_for_each_queue(store: Store) -> None:
    add(store, "1.1", "1.2")
    read(store, "1.1", "pacs", "archive")
    send(store, "archive")
    store.db.execute("UPDATE images SET received = received - 100 WHERE uid = '1.1'")
    ages = statistics.oldest(store.db)
    assert 100 <= ages.pop(send_queue("pacs")) < 160
    assert 0 <= ages.pop(READ) < 60
    assert ages == {send_queue("archive"): 0.0}


# --- the audit record ---------------------------------------------------------------------------


def test_the_audit_record_tells_what_became_of_an_image(store: Store) -> None:
    add(store, "1.1")
    read(store, "1.1", "pacs")
    send(store, "pacs")
    entries = [json.loads(entry["entry"]) for entry in audit.verified_entries(store.db)]
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
    assert len(list(audit.verified_entries(store.db))) == 3
    if "INSERT" not in crime:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.db.execute(crime)
    store.db.executescript("DROP TRIGGER audit_stays; DROP TRIGGER audit_remains;")
    store.db.execute(crime)
    with pytest.raises(ArtifactError, match="altered"):
        list(audit.verified_entries(store.db))


def test_an_audit_record_cut_off_or_made_anew_differs_from_its_export(
    store: Store, tmp_path: Path
) -> None:
    add(store, "1.1", "1.2")
    export = tmp_path / "audit.jsonl"
    export.write_text("".join(json.dumps(e) + "\n" for e in audit.verified_entries(store.db)))
    audit.check_against(store.db, export)
    add(store, "1.3")
    audit.check_against(store.db, export)
    store.db.executescript("DROP TRIGGER audit_remains; DELETE FROM audit WHERE number > 1;")
    list(audit.verified_entries(store.db))  # the chain alone does not show it
    with pytest.raises(ArtifactError, match=r"entry 2 of .* is missing"):
        audit.check_against(store.db, export)
    add(store, "1.4")
    with pytest.raises(ArtifactError, match="differs in it"):
        audit.check_against(store.db, export)


def test_an_export_that_was_altered_itself_does_not_vouch(store: Store, tmp_path: Path) -> None:
    add(store, "1.1", "1.2")
    lines = [json.dumps(entry) for entry in audit.verified_entries(store.db)]
    export = tmp_path / "audit.jsonl"
    for altered in ([lines[0].replace("1.1", "1.7"), lines[1]], lines[1:], lines[::-1]):
        export.write_text("\n".join(altered))
        with pytest.raises(ArtifactError, match=r"audit.jsonl was altered at or before entry"):
            audit.check_against(store.db, export)
    for nothing in ("", "[1]", '{"number": 1}', "\xff"):
        export.write_bytes(nothing.encode("latin-1"))
        with pytest.raises(ArtifactError, match="is not an export"):
            audit.check_against(store.db, export)
    with pytest.raises(ArtifactError, match=r"--against .*nowhere: No such file or directory"):
        audit.check_against(store.db, tmp_path / "nowhere")


# --- what stays on the disk ---------------------------------------------------------------------


def test_only_what_was_read_and_sent_to_all_is_removed_and_stays_known(store: Store) -> None:
    add(store, "1.1", "1.2", "1.3")
    read(store, "1.1", "pacs", "archive")
    read(store, "1.2", "pacs")
    send(store, "pacs")
    send(store, "pacs")
    assert retention._remove_expired(Storage(spare_mib=0, free_mib=0), store) == 0  # seven days
    assert retention._remove_expired(NOW, store) == 1
    assert retention._remove_expired(NOW, store) == 0
    assert {path.stem for path in store.images.iterdir()} == {"1.1", "1.3"}
    assert {path.stem for path in store.outbox.iterdir()} == {"1.1.9"}
    assert store.is_known("1.2")
    assert store.is_known("1.2.9")


def test_on_a_full_disk_what_has_served_goes_before_its_time(store: Store) -> None:
    add(store, "1.1", "1.2")
    read(store, "1.1")
    assert retention._remove_expired(Storage(spare_mib=2**40), store) == 1
    assert {path.stem for path in store.images.iterdir()} == {"1.2"}


def test_what_a_killed_process_was_writing_is_removed(store: Store) -> None:
    old, new = store.images / ".1.1.dcm.ab.part", store.outbox / ".1.2.dcm.cd.part"
    old.write_bytes(b"")
    new.write_bytes(b"")
    os.utime(old, (0, 0))
    retention._remove_expired(Storage(), store)
    assert not old.exists()
    assert new.exists()


def test_what_served_before_the_clock_was_set_back_makes_room_too(store: Store) -> None:
    add(store, "1.1")
    read(store, "1.1")
    store.db.execute("UPDATE tasks SET finished = finished + 1e8")
    assert retention._remove_expired(NOW, store) == 0
    assert retention._remove_expired(Storage(spare_mib=2**40), store) == 1


def test_retention_runs_again_after_a_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add(store, "1.1")
    read(store, "1.1")
    stop = threading.Event()
    monkeypatch.setattr(retention, "_mark_removed", full_once(retention._mark_removed))
    monkeypatch.setattr(retention, "_INTERVAL_SECONDS", 0.01)
    retaining = retention.Retention(NOW, Store(store.images.parent))
    keeping = threading.Thread(target=retaining.run, args=(stop,))
    keeping.start()
    wait_for(lambda: not retention.delivered(store.db, math.inf), 60)
    stop.set()
    keeping.join(60)
    assert "disk is full" in caplog.text
    assert not keeping.is_alive()
