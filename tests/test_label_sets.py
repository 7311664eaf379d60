"""Readers of data sets that label the images of another one, on trees made of phantoms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import label_set_trees as trees
import public_trees
from chestxray import sources
from chestxray.dataset import prepare
from chestxray.errors import SourceError
from chestxray.sources import Collection, ReadOptions
from public_trees import Film, change


@dataclass(frozen=True)
class Set:
    """A data set: its builder, main table, column of images, and how a key names its film."""

    build: Callable[[Path, list[Film]], Path]
    table: str
    column: str
    number: Callable[[str], int]


SETS = {
    "nih-google": Set(
        trees.google, "google2019_nih-chest-xray-labels.csv", "Image Index",
        lambda image: int(image[9:12]),
    ),
}  # fmt: skip
every_set = pytest.mark.parametrize("name", SETS)


@pytest.fixture(scope="module")
def films(phantoms: Path) -> list[Film]:
    return public_trees.films(phantoms)


@pytest.fixture
def build(films: list[Film], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: SETS[name].build(tmp_path / name, films)


def codes(collection: Collection) -> dict[str, int]:
    return {problem.code: problem.count for problem in collection.problems}


def losing(collection: Collection) -> list[str]:
    return [problem.code for problem in collection.problems if problem.loses]


def values(collection: Collection, *findings: str) -> list[list[float | None]]:
    """Labels in the order of the images, None for unknown."""
    cells = collection.rows[list(findings)].to_numpy()
    return [[None if np.isnan(v) else v for v in row] for row in cells]


def edited(tree: Path, name: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    change(tree / SETS[name].table, edit)
    return tree


@every_set
def test_a_tree_is_recognised_by_its_content_and_by_one_source_alone(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    assert sources.recognise(tree).name == name
    assert sources.recognise(tree / SETS[name].table).name == name


@every_set
def test_labels_patients_and_demographics_are_those_of_the_films(
    build: Callable[[str], Path], films: list[Film], name: str
) -> None:
    collection = sources.read(build(name))
    known = {"Cardiomegaly", "Effusion", "Pneumonia", "Pneumothorax"} & {*collection.findings}
    assert known
    assert len(collection.rows) == len(films)
    for row in collection.rows.to_dict("records"):
        film = films[SETS[name].number(str(row["image"]))]
        for finding in known:
            assert row[finding] == float(finding in film.findings), (row["image"], finding)
        assert int(str(row["patient"])[-5:]) == film.patient
        assert row["sex"] in {film.sex, ""}
        assert np.isnan(row["age"]) or abs(row["age"] - film.age) < 5
    assert losing(collection) == []


@every_set
def test_a_tree_becomes_a_dataset_of_the_films_pixels(
    build: Callable[[str], Path], films: list[Film], tmp_path: Path, name: str
) -> None:
    dataset = prepare(build(name), tmp_path / "dataset", size=32, allow_empty=True)
    assert dataset.manifest.failures == ()
    assert len(dataset.index) == len(films)
    for place, image in enumerate(dataset.index["image"]):
        pixels = films[SETS[name].number(str(image))].pixels.astype(float)
        halved = pixels.reshape(32, 2, 32, 2).mean((1, 3))
        assert np.abs(dataset.images[np.array([place])][0] - halved).mean() < 4


@every_set
def test_a_byte_order_mark_windows_line_ends_and_repeated_rows_change_nothing(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    before = sources.read(tree)
    edited(tree, name, lambda table: pd.concat([table, table]))
    path = tree / SETS[name].table
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = sources.read(tree)
    pd.testing.assert_frame_equal(before.rows, after.rows)
    pd.testing.assert_frame_equal(before.boxes, after.boxes)
    assert codes(before).items() <= codes(after).items()
    assert losing(after) == []


@every_set
def test_rows_without_an_image_are_counted_and_rows_without_a_name_left_out(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    before = sources.read(tree)
    Path(before.rows["path"].iloc[0]).unlink()
    column = SETS[name].column
    edited(tree, name, lambda table: pd.concat([table, table.head(1).assign(**{column: ""})]))
    after = sources.read(tree)
    assert codes(after)["missing-image"] == 1
    assert after.rows["image"].tolist() == before.rows["image"].tolist()[1:]


@every_set
def test_a_missing_column_is_named_when_the_source_is(
    build: Callable[[str], Path], name: str
) -> None:
    tree = edited(
        build(name), name, lambda table: table.rename(columns={SETS[name].column: "picture"})
    )
    with pytest.raises(SourceError, match=rf"holds no label table of .*{SETS[name].column}"):
        sources.read(tree, name)


# Google's adjudicated labels of NIH


def google_cells(tree: Path, rows: Iterable[tuple[str, str, str, str]]) -> Path:
    """Write the first answers: Fracture, Pneumothorax, Airspace opacity, Nodule or mass."""

    def write(table: pd.DataFrame) -> pd.DataFrame:
        titles = ["Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass"]
        for place, answers in enumerate(rows):
            table.loc[table.index[place], titles] = list(answers)
        return table

    return edited(tree, "nih-google", write)


def test_googles_answers_are_labels_and_an_opacity_beside_a_nodule_is_open(
    build: Callable[[str], Path],
) -> None:
    tree = google_cells(
        build("nih-google"),
        [
            ("NO", "YES", "YES", "NO"), ("YES", "NO", "NO", "NO"), ("no", "no", "no", "yes"),
            ("NO", "NO", "YES", "YES"), ("", "MAYBE", "2", "NO"),
        ],
    )  # fmt: skip
    read = sources.read(tree)
    assert read.findings == ("Fracture", "Pneumothorax", "Lung Opacity", "Nodule/Mass")
    assert values(read, *read.findings)[:5] == [
        [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, None, 1], [0, 0, 1, 1], [None, None, None, 0],
    ]  # fmt: skip
    assert codes(read)["unknown-value"] == 1
    assert losing(read) == ["unknown-value"]


def test_googles_sets_are_nihs_lists_and_an_unknown_one_is_refused(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    tree = build("nih-google")
    read = sources.read(tree)
    last = {trees.nih_name(film) for film in films if film.patient == films[-1].patient}
    assert read.official["test"] == last
    assert read.official["train_val"] == {*read.rows["image"]} - last
    assert read.facts["images of the data set"].startswith(f"val: {len(films) - len(last)} of 2414")
    edited(tree, "nih-google", lambda table: table.assign(**{"Set Id": "tune"}))
    with pytest.raises(SourceError, match="names the set 'tune': allowed are val and test"):
        sources.read(tree)


def test_a_tree_of_nih_stays_nihs_until_googles_labels_are_named(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    tree = edited(build("nih-google"), "nih-google", lambda table: table[2:])
    trees.nih_table(tree, films)
    nih = sources.read(tree)
    assert nih.name == "nih"
    assert len(nih.rows) == len(films)
    assert "unused-label-table" not in codes(nih), "Google's table is not one of NIH's"
    read = sources.read(tree, "nih-google")
    assert len(read.rows) == len(films) - 2
    assert codes(read)["missing-row"] == 2
    assert losing(read) == [], "the other images are NIH's, not missed"
    pd.testing.assert_frame_equal(
        read.rows[["image", "patient", "age", "sex", "view"]],
        nih.rows[["image", "patient", "age", "sex", "view"]][2:].reset_index(drop=True),
    )


def test_an_image_whose_patient_is_not_told_counts_as_its_own(
    build: Callable[[str], Path],
) -> None:
    tree = edited(build("nih-google"), "nih-google", lambda table: table.drop(columns="Patient ID"))
    assert "no-patient" not in codes(sources.read(tree)), "the name tells it"
    first = Path(sources.read(tree).rows["path"].iloc[0])
    first.rename(first.with_name("film.png"))
    edited(
        tree,
        "nih-google",
        lambda t: t.assign(**{"Image Index": ["film.png", *t["Image Index"][1:]]}),
    )
    read = sources.read(tree)
    assert codes(read)["no-patient"] == 1
    assert "film.png" in set(read.rows["patient"])


def test_options_choose_views_and_label_tables(build: Callable[[str], Path]) -> None:
    tree = build("nih-google")
    (tree / "other.csv").write_bytes((tree / SETS["nih-google"].table).read_bytes())
    options = ReadOptions(views="PA", columns={"table": "other.csv"})
    read = sources.read(tree, "nih-google", options)
    assert set(read.rows["view"]) == {"PA"}
    assert read.facts["label table"] == "other.csv"
