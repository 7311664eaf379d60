"""Masks of lungs and heart: CheXmask's tables, and the files of Montgomery."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import public_trees
import small_trees
from chestxray import sources
from chestxray.dataset.pixels import decode
from chestxray.errors import SourceError
from chestxray.sources.regions import mask_of_runs

TITLES = ("", "Image Index", "Dice RCA (Mean)", "Dice RCA (Max)", "Landmarks", "Left Lung",
          "Right Lung", "Heart", "Height", "Width")  # fmt: skip
SHAPE = (24, 16)


def encoded(mask: np.ndarray) -> str:
    """Runs along the rows from 1, written one by one: an oracle that shares nothing with ours."""
    words: list[int] = []
    inside = False
    for place, value in enumerate(mask.ravel().tolist(), start=1):
        if value and not inside:
            words += [place, 0]
        if value:
            words[-1] += 1
        inside = value
    return " ".join(map(str, words))


def organs(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(SHAPE) < share for share in (0.3, 0.6, 0.1)]


def chexmask(path: Path, rows: int = 4, **changes: str) -> Path:
    """A table of CheXmask; the quality of the third image is low."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, TITLES)
        writer.writeheader()
        for row in range(rows):
            cells = dict(zip(TITLES[5:8], map(encoded, organs(row)), strict=True))
            writer.writerow(
                {
                    "": row, "Image Index": f"0000000{row}_000.png", "Landmarks": "1,2,3,4",
                    "Dice RCA (Mean)": 0.65 if row == 2 else 0.9, "Dice RCA (Max)": 0.9,
                    "Height": SHAPE[0], "Width": SHAPE[1], **cells, **changes,
                }
            )  # fmt: skip
    return path


def test_chexmasks_runs_are_the_masks_of_the_images_that_are_asked_for(tmp_path: Path) -> None:
    table = chexmask(tmp_path / "ChestX-Ray8.csv")
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + table.read_bytes()))
    wanted = {"00000001_000.png", "00000002_000.png", "00000003_000.png", "other.png"}
    for path in (table, packed):
        read = sources.read_chexmask(path, wanted)
        assert sorted(read["image"].unique()) == ["00000001_000.png", "00000003_000.png"]
        for image, structure, _, runs in read.itertuples(index=False):
            drawn = organs(int(image[7]))[TITLES[5:8].index(structure)]
            assert np.array_equal(mask_of_runs(runs), drawn)
        assert len(read) == 2 * 3
    assert len(sources.read_chexmask(table, wanted, least_quality=0.6)) == 3 * 3


def test_an_empty_mask_of_chexmask_has_no_row(tmp_path: Path) -> None:
    read = sources.read_chexmask(chexmask(tmp_path / "t.csv", 1, Heart=""), {"00000000_000.png"})
    assert read["structure"].tolist() == ["Left Lung", "Right Lung"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Heart": "0 5"}, "runs outside the image"), ({"Heart": "380 6"}, "runs outside"),
        ({"Heart": "1 2 3"}, "runs outside"), ({"Heart": "-1 2"}, "runs outside"),
        ({"Heart": "9999999999999 2"}, "runs outside"), ({"Height": "0"}, "runs outside"),
        ({"Height": "99999", "Width": "99999"}, "runs outside"),
        ({"Height": "nan"}, "runs outside"), ({"Width": "inf"}, "runs outside"),
        ({"Height": "-1e300"}, "runs outside"), ({"Height": "9" * 400}, "runs outside"),
        ({"Landmarks": "1," * 3_000_000}, "a line of more than|field larger than field limit"),
    ],
)  # fmt: skip
def test_hostile_cells_of_chexmask_are_refused(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(SourceError, match=reason):
        sources.read_chexmask(chexmask(tmp_path / "t.csv", 1, **changes), {"00000000_000.png"})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("Dice RCA (Mean)", "Dice"),
        lambda text: text.replace("Image Index", "Name"), lambda _: "", lambda _: "\0",
    ],
)  # fmt: skip
def test_another_table_is_no_chexmask(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    table = chexmask(tmp_path / "t.csv")
    table.write_text(spoil(table.read_text()))
    with pytest.raises(SourceError, match=r"is no table of CheXmask: it lacks|cannot be read"):
        sources.read_chexmask(table, {"00000000_000.png"})


def test_montgomerys_masks_are_both_lungs_of_each_image(phantoms: Path, tmp_path: Path) -> None:
    films = public_trees.films(phantoms, 3)
    tree = small_trees.montgomery(tmp_path, films)
    masks = sources.read_lung_masks(tree)
    rows = sources.read(tree).rows
    assert masks["image"].value_counts().to_dict() == dict.fromkeys(rows["image"], 2)
    assert set(masks["structure"]) == {"Lung"}
    for _, of in masks.groupby("image"):
        both = [decode(path) > 0 for path in of["path"]]
        expected = [small_trees.lung(films[0].pixels, side) > 0 for side in (0, 1)]
        assert all(np.array_equal(*pair) for pair in zip(both, expected, strict=True))
