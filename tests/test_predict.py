from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import chestxray
from chestxray.dataset import decoding
from chestxray.dataset.store import Dataset
from chestxray.errors import ArtifactError, DecoderError, ImageError, Notice, SourceError
from chestxray.evaluation import predictions
from chestxray.evaluation.calibration import Calibration
from chestxray.findings import Findings
from chestxray.model.engines import Answer
from chestxray.reading import prediction
from chestxray.reading.explanation import explain
from chestxray.reading.gate.notices import in_words
from chestxray.reading.inputs import DatasetImages, RadiographFiles, find
from chestxray.reading.judged_image import load
from chestxray.reading.prediction import check_out, predict, predict_inputs
from chestxray.reading.predictions_writer import PredictionsWriter
from chestxray.reading.reader import Reader, opened
from chestxray.sources.nih import FINDINGS


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return chestxray.load(run / "bundle", "torch")


@pytest.fixture
def many(phantoms: Path, tmp_path: Path) -> Path:
    """A folder of 200 names of phantoms, every ninth of them broken."""
    out = tmp_path / "radiographs"
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
from chestxray.reading import predictions_writer
from chestxray.reading.prediction import predict

if __name__ == "__main__":
    predictions_writer._SECONDS_BETWEEN_SYNCS = 0
    reader = chestxray.load(sys.argv[1], "torch")
    run = reader.engine.run
    def slowly(images):
        time.sleep(float(sys.argv[4]))
        return run(images)
    reader.engine.run = slowly
    predict(reader, Path(sys.argv[2]), Path(sys.argv[3]), heatmaps=True)
"""


def test_a_run_killed_in_the_middle_resumes_to_the_same_bytes(
    reader, run, many, tmp_path, caplog, capfd
):
    script = tmp_path / "slow.py"
    script.write_text(SLOW, encoding="utf-8")
    arguments = (run / "bundle", many, tmp_path / "killed/predictions.csv", 0.5)
    command = [sys.executable, str(script), *map(str, arguments)]
    journal = tmp_path / "killed/.predictions.csv.journal"
    with subprocess.Popen(command) as process:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed/predictions.csv").exists()
    part = tmp_path / "killed/.predictions.csv.part"
    with part.open("ab") as file:
        file.write(b"00200.png,0.5,torn")
    for out in ("killed", "whole"):
        caplog.clear()
        predict(reader, many, tmp_path / out / "predictions.csv", heatmaps=True)
        assert "predict: 200/200" in capfd.readouterr().err
        assert ("resuming after" in caplog.text) == (out == "killed")
    files = ["heatmaps.json", "heatmaps.npy", "predictions.csv"]
    for out in ("killed", "whole"):
        assert sorted(path.name for path in (tmp_path / out).iterdir()) == files
    for name in files:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    table = predictions.read(tmp_path / "killed/predictions.csv").rows
    assert table["Image Index"].tolist() == [f"{number:05d}.png" for number in range(200)]
    assert table.index[table["status"] != "ok"].tolist() == list(range(4, 200, 9))


def small_table(names: list[str]) -> pd.DataFrame:
    table = predictions.table(names, np.full((len(names), 14), 0.25), FINDINGS)
    return table.rows.assign(
        called="", not_assessed="", operating_point="joint", model="a model", origin=""
    )


def test_rows_of_another_plan_are_thrown_away_and_of_the_same_kept(tmp_path):
    out = tmp_path / "predictions.csv"
    with PredictionsWriter(out, FINDINGS, "a", "torch", None) as writer:
        writer.add(small_table(["1.png", "2.png"]), np.zeros(0, np.float16))
        writer._sync()
        writer.add(small_table(["3.png"]), np.zeros(0, np.float16))  # never synced
    with PredictionsWriter(out, FINDINGS, "a", "torch", None) as writer:
        assert writer.done == 2
    with PredictionsWriter(out, FINDINGS, "b", "torch", None) as writer:
        assert writer.done == 0
        writer.add(small_table(["9.png"]), np.zeros(0, np.float16))
        writer.finish()
    assert predictions.read(out).rows["Image Index"].tolist() == ["9.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_a_part_that_is_shorter_than_its_journal_says_is_restarted(tmp_path):
    out = tmp_path / "predictions.csv"
    with PredictionsWriter(out, FINDINGS, "a", "torch", None) as writer:
        writer.add(small_table(["1.png"]), np.zeros(0, np.float16))
        writer._sync()
    part = tmp_path / ".predictions.csv.part"
    part.write_bytes(part.read_bytes()[:-1])
    with PredictionsWriter(out, FINDINGS, "a", "torch", None) as writer:
        assert writer.done == 0


def test_rows_by_another_engine_are_kept_for_it(tmp_path):
    out = tmp_path / "predictions.csv"
    with PredictionsWriter(out, FINDINGS, "a", "torch", None) as writer:
        writer.add(small_table(["1.png"]), np.zeros(0, np.float16))
        writer._sync()
    with pytest.raises(ArtifactError, match=r"1 row .* from torch, this is OpenVINO.*--engine"):
        PredictionsWriter(out, FINDINGS, "a", "OpenVINO", None)
    with PredictionsWriter(out, FINDINGS, "a", "torch", None) as writer:
        assert writer.done == 1


def test_rows_thrown_away_are_told_of(tmp_path, caplog):
    out = tmp_path / "predictions.csv"
    with PredictionsWriter(out, FINDINGS, "a", "torch", None) as writer:
        writer.add(small_table(["1.png", "2.png"]), np.zeros(0, np.float16))
        writer._sync()
    with PredictionsWriter(out, FINDINGS, "b", "OpenVINO", None) as writer:
        assert writer.done == 0
    assert "its 2 rows were of other inputs" in caplog.text


def test_a_damaged_journal_restarts(tmp_path):
    (tmp_path / ".p.csv.journal").write_bytes(b"words\nand more\n")
    with PredictionsWriter(tmp_path / "p.csv", FINDINGS, "a", "torch", None) as writer:
        assert writer.done == 0


def test_resuming_without_heatmaps_leaves_none_behind(tmp_path):
    out = tmp_path / "predictions.csv"
    with PredictionsWriter(out, FINDINGS, "a", "torch", (2, 14, 1, 1)) as writer:
        writer.add(small_table(["1.png"]), np.zeros((1, 14, 1, 1), np.float16))
        writer._sync()
    with PredictionsWriter(out, FINDINGS, "a", "torch", None) as writer:
        assert writer.done == 1
        writer.add(small_table(["2.png"]), np.zeros(0, np.float16))
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_what_another_engine_began_keeps_its_heatmaps(tmp_path):
    out = tmp_path / "predictions.csv"
    with PredictionsWriter(out, FINDINGS, "a", "torch", (2, 14, 1, 1)) as writer:
        writer.add(small_table(["1.png"]), np.zeros((1, 14, 1, 1), np.float16))
        writer._sync()
    with pytest.raises(ArtifactError, match="from torch, this is OpenVINO"):
        PredictionsWriter(out, FINDINGS, "a", "OpenVINO", None)
    with PredictionsWriter(out, FINDINGS, "a", "torch", (2, 14, 1, 1)) as writer:
        assert writer.done == 1


def test_rows_without_heatmaps_are_restarted_with_them_by_the_same_engine_alone(tmp_path, caplog):
    out, shape = tmp_path / "predictions.csv", (2, 14, 1, 1)
    with PredictionsWriter(out, FINDINGS, "a", "torch", None) as writer:
        writer.add(small_table(["1.png"]), np.zeros(0, np.float16))
        writer._sync()
    with pytest.raises(ArtifactError, match="from torch, this is OpenVINO"):
        PredictionsWriter(out, FINDINGS, "a", "OpenVINO", shape)
    with PredictionsWriter(out, FINDINGS, "a", "torch", shape) as writer:
        assert writer.done == 0
    assert "its 1 row was written without heatmaps" in caplog.text


def test_two_at_once_do_not_write_one_file(tmp_path):
    with (
        PredictionsWriter(tmp_path / "p.csv", FINDINGS, "a", "torch", None),
        pytest.raises(ArtifactError, match="another process"),
        PredictionsWriter(tmp_path / "p.csv", FINDINGS, "a", "torch", None),
    ):
        pass


def test_the_network_computes_a_batch_while_the_one_before_becomes_rows(
    reader, dataset, tmp_path, monkeypatch
):
    """The network's second batch does not end before the first batch is written."""
    written = threading.Event()

    class Waiting:
        name, batches = reader.engine.name, 0

        def run(self, images):
            self.batches += len(images) == 32
            if self.batches == 2:
                assert written.wait(60)
            return reader.engine.run(images)

    add = PredictionsWriter.add

    def noted(writer, *rows):
        add(writer, *rows)
        written.set()

    monkeypatch.setattr(PredictionsWriter, "add", noted)
    chosen = DatasetImages(dataset, np.arange(70, dtype=np.int64))
    predict_inputs(Reader(reader.bundle, Waiting()), chosen, tmp_path / "p.csv")
    monkeypatch.undo()
    predict_inputs(reader, chosen, tmp_path / "plain.csv")
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_a_failure_of_the_network_ends_the_run_and_keeps_the_rows_before(reader, dataset, tmp_path):
    class Failing:
        name, left = reader.engine.name, 2

        def run(self, images):
            if len(images) == 32:
                self.left -= 1
            if self.left < 0:
                raise RuntimeError("the third batch fails")
            return reader.engine.run(images)

    chosen = DatasetImages(dataset, np.arange(100, dtype=np.int64))
    with pytest.raises(RuntimeError, match="third batch"):
        predict_inputs(Reader(reader.bundle, Failing()), chosen, tmp_path / "p.csv")
    assert len((tmp_path / ".p.csv.part").read_text(encoding="utf-8").splitlines()) == 1 + 64
    assert len(predict_inputs(reader, chosen, tmp_path / "p.csv").failed) == 0


def test_decoders_start_before_the_model_is_loaded(run, phantoms, tmp_path, monkeypatch):
    films = sorted((phantoms / "images_001/images").iterdir())[:3]
    started = []

    def late(*given):
        end = time.monotonic() + 60
        while not multiprocessing.active_children() and time.monotonic() < end:
            time.sleep(0.05)
        started.extend(multiprocessing.active_children())
        return opened(*given)

    monkeypatch.setattr(prediction, "opened", late)
    predict(run / "bundle", films, tmp_path / "p.csv", engine="torch")
    assert started
    assert not any(process.is_alive() for process in started)


def test_a_changed_file_is_another_plan(reader, many):
    before = find([many], None, reader.bundle.card)
    told = before.fingerprint
    assert told == find([many], None, reader.bundle.card).fingerprint
    os.utime(many / "00004.png", (1, 1))
    assert told != before.fingerprint


def test_a_file_that_hangs_costs_its_own_row_alone(reader, phantoms, tmp_path):
    good = sorted((phantoms / "images_001/images").iterdir())[:3]
    fifo = tmp_path / "hangs.png"  # opening a pipe into which nobody writes waits for ever
    os.mkfifo(fifo)
    paths = (good[0], fifo, *good[1:])
    chosen = RadiographFiles(paths, [path.name for path in paths], reader.size, seconds=2)
    run = predict_inputs(reader, chosen, tmp_path / "out" / "predictions.csv")
    assert run.failed == {"hangs.png": "decoding took more than 2 s"}
    assert len(predictions.read(tmp_path / "out/predictions.csv").rows) == 4


def test_stopping_does_not_wait_for_a_file_that_hangs(reader, phantoms, tmp_path):
    good = next((phantoms / "images_001/images").iterdir())
    fifo = tmp_path / "hangs.png"
    os.mkfifo(fifo)
    batches = RadiographFiles((good, fifo), ["a", "b"], reader.size, seconds=600).batches(1)
    next(batches)
    batches.close()  # as Ctrl-C does


def test_the_first_batches_are_small_and_a_resumed_call_has_the_same_ones(reader, many):
    paths = tuple(sorted(many.iterdir()))[:100]
    files = RadiographFiles(paths, [path.name for path in paths], reader.size)
    assert [len(batch) for batch in files.batches(32)] == [4, 8, 16, 32, 32, 8]
    assert [len(batch) for batch in files.batches(32, start=28)] == [32, 32, 8]
    assert [len(batch) for batch in files.batches(32, start=20)] == [8, 32, 32, 8]
    assert not list(files.batches(32, start=100))


def test_a_decoder_that_dies_of_a_file_is_replaced(phantoms, tmp_path):
    """Killed from outside, as a crash in a codec or the kernel's memory killer would."""
    (good,) = sorted((phantoms / "images_001/images").iterdir())[:1]
    fifo = tmp_path / "hangs.png"
    os.mkfifo(fifo)
    decoder = decoding.Isolated(partial(load, size=32))
    assert decoder.call(good, good).image.shape == (32, 32)
    process = decoder._process
    assert process is not None
    killer = threading.Timer(0.5, process.kill)
    killer.start()
    with pytest.raises(DecoderError, match=r"hangs.png: the decoder ended unexpectedly"):
        decoder.call(fifo, fifo)
    assert decoder.call(good, good).image.shape == (32, 32)
    decoder.close()


def test_a_decoder_that_died_idle_costs_no_file(phantoms):
    good = next((phantoms / "images_001/images").iterdir())
    decoder = decoding.Isolated(partial(load, size=32))
    decoder.start()
    assert decoder._process is not None
    decoder._process.kill()
    decoder._process.join()
    assert decoder.call(good, good).image.shape == (32, 32)
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
    with pytest.raises(ImageError, match=r"failed on this file \(ValueError\)") as caught:
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


def doubled(path: Path) -> str:
    """Fail for some names, take longer for earlier ones."""
    if "bad" in path.name:
        raise ImageError(path, "bad")
    time.sleep(0.3 if path.name == "0" else 0)
    return path.name * 2


def test_a_pool_gives_results_and_errors_in_the_order_of_the_files():
    names = [str(n) if n % 3 else f"bad{n}" for n in range(1, 9)]
    with decoding.DecoderPool(doubled, 2) as pool:
        found = list(pool.map([Path("0"), *map(Path, names)], ahead=3))
    told = ["error" if isinstance(one, ImageError) else one for one in found]
    assert told == ["00", *(name * 2 if "bad" not in name else "error" for name in names)]


def test_a_pool_reads_no_further_ahead_than_asked():
    taken: list[int] = []

    def files():
        for n in range(100):
            taken.append(n)
            yield Path(str(n))

    with decoding.DecoderPool(doubled, 1) as pool:
        stream = pool.map(files(), ahead=4)
        assert next(stream) == "00"
        assert len(taken) == 5


def tree(folder: Path, original: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).hardlink_to(original)
    return folder


@pytest.fixture
def original(phantoms: Path) -> Path:
    return next((phantoms / "images_001/images").iterdir())


def keys(*inputs: Path, reader: Reader) -> list[str]:
    return list(find(list(inputs), None, reader.bundle.card).names)


def test_unique_file_names_are_the_keys(reader, original, tmp_path):
    a = tree(tmp_path / "a", original, "x/1.png", "y/2.png")
    assert keys(a, reader=reader) == ["1.png", "2.png"]


def test_repeated_file_names_are_told_apart_by_their_paths(reader, original, tmp_path):
    a = tree(tmp_path / "a", original, "P1/S1/IM1.png", "P1/S2/IM1.png", "P2/S1/IM2.png")
    expected = ["P1/S1/IM1.png", "P1/S2/IM1.png", "P2/S1/IM2.png"]
    assert keys(a, reader=reader) == expected
    run = predict(reader, a, tmp_path / "p.csv")
    assert predictions.read(run.path).rows["Image Index"].tolist() == expected


def test_equal_paths_in_two_folders_are_told_apart_by_the_folders(reader, original, tmp_path):
    a, b = (tree(tmp_path / name, original, "P1/1.png", "P2/1.png") for name in "ab")
    expected = ["a/P1/1.png", "a/P2/1.png", "b/P1/1.png", "b/P2/1.png"]
    assert keys(a, b, reader=reader) == expected


def test_folders_of_one_name_are_told_apart_by_their_full_paths(reader, original, tmp_path):
    a, b = (tree(tmp_path / name / "cd", original, "1.png") for name in "ab")
    assert keys(a, b, reader=reader) == [str(a / "1.png"), str(b / "1.png")]


def test_a_file_that_is_given_twice_is_read_once(reader, original, tmp_path):
    a = tree(tmp_path / "a", original, "x/1.png", "2.png")
    assert keys(a, a / "x", a / "2.png", reader=reader) == ["2.png", "1.png"]


def test_repeated_names_have_a_picture_each(reader, original, tmp_path):
    a = tree(tmp_path / "a", original, "P1/1.png", "P2/1.png")
    run = explain(reader, a, tmp_path / "out", findings=["Mass"])
    assert [path.relative_to(tmp_path / "out").as_posix() for path in run.pictures] == [
        "P1/1.png.findings.png",
        "P2/1.png.findings.png",
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_parquet_and_json_lines_hold_what_the_csv_file_holds(reader, many, tmp_path, suffix):
    some = sorted(many.iterdir())[:20]
    predict(reader, some, tmp_path / "p.csv", heatmaps=True)
    expected = pd.read_csv(tmp_path / "p.csv", keep_default_na=False, na_values={}).astype(str)
    out = tmp_path / "other" / f"p{suffix}"
    run = predict(reader, some, out, heatmaps=True)
    assert (run.path, run.rows, len(run.failed)) == (out, 20, 2)
    found = (
        pd.read_parquet(out)
        if suffix == ".parquet"
        else pd.DataFrame([json.loads(line) for line in out.read_text("utf-8").splitlines()])
    )
    assert found.columns.tolist() == expected.columns.tolist()
    for name in found.columns:
        if name.startswith("prob_"):
            theirs = pd.to_numeric(expected[name].replace("", None))
            assert np.array_equal(found[name].astype(float), theirs, equal_nan=True)
        else:
            assert found[name].tolist() == expected[name].tolist()
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "heatmaps.json",
        "heatmaps.npy",
        out.name,
    ]
    note = json.loads((out.parent / "heatmaps.json").read_text(encoding="utf-8"))
    assert note["predictions_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    check_out(out)  # it may be overwritten


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_other_parquet_and_json_files_are_not_overwritten(tmp_path, suffix):
    out = tmp_path / f"p{suffix}"
    for content in (b"", b"words", b'{"a": 1}\n', b"[1]\n"):
        out.write_bytes(content)
        with pytest.raises(SourceError, match="is not overwritten"):
            check_out(out)
    pd.DataFrame({"Image Index": ["1.png"]}).to_parquet(tmp_path / "q.parquet")
    assert not predictions.is_table(tmp_path / "q.parquet")


def test_a_model_of_one_finding_is_predicted_and_explained(reader, dataset, many, tmp_path):
    card = reader.bundle.card
    alone = Findings(["Mass"])
    k = reader.findings.index("Mass")
    one = card.model_copy(
        update={
            "findings": alone,
            "calibration": Calibration(calibrators={"Mass": card.calibration.calibrators["Mass"]}),
            "thresholds": {"Mass": card.thresholds["Mass"]},
            "heat_references": {"Mass": card.heat_references["Mass"]},
            "heat_scales": {"Mass": card.heat_scales["Mass"]},
        }
    )

    class OneFinding:
        name = reader.engine.name

        def run(self, images):
            logits, maps, features = reader.engine.run(images)
            return Answer(logits[:, k : k + 1], maps[:, k : k + 1], features)

    single = Reader(dataclasses.replace(reader.bundle, card=one), OneFinding())
    some = sorted(many.iterdir())[:6]
    run = predict(single, some, tmp_path / "p.csv", heatmaps=True)
    both = predict(reader, some, tmp_path / "all" / "p.csv")
    ours, theirs = (predictions.read(each.path).rows["prob_Mass"] for each in (run, both))
    assert np.allclose(ours, theirs, equal_nan=True)
    assert np.load(tmp_path / "heatmaps.npy").shape[:2] == (6, 1)
    assert len(explain(single, some[:1], tmp_path / "out").pictures) == 1
    assert explain(single, dataset, tmp_path / "set", split="test").findings == alone


def no_model(*_: object) -> None:
    raise AssertionError("the model is loaded")


@pytest.mark.parametrize("case", ["absent", "split", "folder", "labels", "gzip"])
def test_all_arguments_are_checked_before_the_model_is_loaded(
    run, many, tmp_path, monkeypatch, case
):
    monkeypatch.setattr("chestxray.reading.prediction.opened", no_model)
    labels = tmp_path / "labels.csv"
    labels.write_text("Image Index,Finding Labels\n1.png,Mass\n", encoding="utf-8")
    inputs, out, told = {
        "absent": ([tmp_path / "no"], tmp_path / "p.csv", "does not exist"),
        "split": ([many], tmp_path / "p.csv", "only possible with one dataset"),
        "folder": ([many], tmp_path, "is a folder"),
        "labels": ([many], labels, "not a table of predictions.*another --out"),
        "gzip": ([many], tmp_path / "p.csv.gz", "must end in .csv, .parquet or .jsonl"),
    }[case]
    with pytest.raises(SourceError, match=told):
        predict(run / "bundle", inputs, out, split="test" if case == "split" else None)
    assert labels.read_text(encoding="utf-8").endswith("Mass\n")


def test_earlier_predictions_are_overwritten_and_nothing_else_is(tmp_path):
    out = tmp_path / "p.csv"
    check_out(out)
    one = predictions.table(["1.png"], np.full((1, 14), 0.25), FINDINGS)
    predictions.write(out, one)  # without the columns that predict adds
    check_out(out)
    for content in ("", "words", "Image Index,Mass\n1.png,0.5\n"):
        out.write_text(content, encoding="utf-8")
        with pytest.raises(SourceError, match="is not overwritten"):
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
from chestxray.dataset import decoding

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


def test_memory_does_not_grow_with_the_radiographs(reader, dataset, tmp_path):
    """Twenty thousand rows, whose images alone would fill 200 MB at once, take less than 40."""
    rows = np.resize(np.arange(len(dataset.images)), 20_000)
    index = dataset.index.iloc[rows].assign(image=[f"{n:06d}.png" for n in range(len(rows))])
    images = np.broadcast_to(dataset.images[0], (len(rows), 32, 32))
    big = Dataset(dataset.folder, dataset.manifest, index, images, dataset.boxes)
    one = reader.engine.run(dataset.images[:1])
    shape = one.maps.shape[1:]

    class Still:
        name = reader.engine.name

        def run(self, images):
            return Answer(*(np.repeat(of, len(images), axis=0) for of in one))

    still = Reader(reader.bundle, Still())
    few = DatasetImages(big, np.arange(64, dtype=np.int64))
    predict_inputs(still, few, tmp_path / "few.csv", heatmaps=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    every = DatasetImages(big, np.arange(len(rows), dtype=np.int64))
    predict_inputs(still, every, tmp_path / "all.csv", heatmaps=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024
    assert np.load(tmp_path / "heatmaps.npy", mmap_mode="r").shape == (len(rows), *shape)
