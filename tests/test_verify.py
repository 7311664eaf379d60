"""`verify` says what is there, and fails where something would be lost or is damaged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

import public_trees
from chestxray import parallel
from chestxray.cli.verify import verify
from chestxray.dataset import Dataset, shards
from chestxray.dataset.preparation import prepare
from chestxray.dataset.verification import DatasetVerdict
from chestxray.dataset.verification import verify as look
from chestxray.errors import ArtifactError
from chestxray.training.callbacks import ShardCheck
from dicom_files import RAMP12, dicom
from nih_tree import write_tree
from toy_source import TABLE, Toy, install, write_toys

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "nih-sample"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def run(raw: Path, *options: str) -> Result:
    app = typer.Typer()
    app.command()(verify)
    return CliRunner().invoke(
        app, [str(raw), *options], env={"COLUMNS": "160"}, catch_exceptions=False
    )


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
    assert ["release", "unknown"] in lines
    assert ["ages", "unknown"] in lines
    assert ["boxes", "1", "on", "1", "images"] in lines
    assert ["official", "lists", "none"] in lines
    assert ["Mass", "1", "20.00", "0", "1"] in lines
    assert ["No", "Finding", "4", "80.00", "0", "0"] in lines
    for kind in ("L 32 × 32", "RGB 32 × 32", "RGBA 32 × 32", "I;16 32 × 32", "L 20 × 32"):
        assert ["PNG", *kind.split(), "1"] in lines
    assert any(line[:2] == ["impossible-age", "5"] for line in lines)
    assert "Of what is there, nothing would be left out." in result.output


def test_a_tree_that_lacks_most_of_its_data_set_is_not_called_whole(
    phantoms: Path, tmp_path: Path
) -> None:
    tree = public_trees.mimic(tmp_path / "mimic", public_trees.films(phantoms, 6))
    end = run(tree).output.partition("nothing would be left out.")[2]
    assert re.search(
        r"Images of the whole data set that the tables list: .*\d+ of 36\d,?\d{3}", end
    )


def test_what_would_be_lost_is_named_and_fails(raw: Path) -> None:
    (raw / "images" / "00000009_000.png").touch()
    (raw / "images" / "00000005_000.png").unlink()
    result = run(raw)
    assert result.exit_code == 1
    lines = words(result)
    assert any(line[:3] == ["missing-image", "1", "yes"] for line in lines)
    assert any(line[:3] == ["missing-row", "1", "yes"] for line in lines)
    assert "00000009_000.png" in result.output
    assert "2 problems leave something out" in result.output


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda _: b"", "empty"),
        (lambda _: b"<html>not found</html>", "not PNG, JPEG or DICOM"),
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


def test_radiographs_of_mixed_formats_are_told_by_their_kind(tmp_path: Path, monkeypatch) -> None:
    install(monkeypatch)
    tree = write_toys(tmp_path / "own", [Toy("1.png", "17", 1), Toy("2.png", "18", 2)])
    (tree / "2.png").unlink()
    (tree / "2.dcm").write_bytes(dicom(RAMP12, 12))
    (tree / TABLE).write_text((tree / TABLE).read_text().replace("2.png", "2.dcm"))
    verdict = look(tree)
    assert verdict.passed
    kinds = {str(kind.format): count for kind, count in verdict.kinds}
    assert kinds == {"PNG L": 1, "DICOM 16-bit": 1}


def test_a_broken_table_is_one_reason_not_a_table(raw: Path) -> None:
    from chestxray.errors import SourceError

    (raw / "Data_Entry_2017.csv").write_text("nothing\n", encoding="utf-8")
    with pytest.raises(SourceError, match="not a recognised data set"):
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


# --- a prepared dataset -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards."""
    folder = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 8)
        patch.setattr(parallel, "cores", lambda: 1)  # workers take seconds to start
        prepare(write_tree(folder / "raw", 20), folder / "out", 16)
    return folder / "out"


@pytest.fixture
def copy(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


def damages(folder: Path) -> dict[str, str]:
    verdict = look(folder)
    assert isinstance(verdict, DatasetVerdict)
    return {damage.file: damage.reason for damage in verdict.damages}


def test_a_whole_dataset_passes(copy: Path) -> None:
    assert damages(copy) == {}
    assert "is intact: 20 images" in " ".join(run(copy).output.split())
    told = json.loads(run(copy, "--json").stdout)
    assert (told["what"], told["passed"], told["images"], told["files"]) == ("dataset", True, 20, 5)


def test_a_single_flipped_bit_in_a_shard_is_found_though_the_dataset_opens(copy: Path) -> None:
    shard = copy / "images/00001.npy"
    data = bytearray(shard.read_bytes())
    data[-7] ^= 1
    shard.write_bytes(data)
    Dataset.open(copy)
    assert damages(copy) == {"images/00001.npy": f"{shard} was altered"}
    result = run(copy, "--json")
    assert result.exit_code == 1
    (damage,) = json.loads(result.stdout)["damages"]
    assert f"remove {shard} and run the `chestxray prepare`" in damage["renew"]


def test_images_in_another_order_are_found_by_verify_and_within_ten_epochs_of_training(copy):
    """The file keeps its size and header, so the dataset opens; the labels would be of others."""
    shard = copy / "images/00001.npy"
    images = np.load(shard, mmap_mode="r+")
    images[:] = images[::-1].copy()
    images.flush()
    assert damages(copy) == {"images/00001.npy": f"{shard} was altered"}
    check = ShardCheck(Dataset.open(copy))
    told = []
    for _ in range(10):
        try:
            check.on_train_batch_start(None, None, None, 0)
        except ArtifactError as error:
            told.append(str(error))
    assert len(told) in {3, 4}  # of three shards, one an epoch
    assert f"{shard} was altered: remove {shard}" in told[0]


def test_a_damaged_shard_is_renewed_by_what_verify_says(copy: Path, prepared: Path) -> None:
    shard = copy / "images/00001.npy"
    shard.write_bytes(b"x" * shard.stat().st_size)
    assert "is not an NPY array" in damages(copy)["images/00001.npy"]
    shard.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 8)
        prepare(prepared.parent / "raw", copy, 16)
    assert damages(copy) == {}
    assert shard.read_bytes() == (prepared / "images/00001.npy").read_bytes()


def test_every_damaged_file_is_named(copy: Path) -> None:
    (copy / "images/00000.npy").unlink()
    (copy / "images/00002.npy").write_bytes(b"short")
    table = pd.read_parquet(copy / "index.parquet")
    table.assign(Mass=1.0).to_parquet(copy / "index.parquet", index=False)
    (copy / "boxes.parquet").unlink()
    found = damages(copy)
    assert list(found) == ["index.parquet", "boxes.parquet", "images/00000.npy", "images/00002.npy"]
    assert [reason.rpartition("/")[2] for reason in found.values()] == [
        "index.parquet was altered",
        "boxes.parquet does not exist",
        "00000.npy does not exist",
        "00002.npy has 5 bytes instead of 1152",
    ]
    output = " ".join(run(copy).output.split())
    assert "4 files are damaged" in output


def test_an_unfinished_dataset_is_refused_with_the_next_step(copy: Path) -> None:
    (copy / "dataset.json").unlink()
    (copy / ".prepare").mkdir()
    with pytest.raises(ArtifactError, match="is unfinished: run `chestxray prepare` again"):
        look(copy)


def test_the_json_of_a_raw_tree_holds_facts_findings_files_and_problems(raw: Path) -> None:
    told = json.loads(run(raw, "--json").stdout)
    assert (told["what"], told["passed"]) == ("raw tree", True)
    assert told["findings"]["Mass"] == {"images": 1, "share": 0.2, "unknown": 0, "boxes": 1}
    assert {"format": "PNG RGBA", "pixels": "32 × 32", "images": 1} in told["files"]
    assert {"impossible-age"} <= {problem["code"] for problem in told["problems"]}


def test_a_label_table_alone_is_described_without_checking_files(raw: Path) -> None:
    verdict = look(raw / "Data_Entry_2017.csv")
    assert [problem.count for problem in verdict.problems if problem.code == "no-file"] == [5]
