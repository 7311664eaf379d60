"""A dataset is opened whole or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chestxray.dataset.prepare import prepare
from chestxray.dataset.store import BOXES, IMAGES, INDEX, MANIFEST, UNFINISHED, Dataset
from chestxray.errors import ArtifactError
from chestxray.sources.nih import FINDINGS
from nih_tree import write_tree


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    prepare(write_tree(folder / "raw", 20), folder / "out", 16)
    return folder / "out"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def test_rows_of_the_parts_are_all_rows_once(made):
    dataset = Dataset.open(made)
    rows = np.concatenate([dataset.rows(part) for part in ("train", "val", "test")])
    assert rows.dtype == np.int64
    assert sorted(rows) == list(range(20))
    assert set(dataset.index["split"].iloc[dataset.rows("val")]) == {"val"}
    assert len(dataset.rows("nonsense")) == 0


def test_labels_keep_the_order_of_findings_and_what_is_unknown(made):
    dataset = Dataset.open(made)
    dataset.index.loc[3, "Hernia"] = np.nan
    labels = dataset.labels(np.array([7, 3]))
    assert labels.dtype == np.float32
    assert labels.shape == (2, 14)
    assert np.isnan(labels[1, FINDINGS.index("Hernia")])
    assert labels[0].tolist() == dataset.index.loc[7, list(FINDINGS)].tolist()


def test_images_are_mapped_and_cannot_be_written(made):
    images = Dataset.open(made).images
    assert isinstance(images, np.memmap)
    assert (images.shape, images.dtype) == ((20, 16, 16), np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


@pytest.mark.parametrize("name", [INDEX, IMAGES, BOXES, MANIFEST])
def test_a_missing_file_is_refused_by_name(copy, name):
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} does not exist"):
        Dataset.open(copy)


def test_an_unfinished_dataset_is_refused_with_the_next_step(copy):
    (copy / MANIFEST).unlink()
    (copy / UNFINISHED).mkdir()
    with pytest.raises(ArtifactError, match="is unfinished: run `chestxray prepare`"):
        Dataset.open(copy)


@pytest.mark.parametrize("name", [INDEX, BOXES])
def test_an_edited_table_is_refused(copy, name):
    table = pd.read_parquet(copy / name)
    table["image"] = table["image"].str.replace("1", "2")
    table.to_parquet(copy / name, index=False)
    with pytest.raises(ArtifactError, match=f"{name} was altered"):
        Dataset.open(copy)


def test_images_cut_short_are_refused(copy):
    with (copy / IMAGES).open("r+b") as file:
        file.truncate((copy / IMAGES).stat().st_size - 1)
    with pytest.raises(ArtifactError, match=r"bytes instead of"):
        Dataset.open(copy)


def test_images_of_another_shape_are_refused(copy):
    images = np.load(copy / IMAGES)
    np.save(copy / IMAGES, images.reshape(10, 32, 16))
    with pytest.raises(ArtifactError, match=r"\[10, 32, 16\] instead of uint8 \[20, 16, 16\]"):
        Dataset.open(copy)


def test_bytes_that_are_no_array_are_refused(copy):
    (copy / IMAGES).write_bytes(bytes((copy / IMAGES).stat().st_size))
    with pytest.raises(ArtifactError, match="is no array"):
        Dataset.open(copy)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": 19}, "does not fit"),
        ({"size": "big"}, "size"),
        ({"format": 2}, "format"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy, change, reason):
    manifest = json.loads((copy / MANIFEST).read_text()) | change
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=reason):
        Dataset.open(copy)
