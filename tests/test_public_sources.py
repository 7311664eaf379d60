"""Readers of public data sets, on small trees in their own layouts made of phantoms."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import public_trees
from chestxray import sources
from chestxray.dataset import Dataset, prepare
from chestxray.dataset.store import no_finding
from chestxray.errors import SourceError
from chestxray.findings import canonical
from chestxray.sources import Collection, ReadOptions
from chestxray.sources.regions import box_of_runs, mask_of_runs, text_of_runs
from command_line import run_command
from public_trees import Film, change, codes

MAIN_TABLE = {
    "chexpert": "train.csv",
    "padchest": "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
    "rsna": "stage_2_train_labels.csv",
    "vindr": "annotations/image_labels_train.csv",
    "siim": "train-rle.csv",
    "mimic": "mimic-cxr-2.0.0-metadata.csv",
}
IMAGE_COLUMN = {
    "chexpert": "Path", "padchest": "ImageID", "rsna": "patientId", "vindr": "image_id",
    "siim": "ImageId", "mimic": "dicom_id",
}  # fmt: skip
every_set = pytest.mark.parametrize("name", MAIN_TABLE)


def edit(tree: Path, name: str, how: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """Change a set's main table."""
    change(tree / MAIN_TABLE[name], how)
    return tree


def film_of(row: dict[str, object], name: str, films: list[Film]) -> Film:
    """The film of an image, by the number that its builder wrote into the key."""
    key = str(row["image"])
    number = {
        "chexpert": lambda: int(key.split("/study", 1)[1].split("/", 1)[0]) - 1,
        "padchest": lambda: int(key[16:21]),
        "rsna": lambda: int(key[-4:]),
        "vindr": lambda: int(key, 16),
        "siim": lambda: int(key[-2:]),
        "mimic": lambda: int(key[-8:], 16),
    }[name]()
    return films[number]


@every_set
def test_a_tree_is_recognised_by_its_content_and_by_one_source_alone(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    assert sources.recognise(tree).name == name
    assert sources.recognise(tree / MAIN_TABLE[name]).name == name


@every_set
def test_labels_patients_and_demographics_are_those_of_the_films(
    build: Callable[[str], Path], films: list[Film], name: str
) -> None:
    collection = sources.read(build(name))
    known = {canonical(f) for f in collection.findings} & {
        "Atelectasis", "Cardiomegaly", "Effusion", "Pneumonia", "Pneumothorax", "Edema",
    }  # fmt: skip
    if name == "vindr":
        known -= {"Edema", "Pneumonia"}  # not drawn by the builder
    assert known
    for row in collection.rows.to_dict("records"):
        film = film_of(row, name, films)
        for finding in known:
            assert row[finding] == float(finding in film.findings), (row["image"], finding)
        if name == "vindr":
            assert np.isnan(row["age"])  # 000Y says nothing
        else:
            assert row["sex"] == film.sex
            assert row["age"] == film.age or name == "mimic"  # the first age of a patient
        if name not in {"vindr", "siim"}:  # they publish no patients
            assert int(row["patient"][-2:]) == film.patient
    assert len(collection.rows) == len(films)
    assert not any(problem.loses for problem in collection.problems)


@every_set
def test_a_tree_becomes_a_dataset_with_its_boxes(
    build: Callable[[str], Path], films: list[Film], tmp_path: Path, name: str
) -> None:
    dataset = prepare(build(name), tmp_path / "dataset", size=32, allow_empty=True)
    assert dataset.manifest.failures == ()
    assert len(dataset.index) == len(films)
    for row, values in enumerate(dataset.index.to_dict("records")):
        film = film_of(values, name, films)
        packed = dataset.images[np.array([row])][0].astype(float)
        shown = (
            np.add.reduceat(
                np.add.reduceat(film.pixels.astype(float), range(0, 64, 2)), range(0, 64, 2), 1
            )
            / 4
        )
        assert np.abs(packed - shown).mean() < 4, "MONOCHROME1, 12 and 16 bits look alike"
    if name in {"rsna", "vindr", "siim"}:
        boxes = dataset.boxes
        assert len(boxes)
        assert (boxes[[*"xywh"]].to_numpy() >= 0).all()
        assert ((boxes["x"] + boxes["w"]) <= 1 + 1e-9).all()
        assert set(boxes["image"]) <= set(dataset.index["image"])


@every_set
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    before = sources.read(tree)
    path = tree / MAIN_TABLE[name]
    data = path.read_bytes()
    packed = path.suffix == ".gz"
    data = b"\xef\xbb\xbf" + (gzip.decompress(data) if packed else data).replace(b"\n", b"\r\n")
    path.write_bytes(gzip.compress(data) if packed else data)
    after = sources.read(tree)
    pd.testing.assert_frame_equal(before.rows, after.rows)
    assert codes(before) == codes(after)


@every_set
def test_a_table_with_every_row_twice_is_read_once(build: Callable[[str], Path], name: str) -> None:
    tree = build(name)
    before = sources.read(tree)
    after = sources.read(edit(tree, name, lambda table: pd.concat([table, table])))
    pd.testing.assert_frame_equal(before.rows, after.rows)
    pd.testing.assert_frame_equal(before.boxes, after.boxes)


@every_set
def test_an_image_that_is_not_there_is_counted_and_left_out(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    before = sources.read(tree)
    first = before.rows.iloc[0]
    Path(first["path"]).unlink()
    after = sources.read(tree)
    assert codes(after)["missing-image"] == 1
    assert after.rows["image"].tolist() == before.rows["image"].tolist()[1:]


@every_set
def test_a_table_without_any_of_the_images_is_refused(
    build: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    tree = build(name)
    for table in (*tree.rglob("*.csv"), *tree.rglob("*.gz")):
        other = tmp_path / "other" / table.relative_to(tree)
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(table.read_bytes())
    with pytest.raises(SourceError, match="there is no PNG, JPEG or DICOM file; give the folder"):
        sources.read(tmp_path / "other")


@every_set
def test_a_missing_column_is_named_when_the_source_is(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    for path in {MAIN_TABLE[name], "valid.csv"} if name == "chexpert" else {MAIN_TABLE[name]}:
        change(tree / path, lambda table: table.rename(columns={IMAGE_COLUMN[name]: "picture"}))
    if name == "vindr":
        (tree / "annotations/image_labels_test.csv").unlink()
        for part in ("train", "test"):
            (tree / f"annotations/annotations_{part}.csv").unlink()
    with pytest.raises(SourceError, match=r"holds no label table of|lacks the columns Path"):
        sources.read(tree, name)


@every_set
def test_rows_that_name_no_image_are_left_out(build: Callable[[str], Path], name: str) -> None:
    tree = build(name)
    before = sources.read(tree)

    def blank(table: pd.DataFrame) -> pd.DataFrame:
        extra = table.head(1).assign(**{IMAGE_COLUMN[name]: ""})
        return pd.concat([table, extra])

    pd.testing.assert_frame_equal(before.rows, sources.read(edit(tree, name, blank)).rows)


def test_sets_of_different_findings_become_one_dataset_without_false_negatives(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    dataset = prepare(
        [build("rsna"), build("padchest")], tmp_path / "dataset", size=32, allow_empty=True
    )
    rsna = dataset.index[dataset.index["source"] == "rsna"]
    padchest = dataset.index[dataset.index["source"] == "padchest"]
    assert rsna["Effusion"].isna().all()
    assert padchest["Effusion"].notna().all()
    assert not (padchest["Lung Opacity"] == 0).any(), "PadChest cannot say that there is none"
    assert (padchest["Lung Opacity"][padchest["Pneumonia"] == 1] == 1).all()


# CheXpert


@pytest.mark.parametrize("title", ["Pleural Effusion", "Path"])
def test_chexperts_table_with_a_misspelt_title_is_not_left_out_silently(
    build: Callable[[str], Path], title: str
) -> None:
    tree = build("chexpert")
    change(tree / "train.csv", lambda table: table.rename(columns={title: title[:-1]}))
    with pytest.raises(SourceError, match=rf"train\.csv lacks the columns {title}, so"):
        sources.read(tree)


def chexpert_cells(tree: Path, finding: str, *cells: str) -> Path:
    """Write the first labels of a finding in train.csv."""

    def write(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table.index[: len(cells)], finding] = list(cells)
        return table

    return edit(tree, "chexpert", write)


@pytest.mark.parametrize(("policy", "value"), [("ones", 1.0), ("zeros", 0.0), ("ignore", np.nan)])
def test_chexperts_uncertain_labels_follow_the_policy(
    build: Callable[[str], Path], policy: str, value: float
) -> None:
    tree = chexpert_cells(build("chexpert"), "Fracture", *["-1.0"] * 6)
    options = ReadOptions(uncertain=policy, views="all")  # type: ignore[arg-type]
    rows = sources.read(tree, options=options).rows
    column = rows["Fracture"]
    assert ((column == value) | (column.isna() & np.isnan(value))).sum() >= 6
    assert (
        (sources.read(tree, options=ReadOptions(blank="unknown")).rows["Lung Lesion"]).isna().any()
    )


def test_chexperts_blank_lung_opacity_is_present_beside_edema_and_uncertain_beside_a_doubt(
    build: Callable[[str], Path],
) -> None:
    tree = build("chexpert")

    def write(table: pd.DataFrame) -> pd.DataFrame:
        table[["Edema", "Consolidation", "Pneumonia", "Atelectasis"]] = "0.0"
        table.loc[[0, 1, 2, 3], "Lung Opacity"] = ["", "", "", "0.0"]
        table.loc[[0, 1, 2, 3], "Edema"] = ["1.0", "-1.0", "0.0", "1.0"]
        return table

    edit(tree, "chexpert", write)
    keys = pd.read_csv(tree / "train.csv")["Path"].head(4).str.split("/", n=1).str[1]
    for policy, doubt in (("ignore", np.nan), ("ones", 1.0), ("zeros", 0.0)):
        options = ReadOptions(uncertain=policy, views="all")  # type: ignore[arg-type]
        rows = sources.read(tree, options=options).rows.set_index("image")
        np.testing.assert_array_equal(rows.loc[keys, "Lung Opacity"], [1.0, doubt, 0.0, 0.0])


def test_a_table_of_the_small_release_fits_the_images_of_the_full_one(
    films: list[Film], tmp_path: Path
) -> None:
    trees = [
        public_trees.chexpert(tmp_path / "a", films, "CheXpert-v1.0-small"),
        public_trees.chexpert(
            tmp_path / "b" / "CheXpert-v1.0", films, "CheXpert-v1.0-small"
        ).parent,
        public_trees.chexpert(tmp_path / "c" / "CheXpert-v1.0", films, "CheXpert-v1.0"),
    ]
    first, *others = (sources.read(tree) for tree in trees)
    assert first.rows["image"].str.match(r"(train|valid)/patient\d{5}/study\d+/view1_").all()
    for other in others:
        pd.testing.assert_frame_equal(
            first.rows.drop(columns="path"), other.rows.drop(columns="path")
        )


def test_chexperts_valid_is_the_test_until_there_is_a_test(build: Callable[[str], Path]) -> None:
    tree = build("chexpert")
    official = sources.read(tree).official
    assert sorted(official) == ["test", "train_val"]
    assert all(name.startswith("valid/") for name in official["test"])
    table = pd.read_csv(tree / "valid.csv", dtype=str, keep_default_na=False)
    table["Path"] = table["Path"].str.replace("valid/patient", "test/patient9", regex=False)
    table = table.drop(columns=["Sex", "Age", "Frontal/Lateral", "AP/PA"])
    table.to_csv(tree / "test.csv", index=False)
    for path in sorted((tree / "valid").rglob("*.jpg")):
        name = path.relative_to(tree / "valid").as_posix().replace("patient", "patient9", 1)
        (tree / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "test" / name).write_bytes(path.read_bytes())
    read = sources.read(tree)
    assert sorted(read.official) == ["test", "train", "val"]
    assert all(name.startswith("test/") for name in read.official["test"])
    assert not read.rows["image"].str.contains("lateral").any(), (
        "the test states no view but its name"
    )


def test_a_table_of_another_labeler_is_read_where_it_is_named(build: Callable[[str], Path]) -> None:
    tree = build("chexpert")
    table = pd.read_csv(tree / "train.csv", dtype=str, keep_default_na=False)
    table.assign(Fracture="1.0").to_csv(tree / "train_cheXbert.csv", index=False)
    plain = sources.read(tree)
    assert codes(plain)["unused-label-table"] == 1
    assert not (plain.rows["Fracture"] == 1).any()
    named = sources.read(tree, "chexpert", ReadOptions(columns={"table": "train_cheXbert.csv"}))
    assert (named.rows["Fracture"][named.rows["image"].str.startswith("train")] == 1).all()
    with pytest.raises(SourceError, match=r"no label table none.csv: it has train.csv"):
        sources.read(tree, "chexpert", ReadOptions(columns={"table": "none.csv"}))


def test_a_path_without_a_patient_is_counted_and_left_out(build: Callable[[str], Path]) -> None:
    tree = build("chexpert")
    before = len(sources.read(tree).rows)
    edit(tree, "chexpert", lambda t: t.assign(Path=["x/y.jpg", *t["Path"][1:]]))
    with pytest.raises(SourceError, match="not a recognised data set"):
        sources.read(tree / "train.csv")
    after = sources.read(edit(tree, "chexpert", lambda t: pd.concat([t[1:], t[:1]])))
    assert codes(after)["no-patient"] == 1
    assert len(after.rows) == before - 1


# PadChest


def padchest_labels(build: Callable[[str], Path], *cells: str) -> Collection:
    """Read the tree with these first cells of `Labels`, in the order of the films."""
    tree = build("padchest")

    def write(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table.index[: len(cells)], "Labels"] = list(cells)
        return table

    return sources.read(edit(tree, "padchest", write))


def first_rows(collection: Collection, *findings: str) -> list[list[float | None]]:
    values = collection.rows[list(findings)].to_numpy()
    return [[None if np.isnan(v) else v for v in row] for row in values[:8]]


def test_padchests_finer_words_make_the_broader_present_and_never_the_reverse(
    build: Callable[[str], Path],
) -> None:
    read = padchest_labels(
        build, "['laminar atelectasis']", "['atelectasis']", "['pneumonia']",
        "['callus rib fracture']", "['fracture']",
    )  # fmt: skip
    found = first_rows(read, "Atelectasis", "Laminar Atelectasis", "Fracture", "Rib Fracture")
    assert found[0] == [1, 1, 0, 0]
    assert found[1] == [1, None, 0, 0], "atelectasis may be laminar"
    assert found[2] == [0, 0, 0, 0]
    assert found[3] == [0, 0, 1, 1]
    assert found[4] == [0, 0, 1, None]
    assert first_rows(read, "Callus Rib Fracture")[4] == [None], "a rib that may be broken"


def test_padchests_words_that_leave_findings_open_make_them_unknown(
    build: Callable[[str], Path],
) -> None:
    read = padchest_labels(
        build, "['unchanged', 'pleural effusion']", "['normal', 'unchanged']", "['exclude']",
        "['mass']", "['pulmonary mass', 'mass']", "['mediastinal mass']",
        "['unchanged', 'laminar atelectasis']",
    )  # fmt: skip
    assert first_rows(read, "Atelectasis", "Pneumonia")[6] == [1, None]
    found = first_rows(read, "Effusion", "Mass", "Mediastinal Mass")
    assert found[0] == [1, None, None]
    assert found[1] == [0, 0, 0]
    assert found[2] == [None, None, None]
    assert found[3] == [0, None, 0], "a mass of an organ that is not named"
    assert found[4] == [0, 1, 0]
    assert found[5] == [0, 0, 1]


def test_padchests_empty_broken_and_unknown_labels_are_counted(
    build: Callable[[str], Path],
) -> None:
    read = padchest_labels(
        build, "", "nan", "['']", "not a list", "['ovni', 'nodule']", "['nodule '"
    )
    assert codes(read) == {"no-label": 3, "unreadable-labels": 2, "unknown-label": 1}
    found = first_rows(read, "Nodule", "Mass")
    assert found[:4] == [[None, None]] * 4
    assert found[4] == [1, None], "ovni may mean any finding"
    assert found[5] == [None, None]


def test_padchests_age_is_that_at_the_study_and_costal_views_are_left_out(
    build: Callable[[str], Path],
) -> None:
    tree = build("padchest")

    def write(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[[0, 1, 2], "PatientBirth"] = ["1950.0", "", "2016.0"]
        table.loc[[0, 1], "StudyDate_DICOM"] = "20100701"
        table.loc[[3, 4, 5], "Projection"] = ["COSTAL", "L", "EXCLUDE"]
        return table

    read = sources.read(edit(tree, "padchest", write))
    assert read.rows["age"].iloc[0] == 60
    assert read.rows["age"].iloc[[1, 2]].isna().all()
    assert codes(read)["impossible-age"] == 1
    assert codes(read)["other-view"] == 3


def test_padchests_images_that_physicians_labelled_are_kept_alone_by_the_option(
    build: Callable[[str], Path],
) -> None:
    tree = build("padchest")

    def by_network(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table.index[5:], "MethodLabel"] = "RNN_model"
        return table

    everyone = sources.read(edit(tree, "padchest", by_network))
    assert len(everyone.rows) == 24
    options = ReadOptions(labelers="physicians")
    read = sources.read(tree, options=options)
    pd.testing.assert_frame_equal(read.rows, everyone.rows.head(5))
    assert codes(read) == {"other-labeler": 19}
    assert read.policies["labelers"] == "physicians"
    assert not any(problem.loses for problem in read.problems)
    edit(tree, "padchest", lambda table: table.assign(MethodLabel="RNN_model"))
    with pytest.raises(SourceError, match="--labelers physicians leaves none of 24 images"):
        sources.read(tree, options=options)
    options = ReadOptions(labelers="nonsense")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="labelers nonsense is not a rule of labelers: choose"):
        sources.read(tree, options=options)


# RSNA


def test_rsnas_patients_are_those_of_nih_by_the_mapping_file_alone(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    tree = build("rsna")
    read = sources.read(tree)
    assert read.rows["patient"].nunique() == len({film.patient for film in films})
    assert read.rows["patient"].iloc[0] == f"{films[0].patient:08d}"
    path = tree / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_text('[{"img_id": 1}]')
    with pytest.raises(SourceError, match="not RSNA's list of img_id and subset_img_id"):
        sources.read(tree)
    path.unlink()
    read = sources.read(tree)
    assert (read.rows["patient"] == read.rows["image"]).all()
    assert read.facts["patients"].startswith("not published")


def test_rsnas_lung_opacity_is_unknown_where_the_image_is_not_normal(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    rows = sources.read(build("rsna")).rows
    for row, film in zip(rows.to_dict("records"), films, strict=True):
        if "Pneumonia" in film.findings:
            assert row["Lung Opacity"] == 1
        elif film.findings:
            assert np.isnan(row["Lung Opacity"])
        else:
            assert row["Lung Opacity"] == 0
    assert rows["Lung Opacity"].isna().any()
    assert (rows["Lung Opacity"] == 0).any()


def test_rsnas_contradictions_and_bad_boxes_are_counted(build: Callable[[str], Path]) -> None:
    tree = build("rsna")
    before = sources.read(tree)
    healthy = before.rows["image"][before.rows["Pneumonia"] == 0].tolist()
    boxed = before.boxes["image"].iloc[0]

    def write(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["patientId"] == healthy[0], "Target"] = "2"
        table.loc[table["patientId"] == boxed, "x"] = "1000"
        extra = {"patientId": healthy[1], "x": 1, "y": 1, "width": 9, "height": 9, "Target": 1}
        return pd.concat([table, pd.DataFrame([extra]).astype(str)])

    read = sources.read(edit(tree, "rsna", write))
    assert codes(read) == {
        "unknown-value": 1, "contradiction": 1, "view-from-header": 24, "bad-box": 1,
    }  # fmt: skip
    rows = read.rows.set_index("image")
    assert rows.loc[healthy[:2], ["Pneumonia", "Lung Opacity"]].isna().all(axis=None)


def test_rsnas_boxes_are_those_of_the_films_for_both_findings(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    boxes = sources.read(build("rsna")).boxes
    drawn = [(f.number, *b[1:]) for f in films for b in f.boxes if b[0] == "Pneumonia"]
    for finding in ("Pneumonia", "Lung Opacity"):
        read = boxes[boxes["finding"] == finding]
        number = read["image"].str[-4:].astype(int)
        for row in drawn:
            here = read[number == row[0]]
            assert np.isclose(here[[*"xywh"]], row[1:], atol=1e-3).all(axis=1).any()


# VinDr-CXR


def test_vindrs_rule_of_readers_decides_what_one_of_three_missed(
    build: Callable[[str], Path],
) -> None:
    tree = build("vindr")

    def write(table: pd.DataFrame) -> pd.DataFrame:
        image = table["image_id"].iloc[0]
        rows = table.index[table["image_id"] == image]
        table.loc[rows, ["Calcification", "Lung cyst", "ILD"]] = [
            list("110"),
            list("100"),
            list("100"),
        ]
        return table

    edit(tree, "vindr", write)
    found = {}
    for rule in ("majority", "any", "unanimous"):
        read = sources.read(tree, options=ReadOptions(readers=rule))  # type: ignore[arg-type]
        found[rule] = first_rows(read, "Calcification", "Lung Cyst", "ILD")[0]
        assert read.facts["readers"].startswith(f"{rule}; 6 images by 1 reader, 18 images by 3")
    assert found == {
        "majority": [1, 0, 0],
        "any": [1, 1, 0],
        "unanimous": [1, None, 0],
    }


def test_vindrs_reader_who_names_consolidation_names_lung_opacity(
    build: Callable[[str], Path],
) -> None:
    rows = sources.read(build("vindr")).rows
    assert (rows["Lung Opacity"][rows["Consolidation"] == 1] == 1).all()
    assert (rows["Consolidation"] == 1).any()


def test_vindrs_official_split_is_its_own_and_the_tests_spelling_is_known(
    build: Callable[[str], Path],
) -> None:
    read = sources.read(build("vindr"))
    assert {part: len(names) for part, names in read.official.items()} == {
        "train_val": 18, "test": 6
    }  # fmt: skip
    assert "Other Diseases" in read.findings


def test_vindrs_boxes_are_those_of_the_films(
    build: Callable[[str], Path], films: list[Film]
) -> None:
    boxes = sources.read(build("vindr")).boxes
    drawn = [
        (film.number, name, *box)
        for film in films
        for name, *box in film.boxes
        if name in public_trees.VINDR_OF_NIH
    ]
    assert len(drawn) > 5
    for number, name, *box in drawn:
        here = boxes[(boxes["image"] == f"{number:032x}") & (boxes["finding"] == name)]
        assert np.isclose(here[[*"xywh"]], box, atol=1e-3).all(axis=1).any()


def test_kaggles_table_of_vindr_gives_the_labels_of_physionets(
    build: Callable[[str], Path], films: list[Film], tmp_path: Path
) -> None:
    tree = build("vindr")
    kaggle = public_trees.vindr_kaggle(tmp_path / "kaggle", films) / "train.csv"
    read = sources.read(kaggle)
    assert read.name == "vindr"
    whole = sources.read(tree).rows
    for finding in ("Effusion", "Consolidation", "Pneumothorax", "Lung Opacity", "Fibrosis"):
        assert read.rows[finding].tolist() == whole[finding].tolist()
    change(kaggle, lambda t: t.assign(class_name=["Ovni", *t["class_name"][1:]]))
    read = sources.read(kaggle)
    assert codes(read)["unknown-label"] == 1
    assert read.rows["Atelectasis"].isna().sum() <= 1
    assert read.rows.iloc[0][list(read.findings)].isna().any()


# SIIM-ACR


def test_siims_rows_of_an_image_are_one_mask_in_the_place_of_the_film(
    build: Callable[[str], Path], films: list[Film], tmp_path: Path
) -> None:
    read = sources.read(build("siim"))
    several = 0
    for film in films:
        drawn = np.zeros((1024, 1024), dtype=bool)
        boxes = [public_trees.frame(*b[1:]) for b in film.boxes if b[0] == "Pneumothorax"]
        for x, y, w, h in boxes or [(100, 200, 50, 60)]:
            drawn[y : y + h, x : x + w] = True
        mine = read.masks[read.masks["image"] == public_trees.uid(film)]
        assert len(mine) == int("Pneumothorax" in film.findings)
        for runs in mine["runs"]:
            assert np.array_equal(mask_of_runs(runs), drawn)
            several += len(boxes) > 1
    assert len(read.masks)
    dataset = prepare(tmp_path / "siim", tmp_path / "dataset", size=32, allow_empty=True)
    packed = dataset.masks[np.arange(len(dataset.index))][:, 0]
    assert np.array_equal(packed.any((1, 2)), dataset.index["Pneumothorax"].to_numpy() == 1)


def test_siims_boxes_surround_their_runs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.zeros((16, 16), dtype=bool)
        for _ in range(3):
            x, y = rng.integers(0, 12, 2)
            mask[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = True
        flat = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel().astype(int), [0]])))
        runs = np.column_stack([flat[::2], flat[1::2] - flat[::2]])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert np.array_equal(mask_of_runs(text_of_runs(runs, 16, 16)), mask)
        x, y, w, h = box_of_runs(runs, 16)
        assert (x, x + w - 1) == (columns[0], columns[-1])
        if not (mask.T[:-1, -1] & mask.T[1:, 0]).any():  # no run goes on in the next column
            assert (y, y + h - 1) == (rows[0], rows[-1])


@pytest.mark.parametrize("bad", ["1 2 3", "5", "1 -2", "1048570 10", "a b", "1 0", "9" * 40 + " 1"])
def test_siims_bad_runs_are_counted_and_make_the_label_unknown(
    build: Callable[[str], Path], bad: str
) -> None:
    tree = build("siim")
    title = " EncodedPixels"
    edit(
        tree, "siim", lambda t: t.assign(**{title: [bad, *t[title][1:]]}).drop_duplicates("ImageId")
    )
    read = sources.read(tree)
    assert codes(read)["bad-mask"] == 1
    assert read.rows["Pneumothorax"].isna().sum() == 1


def test_siims_image_with_a_mask_and_without_is_a_contradiction(
    build: Callable[[str], Path],
) -> None:
    tree = build("siim")

    def both(table: pd.DataFrame) -> pd.DataFrame:
        extra = table.head(1).assign(**{" EncodedPixels": "5 3"})
        return pd.concat([table.assign(), extra, table.head(1).assign(**{" EncodedPixels": "-1"})])

    read = sources.read(edit(tree, "siim", both))
    assert codes(read)["contradiction"] == 1
    assert read.rows["Pneumothorax"].isna().sum() == 1
    assert read.rows["image"].iloc[0] not in set(read.masks["image"])


def test_another_challenges_table_of_the_same_titles_is_not_siims(tmp_path: Path) -> None:
    table = public_trees.table(
        tmp_path / "ships.csv", ("ImageId", "EncodedPixels"), [["00003e153.jpg", "1 2"]]
    )
    with pytest.raises(SourceError, match="not a recognised data set"):
        sources.read(table)


# MIMIC-CXR-JPG


def test_mimics_test_has_the_labels_of_radiologists(build: Callable[[str], Path]) -> None:
    read = sources.read(build("mimic"))
    test = read.rows["image"].isin(read.official["test"])
    assert (read.rows["Fracture"][test] == 1).all()
    assert (read.rows["Fracture"][~test] == 0).all()
    assert read.facts["labels of the test"].endswith(f"of {int(test.sum())} images")
    assert sorted(read.official) == ["test", "train", "val"]


def test_mimics_other_labeler_and_studies_without_labels(build: Callable[[str], Path]) -> None:
    tree = build("mimic")
    negbio = tree / "mimic-cxr-2.0.0-negbio.csv"
    change(negbio, lambda t: t.assign(**{"Lung Lesion": "1.0"})[1:])
    plain = sources.read(tree)
    assert codes(plain) == {"unused-label-table": 1}
    assert (plain.rows["Lung Lesion"] == 0).all()
    read = sources.read(tree, "mimic", ReadOptions(columns={"table": negbio.name}))
    train = ~read.rows["image"].isin(read.official["test"])
    assert (read.rows["Lung Lesion"][train].dropna() == 1).all()
    assert codes(read)["no-label"] == 1
    assert read.rows.iloc[0][list(read.findings)].isna().all()


def test_mimics_unknown_part_and_contradictory_study(build: Callable[[str], Path]) -> None:
    tree = build("mimic")
    labels = tree / "mimic-cxr-2.0.0-chexpert.csv"
    change(labels, lambda t: pd.concat([t, t.head(1).assign(Fracture="1.0")]))
    read = sources.read(tree)
    assert codes(read)["conflicting-rows"] == 1
    assert read.rows.iloc[0][list(read.findings)].isna().all()
    change(tree / "mimic-cxr-2.0.0-split.csv", lambda t: t.assign(split="tune"))
    with pytest.raises(
        SourceError, match="names the split 'tune': allowed are train, validate, test"
    ):
        sources.read(tree)


# Several sets in one dataset


def test_prepare_tells_once_what_sets_have_in_common_and_what_none_of_them_can_say(
    build: Callable[[str], Path], films: list[Film], tmp_path: Path
) -> None:
    trees = [build(name) for name in ("chestxdet", "siim", "rsna")]
    done = run_command("prepare", *trees, tmp_path / "out", "--size", 32, "--allow-empty")
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert "split by the lists of chestxdet, drawn in rsna, siim (SHA-256 " in shown
    view = "the table does not state the view: that of the DICOM header is used"
    assert shown.count(view) == 1
    assert f"{view}: siim {len(films)}, rsna {len(films)}, such as " in shown
    assert not re.search(r"^No Finding +\d", shown, re.MULTILINE)
    assert "No Finding is unknown: no source labels all of these findings" in shown
    counts = Dataset.open(tmp_path / "out").manifest.counts
    assert all("No Finding" not in of for of in counts.values())


def test_no_finding_is_counted_where_one_set_labels_all_findings(
    build: Callable[[str], Path], films: list[Film], tmp_path: Path
) -> None:
    dataset = prepare([build("nih"), build("siim")], tmp_path / "out", size=32, allow_empty=True)
    free = sum(of["No Finding"] for of in dataset.manifest.counts.values())
    assert free == sum(not film.findings for film in films) > 0
    none = no_finding(dataset.index[list(dataset.findings)]).groupby(dataset.index["source"])
    assert none.count()["nih"] == len(films)
    shown = sum("Pneumothorax" in film.findings for film in films)
    assert none.count()["siim"] == shown, "an image without a pneumothorax may have another finding"
