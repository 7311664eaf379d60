"""`chestxray verify` says what is there and fails where something would be lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from chestxray.cli.verify import verify

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "nih-sample"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def run(raw: Path) -> Result:
    app = typer.Typer()
    app.command()(verify)
    return CliRunner().invoke(app, [str(raw)], env={"COLUMNS": "160"}, catch_exceptions=False)


def words(result: Result) -> list[list[str]]:
    """Give the words of each line, without the table's frame."""
    return [
        line.translate({ord(c): " " for c in "│┃"}).split() for line in result.output.split("\n")
    ]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Five sound radiographs of five kinds: grey, RGB, RGBA, 16 bits, not square."""
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (32, 32), dtype=np.uint16))
    images = [grey, grey.convert("RGB"), grey.convert("RGBA"), deep, grey.crop((0, 0, 20, 32))]
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images, start=1):
        image.save(tmp_path / "images" / f"{number:08}_000.png")
    rows = [
        f"{number:08}_000.png,{'Mass|Hernia' if number == 1 else 'No Finding'},0,{number},155,F,PA,"
        for number in range(1, 6)
    ]
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join((HEADER, *rows)), encoding="utf-8")
    boxes = "Image Index,Finding Label,Bbox [x,y,w,h]\n00000001_000.png,Mass,1,1,9,9\n"
    (tmp_path / "BBox_List_2017.csv").write_text(boxes, encoding="utf-8")
    return tmp_path


def test_a_sound_tree_is_told_and_passes(raw: Path) -> None:
    result = run(raw)
    lines = words(result)
    assert result.exit_code == 0, result.output
    assert ["images", "with", "labels", "5", "of", "5", "patients"] in lines
    assert ["its", "generation", "unknown"] in lines
    assert ["ages", "unknown"] in lines
    assert ["boxes", "1", "on", "1", "images"] in lines
    assert ["official", "lists", "none"] in lines
    assert ["Mass", "1", "20.00", "0", "1"] in lines
    assert ["No", "Finding", "4", "80.00", "0", "0"] in lines
    for kind in ("L 32 × 32", "RGB 32 × 32", "RGBA 32 × 32", "I;16 32 × 32", "L 20 × 32"):
        assert ["PNG", *kind.split(), "1"] in lines
    assert any(line[:2] == ["impossible-age", "5"] for line in lines)
    assert "Nothing would be left out." in result.output


def test_what_would_be_lost_is_named_and_fails(raw: Path) -> None:
    (raw / "images" / "00000009_000.png").touch()
    (raw / "images" / "00000005_000.png").unlink()
    result = run(raw)
    assert result.exit_code == 1
    lines = words(result)
    assert any(line[:3] == ["missing-image", "1", "yes"] for line in lines)
    assert any(line[:3] == ["missing-row", "1", "yes"] for line in lines)
    assert "00000009_000.png" in result.output
    assert "2 of these problems leave something out" in result.output


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda _: b"", "empty"),
        (lambda _: b"<html>not found</html>", "no PNG, JPEG or DICOM"),
        (lambda data: data[:60] + b"\x00\x00" + data[62:], "corrupt"),
    ],
    ids=["truncated", "empty", "web page", "flipped bytes"],
)
def test_a_file_that_is_no_image_is_named_and_fails(raw: Path, spoil, reason: str) -> None:
    path = raw / "images" / "00000002_000.png"
    path.write_bytes(spoil(path.read_bytes()))
    result = run(raw)
    assert result.exit_code == 1
    assert any(line[:3] == ["unreadable-image", "1", "yes"] for line in words(result))
    assert "00000002_000.png" in result.output
    assert reason in " ".join(result.output.split())


def test_a_broken_table_is_one_reason_not_a_table(raw: Path) -> None:
    from chestxray.errors import SourceError

    (raw / "Data_Entry_2017.csv").write_text("nothing\n", encoding="utf-8")
    with pytest.raises(SourceError, match="no label table"):
        run(raw)


def test_tables_without_images_are_named(raw: Path) -> None:
    from chestxray.errors import SourceError

    for image in (raw / "images").iterdir():
        image.unlink()
    (raw / "test_list.txt").touch()
    tables = r"only tables and lists .*BBox_List_2017\.csv, Data_Entry_2017\.csv, test_list\.txt"
    with pytest.raises(SourceError, match=f"no .png or .jpg image, {tables}"):
        run(raw)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"{SAMPLE} is not here")
def test_the_real_sample_passes() -> None:
    result = run(SAMPLE)
    lines = words(result)
    assert result.exit_code == 0, result.output
    assert ["images", "with", "labels", "1136", "of", "908", "patients"] in lines
    assert ["PNG", "RGBA", "1024", "×", "1024", "4"] in lines
    assert any(line[:2] == ["several-sizes", "24"] for line in lines)
