"""The worker, with the real reader: results once, refusals as results, dead letters at once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

import chestxray
from chestxray import artifacts
from chestxray.dataset import pixels as radiographs
from chestxray.dataset.decoding import Isolated
from chestxray.errors import DecoderError, DecodingTimeError, Notice, RefusedError, WorkerError
from chestxray.reading.reader import Reader
from chestxray.serving.gateway import agreement as agreements
from chestxray.serving.gateway import (
    audit,
    dead_letters,
    health,
    image_decoding,
    readings,
    report,
    retention,
    shadow,
    shadow_store,
    statistics,
    supervisor,
    worker,
)
from chestxray.serving.gateway.agreement import agreement
from chestxray.serving.gateway.config import Shadow
from chestxray.serving.gateway.image_decoding import DecodedImage
from chestxray.serving.gateway.readings import Week
from chestxray.serving.gateway.shadow_store import ShadowStore
from chestxray.serving.gateway.statistics import Statistics
from chestxray.serving.gateway.store import READ, Image, Store, dry_run_queue, send_queue
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


@pytest.fixture(scope="module")
def chests(phantoms: Path) -> list[Dataset]:
    """Radiographs that the gate does not refuse."""
    films = (radiographs.decode(path) for path in sorted(phantoms.rglob("*.png"))[:4])
    return [radiograph(number, film.astype(np.uint16) << 4) for number, film in enumerate(films)]


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

    def kill(*_: object, **__: object) -> None:
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


def test_a_dry_run_keeps_the_results_and_leaves_nothing_to_send(
    tmp_path: Path, reader: Reader, decoder: Isolated[DecodedImage]
) -> None:
    bench = Bench(tmp_path, reader, decoder, "[storage]\nkeep_days = 0\n" + PACS)
    bench.config = bench.config.model_copy(update={"dry_run": True})
    bench.receive(radiograph())
    bench.work()
    kept = bench.outbox()
    assert {dcmread(io.BytesIO(content)).Modality for content in kept.values()} == {"SR", "OT"}
    assert bench.counts() == {READ: counted(done=1), dry_run_queue("pacs"): counted(done=2)}
    assert bench.store.claim(send_queue("pacs"), 60, 5) is None
    entry = json.loads(list(audit.verified_entries(bench.store.db))[-1]["entry"])
    assert entry["dry_run"] is True
    assert set(entry["results"]) == set(kept)
    assert "dry-run:pacs: 2 results kept in dry runs, not sent" in list(
        statistics.status_lines(bench.store.db)
    )
    bench.receive(radiograph(1))
    bench.config = bench.config.model_copy(update={"dry_run": False})
    bench.work()
    assert bench.counts()[send_queue("pacs")] == counted(queued=2), "those of later are sent"
    storage = bench.config.storage.model_copy(update={"spare_mib": 0, "free_mib": 0})
    assert retention._remove_expired(storage, bench.store) == 1
    assert not set(kept) & set(bench.outbox()), "removed as if they had been sent"
    bench.store.close()


def test_a_gateway_on_a_dry_run_has_no_sender_and_says_so(tmp_path: Path, run: Path) -> None:
    wet = config(tmp_path, PACS)
    dry = wet.model_copy(update={"dry_run": True})
    for settings, senders in ((dry, 0), (wet, 1)):
        Store(settings.state).close()
        gateway = supervisor.Gateway(settings, run / "bundle")
        names = [child.name for child in gateway._children]
        assert sum(name.startswith("sender-") for name in names) == senders
        said = "gateway: running, dry run: nothing is sent"
        assert (said in health.status_lines(settings.state)) == (senders == 0)
        collected = Statistics(settings.state, list).collect()
        values = {family.name: family.samples[0].value for family in collected if family.samples}
        assert values["chestxray_gateway_dry_run"] == (senders == 0)
        gateway._lock.close()


def test_the_figures_of_readings_and_refusals_are_kept(bench: Bench, chests: list[Dataset]) -> None:
    bench.receive(chests[0])
    bench.receive(radiograph(1, ViewPosition="LL"))
    bench.work()
    bench.work()
    identity = bench.reader.bundle.identity
    model = readings.known_model(bench.store.db, identity)
    rows = readings.rows_between(bench.store.db, model, 0, 1e12)
    assert rows.refused.tolist() == [False, True]
    assert tuple(model.findings) == tuple(bench.reader.findings)
    assert set(model.measures) == {"brightness", "contrast", "look", "features"}
    assert np.isfinite(rows.probabilities[0]).all()
    assert len(rows.calls[0]) == len(model.findings)
    assert np.isfinite(rows.measures[0]).all()
    assert "view-lateral" in rows.notices[1]
    assert np.isnan(rows.measures[1]).all(), "a lateral view is no drift of frontal ones"
    assert len(set(rows.patient)) == 2


# --- the shadow -----------------------------------------------------------------------------------


class Shadowed:
    """A shadow of this process over a bench's state."""

    def __init__(self, bench: Bench, reader: Reader) -> None:
        self.bench, self.reader = bench, reader
        self.first = shadow._opened(bench.config.state)
        self.own = ShadowStore.open(bench.config.state, shadow._last(self.first))
        self.own.remember_model(reader.bundle.identity, reader.bundle.card)

    def read(self) -> bool:
        return shadow._read_next(
            self.bench.config, self.reader, self.bench.decoder, self.first, self.own
        )

    def close(self) -> None:
        self.first.close()
        self.own.close()


@pytest.fixture(scope="module")
def second(pair: Path) -> Reader:
    return chestxray.load(pair / "bundle", "torch")


@pytest.fixture
def shadowed(bench: Bench, second: Reader) -> Iterator[Shadowed]:
    made = Shadowed(bench, second)
    yield made
    made.close()


def everything(db: sqlite3.Connection) -> list[str]:
    return list(db.iterdump())


def test_the_shadow_reads_what_the_first_has_read_and_changes_nothing_of_it(
    shadowed: Shadowed, chests: list[Dataset], tmp_path: Path
) -> None:
    bench = shadowed.bench
    for image in chests[:3]:
        bench.receive(image)
    assert not shadowed.read(), "an image waits for its first reading"
    for _ in range(3):
        bench.work()
    before, results = everything(bench.store.db), bench.outbox()
    assert [shadowed.read() for _ in range(4)] == [True, True, True, False]
    assert everything(bench.store.db) == before
    assert bench.outbox() == results, "none of its results is made"
    found = agreement(bench.store.db, bench.config.state, 0, 1e12)
    assert (found.radiographs, found.refused) == (3, (0, 0, 0))
    assert (found.first, found.shadow) == (
        bench.reader.bundle.identity,
        shadowed.reader.bundle.identity,
    )
    for name, one in found.findings.items():
        files = [path.read_bytes() for path in bench.store.images.iterdir()]
        ours = [bench.reader.read(file).probabilities[name] for file in files]
        theirs = [shadowed.reader.read(file).probabilities[name] for file in files]
        assert one.difference == pytest.approx(np.mean(np.subtract(theirs, ours)), abs=1e-6)
        if one.agreement is not None:
            assert one.both + one.first + one.shadow + one.neither == 3
    configured = bench.config.model_copy(update={"shadow": Shadow(bundle=tmp_path)})
    text = "\n".join(report.lines(report.gather(configured, bench.store, 2)))
    assert "3 read, 0 waiting, 0 removed before, 0 failed" in text
    text = "\n".join(report.lines(report.gather(bench.config, bench.store, 2)))
    assert "none is configured; this is what an earlier one has read" in text
    assert "3 read, 0 removed before, 0 failed" in text


def test_what_the_shadow_cannot_read_is_counted_and_holds_nothing_back(
    shadowed: Shadowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = shadowed.bench
    removed, hanging, good = (bench.receive(radiograph(number)) for number in range(3))
    for _ in range(3):
        bench.work()
    bench.store.image_file(removed).unlink()

    def fail(*_: object) -> None:
        raise ValueError(PATIENT)

    assert shadowed.read()
    shadowed.own.begin(2, hanging)
    shadowed.own.begin(2, hanging)  # its process ended twice
    assert shadowed.read()
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", fail)
        assert shadowed.read()
    assert not shadowed.read()
    counts = shadow_store.shadow_counts(bench.config.state)
    assert (counts.read, counts.missed, counts.failed) == (0, 1, 2)
    shadowed.own.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    written_down = (bench.config.state / shadow_store.FILE).read_bytes()
    assert b"ValueError" in written_down, "the rows are in this file"
    assert PATIENT.split("^")[0].encode() not in written_down
    assert bench.store.image_file(good).exists()


@pytest.mark.parametrize(
    "trouble",
    [
        DecodingTimeError("x", "decoding took more than 60 s"),
        DecoderError("x"),
        WorkerError("a decoder process did not start"),
        OSError(24, "Too many open files"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trouble_of_the_machine_is_not_held_against_an_image_of_the_shadow(
    shadowed: Shadowed, chests: list[Dataset], monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    bench = shadowed.bench

    def fail(*_: object) -> None:
        raise trouble

    def counted() -> tuple[int, int]:
        counts = shadow_store.shadow_counts(bench.config.state)
        return counts.read, counts.failed

    for image in chests[:2]:
        bench.receive(image)
        bench.work()
    with monkeypatch.context() as patch:
        patch.setattr(Isolated, "call", fail)
        with pytest.raises(shadow._MachineError, match=r"was not read"):
            shadowed.read()
    assert counted() == (0, 0), "it waits"
    assert shadowed.read()
    assert counted() == (1, 0)
    with monkeypatch.context() as patch:
        patch.setattr(Isolated, "call", fail)
        for _ in range(2):
            with pytest.raises(shadow._MachineError):
                shadowed.read()
        assert shadowed.read()
    assert counted() == (1, 1), "it is tried once more, not for ever"


def test_a_damaged_shadow_database_is_begun_anew_and_a_restored_queue_is_followed(
    bench: Bench, second: Reader
) -> None:
    bench.receive(radiograph())
    bench.work()
    path = bench.config.state / shadow_store.FILE
    path.write_bytes(b"no database at all" * 500)
    anew = Shadowed(bench, second)
    assert not anew.read(), "it begins with the next image"
    bench.receive(radiograph(1))
    bench.work()
    assert anew.read()
    anew.close()
    bench.store.db.execute("DELETE FROM readings WHERE number = 2")  # as a restored backup
    bench.receive(radiograph(2))
    again = Shadowed(bench, second)
    bench.work()
    assert again.read()
    again.close()


def test_kappa_and_shares_of_calls_are_those_of_scikit_learn() -> None:
    draws = np.random.default_rng(0)
    ours = draws.random(200) < 0.3
    theirs = np.where(draws.random(200) < 0.8, ours, ~ours)
    calls = [(str(int(a)), str(int(b))) for a, b in zip(ours, theirs, strict=True)]
    patients = [(Week(2026, 10), bytes([number])) for number in range(201)]
    found = agreements._of_finding([*calls, ("-", "1")], np.zeros(201), patients)
    assert found.kappa == pytest.approx(cohen_kappa_score(ours, theirs))
    assert found.agreement[0] == pytest.approx((ours == theirs).mean())
    assert found.both + found.first + found.shadow + found.neither == 200
    interval = proportion_confint((ours == theirs).sum(), 200, 0.05, "wilson")
    assert found.agreement[1:] == pytest.approx(interval)


def test_ten_radiographs_of_a_patient_make_the_agreement_no_more_certain_than_one() -> None:
    calls = [("1", "1")] * 15 + [("0", "1")] * 5
    patients = [(Week(2026, 10), bytes([number])) for number in range(20)]
    once = agreements._of_finding(calls, np.zeros(20), patients)
    often = agreements._of_finding(calls * 10, np.zeros(200), patients * 10)
    assert often.agreement == pytest.approx(once.agreement)
    weeks = [(Week(2026, 10 + number % 10), bytes([number])) for number in range(200)]
    again = agreements._of_finding(calls * 10, np.zeros(200), weeks)
    assert again.agreement == pytest.approx(once.agreement), "the patients may be the same"


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


def test_a_disk_that_cannot_be_read_is_not_held_against_an_image(bench: Bench) -> None:
    bench.receive(radiograph())
    (path,) = bench.store.images.glob("*.dcm")
    kept = path.rename(path.with_suffix(".kept"))
    path.mkdir()  # what is read of it gives an error of the system
    bench.work()
    assert statistics.retrying(bench.store.db)[0]["reason"].endswith(f"'{path}'")
    path.rmdir()
    kept.rename(path)
    bench.work()
    assert bench.counts()[READ]["done"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="a file that another process cannot read")
def test_a_file_that_only_the_decoder_could_not_read_is_not_at_fault(tmp_path: Path) -> None:
    """The disk may be well again when it is looked at a second time."""
    path, content, number = tmp_path / "image.dcm", written(radiograph()), 900
    path.write_bytes(content)
    decoder = image_decoding.decoder(32, 120)
    with path.open("rb") as file:
        os.dup2(file.fileno(), number, inheritable=False)  # no process that is started inherits it
    try:
        own = Path(f"/proc/self/fd/{number}")
        with pytest.raises(FileNotFoundError):
            image_decoding.decoded(decoder, "1.2.3", own, hashlib.sha256(content).hexdigest())
    finally:
        decoder.close()
        os.close(number)


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
    assert file not in reads, "only the decoder process reads it"
    assert len(calls) == 1
    assert not decodes, "only the decoder process decodes"
    path, digest = calls[0][1]
    image_decoding.decode(32, path.read_bytes(), digest)
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
