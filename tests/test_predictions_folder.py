"""A folder of predictions holds the rows of a table, whatever interrupts it, and is read as one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import chestxray
from chestxray.artifacts import read_json, write_json
from chestxray.dataset import packing
from chestxray.dataset.store import Dataset
from chestxray.errors import ArtifactError, PredictionsError, SourceError
from chestxray.evaluation import evaluate, predictions
from chestxray.evaluation.predictions_folder import (
    is_whole,
    plan_of_shard,
    shard_of,
    write_shard,
)
from chestxray.execution import EXECUTION, Execution, NodeShare, Stage
from chestxray.reading.prediction import predict
from chestxray.reading.reader import Reader

ROWS = 32  # of a shard in these tests, one batch


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return chestxray.load(run / "bundle", "torch")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chestxray.reading.sharded_prediction.SHARD", ROWS)


@pytest.fixture
def mixed(phantoms: Path, tmp_path: Path) -> Path:
    """70 files, of which every ninth is no radiograph."""
    out = tmp_path / "radiographs"
    out.mkdir()
    originals = sorted((phantoms / "images_001/images").iterdir())
    for number in range(70):
        path = out / f"{number:05d}.png"
        if number % 9 == 4:
            path.write_text("words", encoding="utf-8")
        else:
            path.hardlink_to(originals[number])
    return out


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_a_folder_has_the_rows_of_a_table_in_their_order_failures_included(reader, mixed, tmp_path):
    table = predict(reader, mixed, tmp_path / "p.parquet")
    folder = predict(reader, mixed, tmp_path / "predictions")
    assert sorted(hashes(folder.path)) == [
        "00000.parquet",
        "00001.parquet",
        "00002.parquet",
        "predictions.json",
    ]
    ours, theirs = (predictions.read(of.path) for of in (folder, table))
    assert ours.findings == theirs.findings
    # Batches begin anew with each shard, which moves the last digits.
    pd.testing.assert_frame_equal(ours.rows, theirs.rows, rtol=1e-5)
    assert (folder.read, folder.refused, folder.failed) == (table.read, table.refused, table.failed)
    assert len(folder.failed) == 8


def test_an_interrupted_folder_keeps_its_shards_and_ends_in_the_same_bytes(reader, mixed, tmp_path):
    out = predict(reader, mixed, tmp_path / "predictions").path
    whole = hashes(out)
    (out / "predictions.json").unlink()
    (out / "00001.parquet").write_bytes((out / "00001.parquet").read_bytes()[:1000])
    (out / ".00002.0.tmp.parquet").write_bytes(b"of a killed process")
    kept = (out / "00002.parquet").stat().st_mtime_ns
    with pytest.raises(PredictionsError, match=r"predictions is unfinished: run the same `chest"):
        predictions.read(out)
    predict(reader, mixed, out)
    assert hashes(out) == whole
    assert (out / "00002.parquet").stat().st_mtime_ns == kept


def test_shards_of_other_inputs_are_replaced_and_another_engine_is_refused(
    reader, mixed, tmp_path, caplog
):
    out = predict(reader, mixed, tmp_path / "predictions").path
    for path in sorted(mixed.iterdir())[:40]:
        path.unlink()
    assert predict(reader, mixed, out).rows == 30
    assert len(predictions.read(out).rows) == 30
    assert "is restarted: 3 of its shards were not whole, or of other inputs" in caplog.text

    class Named:
        name, run = "another engine", reader.engine.run

    (out / "predictions.json").unlink()
    with pytest.raises(ArtifactError, match="predictions must not mix engines"):
        predict(Reader(reader.bundle, Named()), mixed, out)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_shard_with_a_damaged_page_is_made_again_and_not_put_into_the_manifest(
    reader, mixed, tmp_path
):
    out = predict(reader, mixed, tmp_path / "predictions", force=True).path
    whole, shard = hashes(out), out / "00001.parquet"
    group = parquet.read_metadata(shard).row_group(0)
    numbers = next(
        column
        for column in map(group.column, range(group.num_columns))
        if column.physical_type == "DOUBLE"
    )
    flip(shard, numbers.data_page_offset + numbers.total_compressed_size - 10)
    predict(reader, mixed, out, force=True)
    assert hashes(out) == whole
    predictions.read(out)


def test_wherever_a_bit_of_a_shard_flips_it_is_not_whole_or_has_the_same_rows(
    reader, mixed, tmp_path
):
    shard = predict(reader, mixed, tmp_path / "predictions").path / "00001.parquet"
    rows, by, content = parquet.read_table(shard), plan_of_shard(shard), shard.read_bytes()
    assert is_whole(shard)
    noticed = 0
    for place in range(4, len(content), 41):
        flip(shard, place)
        kept = is_whole(shard)
        assert not kept or (parquet.read_table(shard).equals(rows) and by == plan_of_shard(shard))
        noticed += not kept
        shard.write_bytes(content)
    assert noticed > 10


def test_a_late_copy_of_a_shard_replaces_none_of_the_same_plan(tmp_path):
    path = tmp_path / "00000.parquet"
    first, late = (pa.table({"status": ["ok"], "Effusion": [value]}) for value in (0.5, 0.5 + 1e-9))
    write_shard(path, first, "a plan", "torch")
    described = shard_of(path)
    write_shard(path, late, "a plan", "torch")
    assert shard_of(path) == described
    write_shard(path, late, "another plan", "torch")
    assert plan_of_shard(path) == ("another plan", "torch")
    assert [file.name for file in tmp_path.iterdir()] == ["00000.parquet"]


def test_a_folder_is_evaluated_as_a_table_is(reader, dataset: Dataset, tmp_path):
    table = predict(reader, dataset, tmp_path / "p.csv", split="test")
    folder = predict(reader, dataset, tmp_path / "run" / "predictions", split="test")
    results = [
        evaluate(of, dataset, resamples=20).model_dump(exclude={"predictions"})
        for of in (table.path, folder.path, folder.path.parent)
    ]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"has \d+ bytes, not \d+"),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "was altered"),
    ],
)
def test_a_damaged_shard_is_refused_with_what_mends_it(reader, mixed, tmp_path, harm, said):
    out = predict(reader, mixed, tmp_path / "predictions").path
    harm(out / "00001.parquet")
    with pytest.raises(PredictionsError, match=rf"00001.parquet {said}: remove it and predictions"):
        predictions.read(out)


def test_a_folder_of_other_files_heatmaps_or_a_table_of_a_cluster_are_refused(
    reader, run, mixed, tmp_path
):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(SourceError, match=r"is a folder with other files, such as mine.txt"):
        predict(reader, mixed, tmp_path / "notes")
    with pytest.raises(SourceError, match="heatmaps belong to one table"):
        predict(reader, mixed, tmp_path / "p", heatmaps=True)
    with pytest.raises(SourceError, match=r"a Ray cluster writes a folder of shards, not p.csv"):
        predict(run / "bundle", mixed, tmp_path / "p.csv", cluster="local")
    with pytest.raises(SourceError, match="give the folder of the bundle instead of a reader"):
        predict(reader, mixed, tmp_path / "p", cluster="local")


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from chestxray.cli.main import main
main()
"""


def test_without_ray_a_cluster_names_what_to_install_and_nothing_else_needs_it(phantoms, tmp_path):
    def prepare(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
        words = ["prepare", str(phantoms), str(out), "--size", "32", *more]
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_RAY, *words], capture_output=True, text=True, check=False
        )

    asked = prepare(tmp_path / "asked", "--cluster", "local")
    assert asked.returncode == 1
    assert "ray is not installed: pip install 'chestxray[scale]'" in asked.stderr
    assert prepare(tmp_path / "asked").returncode == 0, "it resumes without"


def test_a_worker_refuses_folders_that_its_node_does_not_share(tmp_path):
    (tmp_path / "images").mkdir()
    absent, away = str(tmp_path / "a.png"), tmp_path / "away"
    packer = packing._Packer(32, tmp_path / "images", tmp_path)
    with pytest.raises(ArtifactError, match=r"a.png does not exist there: put the raw trees on"):
        packer(packing._Listed(0, (absent,), absent))
    packer = packing._Packer(32, away, tmp_path)
    with pytest.raises(ArtifactError, match=r"away does not exist there: name an output folder"):
        packer(packing._Listed(0, (absent,), ""))


def stage(name: str, node: str) -> Stage:
    share = NodeShare(node=node, shards=3, images=3072, seconds=61.5)
    return Stage(
        stage=name,
        engine="Ray 2.60.0",
        cluster="ray://head:10001",
        seconds_to_start=2.5,
        seconds=40.0,
        workers_lost=1,
        nodes=(share,),
    )


@pytest.mark.slow
def test_results_carry_what_ran_where_and_the_report_shows_it(reader, dataset: Dataset, tmp_path):
    out = predict(reader, dataset, tmp_path / "predictions", split="test").path
    Execution(stages=(stage("predict", "east/1a2b3c"),)).write(out)
    evaluate(out, dataset, resamples=20, out=tmp_path / "evaluation")
    found = Execution.read(tmp_path / "evaluation")
    assert [each.stage for each in found.stages] == ["predict"]
    page = chestxray.report(tmp_path / "evaluation").read_text(encoding="utf-8")
    assert "What ran where" in page
    assert "east/1a2b3c" in page
    assert "1 worker lost" in page
    (tmp_path / "evaluation" / EXECUTION).unlink()
    page = chestxray.report(tmp_path / "evaluation").read_text(encoding="utf-8")
    assert "What ran where" not in page
    write_json(out / EXECUTION, read_json(out / EXECUTION, "") | {"format": 9})
    with pytest.raises(ArtifactError, match="does not say what ran where in the format of this"):
        Execution.read(out)


def test_probabilities_of_a_folder_are_those_of_single_batches(reader, mixed, tmp_path):
    rows = predictions.read(predict(reader, mixed, tmp_path / "p", force=True).path).rows
    names = list(predictions.probability_columns(reader.findings))
    readable = rows[rows["status"] == "ok"].set_index("Image Index")
    assert len(readable) == 62
    for image in ("00000.png", "00032.png", "00069.png"):  # one of each shard
        one = reader.read(mixed / image, force=True).probabilities
        found = readable.loc[image, names].to_numpy(float)
        np.testing.assert_allclose(found, list(one.values()), atol=1e-6)
