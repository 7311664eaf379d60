"""Masks travel with the images: packed, checked, renewed, in the order of the index."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from chestxray import sources
from chestxray.dataset import Dataset, preparation, prepare, shards
from chestxray.dataset.combine import combine
from chestxray.dataset.masks import CELL, on_grid
from chestxray.dataset.verification import DatasetVerdict, verify
from chestxray.errors import ArtifactError
from chestxray.sources.phantom.tree import synth

SIZE = 64


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty phantoms, one image and one mask of which cannot be read."""
    out = synth(tmp_path_factory.mktemp("masks") / "raw", 20, pixels=96, seed=3, balanced=True)
    (out / "images_001/images/00000001_000.png").write_bytes(b"no image")
    masks = sorted((out / "masks").iterdir())
    masks[-1].write_bytes(b"no mask")
    return out


@pytest.fixture(scope="module")
def made(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 8)
        folder = tmp_path_factory.mktemp("masks") / "dataset"
        prepare(raw, folder, size=SIZE, allow_empty=True)
        yield folder


def test_each_row_has_the_masks_of_its_own_image_and_finding(raw, made):
    dataset = Dataset.open(made)
    masks = dataset.masks[np.arange(len(dataset.index))]
    side = SIZE // CELL
    assert masks.shape == (len(dataset.index), len(dataset.findings), side, side)
    assert masks.dtype == bool
    seen = 0
    for row, image in enumerate(dataset.index["image"]):
        for k, finding in enumerate(dataset.findings):
            path = raw / "masks" / f"{Path(image).stem}_{finding}.png"
            drawn = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.exists() else None
            if drawn is None or not drawn.any():
                assert not masks[row, k].any(), (image, finding)
                continue
            covered = cv2.resize(drawn, (side, side), interpolation=cv2.INTER_AREA) / 255
            assert np.array_equal(masks[row, k], covered >= covered.max() / 2 - 1e-9)
            seen += 1
    assert seen > 20


def test_a_present_finding_has_a_mask_and_an_absent_one_has_none(made):
    dataset = Dataset.open(made)
    rows = np.arange(len(dataset.index))
    has = dataset.masks[rows].any((2, 3))
    present = dataset.labels(rows) == 1
    assert not has[~present].any()
    assert has[present].mean() > 0.9


def test_a_mask_smaller_than_a_cell_is_not_lost():
    inside = np.zeros((64, 64), dtype=bool)
    inside[21, 42] = True
    assert np.argwhere(on_grid(inside, 16)).tolist() == [[5, 10]]


def test_a_mask_lies_in_the_canonical_square_of_its_image():
    tall = np.zeros((80, 40), dtype=bool)
    tall[:40] = True
    cells = on_grid(tall, 8)
    assert np.argwhere(cells).tolist() == [[y, x] for y in range(4) for x in range(2, 6)]


def test_a_mask_that_cannot_be_read_is_listed(raw, made):
    (found,) = [each for each in Dataset.open(made).manifest.problems if "mask" in each.code]
    assert (found.code, found.count, found.loses) == ("unreadable-mask", 1, True)
    assert max((raw / "masks").iterdir()).name in found.examples[0]


def test_masks_have_the_rows_of_the_shards_of_images(made):
    manifest = Dataset.open(made).manifest
    assert [shard.images for shard in manifest.masks] == [each.images for each in manifest.shards]
    assert len(manifest.masks) == 3


@pytest.mark.parametrize(
    "fault", ["altered", pytest.param("short", marks=pytest.mark.slow), "missing"]
)
def test_masks_that_were_damaged_are_found_and_made_again(raw, made, tmp_path, fault):
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    path, whole = copy / "masks/00001.npy", (made / "masks/00001.npy").read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        changed = whole[:-1] + bytes([whole[-1] ^ 1]) if fault == "altered" else whole[:-1]
        path.write_bytes(changed)
    verdict = verify(copy)
    assert isinstance(verdict, DatasetVerdict)
    assert [damage.file for damage in verdict.damages] == ["masks/00001.npy"]
    assert f"remove {path}" in verdict.damages[0].renew
    if fault == "altered":
        dataset = Dataset.open(copy)
        with pytest.raises(ArtifactError, match=r"masks/00001\.npy was altered"):
            dataset.check_shards([dataset.manifest.shards[1]])
    else:
        with pytest.raises(ArtifactError, match=r"masks/00001\.npy"):
            Dataset.open(copy)
    path.unlink(missing_ok=True)
    prepare(raw, copy, size=SIZE, allow_empty=True)
    assert path.read_bytes() == whole
    assert verify(copy).passed


def test_a_prepare_that_stopped_after_its_masks_resumes_to_the_same_bytes(
    raw, made, tmp_path, monkeypatch
):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "dataset"
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_manifest", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare(raw, out, size=SIZE, allow_empty=True)
    assert (out / ".prepare/masks/00002.npy").exists()
    assert not (out / "masks").exists()
    prepare(raw, out, size=SIZE, allow_empty=True)
    for name in ("dataset.json", *(f"masks/0000{k}.npy" for k in range(3))):
        assert (out / name).read_bytes() == (made / name).read_bytes()
    assert not (out / ".prepare").exists()


def test_masks_that_changed_are_other_inputs(raw, made, tmp_path):
    other = Path(shutil.copytree(raw, tmp_path / "raw"))
    next(iter(sorted((other / "masks").iterdir()))).unlink()
    with pytest.raises(ArtifactError, match="labels, boxes, masks, split or files"):
        prepare(other, made, size=SIZE, allow_empty=True)


def test_a_source_without_masks_has_none_and_still_opens(raw, tmp_path):
    bare = Path(shutil.copytree(raw, tmp_path / "raw"))
    shutil.rmtree(bare / "masks")
    dataset = prepare(bare, tmp_path / "dataset", size=SIZE, allow_empty=True)
    assert dataset.masks is None
    assert dataset.manifest.masks == ()
    assert not (tmp_path / "dataset/masks").exists()


def test_masks_of_several_trees_keep_their_images(raw):
    one = sources.read(raw)
    both = combine([one, one.__class__(**{**vars(one), "name": "others"})])
    assert len(both.masks) == 2 * len(one.masks)
    assert set(both.masks["image"]) <= set(both.rows["image"])
    assert both.masks["image"].str.startswith(("phantoms/", "others/")).all()
