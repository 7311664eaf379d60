"""A dataset is opened whole or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chestxray import parallel
from chestxray.dataset import Dataset, shards
from chestxray.dataset.manifest import BOXES, MANIFEST, UNFINISHED
from chestxray.dataset.pixels import canonical
from chestxray.dataset.preparation import prepare
from chestxray.dataset.split import INDEX
from chestxray.errors import ArtifactError
from chestxray.sources.nih import FINDINGS
from nih_tree import picture, write_tree

SHARD = "images/00001.npy"
BAD = 9


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images and a file gone bad, in shards of 8, 7 and 5."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 8)
        patch.setattr(parallel, "cores", lambda: 1)  # workers take seconds to start
        prepare(write_tree(folder / "raw", 21, (BAD,)), folder / "out", 16, "patient")
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


EXPECTED = np.stack([canonical(picture(row), 16) for row in range(21) if row != BAD])


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        np.int64(8),
        slice(None),
        slice(6, 9),
        slice(18, 2, -3),
        slice(5, 5),
        [3, 19, 3, 0],
        np.array([15, 14, 7, 8, 9, 0, 1], np.int64),
        np.arange(20) % 3 == 1,
        np.zeros(20, np.bool_),
        np.array([], np.int64),
    ],
    ids=str,
)
def test_shards_are_indexed_as_one_array_is(made, key):
    found = Dataset.open(made).images[key]
    assert found.dtype == np.uint8
    assert found.shape == EXPECTED[key].shape
    assert np.array_equal(found, EXPECTED[key])


@pytest.mark.parametrize(
    "key", [20, -21, [0, 20], np.ones(19, np.bool_), (slice(None), 0)], ids=str
)
def test_rows_that_are_not_there_are_an_index_error(made, key):
    with pytest.raises(IndexError):
        Dataset.open(made).images[key]


def test_images_have_the_length_shape_and_order_of_the_index(made):
    dataset = Dataset.open(made)
    assert [shard.images for shard in dataset.manifest.shards] == [8, 7, 5]
    assert dataset.images.shape == (len(dataset.index), 16, 16)
    assert len(dataset.images) == 20
    assert dataset.images.nbytes == EXPECTED.nbytes
    assert np.array_equal(np.asarray(dataset.images), EXPECTED)
    assert np.array_equal(np.stack(list(dataset.images)), EXPECTED)


def test_changing_what_images_give_does_not_change_the_dataset(made):
    images = Dataset.open(made).images
    images[0][:] = 0
    images[2:4][:] = 0
    assert np.array_equal(images[:], EXPECTED)
    with pytest.raises(TypeError, match="item assignment"):
        images[0] = 0


def test_opening_maps_no_shard_and_reading_maps_those_it_needs(made, monkeypatch):
    dataset = Dataset.open(made)
    opened = []
    load = np.load
    monkeypatch.setattr(
        np, "load", lambda path, **options: opened.append(path.name) or load(path, **options)
    )
    for _ in range(2):
        dataset.images[[0, 17, 3]]
    assert opened == ["00000.npy", "00002.npy"]


@pytest.mark.parametrize("name", [INDEX, SHARD, BOXES, MANIFEST])
def test_a_missing_file_is_refused_by_name(copy, name):
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} does not exist"):
        Dataset.open(copy)


def test_an_unfinished_dataset_is_refused_with_the_next_step(copy):
    (copy / MANIFEST).unlink()
    (copy / UNFINISHED).mkdir()
    with pytest.raises(ArtifactError, match="is unfinished: run `chestxray prepare` again"):
        Dataset.open(copy)


@pytest.mark.parametrize("name", [INDEX, BOXES])
def test_an_edited_table_is_refused(copy, name):
    table = pd.read_parquet(copy / name)
    table["image"] = table["image"].str.replace("1", "2")
    table.to_parquet(copy / name, index=False)
    with pytest.raises(ArtifactError, match=f"{name} was altered"):
        Dataset.open(copy)


def test_images_cut_short_are_refused(copy):
    with (copy / SHARD).open("r+b") as file:
        file.truncate((copy / SHARD).stat().st_size - 1)
    with pytest.raises(ArtifactError, match=r"bytes instead of"):
        Dataset.open(copy)


def test_images_of_another_shape_are_refused(copy):
    images = np.load(copy / SHARD)
    np.save(copy / SHARD, images.reshape(14, 8, 16))
    with pytest.raises(ArtifactError, match=r"\[14, 8, 16\] instead of uint8 \[7, 16, 16\]"):
        Dataset.open(copy)


def test_bytes_that_are_no_array_are_refused(copy):
    (copy / SHARD).write_bytes(bytes((copy / SHARD).stat().st_size))
    with pytest.raises(ArtifactError, match="is not an NPY array"):
        Dataset.open(copy)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": 19}, "names 19 images, but its shards hold 20"),
        ({"size": "big"}, "size"),
        ({"format": 1}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"sha256": {}}, "exactly index.parquet and boxes.parquet"),
        ({"sha256": {"/dev/zero": "0"}}, "exactly index.parquet and boxes.parquet"),
        *(
            ({"shards": [{"name": name, "images": 20, "bytes": 1, "sha256": ""}]}, "shards.0.name")
            for name in ("/dev/zero", "../00000.npy", "00000.npy/../../x", "a.npy", "00000.npy\n")
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy, change, reason):
    manifest = json.loads((copy / MANIFEST).read_text()) | change
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=reason):
        Dataset.open(copy)
