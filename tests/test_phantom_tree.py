from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from chestxray import sources
from chestxray.cli.synth import synth as cli_synth
from chestxray.errors import SourceError
from chestxray.sources.nih import FINDINGS
from chestxray.sources.phantom.population import population
from chestxray.sources.phantom.tree import _bounds, synth

IMAGES, PIXELS = 60, 64


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "tree"
    synth(out, IMAGES, PIXELS, seed=4, balanced=True, workers=1)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def boxes(tree: Path) -> Iterator[tuple[str, str, list[float]]]:
    with (tree / "BBox_List_2017.csv").open() as file:
        for name, finding, *box in list(csv.reader(file))[1:]:
            yield name, finding, [float(value) for value in box[:4]]


def labels(tree: Path) -> dict[str, list[str]]:
    with (tree / "Data_Entry_2017.csv").open() as file:
        return {row[0]: row for row in list(csv.reader(file))[1:]}


def test_two_processes_write_the_same_bytes_as_one(tree: Path, tmp_path: Path) -> None:
    synth(tmp_path / "again", IMAGES, PIXELS, seed=4, balanced=True, workers=2)
    assert digests(tmp_path / "again") == digests(tree)


def test_another_seed_gives_other_images(tree: Path, tmp_path: Path) -> None:
    synth(tmp_path / "other", 2, PIXELS, seed=5, workers=1)
    name = "images_001/images/00000001_000.png"
    assert digests(tmp_path / "other")[name] != digests(tree)[name]


def test_every_row_has_its_image_and_every_image_its_row(tree: Path) -> None:
    files = {path.name for path in tree.glob("images_*/images/*.png")}
    assert files == set(labels(tree))
    assert len(files) == IMAGES


def test_each_finding_of_a_row_has_a_mask_of_the_images_size(tree: Path) -> None:
    wanted = {
        f"{name[:-4]}_{finding}.png"
        for name, row in labels(tree).items()
        for finding in row[1].split("|")
        if finding != "No Finding"
    }
    assert {path.name for path in (tree / "masks").iterdir()} == wanted
    for path in (tree / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (PIXELS, PIXELS)
        assert set(np.unique(mask)) <= {0, 255}


def test_boxes_are_the_masks_bounds_in_the_1024_frame(tree: Path) -> None:
    seen = 0
    for name, finding, (x, y, w, h) in boxes(tree):
        own = "Infiltration" if finding == "Infiltrate" else finding
        mask = cv2.imread(str(tree / "masks" / f"{name[:-4]}_{own}.png"), cv2.IMREAD_UNCHANGED) > 0
        step = 1024 / PIXELS
        left, top, right, low = (round(v / step) for v in (x, y, x + w, y + h))
        assert mask[top:low, left:right].sum() == mask.sum()
        assert mask[top].any()
        assert mask[low - 1].any()
        assert mask[:, left].any()
        assert mask[:, right - 1].any()
        seen += 1
    masks = [cv2.imread(str(path), 0).any() for path in (tree / "masks").iterdir()]
    assert seen == sum(masks)


def test_bounds_of_one_pixel_are_that_pixel() -> None:
    mask = np.zeros((256, 256), bool)
    mask[10, 20] = True
    assert _bounds(mask) == (80.0, 40.0, 4.0, 4.0)


def test_no_patient_is_in_both_lists_and_none_is_left_out(tree: Path) -> None:
    parts = [(tree / f"{name}_list.txt").read_text().split() for name in ("train_val", "test")]
    patients = [{name.split("_")[0] for name in part} for part in parts]
    assert not patients[0] & patients[1]
    assert sorted(parts[0] + parts[1]) == sorted(labels(tree))
    assert 0.15 < len(patients[1]) / len(patients[0] | patients[1]) < 0.3


def test_the_table_has_the_2017_header_and_its_quirks(tree: Path) -> None:
    text = (tree / "Data_Entry_2017.csv").read_text()
    assert text.splitlines()[0] == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    ages = [row[4] for row in labels(tree).values()]
    assert "414" in ages
    assert {row[11] for row in labels(tree).values()} == {""}


def test_some_ages_have_a_unit_and_some_files_an_alpha_channel(tmp_path: Path) -> None:
    synth(tmp_path, 30, 64, seed=3, workers=1)  # a seed that shows both early
    assert any(row[4].endswith("Y") for row in labels(tmp_path).values())
    channels = [
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ndim
        for path in tmp_path.glob("images_001/images/*.png")
    ]
    assert set(channels) == {2, 3}


def test_a_small_tree_is_known_to_be_of_2017_too(tmp_path: Path) -> None:
    synth(tmp_path, 3, PIXELS, workers=1)
    collection = sources.read(tmp_path)
    assert (collection.name, collection.release) == ("phantoms", "2017")


def test_phantom_json_tells_the_recipe(tree: Path) -> None:
    told = json.loads((tree / "phantom.json").read_text())
    assert (told["seed"], told["images"], told["pixels"]) == (4, IMAGES, PIXELS)
    assert set(told["prevalence"]) == set(FINDINGS)
    assert not (tree / "phantom-unfinished.json").exists()


def test_a_finished_tree_is_left_as_it_is(tree: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    synth(tree, IMAGES, PIXELS, seed=4, balanced=True)
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


def test_an_unfinished_tree_is_finished_with_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    synth(whole, 6, 64, workers=1)
    synth(broken, 6, 64, workers=1)
    recipe = json.loads((broken / "phantom.json").read_text())
    (broken / "phantom.json").rename(broken / "phantom-unfinished.json")
    (broken / "phantom-unfinished.json").write_text(json.dumps(recipe))
    gone, *there = sorted(broken.glob("images_001/images/*.png"))
    gone.unlink()
    before = [path.stat().st_mtime_ns for path in there]
    synth(broken, 6, 64, workers=1)
    assert digests(broken) == digests(whole)
    assert [path.stat().st_mtime_ns for path in there] == before  # nor drawn again


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(SourceError, match="not empty and does not hold phantoms"):
        synth(tmp_path, 2, 64)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_phantoms_of_another_recipe_are_refused(tree: Path) -> None:
    with pytest.raises(SourceError, match=r"another recipe.*images 60.*than this one.*images 61"):
        synth(tree, 61, PIXELS, seed=4, balanced=True)


@pytest.mark.parametrize(("images", "pixels", "seed"), [(0, 64, 0), (1, 63, 0), (1, 64, -1)])
def test_a_number_out_of_range_is_refused(
    tmp_path: Path, images: int, pixels: int, seed: int
) -> None:
    with pytest.raises(SourceError, match="must be at least"):
        synth(tmp_path / "out", images, pixels, seed)
    assert not (tmp_path / "out").exists()


def test_folders_fill_as_at_nih() -> None:
    from chestxray.sources.phantom.tree import _folder_number

    numbers = [_folder_number(index) for index in (0, 4998, 4999, 14998, 14999, 112119)]
    assert numbers == [1, 1, 2, 2, 3, 12]


def test_synth_writes_a_tree_and_says_what_comes_next(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(cli_synth)
    arguments = [str(tmp_path / "out"), "--images", "3", "--pixels", "64"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "chestxray prepare" in result.stdout
    names = [exam.name for exam in population(3)]
    assert sorted(p.name for p in (tmp_path / "out").glob("images_*/images/*")) == sorted(names)
