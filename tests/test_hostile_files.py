"""Files of strangers that are too long, packed too well, or no files: refused in a sentence."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from chestxray import artifacts, plain_yaml, table_limits
from chestxray.errors import ArtifactError, PredictionsError, RecipeError, SourceError
from chestxray.evaluation import predictions
from chestxray.reporting.run_files import RunFiles
from chestxray.sources.table_files import text_table, titles
from chestxray.training.recipe import load


def _sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_json_of_a_terabyte_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    path = _sparse(tmp_path / "bundle.json", 2**40)
    with pytest.raises(ArtifactError, match=r"bundle\.json is longer than 64 MB"):
        artifacts.read_json(path, "chestxray train")


def test_a_recipe_of_a_terabyte_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    path = _sparse(tmp_path / "recipe.yaml", 2**40)
    with pytest.raises(RecipeError, match="at most 400000 are allowed"):
        load(str(path))


def test_the_longest_number_in_yaml_is_parsed_in_seconds() -> None:
    number = "5:" * (plain_yaml.LONGEST // 2 - 1) + "5"  # to the base 60: the square of its length
    began = time.process_time()
    plain_yaml.load(number)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "content",
    [
        b"a" * 2**20 * 257,
        pytest.param(b"a.png,1,Effusion\n" * (2**20 * 16), marks=pytest.mark.slow),
    ],
)
def test_a_label_table_that_unpacks_without_end_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.csv.gz"
    path.write_bytes(gzip.compress(b"image,patient,labels\n" + content, 1))
    with pytest.raises(SourceError, match="more than 256 MB unpacked"):
        text_table(path)


def _repeating(path: Path, rows: int, cell: str) -> Path:
    cells = pa.array([cell]).take(pa.array(np.zeros(rows, np.int64)))
    table = pa.table({"Image Index": cells, "prob_Mass": np.zeros(rows)})
    parquet.write_table(table, path, compression="zstd")
    return path


def test_a_parquet_table_that_repeats_long_cells_is_refused(tmp_path: Path) -> None:
    path = _repeating(tmp_path / "labels.parquet", 3000, "a" * 2**17)
    assert path.stat().st_size < 2**20
    with pytest.raises(SourceError, match="more than 256 MB unpacked"):
        text_table(path)
    with pytest.raises(PredictionsError, match="more than 256 MB unpacked"):
        predictions.read(path)


def test_a_parquet_table_of_categories_counts_what_its_cells_hold(tmp_path: Path) -> None:
    """Arrow keeps a category once, whatever its number of cells; who reads the cells does not."""
    path = tmp_path / "labels.parquet"
    categories = pa.DictionaryArray.from_arrays(np.zeros(3000, np.int32), ["a" * 2**17])
    parquet.write_table(pa.table({"Image Index": categories, "prob_Mass": np.zeros(3000)}), path)
    with pytest.raises(SourceError, match="more than 256 MB unpacked"):
        text_table(path)
    with pytest.raises(PredictionsError, match="more than 256 MB unpacked"):
        predictions.read(path)
    lists = pa.ListArray.from_arrays(np.arange(3001, dtype=np.int32), categories)
    parquet.write_table(pa.table({"Image Index": lists}), path)
    with pytest.raises(SourceError, match="categories inside"):
        text_table(path)


def test_categories_are_read_as_their_texts(tmp_path: Path) -> None:
    table = pd.DataFrame({"image": ["a.png", "b.png"], "view": pd.Categorical(["PA", None])})
    table.to_parquet(tmp_path / "t.parquet", index=False)
    assert text_table(tmp_path / "t.parquet")["view"].tolist() == ["PA", ""]
    assert table_limits.read_parquet(tmp_path / "t.parquet")["view"].to_pylist() == ["PA", None]


def test_a_parquet_table_of_very_many_cells_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_limits, "_MOST_CELLS", 1000)
    with pytest.raises(SourceError, match="more than 1,000 cells"):
        text_table(_repeating(tmp_path / "labels.parquet", 1001, "a"))


def test_a_parquet_table_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"image": [f"{i}.png" for i in range(3000)], "age": [1.5, np.nan, 3] * 1000, "n": 7}
    )
    table.to_parquet(tmp_path / "t.parquet", index=False)
    found = table_limits.read_parquet(tmp_path / "t.parquet").to_pandas()
    pd.testing.assert_frame_equal(found, pd.read_parquet(tmp_path / "t.parquet"))


@pytest.mark.parametrize("name", ["labels.csv", "labels.csv.gz", "labels.parquet"])
def test_a_pipe_as_a_table_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(SourceError, match="not a regular file"):
        text_table(tmp_path / name)
    with pytest.raises(PredictionsError, match="not a regular file"):
        predictions.read(tmp_path / name)
    with pytest.raises(SourceError, match="not a regular file"):
        titles(tmp_path / name)
    assert not predictions.is_table(tmp_path / name)


@pytest.mark.parametrize("name", ["recipe.yaml", "history.csv"])
def test_a_run_whose_texts_are_not_utf8_or_no_files_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / name).write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="is not UTF-8"):
        RunFiles.read(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ArtifactError, match="not a regular file"):
        RunFiles.read(tmp_path)


def test_words_of_a_file_are_no_commands_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("a\x1b]0;title\x07\x1b[31m,b\n1,2\n")
    command = [sys.executable, "-m", "chestxray", "verify", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"\\x1b[31m" in done.stderr
    assert b"\x1b" not in done.stderr
    assert b"\x07" not in done.stderr
