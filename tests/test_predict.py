from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import chestxray
from chestxray.cli.predict import predict as predict_verb
from chestxray.dataset.store import Dataset
from chestxray.errors import ArtifactError, ImageError, Notice, SourceError
from chestxray.evaluation import predictions
from chestxray.reading import decoding
from chestxray.reading.gate.notices import in_words
from chestxray.reading.inputs import DatasetFilms, FileFilms, films
from chestxray.reading.predict import check_out, predict
from chestxray.reading.predictions_writer import Rows
from chestxray.reading.reader import Reader


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return chestxray.load(run / "bundle", "torch")


@pytest.fixture
def many(phantoms: Path, tmp_path: Path) -> Path:
    """A folder of 200 names of phantoms, every ninth of them broken."""
    out = tmp_path / "films"
    out.mkdir()
    originals = sorted((phantoms / "images_001/images").iterdir())
    for number in range(200):
        path = out / f"{number:05d}.png"
        if number % 9 == 4:
            path.write_text("words, and a\nsecond line", encoding="utf-8")
        else:
            path.hardlink_to(originals[number % len(originals)])
    return out


# Reads as the command does, but slowly, so that there is a middle to be killed in.
SLOW = """
import sys, time
from pathlib import Path
import chestxray
from chestxray.reading import rows
from chestxray.reading.films import films
from chestxray.reading.predict import predict

if __name__ == "__main__":
    rows._SECONDS_BETWEEN_SYNCS = 0
    reader = chestxray.load(sys.argv[1], "torch")
    read = reader.read_films
    def slowly(batch):
        time.sleep(float(sys.argv[4]))
        return read(batch)
    reader.read_films = slowly
    predict(reader, films([Path(sys.argv[2])], None, reader.bundle.card), Path(sys.argv[3]), True)
"""


def test_a_run_killed_in_the_middle_goes_on_to_the_same_bytes(run, many, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW, encoding="utf-8")

    def command(out: str, seconds: float) -> list[str]:
        arguments = (run / "bundle", many, tmp_path / out / "predictions.csv", seconds)
        return [sys.executable, str(script), *map(str, arguments)]

    journal = tmp_path / "killed/.predictions.csv.journal"
    with subprocess.Popen(command("killed", 0.5)) as process:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed/predictions.csv").exists()
    part = tmp_path / "killed/.predictions.csv.part"
    with part.open("ab") as file:
        file.write(b"00200.png,0.5,torn")
    for out in ("killed", "whole"):
        result = subprocess.run(command(out, 0), check=True, capture_output=True, text=True)
        assert "predict: 200/200" in result.stderr
        assert ("rows are there from before and are kept" in result.stderr) == (out == "killed")
    files = ["heatmaps.json", "heatmaps.npy", "predictions.csv"]
    for out in ("killed", "whole"):
        assert sorted(path.name for path in (tmp_path / out).iterdir()) == files
    for name in files:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    table = predictions.read(tmp_path / "killed/predictions.csv")
    assert table["Image Index"].tolist() == [f"{number:05d}.png" for number in range(200)]
    assert table.index[table["status"] != "ok"].tolist() == list(range(4, 200, 9))


def small_table(names: list[str]) -> pd.DataFrame:
    table = predictions.table(names, np.full((len(names), 14), 0.25))
    return table.assign(called="", model="a model")


def test_rows_of_another_plan_are_thrown_away_and_of_the_same_kept(tmp_path):
    out = tmp_path / "predictions.csv"
    with Rows(out, "a", "torch", None) as rows:
        rows.add(small_table(["1.png", "2.png"]), np.zeros(0, np.float16))
        rows._sync()
        rows.add(small_table(["3.png"]), np.zeros(0, np.float16))  # never synced
    with Rows(out, "a", "torch", None) as rows:
        assert rows.done == 2
    with Rows(out, "b", "torch", None) as rows:
        assert rows.done == 0
        rows.add(small_table(["9.png"]), np.zeros(0, np.float16))
        rows.finish()
    assert predictions.read(out)["Image Index"].tolist() == ["9.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_a_part_that_is_shorter_than_its_journal_says_is_begun_anew(tmp_path):
    out = tmp_path / "predictions.csv"
    with Rows(out, "a", "torch", None) as rows:
        rows.add(small_table(["1.png"]), np.zeros(0, np.float16))
        rows._sync()
    part = tmp_path / ".predictions.csv.part"
    part.write_bytes(part.read_bytes()[:-1])
    with Rows(out, "a", "torch", None) as rows:
        assert rows.done == 0


def test_rows_by_another_engine_are_kept_for_it(tmp_path):
    out = tmp_path / "predictions.csv"
    with Rows(out, "a", "torch", None) as rows:
        rows.add(small_table(["1.png"]), np.zeros(0, np.float16))
        rows._sync()
    with pytest.raises(ArtifactError, match=r"1 rows .* by torch, this is OpenVINO.*--engine"):
        Rows(out, "a", "OpenVINO", None)
    with Rows(out, "a", "torch", None) as rows:
        assert rows.done == 1


def test_rows_thrown_away_are_told_of(tmp_path, caplog):
    out = tmp_path / "predictions.csv"
    with Rows(out, "a", "torch", None) as rows:
        rows.add(small_table(["1.png", "2.png"]), np.zeros(0, np.float16))
        rows._sync()
    with Rows(out, "b", "OpenVINO", None) as rows:
        assert rows.done == 0
    assert "its 2 rows were of other films" in caplog.text


def test_a_journal_that_is_none_begins_anew(tmp_path):
    (tmp_path / ".p.csv.journal").write_bytes(b"words\nand more\n")
    with Rows(tmp_path / "p.csv", "a", "torch", None) as rows:
        assert rows.done == 0


def test_going_on_without_heatmaps_leaves_none_behind(tmp_path):
    out = tmp_path / "predictions.csv"
    with Rows(out, "a", "torch", (2, 14, 1, 1)) as rows:
        rows.add(small_table(["1.png"]), np.zeros((1, 14, 1, 1), np.float16))
        rows._sync()
    with Rows(out, "a", "torch", None) as rows:
        assert rows.done == 1
        rows.add(small_table(["2.png"]), np.zeros(0, np.float16))
        rows.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_what_another_engine_began_keeps_its_heatmaps(tmp_path):
    out = tmp_path / "predictions.csv"
    with Rows(out, "a", "torch", (2, 14, 1, 1)) as rows:
        rows.add(small_table(["1.png"]), np.zeros((1, 14, 1, 1), np.float16))
        rows._sync()
    with pytest.raises(ArtifactError, match="by torch, this is OpenVINO"):
        Rows(out, "a", "OpenVINO", None)
    with Rows(out, "a", "torch", (2, 14, 1, 1)) as rows:
        assert rows.done == 1


def test_rows_without_heatmaps_are_begun_anew_with_them_by_the_same_engine_alone(tmp_path, caplog):
    out, shape = tmp_path / "predictions.csv", (2, 14, 1, 1)
    with Rows(out, "a", "torch", None) as rows:
        rows.add(small_table(["1.png"]), np.zeros(0, np.float16))
        rows._sync()
    with pytest.raises(ArtifactError, match="by torch, this is OpenVINO"):
        Rows(out, "a", "OpenVINO", shape)
    with Rows(out, "a", "torch", shape) as rows:
        assert rows.done == 0
    assert "its 1 rows have no heatmaps" in caplog.text


def test_two_at_once_do_not_write_one_file(tmp_path):
    with (
        Rows(tmp_path / "p.csv", "a", "torch", None),
        pytest.raises(ArtifactError, match="another predict"),
        Rows(tmp_path / "p.csv", "a", "torch", None),
    ):
        pass


def test_a_changed_file_is_another_plan(reader, many):
    before = films([many], None, reader.bundle.card)
    told = before.fingerprint
    assert told == films([many], None, reader.bundle.card).fingerprint
    os.utime(many / "00004.png", (1, 1))
    assert told != before.fingerprint


def test_a_file_that_hangs_costs_its_own_row_alone(reader, phantoms, tmp_path):
    good = sorted((phantoms / "images_001/images").iterdir())[:3]
    fifo = tmp_path / "hangs.png"  # opening a pipe into which nobody writes waits for ever
    os.mkfifo(fifo)
    chosen = FileFilms((good[0], fifo, *good[1:]), reader.size, seconds=2)
    unread = predict(reader, chosen, tmp_path / "out" / "predictions.csv")
    assert unread.failed == {"hangs.png": "decoding took more than 2 s"}
    assert len(predictions.read(tmp_path / "out/predictions.csv")) == 4


def test_stopping_does_not_wait_for_a_file_that_hangs(reader, phantoms, tmp_path):
    good = next((phantoms / "images_001/images").iterdir())
    fifo = tmp_path / "hangs.png"
    os.mkfifo(fifo)
    batches = FileFilms((good, fifo), reader.size, seconds=600).batches(1)
    next(batches)
    batches.close()  # as Ctrl-C does


def test_a_decoder_that_dies_of_a_file_is_replaced(phantoms, tmp_path):
    """Killed from outside, as a crash in a codec or the kernel's memory killer would."""
    (good,) = sorted((phantoms / "images_001/images").iterdir())[:1]
    fifo = tmp_path / "hangs.png"
    os.mkfifo(fifo)
    decoder = decoding.Decoder(32)
    assert not isinstance(decoder.load(good), ImageError)
    process = decoder._process
    assert process is not None
    killer = threading.Timer(0.5, process.kill)
    killer.start()
    found = decoder.load(fifo)
    assert isinstance(found, ImageError)
    assert "died" in found.reason
    assert not isinstance(decoder.load(good), ImageError)
    decoder.close()


def test_a_decoder_that_died_idle_costs_no_file(phantoms):
    good = next((phantoms / "images_001/images").iterdir())
    decoder = decoding.Decoder(32)
    decoder.start()
    assert decoder._process is not None
    decoder._process.kill()
    decoder._process.join()
    assert not isinstance(decoder.load(good), ImageError)
    decoder.close()


def slow_echo(word: str, seconds: float) -> str:
    time.sleep(seconds)
    return word


class InterruptedCallError(Exception):
    pass


def test_an_interrupted_call_does_not_answer_the_next(monkeypatch):
    """Else the next file would get this one's image."""
    echo = decoding.Isolated(slow_echo, 60)
    pipe = echo.start()

    def interrupt(_: float) -> bool:
        raise InterruptedCallError

    monkeypatch.setattr(pipe, "poll", interrupt, raising=False)
    with pytest.raises(InterruptedCallError):
        echo.call("a", "of a", 0)
    assert echo.call("b", "of b", 0) == "of b"
    echo.close()


def test_a_file_that_takes_all_memory_costs_its_own_row_alone():
    takes = decoding.Isolated(bytearray, 60)
    with pytest.raises(ImageError, match="more than 4 GB of memory"):
        takes.call("a", 6 * 2**30)
    assert takes.call("b", 3) == bytearray(3)
    takes.close()


def test_what_a_decoder_fails_of_is_told_by_its_kind_and_quotes_nothing(capfd):
    number = decoding.Isolated(int, 60)
    with pytest.raises(ImageError, match=r"failed on it \(ValueError\)") as caught:
        number.call("a", "DOE^JANE")
    assert number.call("b", "7") == 7
    number.close()
    assert "DOE" not in str(caught.value) + "".join(capfd.readouterr())


class Upload:
    pass


gone: list[bool] = []


def watch(upload: Upload | None) -> list[bool]:
    """Look a little after the answer whether the upload is still there; then tell."""
    if upload is not None:
        held = weakref.ref(upload)
        threading.Timer(0.2, lambda: gone.append(held() is None)).start()
    return gone


def test_a_decoder_keeps_no_upload_after_its_answer():
    decoder = decoding.Isolated(watch, 60)
    decoder.call("a", Upload())
    end = time.monotonic() + 30
    while not (found := decoder.call("b", None)):
        assert time.monotonic() < end
        time.sleep(1)
    assert found == [True]
    decoder.close()


def no_model(*_: object) -> None:
    raise AssertionError("the model is loaded")


@pytest.mark.parametrize("case", ["absent", "twice", "folder", "labels", "gzip"])
def test_the_command_looks_at_all_it_is_given_before_it_loads(
    run, many, phantoms, tmp_path, monkeypatch, case
):
    monkeypatch.setattr(chestxray, "load", no_model)
    labels = tmp_path / "labels.csv"
    labels.write_text("Image Index,Finding Labels\n1.png,Mass\n", encoding="utf-8")
    inputs, out, told = {
        "absent": ([tmp_path / "no"], tmp_path / "p.csv", "does not exist"),
        "twice": ([phantoms, phantoms], tmp_path / "p.csv", "more than once"),
        "folder": ([many], tmp_path, "is a folder"),
        "labels": ([many], labels, "no table of predictions.*another --out"),
        "gzip": ([many], tmp_path / "p.csv.gz", "must end in .csv"),
    }[case]
    with pytest.raises(SourceError, match=told):
        predict_verb(run / "bundle", inputs, out)
    assert labels.read_text(encoding="utf-8").endswith("Mass\n")


def test_earlier_predictions_are_overwritten_and_nothing_else_is(tmp_path):
    out = tmp_path / "p.csv"
    check_out(out)
    predictions.write(out, small_table(["1.png"]))  # without the columns of today
    check_out(out)
    for content in ("", "words", "Image Index,prob_Mass\n1.png,0.5\n"):
        out.write_text(content, encoding="utf-8")
        with pytest.raises(SourceError, match="alone is overwritten"):
            check_out(out)


def test_reasons_tell_what_refuses_from_what_only_warns():
    notices = [
        Notice("view-unknown", "no view is told"),
        Notice("blank", "nothing to see", refuses=True),
    ]
    assert in_words(notices) == "blank: nothing to see; warning: view-unknown: no view is told"


# `re` holds the interpreter's lock, as some codecs do: no thread of the process can end it.
ORPHAN = """
import re, sys
from chestxray.reading import decoding

if __name__ == "__main__":
    decoder = decoding.Isolated(re.match, 1)
    decoder.start()
    print(decoder._process.pid, flush=True)
    sys.stdin.readline()
    decoder.call("a", "(a+)+b", "a" * 64)
"""


def test_a_decoder_that_hangs_does_not_outlive_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN, encoding="utf-8")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(script)], **pipes, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        child = Path("/proc", process.stdout.readline().strip())
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(0.5)
        process.kill()
    end = time.monotonic() + 30
    while child.exists() and "State:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_memory_does_not_grow_with_the_films(reader, dataset, tmp_path):
    """Twenty thousand rows, whose images alone would fill 200 MB at once, take less than 40."""
    rows = np.resize(np.arange(len(dataset.images)), 20_000)
    index = dataset.index.iloc[rows].assign(image=[f"{n:06d}.png" for n in range(len(rows))])
    images = np.broadcast_to(dataset.images[0], (len(rows), 32, 32))
    big = Dataset(dataset.folder, dataset.manifest, index, images, dataset.boxes)
    shape = reader.read_batch(dataset.images[:1])[1].shape[1:]

    class Still:
        bundle, findings, size, engine = reader.bundle, reader.findings, reader.size, reader.engine
        call = reader.call

        def read_batch(self, batch):
            return np.full((len(batch), 14), 0.5), np.zeros((len(batch), *shape), np.float32)

    few = DatasetFilms(big, np.arange(64, dtype=np.int64))
    predict(Still(), few, tmp_path / "few.csv", with_heatmaps=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    every = DatasetFilms(big, np.arange(len(rows), dtype=np.int64))
    predict(Still(), every, tmp_path / "all.csv", with_heatmaps=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024
    assert np.load(tmp_path / "heatmaps.npy", mmap_mode="r").shape == (len(rows), *shape)
