"""The worker, with the real reader: results once, refusals as results, dead letters at once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

import chestxray
from chestxray import artifacts
from chestxray.dataset import pixels as radiographs
from chestxray.dataset.decoding import Isolated
from chestxray.errors import Notice, RefusedError
from chestxray.reading.reader import Reader
from chestxray.serving.gateway import audit, dead_letters, image_decoding, statistics, worker
from chestxray.serving.gateway.image_decoding import DecodedImage
from chestxray.serving.gateway.store import READ, Image, Store, send_queue
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


@pytest.fixture(scope="module")
def decoder(reader: Reader) -> Iterator[Isolated[DecodedImage]]:
    made = image_decoding.decoder(reader.size, 120)
    yield made
    made.close()


class Bench:
    """A store with images in it, and a worker of this process."""

    def __init__(
        self, folder: Path, reader: Reader, decoder: Isolated[DecodedImage], text: str = PACS
    ) -> None:
        self.decoder = decoder
        self.config = config(folder, text)
        self.store = Store(self.config.state)
        self.reader = reader

    def receive(self, image: Dataset | bytes, uid: str = "1.2.3") -> str:
        content = image if isinstance(image, bytes) else written(image)
        uid = uid if isinstance(image, bytes) else str(image.SOPInstanceUID)
        artifacts.write_bytes(self.store.image_file(uid), content)
        self.store.add(Image(uid, hashlib.sha256(content).hexdigest(), "SENDER", "DX"))
        return uid

    def work(self) -> None:
        self.store.db.execute("UPDATE tasks SET due = 0 WHERE state = 'queued'")
        task = self.store.claim(READ, 60, self.config.read.attempts)
        assert task
        handle(task, self.config, self.reader, self.decoder, self.store)

    def outbox(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in self.store.outbox.iterdir()}

    def counts(self) -> dict[str, dict[str, int]]:
        return statistics.counts(self.store.db)

    def reason(self) -> str:
        return str(dead_letters.dead_letters(self.store.db)[0]["reason"])


@pytest.fixture
def bench(tmp_path: Path, reader: Reader, decoder: Isolated[DecodedImage]):
    made = Bench(tmp_path, reader, decoder)
    yield made
    made.store.close()


def test_an_image_becomes_a_report_and_a_picture_in_its_study(bench: Bench) -> None:
    image = radiograph()
    bench.receive(image)
    bench.work()
    made = [dcmread(bench.store.result_file(uid)) for uid in bench.outbox()]
    assert {one.Modality for one in made} == {"SR", "OT"}
    assert {one.StudyInstanceUID for one in made} == {image.StudyInstanceUID}
    assert bench.counts()[send_queue("pacs")] == counted(queued=2)
    entry = list(audit.verified_entries(bench.store.db))[-1]["entry"]
    for content in bench.outbox().values():
        assert hashlib.sha256(content).hexdigest() in entry
    assert bench.reader.bundle.identity in entry


def test_an_ensemble_is_read_like_one_model(
    pair: Path, tmp_path: Path, decoder: Isolated[DecodedImage]
) -> None:
    bench = Bench(tmp_path, chestxray.load(pair / "bundle", "torch"), decoder)
    bench.receive(radiograph())
    bench.work()
    made = [dcmread(bench.store.result_file(uid)) for uid in bench.outbox()]
    assert {one.Modality for one in made} == {"SR", "OT"}
    assert bench.reader.bundle.identity in list(audit.verified_entries(bench.store.db))[-1]["entry"]
    bench.store.close()


def test_a_worker_killed_before_it_noted_its_results_makes_no_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    bench.receive(radiograph())
    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish_reading", kill)
        with pytest.raises(Killed):
            bench.work()
    before = bench.outbox()
    assert len(before) == 2
    bench.work()
    assert bench.outbox() == before, "the same bytes, though the time of reading stands in them"
    assert bench.counts()[READ]["done"] == 1


@pytest.mark.parametrize("content", [b"", b"not DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 64])
def test_a_file_that_is_no_dicom_is_dead_at_once(bench: Bench, content: bytes) -> None:
    bench.receive(content)
    bench.work()
    assert bench.counts()[READ] == counted(dead=1)
    assert not bench.outbox()


def test_corrupt_pixels_are_dead_at_once_with_the_reason(bench: Bench) -> None:
    whole = written(radiograph())
    bench.receive(whole[:-4000])
    bench.work()
    assert bench.counts()[READ]["dead"] == 1
    assert "truncated" in bench.reason()


def test_a_file_altered_on_the_disk_is_not_read(bench: Bench) -> None:
    uid = bench.receive(radiograph(1))
    bench.store.image_file(uid).write_bytes(written(radiograph(2)))
    bench.work()
    assert "altered" in bench.reason()
    uid = bench.receive(radiograph(3))
    bench.store.image_file(uid).unlink()
    bench.work()
    assert bench.counts()[READ]["dead"] == 2


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that judges every image as the gate judges one that is no chest."""

    def refuse(self: Reader, source: object, force: bool = False) -> None:  # noqa: ARG001
        raise RefusedError("radiograph", [Notice("blank", "nothing is on it", {}, refuses=True)])

    monkeypatch.setattr(Reader, "read", refuse)


@pytest.mark.usefixtures("refusing")
def test_a_refusal_is_a_result_with_its_reason(bench: Bench) -> None:
    bench.receive(radiograph())
    bench.work()
    assert bench.counts()[READ]["done"] == 1
    assert len(bench.outbox()) == 2
    assert '"outcome": "refused"' in list(audit.verified_entries(bench.store.db))[-1]["entry"]


@pytest.mark.usefixtures("refusing")
def test_a_refusal_is_not_sent_where_the_configuration_says_so(
    tmp_path: Path, reader: Reader, decoder: Isolated[DecodedImage]
) -> None:
    bench = Bench(tmp_path, reader, decoder, "[read]\nsend_refusals = false\n" + PACS)
    bench.receive(radiograph())
    bench.work()
    assert bench.counts() == {READ: counted(done=1)}
    assert not bench.outbox()
    assert "blank" in list(audit.verified_entries(bench.store.db))[-1]["entry"]


def test_trouble_of_the_machine_is_not_held_against_an_image(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    bench.receive(radiograph())
    with monkeypatch.context() as patch:
        patch.setattr(worker, "write_once", full)
        for _ in range(bench.config.read.attempts + 2):
            bench.work()
    assert statistics.retrying(bench.store.db)[0]["reason"].endswith("No space left on device")
    bench.work()
    assert bench.counts()[READ]["done"] == 1


def test_a_worker_outlives_a_queue_that_cannot_be_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.receive(radiograph())
    stop = threading.Event()
    monkeypatch.setattr(Store, "claim", full_once(Store.claim))
    monkeypatch.setattr(worker, "_PAUSE_SECONDS", 0.1)
    arguments = (bench.config, bench.reader, stop, "worker-0")
    thread = threading.Thread(target=worker.run, args=arguments)
    thread.start()
    wait_for(lambda: bench.counts()[READ]["done"] == 1, 60)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_on_a_full_disk_an_image_waits_and_is_read_when_there_is_room(
    tmp_path: Path, reader: Reader, decoder: Isolated[DecodedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_PAUSE_SECONDS", 0.1)
    stop = threading.Event()
    with small_disk(tmp_path, 32) as disk:
        bench = Bench(disk, reader, decoder)
        bench.receive(radiograph())
        fill(disk / "filler")
        arguments = (bench.config, reader, stop, "worker-0")
        thread = threading.Thread(target=worker.run, args=arguments, daemon=True)
        thread.start()
        time.sleep(3)
        assert bench.counts()[READ] == counted(queued=1)
        assert not bench.outbox()
        (disk / "filler").unlink()
        wait_for(lambda: bench.counts()[READ]["done"] == 1, 60)
        attempts = bench.store.db.execute("SELECT attempts FROM tasks WHERE queue = 'read'")
        assert attempts.fetchone()[0] == 1
        stop.set()
        thread.join(60)
        bench.store.close()


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_what_fails_unforeseen_is_tried_again_and_its_message_not_repeated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"cannot make anything of {PATIENT}")

    bench.receive(radiograph())
    monkeypatch.setattr(Reader, "read", fail)
    for _ in range(bench.config.read.attempts):
        bench.work()
    assert bench.reason().startswith("ValueError at ")
    told = (
        caplog.text
        + str(dead_letters.dead_letters(bench.store.db))
        + str(list(audit.verified_entries(bench.store.db)))
    )
    assert PATIENT.split("^")[0] not in told


def test_only_what_somebody_wants_is_made(
    tmp_path: Path, reader: Reader, decoder: Isolated[DecodedImage]
) -> None:
    text = (
        PACS + 'send = ["sr"]\n' + PACS.replace("pacs", "other") + 'rules = [{calling = ["B"]}]\n'
    )
    bench = Bench(tmp_path, reader, decoder, text)
    bench.receive(radiograph())
    bench.work()
    assert bench.counts()[send_queue("pacs")]["queued"] == 1
    assert send_queue("other") not in bench.counts()
    assert len(bench.outbox()) == 1


def test_an_image_file_is_read_and_decoded_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = bench.receive(radiograph())
    file, reads, calls, decodes = bench.store.image_file(uid), [], [], []
    open_file, decode, each = io.open, radiographs.decode_dicom, Isolated.each

    def opened(path: object, *arguments: object, **more: object) -> object:
        reads.append(path)
        return open_file(path, *arguments, **more)

    def called(isolated: Isolated, given: list) -> object:
        calls.extend(given)
        return each(isolated, given)

    def decoded(*arguments: object) -> object:
        decodes.append(arguments)
        return decode(*arguments)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(Isolated, "each", called)
    monkeypatch.setattr(radiographs, "decode_dicom", decoded)
    bench.work()
    assert bench.counts()[READ]["done"] == 1
    assert reads.count(file) == 1
    assert len(calls) == 1
    assert not decodes, "only the decoder process decodes"
    image_decoding.decode(32, *calls[0][1])
    assert len(decodes) == 1


def test_a_large_film_of_16_bits_is_read(bench: Bench) -> None:
    stored = np.repeat(np.repeat(film(pixels=128), 16, 0), 16, 1)
    bench.receive(radiograph(stored=stored))
    bench.work()
    assert bench.counts()[READ]["done"] == 1


HANGS = """
import sys, threading, time
from pathlib import Path
from chestxray.serving.gateway import config
from chestxray.serving.gateway.worker import run

class Hanging:
    size = 32

    def read(self, image):
        time.sleep(60)

run(config.load(Path(sys.argv[1])), Hanging(), threading.Event(), "worker-0")
"""


def test_a_reading_that_hangs_ends_its_worker_and_is_taken_up_again(
    tmp_path: Path, reader: Reader, decoder: Isolated[DecodedImage]
) -> None:
    bench = Bench(tmp_path, reader, decoder, "[read]\nlease = 6.0\n" + PACS)
    bench.receive(radiograph())
    command = [sys.executable, "-c", HANGS, str(tmp_path / "gateway.toml")]
    done = subprocess.run(command, check=False, capture_output=True, timeout=300)
    assert done.returncode == 1
    assert b"Timeout" in done.stderr
    time.sleep(1.0)
    assert bench.store.claim(READ, 60, 5).attempts == 2
    bench.store.close()


CRASHES = """
import sys
from chestxray.serving.gateway import processes

def crash(stop, secret):
    raise ValueError(secret)

processes.start(crash, sys.argv[1])
"""


def test_what_ends_a_process_is_told_without_its_message() -> None:
    command = [sys.executable, "-c", CRASHES, PATIENT]
    done = subprocess.run(command, check=False, capture_output=True, timeout=300)
    assert done.returncode == 1
    last = [json.loads(line) for line in done.stderr.decode().splitlines()][-1]
    assert last["message"].startswith("ended by ValueError at ")
    assert PATIENT.split("^")[0] not in done.stderr.decode()
