"""The readers of the NLM's two tuberculosis sets, on small trees in their own layouts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import small_trees
import torchxrayvision_wheel
from chestxray import sources
from chestxray.dataset import prepare
from chestxray.errors import SourceError
from public_trees import Film, codes

PREFIX = {"shenzhen": "CHNCXR", "montgomery": "MCUCXR"}
IMAGES = {"shenzhen": 662, "montgomery": 138}
both_sets = pytest.mark.parametrize("name", IMAGES)


def film_of(image: str, films: list[Film]) -> Film:
    return films[int(image.split("_")[1]) - 1]


@both_sets
def test_names_and_readings_of_a_tuberculosis_set_give_labels_sex_and_age(
    build: Callable[[str], Path], films: list[Film], name: str
) -> None:
    tree = build(name)
    assert sources.recognise(tree).name == name
    read = sources.read(tree)
    assert read.findings == ("Tuberculosis",)
    assert len(read.rows) == len(films)
    for row in read.rows.to_dict("records"):
        film = film_of(row["image"], films)
        assert row["Tuberculosis"] == float(bool(film.findings))
        assert (row["sex"], row["age"]) == (film.sex, film.age)
        assert row["view"] == {"shenzhen": "", "montgomery": "PA"}[name]
    assert read.problems == (), "masks are no radiographs without a label"
    assert read.facts["images of the data set"] == (f"all: {len(films)} of {IMAGES[name]}")


def test_montgomerys_images_that_a_reading_calls_the_same_are_of_one_patient(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    rows = sources.read(build("montgomery")).rows
    of_film = [film_of(image, films).patient for image in rows["image"]]
    assert len(set(of_film)) < len(films)
    pairs = pd.DataFrame({"ours": rows["patient"], "true": of_film}).drop_duplicates()
    assert pairs["ours"].is_unique
    assert pairs["true"].is_unique


def test_montgomerys_chain_of_references_is_one_patient_whatever_its_order(
    build: Callable[[str], Path],
) -> None:
    tree = build("montgomery")
    for path in (tree / "ClinicalReadings").iterdir():
        path.write_text(path.read_text().split("NO REPORT")[0])
    names = sorted(path.stem for path in (tree / "ClinicalReadings").iterdir())
    for one, other in ((names[3], names[5]), (names[5], names[1]), (names[7], names[7])):
        path = tree / "ClinicalReadings" / f"{one}.txt"
        path.write_text(f"{path.read_text()}same pt as {other}\nsame patient as MCUCXR_9999_1")
    rows = sources.read(tree).rows.set_index("image")
    chain = rows.loc[[names[1], names[3], names[5]], "patient"]
    assert set(chain) == {names[1][:-2]}
    assert rows["patient"].nunique() == len(rows) - 2


@pytest.mark.parametrize(
    ("text", "sex", "age"),
    [
        ("male 45yrs\nnormal", "M", 45), ("femal 32yrs", "F", 32), ("female24yrs", "F", 24),
        ("male 16month\nnormal", "M", 16 / 12), ("female 64days", "F", 64 / 365.25),
        ("Female, 28yrs", "F", 28), ("male 42\nnormal", "M", 42), ("male , 29yrs \t", "M", 29),
        ("\ufeffPatient's Sex: O \r\nPatient's Age: 005Y", "", 5), ("male\n45yrs", "M", None),
        ("normal", "", None), ("", "", None), ("Patient's Age: 412Y", "", None),
        ("female 29yrs \n1.STB of the left upper field 2. pleuritis", "F", 29),
    ],
)  # fmt: skip
def test_a_reading_is_understood_in_the_spellings_of_the_set_or_counted(
    build: Callable[[str], Path], text: str, sex: str, age: float | None
) -> None:
    tree = build("shenzhen")
    first = min((tree / "ClinicalReadings").iterdir())
    first.write_text(text, encoding="utf-8", newline="")
    read = sources.read(tree)
    row = read.rows.iloc[0]
    assert row["sex"] == sex
    assert row["age"] == pytest.approx(np.nan if age is None else age, nan_ok=True)
    assert codes(read) == ({} if sex and age is not None else {"unreadable-reading": 1})


def test_kaggles_masks_of_both_sets_are_no_images_of_montgomery(
    build: Callable[[str], Path],
) -> None:
    tree = build("montgomery")
    before = sources.read(tree).rows
    (tree / "ManualMask/leftMask").rename(tree / "masks")
    after = sources.read(tree)
    pd.testing.assert_frame_equal(after.rows, before)
    assert codes(after) == {}


@both_sets
def test_readings_without_an_image_change_nothing_and_images_without_one_are_kept(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    before = sources.read(tree).rows
    last = before["image"].iloc[-1]
    next((tree / "CXR_png").glob(f"{last}.png")).unlink()
    first = before["image"].iloc[0]
    (tree / f"ClinicalReadings/{first}.txt").unlink()
    after = sources.read(tree)
    assert after.rows["image"].tolist() == before["image"].tolist()[:-1]
    assert codes(after) == {"no-reading": 1}
    assert after.rows["sex"].iloc[0] == ""
    assert after.rows["Tuberculosis"].tolist() == before["Tuberculosis"].tolist()[:-1]


@both_sets
def test_names_without_a_known_label_and_numbers_with_two_are_not_guessed(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    before = sources.read(tree).rows
    first, second = before["image"].head(2)
    folder = tree / "CXR_png"
    shutil.copy(folder / f"{first}.png", folder / f"{first[:-1]}2.png")
    other = f"{second[:-1]}{1 - int(second[-1])}"
    shutil.copy(folder / f"{second}.png", folder / f"{other}.png")
    shutil.copy(folder / f"{second}.png", folder / "holiday.png")
    read = sources.read(tree)
    found = codes(read)
    assert (found["unknown-label"], found["contradiction"]) == (1, 2)
    rows = read.rows.set_index("image")
    assert rows.loc[[second, other], "Tuberculosis"].isna().all()
    assert len(rows) == len(before) + 1


@both_sets
def test_a_copy_of_an_image_in_another_folder_is_read_once(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    before = sources.read(tree).rows
    first = f"{before['image'].iloc[0]}.png"
    small_trees.placed(tree / "test" / first, (tree / "CXR_png" / first).read_bytes())
    read = sources.read(tree)
    pd.testing.assert_frame_equal(read.rows.drop(columns="path"), before.drop(columns="path"))
    assert codes(read) == {"same-image-twice": 1}


@both_sets
def test_a_tuberculosis_set_becomes_a_dataset_whose_grey_values_are_those_of_the_films(
    build: Callable[[str], Path], films: list[Film], tmp_path: Path, name: str
) -> None:
    dataset = prepare(build(name), tmp_path / "dataset", size=64, allow_empty=True)
    assert dataset.manifest.failures == ()
    for row, values in enumerate(dataset.index.to_dict("records")):
        packed = dataset.images[np.array([row])][0]
        assert np.array_equal(packed, film_of(values["image"], films).pixels)
    parts = dataset.index.groupby("patient")["split"].nunique()
    assert parts.max() == 1


def test_both_sets_in_one_folder_are_read_one_at_a_time(
    build: Callable[[str], Path], films: list[Film], tmp_path: Path
) -> None:
    tree = tmp_path / "mixed"
    for name in IMAGES:
        shutil.copytree(build(name), tree, dirs_exist_ok=True)
    with pytest.raises(SourceError, match=r"matches several sources \(shenzhen, montgomery\)"):
        sources.read(tree)
    for name in IMAGES:
        read = sources.read(tree, name)
        assert read.rows["image"].str.startswith(PREFIX[name]).all()
        assert len(read.rows) == len(films)


def test_a_folder_of_masks_or_of_other_images_is_no_tuberculosis_set(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    tree = build("montgomery")
    shutil.rmtree(tree / "CXR_png")
    for folder in (tree, tmp_path / "empty"):
        folder.mkdir(exist_ok=True)
        with pytest.raises(SourceError, match=r"holds no image of Montgomery \(MCUCXR_0001_0.png"):
            sources.read(folder, "montgomery")


@pytest.mark.slow
def test_labels_of_both_sets_are_those_of_torchxrayvision(build: Callable[[str], Path]) -> None:
    code = (
        "for tree in sys.argv[1:]:\n"
        "    read = xrv.datasets.NLMTB_Dataset(tree)\n"
        "    print(*(f'{n[:-4]}={int(v)}' for n, v in zip(read.csv.fname, read.labels[:, 0])))\n"
    )
    trees = [build(name) for name in IMAGES]
    said = torchxrayvision_wheel.answer(code, *trees)
    theirs = dict(word.split("=") for word in said.split() if "CXR_" in word)
    ours = pd.concat([sources.read(tree).rows for tree in trees])
    assert {i: str(int(v)) for i, v in zip(ours["image"], ours["Tuberculosis"], strict=True)} == (
        theirs
    )


def test_a_palette_image_of_shenzhen_shows_the_same_grey_values(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    """The NLM's files have palettes: 635 of 662 by a description of the set."""
    from PIL import Image

    from chestxray.dataset.pixels import decode

    tree = build("shenzhen")
    path = min((tree / "CXR_png").iterdir())
    grey = Image.fromarray(cv2.imread(str(path))[..., 0])
    palette = grey.convert("RGB").quantize(256)
    palette.save(path)
    with Image.open(path) as written:
        assert written.mode == "P"
    assert np.abs(decode(path).astype(int) - films[0].pixels).max() <= 1
