"""The worker, with the real reader: results once, refusals as results, dead letters at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

import chestxray
from chestxray import artifacts as durable
from chestxray.errors import Notice, RefusedError
from chestxray.reading.reader import Reader
from chestxray.serving.gateway import audit
from chestxray.serving.gateway import dead_letters as letters
from chestxray.serving.gateway import statistics as survey
from chestxray.serving.gateway import worker as working
from chestxray.serving.gateway.store import READ, Image, Store, sending
from chestxray.serving.gateway.worker import handle
from dicom_files import written
from gateway_parts import (
    PATIENT,
    config,
    counted,
    film,
    full_once,
    radiograph,
    small_disk,
    wait_for,
)

PACS = '[[destinations]]\nname = "pacs"\nkind = "stow"\nurl = "http://x"\n'


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return chestxray.load(run / "bundle", "torch")


class Desk:
    """A store with images in it, and a worker's hand."""

    def __init__(self, folder: Path, reader: Reader, text: str = PACS) -> None:
        self.config = config(folder, text)
        self.store = Store(self.config.state)
        self.reader = reader

    def receive(self, image: Dataset | bytes, uid: str = "1.2.3") -> str:
        content = image if isinstance(image, bytes) else written(image)
        uid = uid if isinstance(image, bytes) else str(image.SOPInstanceUID)
        durable.write(self.store.image_file(uid), content)
        self.store.add(Image(uid, hashlib.sha256(content).hexdigest(), "SENDER", "DX"))
        return uid

    def work(self) -> None:
        self.store.db.execute("UPDATE tasks SET due = 0 WHERE state = 'queued'")
        task = self.store.claim(READ, 60, self.config.read.attempts)
        assert task
        handle(task, self.config, self.reader, self.store)

    def outbox(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in self.store.outbox.iterdir()}

    def counts(self) -> dict[str, dict[str, int]]:
        return survey.counts(self.store.db)

    def reason(self) -> str:
        return str(letters.listed(self.store.db)[0]["reason"])


@pytest.fixture
def desk(tmp_path: Path, reader: Reader):
    made = Desk(tmp_path, reader)
    yield made
    made.store.close()


def test_an_image_becomes_a_report_and_a_picture_in_its_study(desk: Desk) -> None:
    image = radiograph()
    desk.receive(image)
    desk.work()
    made = [dcmread(desk.store.result_file(uid)) for uid in desk.outbox()]
    assert {one.Modality for one in made} == {"SR", "OT"}
    assert {one.StudyInstanceUID for one in made} == {image.StudyInstanceUID}
    assert desk.counts()[sending("pacs")] == counted(queued=2)
    entry = list(audit.verified(desk.store.db))[-1]["entry"]
    for content in desk.outbox().values():
        assert hashlib.sha256(content).hexdigest() in entry
    assert desk.reader.bundle.identity in entry


def test_a_worker_killed_before_it_noted_its_results_makes_no_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    desk.receive(radiograph())
    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish_reading", kill)
        with pytest.raises(Killed):
            desk.work()
    before = desk.outbox()
    assert len(before) == 2
    desk.work()
    assert desk.outbox() == before, "the same bytes, though the time of reading stands in them"
    assert desk.counts()[READ]["done"] == 1


@pytest.mark.parametrize("content", [b"", b"no DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 64])
def test_a_file_that_is_no_dicom_is_dead_at_once(desk: Desk, content: bytes) -> None:
    desk.receive(content)
    desk.work()
    assert desk.counts()[READ] == counted(dead=1)
    assert not desk.outbox()


def test_corrupt_pixels_are_dead_at_once_with_the_reason(desk: Desk) -> None:
    whole = written(radiograph())
    desk.receive(whole[:-4000])
    desk.work()
    assert desk.counts()[READ]["dead"] == 1
    assert "truncated" in desk.reason()


def test_a_file_altered_on_the_disk_is_not_read(desk: Desk) -> None:
    uid = desk.receive(radiograph(1))
    desk.store.image_file(uid).write_bytes(written(radiograph(2)))
    desk.work()
    assert "altered" in desk.reason()
    uid = desk.receive(radiograph(3))
    desk.store.image_file(uid).unlink()
    desk.work()
    assert desk.counts()[READ]["dead"] == 2


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that judges every image as the gate judges one that is no chest."""

    def refuse(self: Reader, film: Path, force: bool = False) -> None:  # noqa: ARG001
        raise RefusedError(film, [Notice("blank", "nothing is on it", {}, refuses=True)])

    monkeypatch.setattr(Reader, "read", refuse)


@pytest.mark.usefixtures("refusing")
def test_a_refusal_is_a_result_with_its_reason(desk: Desk) -> None:
    desk.receive(radiograph())
    desk.work()
    assert desk.counts()[READ]["done"] == 1
    assert len(desk.outbox()) == 2
    assert '"outcome": "refused"' in list(audit.verified(desk.store.db))[-1]["entry"]


@pytest.mark.usefixtures("refusing")
def test_a_refusal_is_not_sent_where_the_configuration_says_so(
    tmp_path: Path, reader: Reader
) -> None:
    desk = Desk(tmp_path, reader, "[read]\nsend_refusals = false\n" + PACS)
    desk.receive(radiograph())
    desk.work()
    assert desk.counts() == {READ: counted(done=1)}
    assert not desk.outbox()
    assert "blank" in list(audit.verified(desk.store.db))[-1]["entry"]


def test_trouble_of_the_machine_is_not_held_against_an_image(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    desk.receive(radiograph())
    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_once", full)
        for _ in range(desk.config.read.attempts + 2):
            desk.work()
    assert survey.troubled(desk.store.db)[0]["reason"].endswith("No space left on device")
    desk.work()
    assert desk.counts()[READ]["done"] == 1


def test_a_worker_outlives_a_queue_that_cannot_be_written(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.receive(radiograph())
    stop = threading.Event()
    monkeypatch.setattr(Store, "claim", full_once(Store.claim))
    monkeypatch.setattr(working, "_PAUSE_SECONDS", 0.1)
    arguments = (desk.config, desk.reader, stop, "worker-0")
    thread = threading.Thread(target=working.work, args=arguments)
    thread.start()
    wait_for(lambda: desk.counts()[READ]["done"] == 1, 60)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_on_a_full_disk_an_image_waits_and_is_read_when_there_is_room(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "_PAUSE_SECONDS", 0.1)
    stop = threading.Event()
    with small_disk(tmp_path, 32) as disk:
        desk = Desk(disk, reader)
        desk.receive(radiograph())
        fill(disk / "filler")
        arguments = (desk.config, reader, stop, "worker-0")
        thread = threading.Thread(target=working.work, args=arguments, daemon=True)
        thread.start()
        time.sleep(3)
        assert desk.counts()[READ] == counted(queued=1)
        assert not desk.outbox()
        (disk / "filler").unlink()
        wait_for(lambda: desk.counts()[READ]["done"] == 1, 60)
        attempts = desk.store.db.execute("SELECT attempts FROM tasks WHERE queue = 'read'")
        assert attempts.fetchone()[0] == 1
        stop.set()
        thread.join(60)
        desk.store.close()


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_what_fails_unforeseen_is_tried_again_and_its_message_not_repeated(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"cannot make anything of {PATIENT}")

    desk.receive(radiograph())
    monkeypatch.setattr(Reader, "read", fail)
    for _ in range(desk.config.read.attempts):
        desk.work()
    assert desk.reason().startswith("ValueError at ")
    told = (
        caplog.text + str(letters.listed(desk.store.db)) + str(list(audit.verified(desk.store.db)))
    )
    assert PATIENT.split("^")[0] not in told


def test_only_what_somebody_wants_is_made(tmp_path: Path, reader: Reader) -> None:
    text = (
        PACS + 'send = ["sr"]\n' + PACS.replace("pacs", "other") + 'rules = [{calling = ["B"]}]\n'
    )
    desk = Desk(tmp_path, reader, text)
    desk.receive(radiograph())
    desk.work()
    assert desk.counts()[sending("pacs")]["queued"] == 1
    assert sending("other") not in desk.counts()
    assert len(desk.outbox()) == 1


def test_a_large_film_of_16_bits_is_read(desk: Desk) -> None:
    stored = np.repeat(np.repeat(film(pixels=128), 16, 0), 16, 1)
    desk.receive(radiograph(stored=stored))
    desk.work()
    assert desk.counts()[READ]["done"] == 1


HANGS = """
import sys, threading, time
from pathlib import Path
from chestxray.serving.gateway import config
from chestxray.serving.gateway.work import work

class Hanging:
    def read(self, path):
        time.sleep(60)

work(config.load(Path(sys.argv[1])), Hanging(), threading.Event(), "worker-0")
"""


def test_a_reading_that_hangs_ends_its_worker_and_is_taken_up_again(
    tmp_path: Path, reader: Reader
) -> None:
    desk = Desk(tmp_path, reader, "[read]\nlease = 1.0\n" + PACS)
    desk.receive(radiograph())
    command = [sys.executable, "-c", HANGS, str(tmp_path / "gateway.toml")]
    done = subprocess.run(command, check=False, capture_output=True, timeout=100)
    assert done.returncode == 1
    assert b"Timeout" in done.stderr
    time.sleep(1.0)
    assert desk.store.claim(READ, 60, 5).attempts == 2
    desk.store.close()


CRASHES = """
import sys
from chestxray.serving.gateway import processes

def crash(stop, secret):
    raise ValueError(secret)

processes.begin(crash, sys.argv[1])
"""


def test_what_ends_a_process_is_told_without_its_message() -> None:
    command = [sys.executable, "-c", CRASHES, PATIENT]
    done = subprocess.run(command, check=False, capture_output=True, timeout=100)
    assert done.returncode == 1
    last = [json.loads(line) for line in done.stderr.decode().splitlines()][-1]
    assert last["message"].startswith("ended by ValueError at ")
    assert PATIENT.split("^")[0] not in done.stderr.decode()
