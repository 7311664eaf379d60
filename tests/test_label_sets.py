"""Readers of data sets that label the images of another one, on trees made of phantoms."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import label_set_trees as trees
import public_trees
from chestxray import sources, table_limits
from chestxray.dataset import prepare, split
from chestxray.dataset.combine import combine
from chestxray.errors import SourceError
from chestxray.findings import canonical
from chestxray.sources import Collection, ReadOptions, regions, table_files
from public_trees import Film, change, codes


@dataclass(frozen=True)
class Set:
    """A data set: its main table, column of images, and how a key names its film."""

    table: str
    column: str
    number: Callable[[str], int]


SETS = {
    "nih-google": Set(
        "google2019_nih-chest-xray-labels.csv", "Image Index",
        lambda image: int(image[9:12]),
    ),
    "nih-lt": Set(
        "miccai2023_nih-cxr-lt_labels_train.csv", "id",
        lambda image: int(image[9:12]),
    ),
    "mimic-lt": Set(
        "miccai2023_mimic-cxr-lt_labels_train.csv", "path",
        lambda image: int(image[-8:], 16),
    ),
    "brax": Set(
        "master_spreadsheet_update.csv", "PngPath", lambda image: int(image[-4:]),
    ),
    "chexpert-plus": Set(
        "df_chexpert_plus_240401.csv", "path_to_image",
        lambda image: int(image.split("/study")[1].split("/")[0]) - 1,
    ),
}  # fmt: skip
every_set = pytest.mark.parametrize("name", SETS)


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
    blank = dict.fromkeys([column, *(["DicomPath"] if name == "brax" else [])], "")
    edited(tree, name, lambda table: pd.concat([table, table.head(1).assign(**blank)]))
    after = sources.read(tree)
    assert codes(after)["missing-image"] == 1
    assert after.rows["image"].tolist() == before.rows["image"].tolist()[1:]


@every_set
def test_a_missing_column_is_named_when_the_source_is(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    for path in tree.rglob("*.csv"):
        change(path, lambda table: table.rename(columns={SETS[name].column: "picture"}))
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


# The long-tailed sets


@pytest.mark.parametrize("name", ["nih-lt", "mimic-lt"])
def test_a_long_tailed_set_has_its_own_split_and_its_new_findings(
    build: Callable[[str], Path], films: list[Film], name: str
) -> None:
    read = sources.read(build(name))
    counts = {part: len(names) for part, names in read.official.items()}
    wanted = [trees.part_of(film, films) for film in films]
    assert counts == {part: wanted.count(part) for part in ("train", "val", "test")}
    assert len(read.findings) == {"nih-lt": 19, "mimic-lt": 18}[name]
    for row in read.rows.to_dict("records"):
        number = SETS[name].number(str(row["image"]))
        assert row["Tortuous Aorta"] == float(number % 3 == 0)
        assert row["Pneumoperitoneum"] == 0


def test_nihs_own_table_tells_the_age_sex_and_view_of_a_long_tailed_set(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    tree = build("nih-lt")
    assert (sources.read(tree).rows["sex"] == "").all()
    trees.nih_table(tree, films)
    assert sources.recognise(tree).name == "nih", "its table is NIH's own"
    rows = sources.read(tree, "nih-lt").rows
    nih = sources.read(tree, "nih").rows
    told = ["image", "patient", "age", "sex", "view", "follow_up"]
    pd.testing.assert_frame_equal(rows[told], nih[told])


def test_mimics_metadata_tells_the_views_and_unknown_ones_are_counted(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    tree = build("mimic-lt")
    assert codes(sources.read(tree)) == {"unknown-view": len(films)}
    titles = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate")
    rows = []
    for film in films[1:]:
        _, _, subject, study, name = trees.mimic_path(film).split("/")
        view = "LATERAL" if film.number == 5 else "PA"
        rows.append([name.removesuffix(".jpg"), subject[1:], study[1:], view, "21800101"])
    public_trees.table(tree / "mimic-cxr-2.0.0-metadata.csv", titles, rows)
    read = sources.read(tree)
    assert read.name == "mimic-lt"
    assert codes(read) == {"unknown-view": 1, "other-view": 1}
    strict = sources.read(tree, options=ReadOptions(views="PA,AP"))
    assert codes(strict) == {"other-view": 2}


def test_the_release_of_2022_spells_pleural_thickening_as_nih_does_and_has_one_label_an_image(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    tree = build("nih-lt/2022")
    assert sources.recognise(tree).name == "nih-lt"
    read = sources.read(tree)
    assert set(read.findings) == set(sources.read(build("nih-lt")).findings)
    assert (read.rows[list(read.findings)].sum(axis=1) <= 1).all()
    thick = [
        film.number for film in films if min(film.findings, default="") == "Pleural_Thickening"
    ]
    assert thick
    drawn = read.rows["image"][read.rows["Pleural_Thickening"] == 1]
    assert [int(name[9:12]) for name in drawn] == thick
    assert {part: len(names) for part, names in read.official.items()} == {
        part: [trees.part_of(film, films) for film in films].count(part)
        for part in ("train", "val", "test")
    }
    assert codes(read) == {}, "the list of all images is no label table"


@pytest.mark.parametrize(("year", "findings"), [(2023, 25), (2024, 39)])
def test_a_challenge_of_mimic_cxr_lt_is_read_whole_with_its_views(
    build: Callable[[str], Path], films: list[Film], year: int, findings: int
) -> None:
    tree = build(f"mimic-lt/CXR-LT {year}")
    assert sources.recognise(tree).name == "mimic-lt"
    read = sources.read(tree)
    assert len(read.findings) == findings
    assert not {"Normal", "No Finding"} & {*read.findings}
    assert len(read.rows) == len(films), "development is val, and train_labeled belongs to task1"
    assert len(read.official["val"]) == sum(trees.part_of(f, films) == "val" for f in films)
    assert set(read.rows["view"]) == {"PA"}
    for row in read.rows.to_dict("records"):
        film = films[int(str(row["image"])[-8:], 16)]
        assert row["Mass"] == float("Mass" in film.findings)
        assert row["Pneumothorax"] == float("Pneumothorax" in film.findings)
    assert codes(read) == ({} if year == 2023 else {"unused-label-table": 3})


def test_of_a_challenge_radiologists_labels_or_all_in_one_table_can_be_chosen(
    build: Callable[[str], Path],
) -> None:
    tree = build("mimic-lt/CXR-LT 2024")
    whole = sources.read(tree)
    chosen = ReadOptions(columns={"table": "test_labeled_task2.csv"})
    task2 = sources.read(tree, "mimic-lt", chosen)
    assert len(task2.findings) == 25
    assert set(task2.rows["image"]) == whole.official["test"] | whole.official["val"]
    assert task2.official == {}, "it has no train, so that images of its own cannot be split"
    one = sources.read(tree, "mimic-lt", ReadOptions(columns={"table": "labels.csv"}))
    assert one.official == whole.official
    pd.testing.assert_frame_equal(one.rows, whole.rows)


def test_tables_of_two_releases_in_two_folders_are_not_mixed(
    films: list[Film], tmp_path: Path
) -> None:
    tree = trees.cxr_lt(trees.cxr_lt(tmp_path, films), films, year=2023)
    (tree / "cxr-lt-2023/train.csv").unlink()
    read = sources.read(tree)
    parts = [trees.part_of(film, films) for film in films]
    assert len(read.rows) == len(films) - parts.count("train")
    assert codes(read)["unused-label-table"] == 6


def test_a_table_of_another_release_is_not_mixed_in(build: Callable[[str], Path]) -> None:
    tree = build("nih-lt")
    before = sources.read(tree)
    for part, of in (("train", "train"), ("val", "balanced-val"), ("test", "test")):
        data = (tree / f"miccai2023_nih-cxr-lt_labels_{part}.csv").read_bytes()
        (tree / f"nih-cxr-lt_single-label_{of}.csv").write_bytes(data)
    read = sources.read(tree)
    pd.testing.assert_frame_equal(read.rows, before.rows)
    assert codes(read) == {"unused-label-table": 3}
    name = "nih-cxr-lt_single-label_train.csv"
    chosen = sources.read(tree, "nih-lt", ReadOptions(columns={"table": name}))
    assert chosen.facts["label table"] == name
    assert {part: len(names) for part, names in chosen.official.items()} == {
        part: len(names) for part, names in before.official.items()
    }


def test_a_long_tailed_image_in_two_parts_is_left_out_and_an_odd_cell_is_unknown(
    build: Callable[[str], Path],
) -> None:
    tree = build("nih-lt")
    before = sources.read(tree)
    train = pd.read_csv(tree / SETS["nih-lt"].table, dtype=str)
    change(tree / "miccai2023_nih-cxr-lt_labels_val.csv", lambda t: pd.concat([t, train[:1]]))
    edited(tree, "nih-lt", lambda table: table.assign(Hernia=["0", "2", *table["Hernia"][2:]]))
    read = sources.read(tree)
    assert codes(read) == {"conflicting-rows": 1, "unknown-value": 1}
    assert read.rows["image"].tolist() == before.rows["image"].tolist()[1:]
    assert values(read, "Hernia")[0] == [None]


def test_mimics_long_tailed_columns_beyond_the_common_ones_are_findings(
    build: Callable[[str], Path],
) -> None:
    tree = build("mimic-lt")
    for path in tree.glob("*.csv"):
        change(path, lambda t: t.rename(columns={"path": "fpath"}).assign(
            Adenopathy=["1"] + ["0"] * (len(t) - 1), sampling_weight="0.25"))  # fmt: skip
    read = sources.read(tree)
    assert read.name == "mimic-lt"
    assert read.findings[-1] == "Adenopathy"
    assert "sampling_weight" not in read.findings
    change(tree / SETS["mimic-lt"].table, lambda t: t.assign(fpath=["x.jpg", *t["fpath"][1:]]))
    assert codes(sources.read(tree))["no-patient"] == 1


def test_mimics_own_tables_are_read_by_mimic_beside_a_long_tailed_set(
    films: list[Film], tmp_path: Path
) -> None:
    tree = public_trees.mimic(tmp_path, films)
    single = pd.read_csv(tree / "mimic-cxr-2.0.0-chexpert.csv", dtype=str, keep_default_na=False)
    single = single.assign(dicom_id="x", path="x.jpg", **dict.fromkeys(trees.NEW, "0"))
    single.to_csv(tree / "mimic-cxr-lt_single-label_train.csv", index=False)
    read = sources.read(tree)
    assert read.name == "mimic"
    assert codes(read) == {"unused-label-table": 1}, "that of NegBio alone"


# CheXpert


def test_chexperts_unknown_views_are_counted_and_frontal_ones_without_a_direction_are_not(
    films: list[Film], tmp_path: Path
) -> None:
    tree = public_trees.chexpert(tmp_path, films)
    assert "unknown-view" not in codes(sources.read(tree))
    table = pd.read_csv(tree / "train.csv", dtype=str, keep_default_na=False)
    frontal = table.index[table["Frontal/Lateral"] == "Frontal"]
    table.loc[frontal[:3], ["Frontal/Lateral", "AP/PA"]] = ["", ""]
    table.loc[frontal[3], "AP/PA"] = ""
    table.loc[frontal[4], ["Frontal/Lateral", "AP/PA"]] = ["", "PA"]
    for place in frontal[[0, 1, 4]]:
        name = table.loc[place, "Path"].split("/", 1)[1]
        (tree / name).rename(tree / name.replace("view1_frontal", "view1"))
        table.loc[place, "Path"] = table.loc[place, "Path"].replace("view1_frontal", "view1")
    table.to_csv(tree / "train.csv", index=False)
    read = sources.read(tree)
    assert codes(read)["unknown-view"] == 2, "two have no word for it, not even in their name"
    assert "unknown-view" not in losing(read)
    strict = sources.read(tree, options=ReadOptions(views="PA,AP"))
    assert len(strict.rows) == len(read.rows) - 4


# RSNA's own release


@pytest.fixture
def rsna(films: list[Film], tmp_path: Path) -> Path:
    return trees.rsna_release(tmp_path / "rsna", films)


def project(tree: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Edit the annotations of RSNA's release."""
    path = tree / trees.RSNA_ANNOTATIONS
    value = json.loads(path.read_text())
    edit(value)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(value, indent=1).replace("\n", "\r\n").encode())
    return tree


def test_rsnas_own_release_gives_the_labels_boxes_and_patients_of_kaggles(
    rsna: Path, films: list[Film], tmp_path: Path
) -> None:
    assert sources.recognise(rsna).name == "rsna"
    assert sources.recognise(rsna / trees.RSNA_ANNOTATIONS).name == "rsna"
    ours = sources.read(rsna)
    kaggle = sources.read(public_trees.rsna(tmp_path / "kaggle", films[:-1]))
    order = ours.rows["image"].str.rsplit(".", n=1).str[-1].argsort().to_numpy()
    told = ["patient", "age", "sex", "view", "Pneumonia", "Lung Opacity"]
    pd.testing.assert_frame_equal(
        ours.rows.iloc[order][told].reset_index(drop=True), kaggle.rows[told]
    )
    boxes = [
        sorted(map(tuple, each.boxes[["finding", *"xywh"]].round(9).to_numpy().tolist()))
        for each in (ours, kaggle)
    ]
    assert boxes[0] == boxes[1]
    assert len(boxes[0])
    assert losing(ours) == [], "an image without an adjudicated label is not missed"
    assert codes(ours)["missing-row"] == 1
    assert ours.facts["images of the data set"] == f"all: {len(films) - 1} of 29684"
    alone = sources.read(rsna / trees.RSNA_ANNOTATIONS)
    assert alone.rows["Pneumonia"].tolist() == ours.rows["Pneumonia"].tolist()


def test_rsnas_own_release_becomes_a_dataset(rsna: Path, films: list[Film], tmp_path: Path) -> None:
    dataset = prepare(rsna, tmp_path / "dataset", size=32, allow_empty=True)
    assert dataset.manifest.failures == ()
    assert len(dataset.index) == len(films) - 1
    assert set(dataset.boxes["image"]) <= set(dataset.index["image"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: p.pop("datasets"), "is not RSNA's export of MD.ai with labelGroups"),
        (lambda p: p.update(datasets=[{"annotations": [7]}]), "is not RSNA's export of MD.ai"),
        (lambda p: p["labelGroups"].pop(), r"no annotation of the group Calculated.*Team 1\)"),
    ],
)
def test_another_export_is_refused_as_rsnas(
    rsna: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        sources.read(project(rsna, edit))


def test_a_cut_annotation_file_is_refused(rsna: Path) -> None:
    path = rsna / trees.RSNA_ANNOTATIONS
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SourceError, match=r"is not RSNA's export of MD.ai .*download it again"):
        sources.read(rsna)


def test_rsnas_repeated_contradictory_nameless_and_unknown_annotations_are_counted(
    rsna: Path,
) -> None:
    before = sources.read(rsna)
    healthy = before.rows["image"][before.rows["Pneumonia"] == 0].tolist()
    boxed = before.boxes["image"].iloc[0]

    def edit(value: dict[str, Any]) -> None:
        value["labelGroups"][1]["labels"].append({"id": "L_new", "name": "Exclude"})
        annotations = value["datasets"][0]["annotations"]
        annotations += list(annotations)
        box = {"x": 1, "y": 1, "width": 9, "height": 9}
        for image, label in ((healthy[0], "L_v8n"), (healthy[1], "L_new"), ("", "L_o8w")):
            annotations.append({"SOPInstanceUID": image, "labelId": label, "data": box,
                                "width": 1024, "height": 1024})  # fmt: skip
        for each in annotations:
            if each["SOPInstanceUID"] == boxed and each["data"]:
                each["data"]["width"] = 2048
                break

    read = sources.read(project(rsna, edit))
    assert {code: count for code, count in codes(read).items() if code in losing(read)} == {
        "no-image": 1, "contradiction": 1, "unknown-value": 1, "bad-box": 1,
    }  # fmt: skip
    unknown = read.rows["image"][read.rows["Pneumonia"].isna()].tolist()
    assert sorted(unknown) == sorted(healthy[:2])


@pytest.mark.parametrize(
    "number", [10**400, -(10**400), np.inf, np.nan], ids=["large", "small", "inf", "nan"]
)
@pytest.mark.parametrize("key", ["x", "width"])
def test_numbers_of_rsna_that_are_no_place_make_no_box(rsna: Path, key: str, number: float) -> None:
    before = sources.read(rsna)

    def edit(value: dict[str, Any]) -> None:
        each = next(each for each in value["datasets"][0]["annotations"] if each["data"])
        (each["data"] if key == "x" else each)[key] = number

    read = sources.read(project(rsna, edit))
    assert len(read.boxes) == len(before.boxes) - 2, "one place is a box of both findings"
    assert {"bad-box", "box-without-size"} & {*codes(read)}


@pytest.mark.parametrize("name", ["rsna", "nih-google", "nih-lt"])
def test_a_patient_of_nih_is_in_one_split_whatever_the_set(
    rsna: Path, build: Callable[[str], Path], films: list[Film], tmp_path: Path, name: str
) -> None:
    """No pixel is compared here, so only the patients' names can tell."""
    tree = rsna if name == "rsna" else build(name)
    other = sources.read(tree)
    half = [film for film in films if film.number % 2]
    root = trees.nih_images(tmp_path / "nih", half)
    trees.nih_table(root, half)
    joined = combine([sources.read(root), other])
    patients = joined.rows.groupby("source")["patient"].agg(set)
    assert patients["nih"] & patients[name], "some patients are in both"
    parts = split.assign(joined.rows, joined.findings, "patient", 0, joined.official)
    assert parts.groupby(joined.rows["patient"].str.split("/").str[-1]).nunique().max() == 1


# BRAX


def test_braxs_dicom_and_png_files_are_the_same_images(films: list[Film], tmp_path: Path) -> None:
    png = sources.read(trees.brax(tmp_path / "png", films))
    dicom = sources.read(trees.brax(tmp_path / "dicom", films, "dcm"))
    pd.testing.assert_frame_equal(png.rows.drop(columns="path"), dicom.rows.drop(columns="path"))
    assert (png.facts["files"], dicom.facts["files"]) == ("PNG", "DICOM")
    both = trees.brax(tmp_path / "png", films, "dcm")
    read = sources.read(both)
    assert read.facts["files"] == "DICOM"
    assert losing(read) == [], "the PNG files are not missed"


def test_braxs_ages_views_and_patients_that_are_not_stated_are_counted(
    build: Callable[[str], Path],
) -> None:
    def edit(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[:4, "PatientAge"] = ["85 or more", "47", "old", "", "[30, 35)"]
        table.loc[[5, 6], "ViewPosition"] = ["", "LATERAL"]
        table.loc[7, "PatientID"] = ""
        return table

    read = sources.read(edited(build("brax"), "brax", edit))
    age = read.rows.set_index(read.rows["image"].str[-4:].astype(int))["age"].fillna(-1)
    assert age.sort_index().loc[:4].tolist() == [85, 47, -1, -1, 30]
    assert codes(read) == {
        "impossible-age": 1, "unknown-view": 1, "other-view": 1, "no-patient": 1, "missing-row": 1,
    }  # fmt: skip


def test_braxs_uncertain_labels_and_older_table(build: Callable[[str], Path]) -> None:
    tree = build("brax")
    (tree / "master_spreadsheet.csv").write_bytes((tree / SETS["brax"].table).read_bytes())
    edited(tree, "brax", lambda table: table.assign(Fracture="-1.0"))
    read = sources.read(tree)
    assert read.rows["Fracture"].isna().all()
    assert (sources.read(tree, options=ReadOptions(uncertain="ones")).rows["Fracture"] == 1).all()
    assert codes(read) == {"unused-label-table": 1}
    older = ReadOptions(columns={"table": "master_spreadsheet.csv"})
    assert (sources.read(tree, "brax", older).rows["Fracture"] == 0).all()


# CheXpert Plus


def plus_labels(tree: Path, section: str, edit: Callable[[list[dict[str, Any]]], object]) -> Path:
    """Edit the labels of a section."""
    path = tree / f"chexbert_labels/{section}_fixed.json"
    objects = [json.loads(line) for line in path.read_text().splitlines()]
    edit(objects)
    trees.json_lines(path, objects)
    return path


def test_chexpert_plus_names_images_and_patients_as_chexpert_does(
    films: list[Film], tmp_path: Path
) -> None:
    plus = sources.read(trees.chexpert_plus(tmp_path / "plus", films))
    chexpert = sources.read(public_trees.chexpert(tmp_path / "chexpert", films))
    told = ["image", "patient", "study", "age", "sex", "view", *chexpert.findings]
    pd.testing.assert_frame_equal(plus.rows[told], chexpert.rows[told])
    frontal = {*chexpert.rows["image"]}
    assert plus.official == {part: names & frontal for part, names in chexpert.official.items()}
    assert plus.patients_of == "chexpert"


def test_chexpert_plus_reads_dicom_where_both_forms_are_there(
    films: list[Film], tmp_path: Path
) -> None:
    tree = trees.chexpert_plus(tmp_path, films, "dicom")
    dicom = sources.read(tree)
    trees.chexpert_plus(tmp_path, films)
    both = sources.read(tree)
    pd.testing.assert_frame_equal(both.rows, dicom.rows)
    assert both.rows["path"].str.endswith(".dcm").all()
    assert losing(both) == []


def test_chexpert_plus_labels_are_those_of_the_report_or_of_the_section_named(
    build: Callable[[str], Path],
) -> None:
    tree = build("chexpert-plus")
    plain = sources.read(tree)
    assert plain.facts["labels of reports"] == "report_fixed.json"
    assert (plain.rows["Fracture"] == 0).all()
    options = ReadOptions(columns={"table": "impression_fixed.json"})
    assert (sources.read(tree, "chexpert-plus", options).rows["Fracture"] == 1).all()
    for name in ("report", "findings", "impression"):
        (tree / f"chexbert_labels/{name}_fixed.json").unlink()
    with pytest.raises(SourceError, match="has no labels of CheXbert: it has none; put"):
        sources.read(tree)


def test_chexpert_plus_labels_that_lack_repeat_or_contradict_are_counted(
    build: Callable[[str], Path],
) -> None:
    tree = build("chexpert-plus")

    def edit(objects: list[dict[str, Any]]) -> None:
        objects += [dict(each) for each in objects]  # the same again says nothing new
        objects[-1]["Fracture"] = -1.0
        objects[1]["Edema"] = objects[len(objects) // 2 + 1]["Edema"] = "perhaps so"
        del objects[len(objects) // 2], objects[0]

    plus_labels(tree, "report", edit)
    read = sources.read(tree)
    assert codes(read) == {"no-label": 2, "conflicting-rows": 1, "unknown-value": 1}
    assert int(read.rows[list(read.findings)].isna().all(axis=1).sum()) == 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda objects: objects[3].pop("Edema"), "an object lacks Edema; download it again"),
        (lambda objects: objects.clear(), "it is empty; download it again"),
        (lambda objects: objects.append([1]), r"line 25 is not an object\): download it again"),
        (
            lambda objects: [o.update(path_to_image=f"x{o['path_to_image']}") for o in objects],
            "has labels of none of the images: it begins with 'xtrain/",
        ),
    ],
)
def test_labels_of_another_kind_are_refused_as_chexberts(
    build: Callable[[str], Path], edit: Callable[[list[dict[str, Any]]], object], message: str
) -> None:
    tree = build("chexpert-plus")
    plus_labels(tree, "report", edit)
    with pytest.raises(SourceError, match=message):
        sources.read(tree)


def test_a_long_table_of_reports_is_read_by_the_columns_that_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = "long\nand quoted, " * 4_000
    rows = [[n, report, -n] for n in range(50)]
    path = public_trees.table(tmp_path / "t.csv", ["a", "report", "b"], rows)
    monkeypatch.setattr(table_limits, "LONGEST", 2**21)
    with pytest.raises(SourceError, match="has more than 2 MB unpacked"):
        table_files.text_table(path)
    found = table_files.text_table(path, columns={"b", "a"})
    assert found.columns.tolist() == ["a", "b"]
    assert found["b"].tolist() == [str(-n) for n in range(50)]
    path.write_text("a,report,b\n" + ",,\n" * 20_000)
    with pytest.raises(SourceError, match="more than 2 MB in the columns that are read"):
        table_files.text_table(path, columns={"b", "a"})
    path.write_text('a,report,b\n1,"x\ny",2\n\n3\n4,unquoted, comma,5\n')
    with pytest.raises(SourceError, match="line 6 holds more values than the header"):
        table_files.text_table(path, columns={"a"})
    path.write_text('a,report,b\n1,"x\ny",2\n\n3\n')
    assert table_files.text_table(path, columns={"a", "b"}).to_numpy().tolist() == [
        ["1", "2"], ["3", ""]
    ]  # fmt: skip


@pytest.mark.parametrize("head", ["", "a,b\n"])
def test_a_line_without_end_is_refused_before_it_is_held(tmp_path: Path, head: str) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(head.encode() + b"," * 2**25, 1))
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="has a line of more than 4194304 characters"):
            table_files.text_table(path, columns={"a"})
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


# CheXlocalize


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("61X13mN000`0", [6, 1, 40, 4, 5, 4, 5, 4, 21]),  # the example of the COCO API
        ("04", [0, 4]),
        ("Z1", [42]),
    ],
)
def test_cocos_run_lengths_are_read_from_text_and_from_lists(text: str, lengths: list[int]) -> None:
    runs = regions.runs_from_coco(text, 1, sum(lengths))
    again = regions.runs_from_coco(lengths, 1, sum(lengths))
    assert runs is not None
    assert again is not None
    starts = np.cumsum([0, *lengths])[1:-1:2].tolist()
    wanted = [[start, n] for start, n in zip(starts, lengths[1::2], strict=True)]
    assert runs.tolist() == again.tolist() == wanted


def test_masks_go_through_cocos_run_lengths_and_back() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        mask = rng.random((37, 61)) < share
        runs = regions.runs_from_coco(trees.coco(mask), 37, 61)
        assert runs is not None
        assert np.array_equal(runs, regions.runs_of_mask(mask))
        text = regions.text_of_runs(runs, 37, 61)
        assert not len(runs) or np.array_equal(regions.mask_of_runs(text), mask)


@pytest.mark.parametrize(
    "bad",
    [
        "61X13mN000`", "61X", "!", "~~~~", "ooooooooooo0", [1, 2], [-1, 26], ["25"], 5, None, "",
        [2**63], [2**62] * 4 + [25], [2**64 - 1, 26], [10**400], [12.5, 12.5], [True] * 25, [],
    ],
)  # fmt: skip
def test_run_lengths_that_do_not_fill_the_mask_are_no_region(bad: object) -> None:
    assert regions.runs_from_coco(bad, 5, 5) is None


@pytest.mark.parametrize("runs", [f"{2**62} {2**62}", f"{2**63} 1", "-1 2", "24 2", "26 0", "1"])
def test_runs_that_leave_the_mask_are_refused_however_large_they_are(runs: str) -> None:
    with pytest.raises(ValueError, match=r"outside a mask|reshape"):
        regions.mask_of_runs(f"5x5 {runs}")


@pytest.mark.parametrize(
    "kinds", [["segmentations"], ["annotations"], ["segmentations", "annotations"]]
)
def test_regions_of_chexlocalize_are_the_boxes_and_masks_of_the_films(
    films: list[Film], tmp_path: Path, kinds: list[str]
) -> None:
    read = sources.read(trees.chexlocalize(public_trees.chexpert(tmp_path, films), films, kinds))
    assert losing(read) == []
    boxes = read.boxes.assign(film=read.boxes["image"].str.extract(r"study(\d+)")[0].astype(int))
    count = 0
    for film in films:
        for name, drawn in trees.drawn_boxes(film).items():
            finding = canonical(name)
            here = boxes[(boxes["film"] == film.number + 1) & (boxes["finding"] == finding)]
            mask = trees.mask_of(drawn)
            runs = read.masks[(read.masks["image"] == here["image"].iloc[0])
                              & (read.masks["finding"] == finding)]["runs"].item()  # fmt: skip
            assert np.array_equal(regions.mask_of_runs(runs), mask)
            if "annotations" in kinds:
                found = sorted(map(tuple, (here[[*"xywh"]] * trees.SIDE).round(6).to_numpy()))
                assert found == sorted({*drawn})
            count += 1
    assert len(read.masks) == count > 5, "an empty mask is no region"


def test_regions_that_cannot_be_used_are_counted(films: list[Film], tmp_path: Path) -> None:
    tree = trees.chexlocalize(public_trees.chexpert(tmp_path, films), films, ["segmentations"])
    path = tree / "gt_segmentations_val.json"
    value = json.loads(path.read_text())
    whole = {"size": [8, 8], "counts": trees.coco(np.ones((8, 8), bool))}
    first = next(iter(value))
    absent = next(film for film in films if film.findings and "Edema" not in film.findings)
    value[first]["Pneumothorax"] = {"size": [8, 8], "counts": "61X"}
    value[first]["Ovni"] = whole
    value["patient99999_study1_view1_frontal"] = {"Edema": whole}
    value[trees.region_name(absent)]["Edema"] = whole
    path.write_text(json.dumps(value))
    found = codes(sources.read(tree))
    assert {name: found[name] for name in (
        "bad-mask", "unknown-region-finding", "region-without-image", "region-of-absent-finding",
    )} == {
        "bad-mask": 1, "unknown-region-finding": 1, "region-without-image": 1,
        "region-of-absent-finding": 1,
    }  # fmt: skip


def test_contours_that_leave_their_image_are_counted_and_not_drawn(
    films: list[Film], tmp_path: Path
) -> None:
    tree = trees.chexlocalize(public_trees.chexpert(tmp_path, films), films, ["annotations"])
    before = sources.read(tree)
    path = tree / "gt_annotations_val.json"
    value = json.loads(path.read_text())
    image = next(name for name, of in value.items() if len(of) > 1)
    finding = next(name for name in value[image] if name != "img_size")
    bad = [1e300, -1e300, np.inf, np.nan, 10**400, trees.SIDE + 1, -2, "5"]
    value[image][finding] += [[[1, 1], [20, 1], [20, at]] for at in bad]
    path.write_text(json.dumps(value))
    after = sources.read(tree)
    assert codes(after)["bad-contour"] == len(bad)
    pd.testing.assert_frame_equal(after.boxes, before.boxes)
    pd.testing.assert_frame_equal(after.masks, before.masks)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"a": 5}',
        '{"a": {"E": {"size": [Infinity, 3], "counts": "0"}}}',
        '{"a": {"Edema": {"size": [0, 3], "counts": "0"}}}',
        '{"a": {"E": 1}}',
    ],
)
def test_another_file_is_refused_as_chexlocalizes(
    films: list[Film], tmp_path: Path, text: str
) -> None:
    tree = public_trees.chexpert(tmp_path, films)
    (tree / "gt_segmentations_test.json").write_text(text)
    with pytest.raises(SourceError, match="is not a file of regions of CheXlocalize"):
        sources.read(tree)
