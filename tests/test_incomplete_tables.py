"""Tables of public data sets that lack a column or contradict themselves: never read in silence."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import public_trees
from chestxray import sources
from chestxray.errors import SourceError
from public_trees import Film, change, codes

# MIMIC-CXR-JPG

TEST_LABELS = "mimic-cxr-2.1.0-test-set-labeled.csv"


def of_the_test(read: sources.Collection) -> pd.DataFrame:
    return read.rows[read.rows["image"].isin(read.official["test"])]


def test_a_finding_that_mimics_radiologists_table_lacks_is_unknown_in_its_studies(
    build: Callable[[str], Path],
) -> None:
    tree = build("mimic")
    change(tree / TEST_LABELS, lambda table: table.drop(columns=["Edema"]))
    read = sources.read(tree)
    assert of_the_test(read)["Edema"].isna().all()
    assert (of_the_test(read)["Fracture"] == 1).all()
    assert codes(read)["missing-column"] == 1
    others = read.rows[~read.rows["image"].isin(read.official["test"])]
    assert others["Edema"].notna().all()


def test_mimics_radiologists_table_is_read_under_either_name_of_the_opacity(
    build: Callable[[str], Path],
) -> None:
    tree = build("mimic")
    before = sources.read(tree)
    change(tree / TEST_LABELS, lambda t: t.rename(columns={"Airspace Opacity": "Lung Opacity"}))
    after = sources.read(tree)
    pd.testing.assert_frame_equal(before.rows, after.rows)
    assert after.facts["labels of the test"].startswith(TEST_LABELS)


def test_mimics_labelers_table_without_a_column_is_not_replaced_by_the_others(
    build: Callable[[str], Path],
) -> None:
    tree = build("mimic")
    for labeler in ("chexpert", "negbio"):
        change(tree / f"mimic-cxr-2.0.0-{labeler}.csv", lambda table: table.drop(columns="Edema"))
        with pytest.raises(SourceError, match=r"-chexpert\.csv lacks the columns Edema, so"):
            sources.read(tree)


def test_mimics_contradictory_radiologists_patients_and_splits_are_counted(
    build: Callable[[str], Path],
) -> None:
    tree = build("mimic")
    before = sources.read(tree)
    first = of_the_test(before).iloc[0]
    patient = pd.read_csv(tree / "patients.csv", dtype=str)["subject_id"].iloc[0]
    change(tree / TEST_LABELS, lambda t: pd.concat([t, t.head(1).assign(Fracture="0.0")]))
    change(tree / "patients.csv", lambda t: pd.concat([t, t.head(1).assign(anchor_age="9")]))
    read = sources.read(tree)
    assert codes(read)["conflicting-rows"] == 1
    assert [p.count for p in read.problems if p.code == "conflicting-rows"] == [1, 1]
    rows = read.rows.set_index("image")
    assert rows.loc[first["image"], list(read.findings)].isna().all()
    assert (read.rows["age"].isna() == (read.rows["patient"] == patient)).all()
    placed = before.rows["image"][before.rows["image"].isin(before.official["train"])].iloc[0]

    def also_in_test(table: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([table, table[table["dicom_id"] == placed].assign(split="test")])

    change(tree / "mimic-cxr-2.0.0-split.csv", also_in_test)
    read = sources.read(tree)
    assert codes(read)["conflicting-parts"] == 1
    assert all(placed not in names for names in read.official.values())


def test_mimics_radiologists_table_with_both_names_of_the_opacity_is_refused(
    build: Callable[[str], Path],
) -> None:
    tree = build("mimic")
    change(tree / TEST_LABELS, lambda t: t.assign(**{"Lung Opacity": "1.0"}))
    with pytest.raises(SourceError, match="Airspace Opacity and Lung Opacity, which name one"):
        sources.read(tree)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("mimic", "mimic-cxr-2.0.0-chexpert.csv"),
        ("mimic", "mimic-cxr-2.0.0-split.csv"),
        ("mimic", TEST_LABELS),
        ("vindr", "image_labels_train.csv"),
        ("chexpert", "train.csv"),
    ],
)
def test_an_empty_table_of_a_data_set_is_refused_and_nothing_read_in_its_place(
    build: Callable[[str], Path], name: str, table: str
) -> None:
    tree = build(name)
    (tree / table).write_bytes(b"")
    with pytest.raises(SourceError, match=f"{table} is empty or begins with an empty line"):
        sources.read(tree)
    (tree / table).rename(tree / f"{table}.gz")
    (tree / f"{table}.gz").write_bytes(gzip.compress(b"x" * 999)[:20])
    with pytest.raises(SourceError, match=rf"{table}\.gz cannot be read"):
        sources.read(tree)


def test_mimics_radiologists_tables_that_say_nothing_of_the_test_are_named(
    build: Callable[[str], Path],
) -> None:
    tree = build("mimic")
    assert not {"no-study-of-the-test"} & codes(sources.read(tree)).keys()
    shutil.copy(tree / TEST_LABELS, tree / "mimic-cxr-2.2.0-test-set-labeled.csv")
    read = sources.read(tree)
    (second,) = (p for p in read.problems if TEST_LABELS in p.sentence)
    assert (second.code, second.examples) == (
        "unused-label-table",
        ("mimic-cxr-2.2.0-test-set-labeled.csv",),
    )
    change(tree / TEST_LABELS, lambda t: t.assign(study_id="s" + t["study_id"]))
    (found,) = (p for p in sources.read(tree).problems if p.code == "no-study-of-the-test")
    assert found.examples == (TEST_LABELS,)


# RSNA


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"img_id": 1}', "[1]"])
def test_rsnas_mapping_file_without_a_list_of_names_is_refused(
    build: Callable[[str], Path], text: str
) -> None:
    tree = build("rsna")
    path = tree / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=r"is not RSNA's list of img_id and subset_img_id"):
        sources.read(tree)


def test_rsnas_mapping_file_of_other_images_is_refused(build: Callable[[str], Path]) -> None:
    tree = build("rsna")
    path = tree / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_text('[{"img_id": "00000001_000.png", "subset_img_id": "x"}]', encoding="utf-8")
    with pytest.raises(SourceError, match=r"names NIH's image of none of the 24 images of stage_2"):
        sources.read(tree)


# PadChest

PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"


@pytest.mark.parametrize("title", ["ImageDir", "MethodLabel"])
def test_padchests_table_without_a_column_that_is_not_needed_is_still_padchests(
    build: Callable[[str], Path], title: str
) -> None:
    tree = build("padchest")
    before = sources.read(tree)
    change(tree / PADCHEST, lambda table: table.drop(columns=title))
    assert sources.recognise(tree).name == "padchest"
    pd.testing.assert_frame_equal(before.rows, sources.read(tree).rows)


def test_padchests_four_needed_columns_are_read_where_the_source_is_named(
    build: Callable[[str], Path],
) -> None:
    tree = build("padchest")
    before = sources.read(tree)
    needed = ["ImageID", "PatientID", "Projection", "Labels"]
    change(tree / PADCHEST, lambda table: table[needed])
    after = sources.read(tree, "padchest")
    for title in ("image", "patient", "view", *before.findings):
        assert before.rows[title].equals(after.rows[title])


def test_padchests_row_that_names_only_the_quality_or_chronic_changes_says_nothing(
    build: Callable[[str], Path],
) -> None:
    tree = build("padchest")
    cells = [
        "['suboptimal study']", "['chronic changes', 'suboptimal study']", "['chronic changes']",
        "['suboptimal study', 'normal']", "['suboptimal study', 'scoliosis']", "['obesity']",
    ]  # fmt: skip

    def write(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table.index[: len(cells)], "Labels"] = cells
        return table

    change(tree / PADCHEST, write)
    read = sources.read(tree)
    labels = read.rows[[name for name in read.findings if name != "Scoliosis"]].head(len(cells))
    assert labels.iloc[:3].isna().all(axis=None)
    assert labels.iloc[3:].eq(0).all(axis=None)


# VinDr-CXR


def test_vindrs_table_without_a_label_is_named(build: Callable[[str], Path]) -> None:
    tree = build("vindr")
    change(tree / "annotations/image_labels_train.csv", lambda table: table.drop(columns="ILD"))
    with pytest.raises(SourceError, match=r"image_labels_train\.csv lacks the columns ILD"):
        sources.read(tree)


def test_vindrs_train_without_readers_and_test_with_readers_are_refused(
    build: Callable[[str], Path],
) -> None:
    tree = build("vindr")
    train, test = (tree / f"annotations/image_labels_{part}.csv" for part in ("train", "test"))
    change(test, lambda table: table.assign(rad_id="R1"))
    with pytest.raises(SourceError, match=r"_test\.csv has rad_id for the reader of each row"):
        sources.read(tree)
    change(test, lambda table: table.drop(columns="rad_id"))
    change(train, lambda table: table.drop(columns="rad_id").drop_duplicates("image_id"))
    with pytest.raises(SourceError, match=r"_train\.csv lacks the column rad_id, which names"):
        sources.read(tree)


def test_vindrs_boxes_alone_without_readers_are_no_label_table(
    build: Callable[[str], Path],
) -> None:
    tree = build("vindr")
    for table in (tree / "annotations").iterdir():
        if table.name != "annotations_test.csv":
            table.unlink()
    with pytest.raises(SourceError, match="holds no label table of VinDr-CXR"):
        sources.read(tree, "vindr")


def test_vindrs_image_of_train_and_test_keeps_the_consensus_of_the_test(
    build: Callable[[str], Path],
) -> None:
    tree = build("vindr")
    train, test = (tree / f"annotations/image_labels_{part}.csv" for part in ("train", "test"))
    image = pd.read_csv(test, dtype=str)["image_id"].iloc[0]

    def consensus(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["image_id"] == image, "Edema"] = "1"
        return table

    def again(table: pd.DataFrame) -> pd.DataFrame:
        rows = table.head(3).assign(image_id=image, rad_id=["R1", "R2", "R3"], Edema="0")
        return pd.concat([table, rows])

    change(test, consensus)
    change(train, again)
    read = sources.read(tree)
    assert codes(read)["image-in-two-parts"] == 1
    assert read.rows.set_index("image").loc[image, "Edema"] == 1
    assert image in read.official["test"]


def test_vindrs_mean_of_readers_is_refused_since_a_label_is_no_share(
    build: Callable[[str], Path],
) -> None:
    options = sources.ReadOptions(readers="mean")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"choose one of majority, any, unanimous \(a mean of"):
        sources.read(build("vindr"), options=options)
    assert "there is no mean" in sources.cards()["vindr"].reasons


# CheXpert


def test_chexperts_titles_in_other_letters_are_named(films: list[Film], tmp_path: Path) -> None:
    tree = public_trees.chexpert(tmp_path / "tree", films)
    for name in ("train.csv", "valid.csv"):
        change(tree / name, lambda table: table.rename(columns=str.lower))
        with pytest.raises(SourceError, match=r"train\.csv lacks the columns Atelectasis, Cardi"):
            sources.read(tree)
    assert sources.recognise(tree).name == "chexpert"
