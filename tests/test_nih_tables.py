"""NIH's label table in every spelling and with every error, and the box table."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chestxray.errors import SourceError
from chestxray.findings import NO_FINDING
from chestxray.sources.nih import FINDINGS, BoxTable, LabelTable, read_boxes, read_labels

BRACKETS = "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
FLAT = (
    "OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"
)
START = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age"
TAIL = "2682,2749,0.143,0.143"
HEADERS = {
    "2017": f"{START},Patient Gender,View Position,{BRACKETS},",
    "v2020 with sex": f"{START},Patient Sex,View Position,{BRACKETS},",
    "v2020 without comma": f"{START},Patient Gender,View Position,{BRACKETS}",
    "sample": f"{START},Patient Gender,View Position,{FLAT}",
    "underscores": (
        "Image_Index,Finding_Labels,Follow_up_#,Patient_ID,Patient_Age,Patient_Sex,View_Position,"
        + FLAT
    ),
    "joined": "ImageIndex,FindingLabels,Follow-up,PatientID,PatientAge,PatientGender,ViewPosition",
    "other order": "Patient ID,View Position,Image Index,Finding Labels",
}


def table(
    folder: Path, *rows: str, header: str = HEADERS["2017"], name: str = "t.csv"
) -> LabelTable:
    path = folder / name
    text = "\n".join((header, *rows)) + "\n"
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return read_labels(path)


def row(image: str = "00000001_000.png", labels: str = "Effusion", **values: object) -> str:
    cells = {
        "follow_up": int(image[9:12]),
        "patient": int(image[:8]),
        "age": 57,
        "sex": "M",
        "view": "PA",
    }
    return ",".join(str(cell) for cell in (image, labels, *(cells | values).values(), TAIL, ""))


def codes(read: LabelTable) -> dict[str, int]:
    return {problem.code: problem.count for problem in read.problems}


@pytest.mark.parametrize(
    "name", [name for name in HEADERS if name not in {"joined", "other order"}]
)
@pytest.mark.parametrize("comma", ["", ","])
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_every_header_gives_the_same_rows(
    tmp_path: Path, name: str, comma: str, suffix: str
) -> None:
    read = table(
        tmp_path,
        f"00000003_002.png,Mass|Nodule,2,3,61,F,AP,{TAIL}{comma}",
        f"00000001_000.png,No Finding,0,1,57,M,PA,{TAIL}{comma}",
        header=HEADERS[name],
        name=f"t.{suffix}",
    )
    rows = read.rows
    assert rows["image"].tolist() == ["00000001_000.png", "00000003_002.png"]  # sorted
    assert rows["patient"].tolist() == ["00000001", "00000003"]
    assert rows["follow_up"].tolist() == [0, 2]
    assert rows["age"].tolist() == [57, 61]
    assert rows["sex"].tolist() == ["M", "F"]
    assert rows["view"].tolist() == ["PA", "AP"]
    assert rows[list(FINDINGS)].sum(axis=1).tolist() == [0, 2]
    assert rows.loc[1, ["Mass", "Nodule"]].tolist() == [1, 1]
    assert read.problems == ()


def test_columns_are_found_by_name_not_by_place(tmp_path: Path) -> None:
    read = table(tmp_path, "7,AP,00000007_001.png,Hernia", header=HEADERS["other order"])
    assert read.rows.loc[0, ["patient", "view", "Hernia"]].tolist() == ["00000007", "AP", 1]
    assert read.rows["follow_up"].tolist() == [1]  # from the name, for want of the column
    assert codes(read) == {"missing-column": 3}
    assert read.problems[0].examples == ("Follow-up #", "Patient Age", "Patient Sex")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADERS['2017']}\r\n{row()}\r\n".encode())
    assert read_labels(path).rows["image"].tolist() == ["00000001_000.png"]


@pytest.mark.parametrize(
    ("written", "years"),
    [
        ("57", 57), ("060Y", 60), ("011M", 11 / 12), ("005D", 5 / 365.25), ("002W", 14 / 365.25),
        ("0", 0), ("120", 120), ("155", np.nan), ("414", np.nan), ("999Y", np.nan), ("-3", np.nan),
        ("abc", np.nan),
    ],
)  # fmt: skip
def test_ages_become_years_and_impossible_ones_unknown(
    tmp_path: Path, written: str, years: float
) -> None:
    read = table(tmp_path, row(age=written))
    np.testing.assert_allclose(read.rows["age"], [years])
    assert codes(read) == ({"impossible-age": 1} if np.isnan(years) else {})
    assert all(written in example for problem in read.problems for example in problem.examples)


def test_zero_padded_patients_are_the_same_patients(tmp_path: Path) -> None:
    read = table(tmp_path, row(patient="000000001"), row("00000001_001.png", patient="1"))
    assert read.rows["patient"].tolist() == ["00000001", "00000001"]


@pytest.mark.parametrize(
    ("cell", "named"),
    [
        ("Pleural_Thickening", {"Pleural_Thickening"}),
        ("Pleural Thickening", {"Pleural_Thickening"}),
        ("P.T.|Mass", {"Pleural_Thickening", "Mass"}),
        ("Infiltrate", {"Infiltration"}),
        ("No_Finding", set()),
        ("No Finding", set()),
        ("Mass| Effusion |Mass", {"Mass", "Effusion"}),
    ],
)
def test_other_spellings_of_labels_are_understood(
    tmp_path: Path, cell: str, named: set[str]
) -> None:
    read = table(tmp_path, row(labels=cell))
    assert {name for name in FINDINGS if read.rows.loc[0, name] == 1} == named
    assert not read.rows[list(FINDINGS)].isna().any(axis=None)
    assert read.problems == ()


def test_a_label_is_matched_whole_never_in_part(tmp_path: Path) -> None:
    read = table(tmp_path, row(labels="Massive Effusion"))
    assert read.rows[list(FINDINGS)].isna().all(axis=None)
    assert codes(read) == {"unknown-label": 1}


def test_an_unknown_label_leaves_the_named_findings_and_makes_the_others_unknown(
    tmp_path: Path,
) -> None:
    read = table(tmp_path, row(labels="Hernia|Efusion"))
    values = read.rows.loc[0, list(FINDINGS)]
    assert values["Hernia"] == 1
    assert values.drop("Hernia").isna().all()
    assert read.problems[0].loses
    assert read.problems[0].examples == ("00000001_000.png (Hernia|Efusion)",)


def test_no_finding_beside_a_finding_is_a_contradiction(tmp_path: Path) -> None:
    read = table(tmp_path, row(labels="No Finding|Mass"), row("00000002_000.png"))
    values = read.rows.loc[0, list(FINDINGS)]
    assert np.isnan(values["Mass"])
    assert (values.drop("Mass") == 0).all()
    assert codes(read) == {"contradiction": 1}
    assert read.problems[0].loses


def test_an_empty_label_cell_is_unknown_not_healthy(tmp_path: Path) -> None:
    read = table(tmp_path, row(labels=""))
    assert read.rows[list(FINDINGS)].isna().all(axis=None)
    assert codes(read) == {"no-label": 1}


def test_equal_rows_are_read_once_and_conflicting_rows_not_at_all(tmp_path: Path) -> None:
    read = table(
        tmp_path,
        row(), row(),
        row("00000002_000.png", "Mass"), row("00000002_000.png", "Nodule"),
        row("00000003_000.png"),
    )  # fmt: skip
    assert read.rows["image"].tolist() == ["00000001_000.png", "00000003_000.png"]
    assert codes(read) == {"repeated-row": 1, "conflicting-rows": 1}
    assert {problem.code: problem.loses for problem in read.problems} == {
        "repeated-row": False,
        "conflicting-rows": True,
    }


def test_a_row_of_no_patient_is_left_out_and_said(tmp_path: Path) -> None:
    read = table(tmp_path, row(patient="?"), row(patient="1.5"), row("00000002_000.png"))
    assert read.rows["image"].tolist() == ["00000002_000.png"]
    assert codes(read) == {"unusable-row": 2}
    assert read.problems[0].loses


def test_a_patient_number_that_differs_from_the_name_is_said(tmp_path: Path) -> None:
    read = table(tmp_path, row(patient=2))
    assert read.rows["patient"].tolist() == ["00000002"]
    assert codes(read) == {"patient-differs-from-name": 1}


def test_an_unreadable_follow_up_is_taken_from_the_name_and_said(tmp_path: Path) -> None:
    read = table(tmp_path, row("00000001_004.png", follow_up="x"))
    assert read.rows["follow_up"].tolist() == [4]
    assert codes(read) == {"unknown-follow-up": 1}


def test_an_unknown_view_or_sex_is_said(tmp_path: Path) -> None:
    read = table(tmp_path, row(view="LL", sex="?"), row("00000002_000.png", view="pa", sex="f"))
    assert read.rows["view"].tolist() == ["", "PA"]
    assert read.rows["sex"].tolist() == ["", "F"]
    assert codes(read) == {"unknown-sex": 1, "unknown-view": 1}


@pytest.mark.parametrize("ages", ["57", "057Y"])
@pytest.mark.parametrize("patients", [1, 40])
def test_2017_is_told_by_equal_follow_ups_of_enough_patients_or_by_its_ages(
    tmp_path: Path, ages: str, patients: int
) -> None:
    rows = [
        row(f"{patient:08}_{number:03}.png", age=ages)
        for patient in range(1, patients + 1)
        for number in range(2)
    ]
    expected = "2017" if patients == 40 or ages == "057Y" else "unknown"
    assert table(tmp_path, *rows, name="Data_Entry_2017_v2020.csv").generation == expected


def test_v2020_is_told_by_follow_ups_whatever_the_file_is_called(tmp_path: Path) -> None:
    rows = [row(f"00000003_{n:03}.png", follow_up=(n - 1) % 8) for n in range(8)]
    assert table(tmp_path, *rows, name="Data_Entry_2017.csv").generation == "v2020"


def test_one_odd_follow_up_proves_no_generation(tmp_path: Path) -> None:
    rows = [row(f"{patient:08}_001.png") for patient in range(1, 300)]
    read = table(tmp_path, *rows, row("00000900_001.png", follow_up=5))
    assert read.generation == "unknown"


def test_a_table_of_first_images_alone_tells_no_generation(tmp_path: Path) -> None:
    rows = [row(f"{patient:08}_000.png") for patient in range(1, 300)]
    assert table(tmp_path, *rows).generation == "unknown"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an NIH label table"),
        (b"a,b,c\n1,2,3\n", "lacks the column Image Index and Finding Labels and Patient ID"),
        (HEADERS["2017"].encode(), "no rows"),
        (f"{HEADERS['2017']}\n{row()}1,2,3,4,5,6,7,8,9,10\n".encode(), "complete CSV|more values"),
        (f"{HEADERS['2017']}\n00000001_000.png,Mass,0,1,5,M,PA,1,2,3,,,x".encode(), "more values"),
        (f"{HEADERS['2017']}\n{row(view='Ä')}".encode("latin-1"), "cannot be read as UTF-8 text"),
    ],
)  # fmt: skip
def test_what_is_no_label_table_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=reason):
        read_labels(path)


def test_a_cut_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    whole = gzip.compress("\n".join([HEADERS["2017"], *[row()] * 5000]).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="download it again"):
        read_labels(path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read as UTF-8 text"):
        read_labels(tmp_path / "none.csv")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.sampled_from(FINDINGS)), min_size=1, max_size=8))
def test_any_set_of_findings_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, sets: list[set[str]]
) -> None:
    rows = [
        row(f"{number + 1:08}_000.png", "|".join(sorted(names)) or NO_FINDING)
        for number, names in enumerate(sets)
    ]
    read = table(tmp_path_factory.mktemp("t"), *rows)
    found = [{name for name in FINDINGS if values[name] == 1} for _, values in read.rows.iterrows()]
    assert found == sets
    assert read.problems == ()


# The box table

BOX_HEADERS = (
    "Image Index,Finding Label,Bbox [x,y,w,h],,,",
    "Image Index,Finding Label,Bbox [x,y,w,h]",
)
BOX = "00000001_000.png,Infiltrate,256,512,128,64"


def boxes_of(folder: Path, *rows: str, header: str = BOX_HEADERS[0]) -> BoxTable:
    path = folder / "BBox_List_2017.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return read_boxes(path)


@pytest.mark.parametrize("header", BOX_HEADERS)
@pytest.mark.parametrize("commas", ["", ",,,"])
def test_a_box_becomes_fractions_of_the_1024_frame(
    tmp_path: Path, header: str, commas: str
) -> None:
    boxes = boxes_of(tmp_path, BOX + commas, header=header)
    assert boxes.rows.to_numpy().tolist() == [
        ["00000001_000.png", "Infiltration", 0.25, 0.5, 0.125, 0.0625]
    ]
    assert boxes.problems == ()


@pytest.mark.parametrize(
    "sides",
    [
        "-5,0,10,10",
        "0,-5,10,10",
        "1000,0,100,10",
        "0,1000,10,100",
        "1,1,0,5",
        "1,1,5,-5",
        "a,1,1,1",
    ],
)
def test_a_box_out_of_the_frame_is_left_out_and_said(tmp_path: Path, sides: str) -> None:
    boxes = boxes_of(tmp_path, BOX, f"00000002_000.png,Mass,{sides}")
    assert boxes.rows["image"].tolist() == ["00000001_000.png"]
    assert [(problem.code, problem.examples, problem.loses) for problem in boxes.problems] == [
        ("box-out-of-frame", ("00000002_000.png",), True)
    ]


def test_a_box_that_sticks_out_by_rounding_is_cut_to_the_frame(tmp_path: Path) -> None:
    boxes = boxes_of(tmp_path, "00000001_000.png,Mass,1000,-0.0001,24.0001,1024.0002")
    sides = boxes.rows[["x", "y", "w", "h"]].to_numpy(float)[0]
    assert sides.min() >= 0
    np.testing.assert_allclose(sides[:2] + sides[2:], 1.0, atol=1e-6)
    assert sides[0] + sides[2] <= 1
    assert boxes.problems == ()


@pytest.mark.parametrize("finding", ["No Finding", "Fracture", ""])
def test_a_box_of_no_finding_is_left_out_and_said(tmp_path: Path, finding: str) -> None:
    boxes = boxes_of(tmp_path, f"00000001_000.png,{finding},1,1,5,5")
    assert boxes.rows.empty
    assert [problem.code for problem in boxes.problems] == ["unknown-box-finding"]


def test_the_same_box_twice_is_read_once(tmp_path: Path) -> None:
    boxes = boxes_of(tmp_path, BOX, BOX)
    assert len(boxes.rows) == 1
    assert [problem.code for problem in boxes.problems] == ["repeated-box"]


@pytest.mark.parametrize("header", ["", "Image Index,Finding Labels,x", BOX])
def test_what_is_no_box_table_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(SourceError, match="not an NIH box table"):
        boxes_of(tmp_path, BOX, header=header)


def test_a_box_table_with_too_few_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="six columns"):
        boxes_of(tmp_path, "00000001_000.png,Mass,5", header="Image Index,Finding Label,Bbox")
