"""A table of one's own: any column names, three layouts of labels, any place of the images."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image

import hospital_tree
from chestxray import sources
from chestxray.cli.options import SourceOptions
from chestxray.errors import SourceError
from chestxray.findings import Findings
from chestxray.sources import Collection, ReadOptions, find_columns, write_columns
from conftest import REAL

HOSPITAL = "file,pid,projection,Effusion,Rib fracture"


def image(path: Path, tone: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), tone, np.uint8)).save(path)
    return path


def header(path: Path, view: str, meaning: str = "") -> Path:
    """A DICOM file that states its view, as a code's meaning too where one is given."""
    return dicom(path, f"1.2.{ord(path.stem)}", view=view, meaning=meaning)


def dicom(path: Path, uid: str, view: str = "", meaning: str = "") -> Path:
    """A DICOM file of which only the header is right."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", uid
    header.ViewPosition = view
    if meaning:
        code = Dataset()
        code.CodeMeaning = meaning
        header.ViewCodeSequence = [code]
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = uid
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(tree: Path, **columns: str) -> Collection:
    return sources.read(tree, "table", ReadOptions(columns=columns))


def labels_of(tmp_path: Path, *cells: str, options: ReadOptions | None = None) -> Collection:
    """Read a table alone with one column of labels, `cells`."""
    rows = [f'{number}.png,p{number},"{cell}"' for number, cell in enumerate(cells)]
    path = write(tmp_path / "t.csv", "image,patient,labels", *rows)
    return sources.read(path, "table", options)


def codes(collection: Collection) -> dict[str, int]:
    return {problem.code: problem.count for problem in collection.problems}


def values(collection: Collection, finding: str) -> list[float | None]:
    return [None if np.isnan(value) else value for value in collection.rows[finding]]


# A hospital's table


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not there")
    return hospital_tree.make(tmp_path_factory.mktemp("hospital") / "tree")


def test_a_hospitals_tree_is_recognised_and_read_to_five_findings(hospital: Path) -> None:
    collection = sources.read(hospital)
    assert collection.name == "tree"
    assert collection.findings == Findings(
        ["Effusion", "Pneumothorax", "Consolidation", "Rib Fracture", "Pacemaker"]
    )
    assert len(collection.rows) == 200
    assert collection.problems == ()
    assert collection.rows["image"].is_unique
    assert collection.rows["image"].str.fullmatch(r"P\d{4}/S\d/IM0[12]\.png").all()
    assert all(Path(path).is_file() for path in collection.rows["path"])
    assert (collection.rows["image"].str.slice(0, 5) == collection.rows["patient"]).all()
    for finding in collection.findings:
        assert set(values(collection, finding)) == {0.0, 1.0, None}


def test_a_hospitals_labels_are_those_of_nih_where_nih_has_them(hospital: Path) -> None:
    written = pd.read_csv(hospital / "labels.csv", dtype=str, keep_default_na=False)
    rows = sources.read(hospital).rows.set_index("image").loc[written["file"]]
    for title, finding in (("Effusion", "Effusion"), ("Rib fracture", "Rib Fracture")):
        expected = written[title].map({"1": 1.0, "0": 0.0, "": np.nan, "-1": np.nan})
        np.testing.assert_array_equal(rows[finding].to_numpy(), expected.to_numpy())


def test_a_tree_and_its_table_alone_name_the_images_alike(hospital: Path) -> None:
    whole, table = sources.read(hospital), sources.read(hospital / "labels.csv")
    pd.testing.assert_frame_equal(
        whole.rows.drop(columns="path"), table.rows.drop(columns="path"), check_dtype=False
    )
    assert (table.rows["path"] == "").all()


def test_hospital_trees_of_one_seed_are_equal(hospital: Path, tmp_path: Path) -> None:
    again = hospital_tree.make(tmp_path / "again", images=20)
    assert (again / "labels.csv").read_text() == "".join(
        (hospital / "labels.csv").read_text().splitlines(keepends=True)[:21]
    )


# Columns


def test_the_facts_state_what_was_guessed_given_and_not_read(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", HOSPITAL + ",comment", "a.png,1,PA,1,0,good image")
    image(tmp_path / "a.png")
    facts = read(tmp_path, view="projection").facts
    assert facts == {
        "label table": "labels.csv",
        "column image": "file (guessed)",
        "column patient": "pid (guessed)",
        "column view": "projection (given)",
        "columns not read": "comment",
        "labels": "one column per finding: Effusion, Rib Fracture",
        "renamed findings": "'Rib fracture' is Rib Fracture",
        "blank labels": "unknown, since other labels are 0",
    }
    stated = sources.read(tmp_path, options=ReadOptions(blank="unknown")).facts
    assert "blank labels" not in stated


@pytest.mark.parametrize(
    ("image_title", "patient_title"),
    [("file", "pid"), ("Image Path", "Patient ID"), ("filename", "subject_id"),
     ("image_id", "PatientID"), ("Path", "MRN"), ("SOPInstanceUID", "patient")],
)  # fmt: skip
def test_usual_titles_are_guessed(tmp_path: Path, image_title: str, patient_title: str) -> None:
    path = write(
        tmp_path / "t.csv", f"{image_title},{patient_title},Mass", "a.png,7,1", "b.png,8,0"
    )
    collection = sources.read(path)
    assert collection.rows["image"].tolist() == ["a.png", "b.png"]
    assert collection.rows["patient"].tolist() == ["7", "8"]


def test_told_columns_come_before_the_file_and_the_file_before_a_guess(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,a,b,patient,Mass", "x.png,A,B,C,1")
    assert read(path).rows["patient"].tolist() == ["C"]
    write(tmp_path / "columns.yaml", "columns: {patient: b}")
    assert read(path).rows["patient"].tolist() == ["B"]
    assert read(path, patient="a").rows["patient"].tolist() == ["A"]


def test_an_empty_name_says_that_the_table_has_no_such_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,patient,age,Mass", "x.png,C,50,1")
    assert read(path, age="").rows["age"].isna().all()


def test_what_is_guessed_can_be_written_confirmed_and_is_then_given(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", HOSPITAL, "a.png,1,PA,1,0", "b.png,2,AP,,1")
    image(tmp_path / "a.png"), image(tmp_path / "b.png")
    before = sources.read(tmp_path)
    write_columns(find_columns(tmp_path), tmp_path / "labels.columns.yaml")
    written = (tmp_path / "labels.columns.yaml").read_text()
    assert "as columns.yaml, or labels.columns.yaml." in written
    after = sources.read(tmp_path)
    assert (after.name, after.card) == (before.name, before.card)
    pd.testing.assert_frame_equal(before.rows, after.rows)
    assert after.facts["column patient"] == "pid (labels.columns.yaml)"


def test_a_yaml_file_names_the_data_set_and_its_policies(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", HOSPITAL, "a.png,1,PA,-1,0", "b.png,2,PA,,1")
    image(tmp_path / "a.png"), image(tmp_path / "b.png")
    write(
        tmp_path / "labels.columns.yaml",
        "columns: {image: file, patient: pid, findings: [Effusion]}",
        "name: ward-3", "title: Ward 3, 2024", "label_origin: Read by one radiologist.",
        "uncertain: ones", "blank: negative", "views: PA",
    )  # fmt: skip
    collection = sources.read(tmp_path)
    assert collection.name == "ward-3"
    assert collection.card.title == "Ward 3, 2024"
    assert collection.card.label_origin == "Read by one radiologist."
    assert collection.policies == {"uncertain": "ones", "blank": "negative", "views": "PA"}
    assert collection.findings == ("Effusion",)
    assert values(collection, "Effusion") == [1.0, 0.0]
    stated = sources.read(tmp_path, options=ReadOptions(uncertain="zeros"))
    assert stated.policies["uncertain"] == "zeros"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("columns: {image: nowhere}", "no column 'nowhere': its columns are file, pid"),
        ("columns: {picture: file}", "picture is not one of image, patient"),
        ("colums: {image: file}", "colums.*allowed keys are table, columns"),
        ("name: Two Words", "name"),
        ("blank: perhaps", "blank"),
        ("a: [", "not readable YAML"),
        ("columns: {image: file, patient: file}", "image and patient cannot both be 'file'"),
    ],
)
def test_a_settings_file_that_is_wrong_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path / "labels.csv", HOSPITAL, "a.png,1,PA,1,0")
    write(tmp_path / "columns.yaml", text)
    with pytest.raises(SourceError, match=reason):
        read(path)


def test_findings_may_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,patient,Mass,portable", "a.png,1,1,0")
    assert read(path).findings == ("Mass", "portable")
    assert read(path, findings="Mass").findings == ("Mass",)
    with pytest.raises(SourceError, match="no column 'Nodule'"):
        read(path, findings="Mass;Nodule")


def test_without_patients_it_stops_says_why_and_how_to_go_on(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,Mass", "a.png,1", "b.png,0")
    with pytest.raises(SourceError, match=r"look alike.*--patient-per-image"):
        read(path)
    options = ReadOptions(patient_per_image=True)
    collection = sources.read(path, "table", options)
    assert collection.rows["patient"].tolist() == ["a.png", "b.png"]
    assert collection.facts["column patient"].startswith(
        "none: each image belongs to a different patient"
    )
    write(path, "image,pid,Mass", "a.png,1,1")
    with pytest.raises(SourceError, match="has the patient column 'pid'"):
        sources.read(path, "table", options)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("a,patient,Mass", "no column was recognised as the image column.*--columns image="),
        ("image,patient,text", "no column was recognised as the label column.*--columns labels="),
        ("image,image,patient", "several columns called image"),
    ],
)
def test_a_table_that_lacks_a_column_is_refused(tmp_path: Path, header: str, reason: str) -> None:
    path = write(tmp_path / "t.csv", header, "a.png,1,something")
    with pytest.raises(SourceError, match=reason):
        read(path)


# Kinds of tables


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "tsv.gz", "parquet", "semicolons.csv"])
def test_every_kind_of_table_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    text = "file,pid,Age,Mass,Effusion\na.png,7,60,1,\nb.png,8,,0,1\n"
    path = tmp_path / f"labels.{kind}"
    if kind == "parquet":
        pd.DataFrame(
            {
                "file": ["a.png", "b.png"], "pid": [7, 8], "Age": [60.0, None],
                "Mass": [True, False], "Effusion": [None, 1.0],
            }
        ).to_parquet(path)  # fmt: skip
    else:
        mark = {"c": ",", "t": "\t", "s": ";"}[kind[0]]
        data = text.replace(",", mark).encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    collection = sources.read(path)
    assert collection.rows["patient"].tolist() == ["7", "8"]
    assert collection.rows["age"].fillna(-1).tolist() == [60.0, -1.0]
    assert values(collection, "Mass") == [1.0, 0.0]
    assert values(collection, "Effusion") == [None, 1.0]


def test_lists_in_parquet_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    lists = [["Mass", "Pleural effusion"], []]
    pd.DataFrame({"image": ["a.png", "b.png"], "patient": ["1", "2"], "labels": lists}).to_parquet(
        path
    )
    collection = sources.read(path)
    assert collection.rows[["Effusion", "Mass"]].to_numpy().tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("name", ["t.parquet", "t.csv.gz", "t.tsv"])
def test_a_damaged_table_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(SourceError, match=r"not a readable Parquet|cannot be read as UTF-8"):
        read(tmp_path / name)


# Labels


def test_values_of_a_column_per_finding_in_every_spelling(tmp_path: Path) -> None:
    spellings = ["1", "1.0", "yes", "TRUE", "x", "0", "no", "False", "-1", "?", "", "NaN"]
    lines = [f"{number}.png,{number},{value}" for number, value in enumerate(spellings)]
    path = write(tmp_path / "t.csv", "image,patient,Mass", *lines)
    rows = read(path).rows.set_index("image")["Mass"]
    found = [rows[f"{number}.png"] for number in range(len(spellings))]
    np.testing.assert_array_equal(found, [1] * 5 + [0] * 3 + [np.nan] * 4)


def test_a_blank_is_unknown_beside_zeros_and_negative_where_only_positives_stand(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "t.csv", "image,patient,Mass", "a.png,1,1", "b.png,2,", "c.png,3,0")
    assert read(path).policies["blank"] == "unknown"
    assert values(read(path), "Mass") == [1.0, None, 0.0]
    stated = sources.read(path, "table", ReadOptions(blank="negative"))
    assert values(stated, "Mass") == [1.0, 0.0, 0.0]
    write(path, "image,patient,Mass", "a.png,1,x", "b.png,2,", "c.png,3,")
    assert read(path).policies["blank"] == "negative"
    assert values(read(path), "Mass") == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(("policy", "value"), [("zeros", 0.0), ("ones", 1.0), ("ignore", None)])
def test_the_policy_decides_uncertain_labels_but_not_unknown_ones(
    tmp_path: Path, policy: str, value: float | None
) -> None:
    path = write(
        tmp_path / "t.csv", "image,patient,Mass", "a.png,1,-1", "b.png,2,unknown", "c.png,3,0"
    )
    options = ReadOptions(uncertain=policy, blank="negative")  # type: ignore[arg-type]
    assert values(sources.read(path, "table", options), "Mass") == [value, None, 0.0]


def test_a_named_column_with_other_values_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,patient,Mass", "a.png,1,1", "b.png,2,2", "c.png,3,0")
    with pytest.raises(
        SourceError, match=r"recognised as the label column.*with other values: Mass \(such as 2\)"
    ):
        read(path)
    collection = read(path, findings="Mass")
    assert values(collection, "Mass") == [1.0, None, 0.0]
    assert codes(collection) == {"unknown-value": 1}
    assert collection.problems[0].examples == ("b.png (Mass: 2)",)
    write(path, "image,patient,comment,Mass", "a.png,A,fine,1")
    with pytest.raises(SourceError, match=r"'comment' holds no label: a label is 1, 0.*not fine"):
        read(path, findings="comment")


def test_a_column_of_labels_and_other_values_is_not_guessed_and_this_is_said(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "t.csv", "image,patient,Mass,Edema", "a.png,1,1,0", "b.png,2,0,1", "c.png,3,1,17"
    )
    collection = read(path)
    assert collection.findings == ("Mass",)
    (found,) = collection.problems
    assert (found.code, found.examples, found.loses) == (
        "not-a-finding", ("Edema (such as 17)",), True
    )  # fmt: skip


def test_two_columns_of_one_finding_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,patient,Effusion,Pleural effusion", "a.png,1,1,0")
    with pytest.raises(SourceError, match="'Effusion' and 'Pleural effusion' are both"):
        read(path)


def test_no_finding_makes_blanks_absent_except_devices(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", "image,patient,No Finding,Mass,Support Devices",
        "a.png,1,1,,", "b.png,2,0,,", "c.png,3,1,1,1", "d.png,4,,0,0",
    )  # fmt: skip
    collection = read(path)
    assert values(collection, "Mass") == [0.0, None, None, 0.0]
    assert values(collection, "Support Devices") == [None, None, 1.0, 0.0]
    assert codes(collection) == {"contradiction": 1}


@pytest.mark.parametrize("mark", ["|", ";", ", "])
def test_words_with_a_separator_are_read(tmp_path: Path, mark: str) -> None:
    collection = labels_of(tmp_path, f"Mass{mark}Pleural effusion", "No Finding", "mass", "normal")
    assert collection.findings == ("Effusion", "Mass")
    assert values(collection, "Effusion") == [1.0, 0.0, 0.0, 0.0]
    assert values(collection, "Mass") == [1.0, 0.0, 1.0, 0.0]
    assert collection.policies["blank"] == "negative"
    assert "'Pleural effusion' is Effusion" in collection.facts["renamed findings"]


def test_lists_of_positives_are_parsed_and_never_run(tmp_path: Path) -> None:
    hostile = "[__import__('os').system('false')]"
    deep = "[" * 5000
    collection = labels_of(
        tmp_path, "['Mass', ' Nodule ']", "[]", '[""Mass""]', hostile, deep, "[1, 2]", "['Mass'"
    )
    assert collection.findings == ("Mass", "Nodule")
    assert values(collection, "Mass") == [1.0, 0.0, 1.0, None, None, None, None]
    assert codes(collection) == {"unreadable-labels": 4}


def test_an_empty_cell_of_labels_is_unknown_unless_blanks_are_said_to_be_negative(
    tmp_path: Path,
) -> None:
    collection = labels_of(tmp_path, "Mass", "", "nan")
    assert values(collection, "Mass") == [1.0, None, None]
    assert codes(collection) == {"no-label": 2}
    stated = labels_of(tmp_path, "Mass", "", options=ReadOptions(blank="negative"))
    assert values(stated, "Mass") == [1.0, 0.0]
    assert stated.problems == ()


def test_positives_alone_leave_the_others_unknown_where_that_is_said(tmp_path: Path) -> None:
    options = ReadOptions(blank="unknown")
    collection = labels_of(tmp_path, "Mass", "Nodule", "No Finding", options=options)
    assert values(collection, "Mass") == [1.0, None, 0.0]


def test_no_finding_beside_a_finding_is_a_contradiction(tmp_path: Path) -> None:
    collection = labels_of(tmp_path, "No Finding|Mass", "Mass|Nodule")
    assert values(collection, "Mass") == [None, 1.0]
    assert values(collection, "Nodule") == [0.0, 1.0]
    assert codes(collection) == {"contradiction": 1}


def test_chosen_findings_of_a_column_of_words_keep_their_order(tmp_path: Path) -> None:
    options = ReadOptions(columns={"findings": "Nodule;Mass;Hernia"})
    collection = labels_of(tmp_path, "Mass|Edema", "Nodule", options=options)
    assert collection.findings == ("Nodule", "Mass", "Hernia")
    assert collection.rows[list(collection.findings)].to_numpy().tolist() == [[0, 1, 0], [1, 0, 0]]


def test_a_label_is_matched_whole_and_names_outside_the_vocabulary_are_kept(
    tmp_path: Path,
) -> None:
    collection = labels_of(tmp_path, "Massive thing", "Mass")
    assert collection.findings == ("Mass", "Massive thing")


def test_free_text_is_refused_as_labels(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"450 different labels.*findings=A;B"):
        labels_of(tmp_path, *(f"text {number}" for number in range(450)))
    with pytest.raises(SourceError, match="at most 64 characters"):
        labels_of(tmp_path, "a long sentence " * 6)


# What is said of a patient


def test_age_sex_and_view_are_normalised(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", "image,patient,age,sex,view,Mass",
        "a.png,1,060Y,Male,Postero-anterior,1", "b.png,2,500,Q,AP supine,0", "c.png,3,7,f,,0",
    )  # fmt: skip
    collection = read(path)
    assert collection.rows["age"].fillna(-1).tolist() == [60, -1, 7]
    assert collection.rows["sex"].tolist() == ["M", "", "F"]
    assert collection.rows["view"].tolist() == ["PA", "AP", ""]
    assert codes(collection) == {"impossible-age": 1, "unknown-sex": 1}


def test_lateral_radiographs_are_left_out_by_default_and_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", "image,patient,view,Mass",
        "a.png,1,PA,1", "b.png,1,LL,1", "c.png,2,LATERAL,0", "d.png,2,Oblique,0",
    )  # fmt: skip
    collection = read(path)
    assert collection.rows["image"].tolist() == ["a.png"]
    assert codes(collection) == {"other-view": 3}
    everything = sources.read(path, "table", ReadOptions(views="all"))
    assert everything.rows["view"].tolist() == ["PA", "LATERAL", "LATERAL", "OBLIQUE"]
    laterals = sources.read(path, "table", ReadOptions(views="lateral"))
    assert laterals.rows["image"].tolist() == ["b.png", "c.png"]


def test_dates_number_the_images_of_each_patient_and_numbers_stay(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", "image,patient,StudyDate,Mass",
        "a.png,1,20200301,1", "b.png,1,20190101,0", "c.png,2,20210101,0", "d.png,1,20200301,0",
    )  # fmt: skip
    assert read(path).rows["follow_up"].tolist() == [1, 0, 0, 1]
    write(path, "image,patient,follow-up,Mass", "a.png,1,5,1", "b.png,1,x,0")
    collection = read(path)
    assert collection.rows["follow_up"].tolist() == [5, 0]
    assert codes(collection) == {"unknown-follow-up": 1}


def test_rows_without_image_or_patient_are_left_out_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,patient,Mass", "a.png,1,1", ",2,1", "c.png,,1")
    collection = read(path)
    assert collection.rows["image"].tolist() == ["a.png"]
    assert [(p.code, p.examples) for p in collection.problems] == [
        ("no-image", ("line 3",)), ("no-patient", ("c.png",))
    ]  # fmt: skip


def test_equal_rows_are_read_once_and_conflicting_rows_not_at_all(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", "image,patient,Mass",
        "a.png,1,1", "a.png,1,1", "b.png,2,1", "b.png,2,0", "c.png,3,",
    )  # fmt: skip
    collection = read(path)
    assert collection.rows["image"].tolist() == ["a.png", "c.png"]
    assert codes(collection) == {"repeated-row": 1, "conflicting-rows": 1}


# Where the images are


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("images/P1/a.png", "images/P1/a.png"),  # from the root
        ("images/P1/a.png", "P1/a.png"),  # by the end of the path
        ("images/P1/a.png", "a.png"),  # by name
        ("images/P1/a.jpg", "a"),  # without suffix
        ("images/P1/a.jpeg", "P1/a.png"),  # with another suffix
        ("images/P1/A.PNG", "P1/a.png"),  # in other case
        ("images/P1/a.png", "release-1.0/images/P1/a.png"),  # with the name of the release
        ("images/P1/a.png", ".\\images\\P1\\a.png"),  # as Windows writes it
    ],
)
def test_images_are_found_by_path_or_name(tmp_path: Path, file: str, written: str) -> None:
    found = image(tmp_path / file)
    image(tmp_path / "images/P2/b.png")
    write(tmp_path / "t.csv", "image,patient,Mass", f"{written},1,1")
    collection = read(tmp_path)
    assert collection.rows["path"].tolist() == [str(found)]
    assert collection.rows["image"].tolist() == [found.name]
    assert codes(collection) == {"missing-row": 1}


def test_paths_count_from_the_folder_of_the_table_before_the_root(tmp_path: Path) -> None:
    inner = image(tmp_path / "set" / "a.png")
    image(tmp_path / "a.png")
    write(tmp_path / "set" / "t.csv", "image,patient,Mass", "a.png,1,1")
    assert read(tmp_path).rows["path"].tolist() == [str(inner)]


def test_absolute_paths_inside_the_tree_are_found(tmp_path: Path) -> None:
    found = image(tmp_path / "x" / "a.png")
    write(tmp_path / "t.csv", "image,patient,Mass", f"{found},1,1")
    assert read(tmp_path).rows["path"].tolist() == [str(found)]


def test_a_missing_image_is_never_replaced_by_one_of_its_name_elsewhere(tmp_path: Path) -> None:
    image(tmp_path / "P1/S1/IM01.png")
    write(tmp_path / "t.csv", "image,patient,Mass", "P1/S1/IM01.png,1,1", "P2/S1/IM01.png,2,1")
    collection = read(tmp_path)
    assert collection.rows["patient"].tolist() == ["1"]
    assert codes(collection) == {"missing-image": 1}


def test_a_name_of_several_files_is_ambiguous_and_left_out(tmp_path: Path) -> None:
    image(tmp_path / "P1/a.png"), image(tmp_path / "P2/a.png"), image(tmp_path / "P2/b.png")
    write(tmp_path / "t.csv", "image,patient,Mass", "a.png,1,1", "b.png,2,0")
    collection = read(tmp_path)
    assert collection.rows["image"].tolist() == ["b.png"]
    assert codes(collection) == {"ambiguous-image": 1, "missing-row": 2}


def test_all_images_are_named_by_path_where_any_names_repeat(tmp_path: Path) -> None:
    for path in ("P1/view1.png", "P2/view1.png", "P2/other.png"):
        image(tmp_path / path)
    write(
        tmp_path / "t.csv", "image,patient,Mass", "P1/view1.png,1,1", "P2/view1.png,2,0",
        "P2/other.png,2,0",
    )  # fmt: skip
    names = read(tmp_path).rows["image"].tolist()
    assert names == ["P1/view1.png", "P2/other.png", "P2/view1.png"]


def test_png_jpeg_and_dicom_may_be_mixed_and_dicom_is_found_by_uid(tmp_path: Path) -> None:
    uid = "1.2.826.0.1.3680043.2.1"
    image(tmp_path / "a.png"), image(tmp_path / "b.jpg")
    dicom(tmp_path / "CD" / "IM000001", uid)
    dicom(tmp_path / "CD" / "IM000002", f"{uid}.2")
    dicom(tmp_path / "c.dcm", f"{uid}.3")
    (tmp_path / "CD" / "README").write_text("not DICOM")
    write(
        tmp_path / "t.csv", "image,patient,Mass",
        "a,1,1", "b,2,0", f"{uid},3,1", f"{uid}.2.dcm,4,0", "c.dcm,5,1",
    )  # fmt: skip
    collection = read(tmp_path)
    found = dict(zip(collection.rows["patient"], collection.rows["image"], strict=True))
    assert found == {"1": "a.png", "2": "b.jpg", "3": "IM000001", "4": "IM000002", "5": "c.dcm"}
    assert collection.problems == ()


@pytest.mark.parametrize("titles", ["image,patient,Mass", "image,patient,Mass,view"])
def test_a_lateral_dicom_without_a_stated_view_is_not_trained_as_frontal(
    tmp_path: Path, titles: str
) -> None:
    blank = "," * (titles.count(",") - 2)
    for name, view in (("a.dcm", "LL"), ("b.dcm", "PA"), ("c.dcm", "")):
        header(tmp_path / name, view)
    image(tmp_path / "d.png")
    rows = [
        f"{name},{n},{n % 2}{blank}" for n, name in enumerate(("a.dcm", "b.dcm", "c.dcm", "d.png"))
    ]
    write(tmp_path / "t.csv", titles, *rows)
    collection = read(tmp_path)
    found = dict(zip(collection.rows["image"], collection.rows["view"], strict=True))
    assert found == {"b.dcm": "PA", "c.dcm": "", "d.png": ""}
    assert codes(collection) == {"view-from-header": 2, "other-view": 1}


def test_a_stated_view_comes_before_that_of_the_header(tmp_path: Path) -> None:
    header(tmp_path / "a.dcm", "LL"), header(tmp_path / "b.dcm", "PA")
    write(tmp_path / "t.csv", "image,patient,Mass,view", "a.dcm,1,1,PA", "b.dcm,2,0,Lateral")
    assert read(tmp_path).rows["image"].tolist() == ["a.dcm"]


def test_the_view_may_be_stated_by_a_code_alone(tmp_path: Path) -> None:
    header(tmp_path / "a.dcm", "", meaning="left lateral"), header(tmp_path / "b.dcm", "PA")
    write(tmp_path / "t.csv", "image,patient,Mass", "a.dcm,1,1", "b.dcm,2,0")
    assert read(tmp_path).rows["image"].tolist() == ["b.dcm"]


def test_labels_that_a_policy_decides_are_counted_by_rule(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "image,patient,Mass,Edema", "a,1,1,-1", "b,2,,0", "c,3,,unknown")
    fact = sources.read(tmp_path / "t.csv", "table", ReadOptions(uncertain="ones")).facts[
        "neither 1 nor 0"
    ]
    assert fact == (
        "1 uncertain (present), 2 blank (unknown), 1 stated as unknown, contradictory or "
        "unreadable (unknown)"
    )


def test_dicom_named_by_its_uid_is_found_without_reading_it(tmp_path: Path) -> None:
    (tmp_path / "1.2.840.7").write_bytes(b"")
    (tmp_path / "1.2.840.8.dcm").write_bytes(b"")
    write(tmp_path / "t.csv", "image,patient,Mass", "1.2.840.7,1,1", "1.2.840.8,2,1")
    assert read(tmp_path).rows["image"].tolist() == ["1.2.840.7", "1.2.840.8.dcm"]


def test_a_table_of_other_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "image,patient,Mass", "z.png,1,1")
    with pytest.raises(SourceError, match="there is no PNG, JPEG or DICOM file"):
        read(tmp_path)
    image(tmp_path / "a.png")
    with pytest.raises(SourceError, match=r"begins with 'z.png', and the images with 'a.png'"):
        read(tmp_path)


# Which table


def test_one_of_several_tables_is_named_or_described(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    write(tmp_path / "one.csv", "image,patient,Mass", "a.png,1,1")
    write(tmp_path / "two.csv", "image,patient,Nodule", "a.png,1,1")
    with pytest.raises(SourceError, match=r"2 tables \(one.csv, two.csv\).*--columns table="):
        read(tmp_path)
    assert read(tmp_path, table="two.csv").findings == ("Nodule",)
    with pytest.raises(SourceError, match=r"no table three.csv: it has one.csv, two.csv"):
        read(tmp_path, table="three.csv")
    write(tmp_path / "columns.yaml", "table: one.csv")
    assert sources.read(tmp_path).findings == ("Mass",)


# Official lists


def test_a_column_of_parts_is_the_official_split(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", "image,patient,split,Mass",
        "a.png,1,Train,1", "b.png,2,validate,0", "c.png,3,test,0", "d.png,4,,1",
    )  # fmt: skip
    collection = read(path)
    assert collection.official == {
        "train": {"a.png"}, "val": {"b.png"}, "test": {"c.png"}
    }  # fmt: skip
    assert codes(collection) == {"not-in-lists": 1}


def test_parts_without_val_are_train_val_and_test(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", "image,patient,split,Mass", "a.png,1,train,1", "b.png,1,test,0"
    )
    collection = read(path)
    assert collection.official == {"train_val": {"a.png"}, "test": {"b.png"}}
    assert codes(collection) == {"patient-in-several-parts": 1}


def test_parts_that_cannot_be_a_split_are_not_used(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,patient,set,Mass", "a.png,1,A,1", "b.png,2,B,0")
    assert read(path).official == {}
    assert read(path).facts["columns not read"] == "set"
    assert find_columns(path).columns == {"image": "image", "patient": "patient"}
    with pytest.raises(SourceError, match="names the split 'a': allowed are train, val and test"):
        read(path, split="set")
    write(path, "image,patient,split,Mass", "a.png,1,train,1", "b.png,2,val,0")
    assert codes(read(path)) == {"no-official-split": 1}


def test_a_table_of_a_hundred_thousand_rows_is_read_in_seconds(tmp_path: Path) -> None:
    import time

    count = 100_000
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"file": [f"p{i // 3}/s{i % 3}/view1.jpg" for i in range(count)]})
    table["pid"] = table["file"].str.split("/").str[0]
    table["view"] = rng.choice(["PA", "L", "AP_horizontal"], count)
    for name in ("Mass", "Effusion", "Edema", "Hernia", "Pneumonia"):
        table[name] = rng.choice(["1.0", "0.0", "-1.0", ""], count)
    table.to_csv(tmp_path / "t.csv", index=False)
    start = time.process_time()
    collection = sources.read(tmp_path / "t.csv")
    assert time.process_time() - start < 5
    assert len(collection.rows) == int((table["view"] != "L").sum())


def test_only_leading_folders_that_all_rows_share_are_dropped(tmp_path: Path) -> None:
    image(tmp_path / "x.png"), image(tmp_path / "y.png")
    table = tmp_path / "t.csv"
    write(table, "image,patient,Mass", "r/1/x.png,1,1", "r/1/y.png,2,0", "r/1/z.png,3,0")
    collection = read(tmp_path)
    assert collection.rows["image"].tolist() == ["x.png", "y.png"]
    assert collection.facts["dropped path prefix"] == "r/1/"
    assert codes(collection) == {"missing-image": 1}
    write(table, "image,patient,Mass", "r/P1/x.png,1,1", "r/P2/y.png,2,0")
    with pytest.raises(SourceError, match=r"no row of t.csv has its image"):
        read(tmp_path)


def test_a_patient_written_as_7_and_7_0_is_one_patient(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "image,patient,Mass", "a,7,1", "b,7.0,0", "c,7.5,0")
    collection = read(table)
    assert collection.rows["patient"].tolist() == ["7", "7", "7.5"]
    assert collection.facts["patient numbers"] == "read without .0: 7.0 is patient 7"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (None, {}),
        ("image=file,patient=", {"image": "file", "patient": ""}),
        ("image=file, path, labels=a,", {"image": "file, path", "labels": "a"}),
        ("findings=A;B;C , age=x=y", {"findings": "A;B;C", "age": "x=y"}),
    ],
)
def test_columns_on_the_command_line(text: str | None, columns: dict[str, str]) -> None:
    assert SourceOptions(columns=text).read_options().columns == columns


@pytest.mark.parametrize("text", ["image", "=file", "file,image=a"])
def test_columns_that_are_no_pairs_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="takes OUR=THEIRS pairs"):
        SourceOptions(columns=text).read_options()


def test_settings_for_a_table_that_is_not_there_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,patient,Mass\na.png,1,1\n", encoding="utf-8")
    (tmp_path / "columns.yaml").write_text("table: lables.csv\ncolumns: {image: image}\n")
    with pytest.raises(SourceError, match=r"'lables.csv', which is not beside it"):
        sources.read(tmp_path / "labels.csv", "table", ReadOptions())
