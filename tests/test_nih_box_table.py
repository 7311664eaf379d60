"""The box table: read by position, in fractions of the image's sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chestxray.errors import SourceError
from chestxray.sources.nih import BoxTable, read_boxes

HEADERS = (
    "Image Index,Finding Label,Bbox [x,y,w,h],,,",
    "Image Index,Finding Label,Bbox [x,y,w,h]",
)
BOX = "00000001_000.png,Infiltrate,256,512,128,64"


def read(folder: Path, *rows: str, header: str = HEADERS[0]) -> BoxTable:
    path = folder / "BBox_List_2017.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return read_boxes(path)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("commas", ["", ",,,"])
def test_a_box_becomes_fractions_of_the_1024_frame(
    tmp_path: Path, header: str, commas: str
) -> None:
    boxes = read(tmp_path, BOX + commas, header=header)
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
    boxes = read(tmp_path, BOX, f"00000002_000.png,Mass,{sides}")
    assert boxes.rows["image"].tolist() == ["00000001_000.png"]
    assert [(problem.code, problem.examples, problem.loses) for problem in boxes.problems] == [
        ("box-out-of-frame", ("00000002_000.png",), True)
    ]


def test_a_box_that_sticks_out_by_rounding_is_cut_to_the_frame(tmp_path: Path) -> None:
    boxes = read(tmp_path, "00000001_000.png,Mass,1000,-0.0001,24.0001,1024.0002")
    sides = boxes.rows[["x", "y", "w", "h"]].to_numpy(float)[0]
    assert sides.min() >= 0
    np.testing.assert_allclose(sides[:2] + sides[2:], 1.0, atol=1e-6)
    assert sides[0] + sides[2] <= 1
    assert boxes.problems == ()


@pytest.mark.parametrize("finding", ["No Finding", "Fracture", ""])
def test_a_box_of_no_finding_is_left_out_and_said(tmp_path: Path, finding: str) -> None:
    boxes = read(tmp_path, f"00000001_000.png,{finding},1,1,5,5")
    assert boxes.rows.empty
    assert [problem.code for problem in boxes.problems] == ["unknown-box-finding"]


def test_the_same_box_twice_is_read_once(tmp_path: Path) -> None:
    boxes = read(tmp_path, BOX, BOX)
    assert len(boxes.rows) == 1
    assert [problem.code for problem in boxes.problems] == ["repeated-box"]


@pytest.mark.parametrize("header", ["", "Image Index,Finding Labels,x", BOX])
def test_what_is_no_box_table_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(SourceError, match="not an NIH box table"):
        read(tmp_path, BOX, header=header)


def test_a_box_table_with_too_few_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="six columns"):
        read(tmp_path, "00000001_000.png,Mass,5", header="Image Index,Finding Label,Bbox")
