"""A database that is damaged, deleted, replaced or set back is noticed; a backup restores it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from chestxray.errors import ArtifactError, ConfigError
from chestxray.serving.gateway import anchors, audit, backups, integrity, statistics
from chestxray.serving.gateway.access import lock
from chestxray.serving.gateway.anchors import Anchor
from chestxray.serving.gateway.config import Storage
from chestxray.serving.gateway.intake import Intake
from chestxray.serving.gateway.monitor import anchor_record, begin_anchors
from chestxray.serving.gateway.store import READ, Store
from gateway_parts import PAGE, add, counted, damage_page, remove_database


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with 200 images, anchored, and no process."""
    folder = tmp_path / "state"
    with closing(Store(folder)) as store:
        begin_anchors(store)
        add(store, *(f"1.2.{number}" for number in range(200)))
        anchor_record(store)
    return folder


def entries(state: Path) -> list[str]:
    with closing(Store(state)) as store:
        return [entry["entry"] for entry in audit.verified_entries(store.db)]


def restored(state: Path, backup: Path | None = None) -> str:
    with lock(state):
        return backups.restore(state, backup)


def make_backup(state: Path) -> Path:
    with closing(Store(state)) as store:
        return backups.make(store.db, state)


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["images", "results", "tasks", "positions", "audit"])
def test_a_damaged_page_of_any_table_is_found_and_the_backup_to_restore_named(
    state: Path, table: str
) -> None:
    integrity.check(state)
    made = make_backup(state)
    damage_page(state, table)
    with pytest.raises(integrity.DamageError) as caught:
        integrity.check(state)
    said = str(caught.value)
    assert f"{state / 'queue.sqlite'} is damaged: " in said
    assert f"`chestxray gateway restore`, which restores {made}" in said
    assert "audit entries up to 201 of 201" in said
    assert "\n" not in said


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"", b"SQLite format 3\0"])
def test_a_file_that_is_no_longer_the_database_is_found(state: Path, content: bytes) -> None:
    for path in state.glob("queue.sqlite*"):
        path.write_bytes(content) if path.suffix == ".sqlite" else path.unlink()
    with pytest.raises(
        integrity.DamageError, match=r"There is no intact backup in .*--backup FILE"
    ):
        integrity.check(state)


def test_a_truncated_database_is_found(state: Path) -> None:
    with (state / "queue.sqlite").open("r+b") as file:
        file.truncate(5 * PAGE)
    with pytest.raises(integrity.DamageError, match="is damaged"):
        integrity.check(state)


def test_errors_of_damage_are_told_from_those_of_a_full_disk(state: Path) -> None:
    damage_page(state, "tasks")
    with (
        closing(sqlite3.connect(state / "queue.sqlite")) as db,
        pytest.raises(sqlite3.DatabaseError) as caught,
    ):
        db.execute("SELECT reason FROM tasks").fetchall()
    assert integrity.is_damage(caught.value)
    assert not integrity.is_damage(sqlite3.OperationalError("database or disk is full"))
    assert not integrity.is_damage(OSError(28, "No space left on device"))
    (state / "queue.sqlite").write_bytes(b"noise" * 5000)
    with pytest.raises(ArtifactError) as opened:
        Store(state)
    assert integrity.is_damage(opened.value)


# --- a database that is gone, or is another one ---------------------------------------------------


def test_a_deleted_database_is_not_begun_anew(state: Path) -> None:
    remove_database(state)
    for attempt in (Store, integrity.check):
        with pytest.raises(integrity.DamageError, match=r"queue.sqlite is missing, but audit-anch"):
            attempt(state)
    assert not (state / "queue.sqlite").exists()
    (state / anchors.FILE).unlink()  # the anchors too: the images are still there
    for attempt in (Store, integrity.check):
        with pytest.raises(integrity.DamageError, match=r"is missing, but there are files in .*im"):
            attempt(state)


def test_a_database_that_was_set_back_is_noticed(state: Path, tmp_path: Path) -> None:
    shutil.copytree(state, tmp_path / "earlier")
    with closing(Store(state)) as store:
        add(store, "1.3.1", "1.3.2")
        anchor_record(store)
    remove_database(state)
    for path in (tmp_path / "earlier").glob("queue.sqlite*"):
        shutil.copy(path, state)
    with pytest.raises(integrity.DamageError) as caught:
        integrity.check(state)
    said = "was set back or replaced: its audit record has 201 entries, but entry 203 was anchored"
    assert said in str(caught.value)


def test_another_database_with_a_whole_chain_of_its_own_is_noticed(
    state: Path, tmp_path: Path
) -> None:
    with closing(Store(tmp_path / "other")) as other:
        add(other, *(f"1.9.{number}" for number in range(300)))
        assert len(list(audit.verified_entries(other.db))) == 300
    remove_database(state)
    shutil.copy(tmp_path / "other" / "queue.sqlite", state)
    with pytest.raises(integrity.DamageError, match="was replaced: entry 201 of its audit record"):
        integrity.check(state)


def test_deleted_anchors_are_noticed_since_the_record_says_that_it_has_some(state: Path) -> None:
    (state / anchors.FILE).unlink()
    with pytest.raises(integrity.DamageError, match=r"audit-anchors.jsonl, .* is missing or empty"):
        integrity.check(state)
    (state / anchors.FILE).write_text("")
    with pytest.raises(integrity.DamageError, match=r"audit-anchors.jsonl, .* is missing or empty"):
        integrity.check(state)
    assert "201 audit entries" in restored(state)
    integrity.check(state)
    assert json.loads(entries(state)[-1])["event"] == "restored"


def test_a_state_folder_from_before_there_were_anchors_gets_them(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "state")) as store:
        add(store, "1.1", "1.2")
        integrity.check(store.folder)
        begin_anchors(store)
        begin_anchors(store)  # after a restart
        assert anchor_record(store).number == 3
        integrity.check(store.folder)
        told = [json.loads(entry["entry"])["event"] for entry in audit.verified_entries(store.db)]
    assert told == ["received", "received", "anchored"]


def test_a_new_state_folder_is_anchored_before_anything_is_received(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "state")) as store:
        anchors.append(store.folder, Anchor.now(*audit.last(store.db)))
        integrity.check(store.folder)  # killed between the first anchor and the entry
        begin_anchors(store)
        integrity.check(store.folder)


# --- the file of anchors --------------------------------------------------------------------------


def test_the_file_of_anchors_only_grows_and_survives_a_torn_line(state: Path) -> None:
    path = state / anchors.FILE
    before = path.read_bytes()
    path.write_bytes(before + b'{"number": 202, "li')  # the power went
    assert anchors.last(state).number == 201
    integrity.check(state)
    with closing(Store(state)) as store:
        add(store, "1.3.1")
        anchor_record(store)
        anchor_record(store)  # nothing new: no line
    assert path.read_bytes().startswith(before)
    lines = path.read_text().splitlines()
    assert anchors.last(state).number == 202
    assert [anchor.number for anchor in anchors.valid(lines)] == [0, 201, 202]
    assert path.stat().st_mode & 0o777 == 0o600


def test_anchors_vouch_for_the_record_wherever_they_were_kept(state: Path, tmp_path: Path) -> None:
    anchor = anchors.last(state)
    kept = tmp_path / "syslog"
    kept.write_text(f"Nov 28 19:00:00 host chestxray-gateway: audit anchor {anchor.line()}\n")
    with closing(Store(state)) as store:
        audit.check_against(store.db, kept)
        kept.write_text(kept.read_text() + Anchor.now(500, "ab" * 32).line() + "\n")
        with pytest.raises(ArtifactError, match=r"rewritten: entry 500 of .*syslog is missing"):
            audit.check_against(store.db, kept)
        kept.write_text(Anchor.now(7, "ab" * 32).line())
        with pytest.raises(ArtifactError, match=r"entry 7 of .*syslog differs in it"):
            audit.check_against(store.db, kept)


def test_a_forged_restoration_does_not_do_away_with_the_anchors_before_it(
    state: Path, tmp_path: Path
) -> None:
    """Every record has the link before its first entry, so anyone can write such an anchor."""
    kept = tmp_path / "syslog"
    with closing(Store(state)) as store:
        forged = Anchor.now(0, audit.link_of(store.db, 0) or "", restored=True)
        kept.write_text(f"{Anchor.now(500, 'ab' * 32).line()}\n{forged.line()}\n")
        with pytest.raises(ArtifactError, match=r"syslog was altered: it says that entry 0"):
            audit.check_against(store.db, kept)


# --- other processes ------------------------------------------------------------------------------

SEEN = """
import sys
from pathlib import Path
from chestxray.serving.gateway.store import Store
store = Store(Path(sys.argv[1]))
print(store.is_known(sys.argv[2]))
store.close()
"""


def test_a_store_that_is_opened_twice_keeps_its_place_among_processes(state: Path) -> None:
    """To open and close the file of the database would release the locks of the process.

    POSIX locks belong to a process and a file. Another process would then take itself for the last
    one, and remove the write-ahead log under this one.
    """

    def seen(uid: str) -> str:
        command = [sys.executable, "-c", SEEN, str(state), uid]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        return done.stdout.strip()

    with closing(Store(state)) as first:
        add(first, "1.4.1")
        Store(state).close()
        integrity.check(state)
        make_backup(state)
        assert seen("1.4.1") == "True"
        add(first, "1.4.2")
        assert seen("1.4.2") == "True"
        add(first, "1.4.3")
    assert seen("1.4.3") == "True"


# --- backups --------------------------------------------------------------------------------------


def test_a_backup_is_due_once_a_day_and_seven_are_kept(state: Path) -> None:
    assert backups.is_due(state)
    assert backups.seconds_since(state) is None
    made = make_backup(state)
    assert not backups.is_due(state)
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    assert made.stat().st_mode & 0o777 == 0o600
    for day in range(1, 9):
        shutil.copy(made, made.with_name(f"queue-2020010{day}T000000Z.sqlite"))
    make_backup(state)
    kept = sorted(path.name for path in made.parent.iterdir())
    assert len(kept) == 7
    assert kept[-1] >= made.name
    assert "queue-20200101T000000Z.sqlite" not in kept


def test_backups_of_a_clock_that_was_ahead_come_last_and_none_is_made_at_each_round(
    state: Path,
) -> None:
    made = make_backup(state)
    for year in range(2100, 2110):
        ahead = made.with_name(f"queue-{year}0101T000000Z.sqlite")
        shutil.copy(made, ahead)
        os.utime(ahead, (later := time.time() + 1e9, later))
    made.unlink()
    with closing(Store(state)) as store:
        add(store, "1.3.1")
    assert backups.is_due(state)
    made = make_backup(state)
    assert made.exists()
    assert not backups.is_due(state)
    remove_database(state)
    assert restored(state).startswith(f"{made} is the database: 202 audit entries")


def test_the_longest_backup_is_restored_whatever_its_name_says(state: Path) -> None:
    made = make_backup(state)
    made.replace(made.with_name("queue-20200101T000000Z.sqlite"))
    with closing(Store(state)) as store:
        add(store, "1.3.1")
    long = make_backup(state).replace(made.with_name("queue-21000101T000000Z.sqlite"))
    remove_database(state)
    assert backups.best(state) == (long, 202)


def test_what_a_killed_backup_left_is_removed_by_the_next(state: Path) -> None:
    made = make_backup(state)
    for name in (".queue-20260101T000000Z.sqlite.part", ".queue-20260101T000000Z.sqlite.part-wal"):
        (made.parent / name).write_bytes(b"x" * 1000)
    again = make_backup(state)
    assert {path.name for path in made.parent.iterdir()} == {made.name, again.name}


def test_a_backup_of_a_damaged_database_is_not_kept(state: Path) -> None:
    good = make_backup(state)
    damage_page(state, "audit")
    with (
        closing(sqlite3.connect(state / "queue.sqlite")) as db,
        pytest.raises(ArtifactError, match=r"the backup of .* is damaged"),
    ):
        backups.make(db, state)
    assert list(good.parent.iterdir()) == [good]


def test_after_a_restoration_images_received_since_are_read_again_and_the_gap_is_recorded(
    state: Path,
) -> None:
    made = make_backup(state)
    with closing(Store(state)) as store:
        add(store, "1.3.1", "1.3.2")
        anchor_record(store)
    damage_page(state, "tasks")
    assert restored(state) == (
        f"{made} is the database: 201 audit entries, 2 anchored ones are lost"
    )
    integrity.check(state)
    last = json.loads(entries(state)[-1])
    assert last["event"] == "restored"
    assert (last["backup"], last["entries"]) == (made.name, 201)
    assert last["anchored"]["number"] == 203
    (aside,) = state.glob("damaged-*")
    assert (aside / "queue.sqlite").exists()
    with closing(Store(state)) as store:
        intake = Intake(Store(state), Storage(spare_mib=0, free_mib=0))
        assert intake.recover() == 2
        intake._store.close()
        assert statistics.counts(store.db)[READ] == counted(queued=202)
        anchor_record(store)
        audit.check_against(store.db, state / anchors.FILE)  # the lost anchors are left out
    integrity.check(state)


def test_a_restoration_takes_the_newest_backup_that_is_intact(state: Path) -> None:
    newer = make_backup(state)
    older = newer.with_name("queue-20200101T000000Z.sqlite")
    older.write_bytes(newer.read_bytes())
    newer.write_bytes(older.read_bytes()[: 20 * PAGE])
    remove_database(state)
    with pytest.raises(integrity.DamageError, match=f"restores {older} "):
        integrity.check(state)
    assert restored(state).startswith(f"{older} is the database")
    integrity.check(state)


def test_a_backup_of_another_record_is_refused(state: Path, tmp_path: Path) -> None:
    with closing(Store(tmp_path / "other")) as other:
        add(other, *(f"1.9.{number}" for number in range(300)))
        foreign = backups.make(other.db, other.folder)
    remove_database(state)
    with pytest.raises(ArtifactError, match=r"entry 201 of audit-anchors.jsonl differs in it"):
        restored(state, foreign)
    with pytest.raises(ArtifactError, match="there is no intact backup"):
        restored(state)
    with pytest.raises(ArtifactError, match="cannot be opened as a database"):
        restored(state, tmp_path / "nowhere.sqlite")
    assert not (state / "queue.sqlite").exists()


def test_an_intact_database_that_the_operator_put_there_is_accepted(
    state: Path, tmp_path: Path
) -> None:
    with closing(Store(state)) as store, closing(sqlite3.connect(tmp_path / "copy")) as copy:
        store.db.backup(copy)
        add(store, "1.3.1")
        anchor_record(store)
    remove_database(state)
    shutil.copy(tmp_path / "copy", state / "queue.sqlite")
    said = r"set back .* No backup has more: .* record the loss with `chestxray gateway restore`"
    with pytest.raises(integrity.DamageError, match=said):
        integrity.check(state)
    assert "1 anchored ones are lost" in restored(state)
    integrity.check(state)
    assert not list(state.glob("damaged-*"))


def test_a_backup_that_has_more_than_a_database_that_was_set_back_takes_its_place(
    state: Path, tmp_path: Path
) -> None:
    shutil.copytree(state, tmp_path / "earlier")
    with closing(Store(state)) as store:
        add(store, "1.3.1", "1.3.2")
        anchor_record(store)
    made = make_backup(state)
    remove_database(state)
    shutil.copy(tmp_path / "earlier" / "queue.sqlite", state)
    with pytest.raises(integrity.DamageError, match=rf"set back .* restores {made} "):
        integrity.check(state)
    assert restored(state).startswith(f"{made} is the database: 203 audit entries, 0 anchored")
    integrity.check(state)


def test_nothing_is_restored_while_a_gateway_runs(state: Path) -> None:
    with lock(state), pytest.raises(ConfigError, match="a gateway runs on"):
        restored(state)
