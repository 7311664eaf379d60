"""Whole trees as they lie on users' disks, made by hand, and the real tables and radiographs."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chestxray import sources
from chestxray.errors import SourceError
from chestxray.sources import nih
from chestxray.sources.collection import (
    BOX_COLUMNS,
    LEADING_COLUMNS,
    Collection,
    ReadOptions,
)
from chestxray.sources.nih import FINDINGS

SHARED = Path(__file__).parents[2] / "shared" / "data"
METADATA, SAMPLE = SHARED / "nih-metadata", SHARED / "nih-sample"

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
NAMES = ("00000001_000", "00000001_001", "00000002_000")
LABELS = ("No Finding", "Mass|Nodule", "Hernia")


def image(path: Path, pixels: int = 8, tone: int = 100, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = Image.fromarray(np.full((pixels, pixels), tone, np.uint8)).convert(mode)
    grey.save(path)
    return path


def table(path: Path, names: tuple[str, ...] = NAMES, labels: tuple[str, ...] = LABELS) -> Path:
    rows = [
        f"{name}.png,{label},{int(name[9:])},{int(name[:8])},50,F,PA,2682,2749,0.143,0.143,"
        for name, label in zip(names, labels, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((HEADER, *rows)) + "\n", encoding="utf-8")
    return path


def read(raw: Path) -> Collection:
    return nih.NIH.read(raw, ReadOptions())


def codes(collection: Collection) -> dict[str, int]:
    return {problem.code: problem.count for problem in collection.problems}


LAYOUTS = {
    "kaggle": "images_001/images/{}.png",
    "flat": "images/{}.png",
    "beside the table": "{}.png",
    "numbered folders": "images_002/{}.png",
    "resized jpeg": "resized/224/{}.jpg",
    "jpeg of four letters": "images/{}.JPEG",
    "capitals": "IMAGES/{}.PNG",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_found_by_name_wherever_they_lie(tmp_path: Path, layout: str) -> None:
    files = [image(tmp_path / LAYOUTS[layout].format(name)) for name in NAMES]
    table(tmp_path / "Data_Entry_2017.csv")
    collection = read(tmp_path)
    rows = collection.rows
    assert tuple(rows.columns) == (*LEADING_COLUMNS, *FINDINGS)
    assert rows["image"].tolist() == [f"{name}.png" for name in NAMES]
    assert rows["path"].tolist() == [str(path) for path in files]
    assert rows[list(FINDINGS)].sum(axis=1).tolist() == [0, 2, 1]
    assert rows["patient"].tolist() == ["00000001", "00000001", "00000002"]
    assert rows.dtypes[["follow_up", "age"]].tolist() == ["int64", "float64"]
    assert (rows["study"] == "").all()
    assert collection.problems == ()
    assert collection.official == {}
    assert tuple(collection.boxes.columns) == BOX_COLUMNS


def test_paths_are_absolute_for_a_relative_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = image(tmp_path / "raw" / "images" / f"{NAMES[0]}.png")
    table(tmp_path / "raw" / "Data_Entry_2017.csv", NAMES[:1], LABELS[:1])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    collection = read(Path("../raw"))
    assert collection.rows["path"].tolist() == [str(file)]
    assert collection.facts == {"label table": "Data_Entry_2017.csv"}


def test_linked_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    for name in NAMES:
        image(tmp_path / "disk" / f"{name}.png")
    raw = tmp_path / "raw"
    table(raw / "Data_Entry_2017.csv")
    (raw / "images_001").symlink_to(tmp_path / "disk")
    (raw / "images_002").symlink_to(tmp_path / "disk")
    (raw / "loop").symlink_to(raw)
    collection = read(raw)
    assert len(collection.rows) == 3
    assert collection.rows["path"].iloc[0] == str(raw / "images_001" / f"{NAMES[0]}.png")
    assert collection.problems == ()


def test_masks_and_hidden_files_are_no_radiographs(tmp_path: Path) -> None:
    for name in NAMES:
        image(tmp_path / "images" / f"{name}.png")
    image(tmp_path / "masks" / "00000001_001_Mass.png")
    image(tmp_path / ".cache" / "00000009_000.png")
    image(tmp_path / "images" / "._00000001_000.png")
    table(tmp_path / "Data_Entry_2017.csv")
    assert read(tmp_path).problems == ()


def test_images_without_row_and_rows_without_image_are_named_and_counted(tmp_path: Path) -> None:
    image(tmp_path / "images" / f"{NAMES[0]}.png")
    image(tmp_path / "images" / "00000007_000.png")
    table(tmp_path / "Data_Entry_2017.csv")
    collection = read(tmp_path)
    assert collection.rows["image"].tolist() == [f"{NAMES[0]}.png"]
    assert [(p.code, p.count, p.examples, p.loses) for p in collection.problems] == [
        ("missing-image", 2, ("00000001_001.png", "00000002_000.png"), True),
        ("missing-row", 1, ("00000007_000.png",), True),
    ]


def test_of_several_sizes_the_largest_is_taken_and_said(tmp_path: Path) -> None:
    for name in NAMES:
        image(tmp_path / "images" / f"{name}.png", pixels=8)
    large = image(tmp_path / "zz-full" / f"{NAMES[1]}.png", pixels=32, mode="RGBA")
    image(tmp_path / "aa-small" / f"{NAMES[1]}.jpg", pixels=4)
    table(tmp_path / "Data_Entry_2017.csv")
    collection = read(tmp_path)
    assert collection.rows["path"].iloc[1] == str(large)
    (problem,) = collection.problems
    assert (problem.code, problem.loses) == ("several-sizes", False)
    assert problem.examples == ("00000001_001 (3 files)",)


def test_equal_copies_are_read_once_and_said(tmp_path: Path) -> None:
    for name in NAMES:
        first = image(tmp_path / "images" / f"{name}.png")
        (tmp_path / "sample" / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(first, tmp_path / "sample" / "images")
    table(tmp_path / "Data_Entry_2017.csv")
    collection = read(tmp_path)
    assert len(collection.rows) == 3
    assert codes(collection) == {"same-image-twice": 3}


def test_different_images_of_one_name_and_size_are_a_loss(tmp_path: Path) -> None:
    image(tmp_path / "a" / f"{NAMES[0]}.png", tone=10)
    image(tmp_path / "b" / f"{NAMES[0]}.png", tone=200)
    table(tmp_path / "Data_Entry_2017.csv", NAMES[:1], LABELS[:1])
    (problem,) = read(tmp_path).problems
    assert (problem.code, problem.loses) == ("different-images", True)


def test_a_damaged_copy_loses_against_a_sound_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"{NAMES[0]}.png").write_bytes(b"")
    sound = image(tmp_path / "b" / f"{NAMES[0]}.png")
    table(tmp_path / "Data_Entry_2017.csv", NAMES[:1], LABELS[:1])
    assert read(tmp_path).rows["path"].tolist() == [str(sound)]


def test_the_shallowest_label_table_is_read_and_the_others_are_said(tmp_path: Path) -> None:
    for name in NAMES:
        image(tmp_path / f"{name}.png")
    table(tmp_path / "aa" / "Data_Entry_2017_v2020.csv")
    table(tmp_path / "sample_labels.csv")
    table(tmp_path / "Data_Entry_2017.csv")
    table(tmp_path / "my_labels.csv")
    (tmp_path / "predictions.csv").write_text("Image Index,prob_Mass\n", encoding="utf-8")
    collection = read(tmp_path)
    assert collection.facts["label table"] == "Data_Entry_2017.csv"
    (problem,) = collection.problems
    assert problem.code == "unused-label-table"
    assert set(problem.examples) == {
        "aa/Data_Entry_2017_v2020.csv", "my_labels.csv", "sample_labels.csv"
    }  # fmt: skip


def test_of_two_tables_in_one_place_the_corrected_generation_is_read(tmp_path: Path) -> None:
    names = tuple(f"00000003_{number:03}" for number in range(8))
    for name in names:
        image(tmp_path / f"{name}.png")
    table(tmp_path / "Data_Entry_2017.csv", names, ("Mass",) * 8)
    new = table(tmp_path / "Data_Entry_2017_v2020.csv", names, ("Hernia",) * 8)
    text = new.read_text(encoding="utf-8")
    for number in range(8):
        text = text.replace(f"Hernia,{number},3", f"Hernia,{(number + 7) % 8}+,3")
    new.write_text(text.replace("+,3", ",3"), encoding="utf-8")
    collection = read(tmp_path)
    assert collection.release == "v2020"
    assert (collection.rows["Hernia"] == 1).all()
    assert collection.rows["follow_up"].tolist() == [7, 0, 1, 2, 3, 4, 5, 6]


def test_the_kaggle_sample_is_read(tmp_path: Path) -> None:
    for name in NAMES:
        image(tmp_path / "sample" / "images" / f"{name}.png")
    table(tmp_path / "sample_labels.csv")
    assert len(read(tmp_path).rows) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_boxes_and_lists_are_joined_by_name(tmp_path: Path, packed: bool) -> None:
    for name in NAMES:
        image(tmp_path / "images" / f"{name}.jpg", pixels=8)
    table(tmp_path / "Data_Entry_2017.csv")
    texts = {
        "BBox_List_2017.csv": "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000001_001.png,Mass,512,256,256,128\n00000099_000.png,Mass,1,1,5,5\n",
        "train_val_list.txt": "00000001_000.png\n00000001_001.png\n\n00000050_000.png\n",
        "test_list.txt": "00000002_000.png\r\n",
    }
    for name, text in texts.items():
        if packed:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (tmp_path / name).write_bytes(text.encode())
    collection = read(tmp_path)
    assert collection.boxes.to_numpy().tolist() == [
        ["00000001_001.png", "Mass", 0.5, 0.25, 0.25, 0.125]
    ]
    assert collection.official == {
        "train_val": frozenset({"00000001_000.png", "00000001_001.png", "00000050_000.png"}),
        "test": frozenset({"00000002_000.png"}),
    }
    assert codes(collection) == {"box-without-image": 1}


def test_rows_that_differ_in_the_suffix_alone_are_refused(tmp_path: Path) -> None:
    image(tmp_path / f"{NAMES[0]}.png")
    path = table(tmp_path / "Data_Entry_2017.csv", NAMES[:1] * 2, LABELS[:2])
    path.write_text(path.read_text(encoding="utf-8").replace(".png,Mass", ".jpg,Mass"), "utf-8")
    with pytest.raises(SourceError, match="keep one row per image"):
        read(tmp_path)


def test_phantoms_are_called_phantoms_and_unfinished_ones_are_refused(tmp_path: Path) -> None:
    for name in NAMES:
        image(tmp_path / "images_001" / "images" / f"{name}.png")
    table(tmp_path / "Data_Entry_2017.csv")
    assert sources.read(tmp_path).card.title == "NIH ChestX-ray14"
    (tmp_path / "phantom.json").touch()
    collection = sources.read(tmp_path)
    assert (collection.name, collection.card.synthetic) == ("phantoms", True)
    (tmp_path / "phantom.json").rename(tmp_path / "phantom-unfinished.json")
    with pytest.raises(SourceError, match="chestxray synth"):
        sources.read(tmp_path)


def test_one_list_alone_a_shared_patient_and_an_unlisted_image_are_said(tmp_path: Path) -> None:
    for name in NAMES:
        image(tmp_path / f"{name}.png")
    table(tmp_path / "Data_Entry_2017.csv")
    (tmp_path / "test_list.txt").write_text("00000001_000.png\n", encoding="utf-8")
    assert codes(read(tmp_path)) == {"one-official-list": 1}
    assert read(tmp_path).official == {}
    (tmp_path / "train_val_list.txt").write_text("00000001_001.png\n", encoding="utf-8")
    assert codes(read(tmp_path)) == {"patient-in-both-lists": 1, "not-in-lists": 1}


def test_what_is_no_tree_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a folder"):
        read(tmp_path / "none")
    with pytest.raises(SourceError, match="chestxray download"):
        read(tmp_path)
    (tmp_path / "images_01.tar.gz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"not unpacked, such as images_01.tar.gz"):
        read(tmp_path)
    image(tmp_path / "images" / "scan.png")
    with pytest.raises(SourceError, match="no label table"):
        read(tmp_path)
    table(tmp_path / "Data_Entry_2017.csv")
    with pytest.raises(SourceError, match="two data sets"):
        read(tmp_path)


def test_no_image_is_decoded(tmp_path: Path) -> None:
    (tmp_path / f"{NAMES[0]}.png").write_bytes(b"not an image at all")
    table(tmp_path / "Data_Entry_2017.csv", NAMES[:1], LABELS[:1])
    assert len(read(tmp_path).rows) == 1


needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"{SAMPLE} is not here")
needs_metadata = pytest.mark.skipif(not METADATA.is_dir(), reason=f"{METADATA} is not here")


@needs_sample
def test_the_real_sample_has_one_row_an_image_and_full_size_where_it_is() -> None:
    collection = read(SAMPLE)
    assert len(collection.rows) == 1136
    assert collection.rows["patient"].nunique() == 908
    assert collection.release == "v2020"
    full = collection.rows["path"].str.contains("/full-size/")
    assert set(collection.rows["image"][full]) == {p.name for p in (SAMPLE / "full-size").iterdir()}
    assert codes(collection) == {"several-sizes": 24}


@pytest.fixture(scope="module")
def labels() -> nih.LabelTable:
    return nih.read_labels(METADATA / "Data_Entry_2017_v2020.csv.gz")


@needs_metadata
def test_the_full_table_has_the_published_counts(labels: nih.LabelTable) -> None:
    rows = labels.rows
    assert (len(rows), rows["patient"].nunique(), labels.problems) == (112_120, 30_805, ())
    assert rows["patient"].value_counts().max() == 184
    assert rows["view"].value_counts().to_dict() == {"PA": 67_310, "AP": 44_810}
    assert (rows["age"].min(), rows["age"].max()) == (0, 95)
    assert (rows[list(FINDINGS)] == 0).all(axis=1).sum() == 60_361
    assert {name: int(rows[name].sum()) for name in FINDINGS} == {
        "Infiltration": 19894, "Effusion": 13317, "Atelectasis": 11559, "Nodule": 6331,
        "Mass": 5782, "Pneumothorax": 5302, "Consolidation": 4667, "Pleural_Thickening": 3385,
        "Cardiomegaly": 2776, "Emphysema": 2516, "Edema": 2303, "Fibrosis": 1686,
        "Pneumonia": 1431, "Hernia": 227,
    }  # fmt: skip


@needs_metadata
def test_the_full_table_is_v2020_and_orders_visits_by_follow_up(labels: nih.LabelTable) -> None:
    rows = labels.rows
    suffix = rows["image"].str.slice(9, 12).astype("int64")
    assert labels.generation == "v2020"
    assert int((suffix != rows["follow_up"]).sum()) == 24_106
    in_order = rows.sort_values(["patient", "follow_up"])
    same = in_order["patient"] == in_order["patient"].shift()
    older = in_order["age"].diff().where(same, 0)
    assert (older >= 0).all()


@needs_metadata
def test_a_copy_with_2017_follow_ups_is_2017(tmp_path: Path) -> None:
    text = pd.read_csv(METADATA / "Data_Entry_2017_v2020.csv.gz", dtype=str, nrows=3000)
    text["Follow-up #"] = text["Image Index"].str.slice(9, 12).astype(int)
    text.to_csv(tmp_path / "Data_Entry_2017_v2020.csv", index=False)
    assert nih.read_labels(tmp_path / "Data_Entry_2017_v2020.csv").generation == "2017"


@needs_metadata
def test_the_full_box_table_has_the_published_counts(labels: nih.LabelTable) -> None:
    boxes = nih.read_boxes(METADATA / "BBox_List_2017.csv.gz")
    assert (len(boxes.rows), boxes.rows["image"].nunique(), boxes.problems) == (984, 880, ())
    assert boxes.rows["finding"].value_counts().to_dict() == {
        "Atelectasis": 180, "Effusion": 153, "Cardiomegaly": 146, "Infiltration": 123,
        "Pneumonia": 120, "Pneumothorax": 98, "Mass": 85, "Nodule": 79,
    }  # fmt: skip
    sides = boxes.rows[["x", "y", "w", "h"]].to_numpy(float)
    assert sides.min() > 0
    assert (sides[:, :2] + sides[:, 2:]).max() <= 1
    assert boxes.rows["image"].isin(labels.rows["image"]).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """The real tables and lists over empty files with the names of the first 2,000 images."""
    raw = tmp_path_factory.mktemp("whole")
    names = pd.read_csv(METADATA / "Data_Entry_2017_v2020.csv.gz", usecols=[0], nrows=2_000)
    (raw / "images").mkdir()
    for name in names["Image Index"]:
        (raw / "images" / name).touch()
    for path in METADATA.glob("*.gz"):
        (raw / path.name).symlink_to(path)
    return read(raw)


@needs_metadata
def test_the_official_lists_are_whole_and_share_no_patient(
    whole: Collection, labels: nih.LabelTable
) -> None:
    parts = {part: set(names) for part, names in whole.official.items()}
    assert {part: len(names) for part, names in parts.items()} == {
        "train_val": 86_524,
        "test": 25_596,
    }
    assert parts["train_val"] | parts["test"] == set(labels.rows["image"])
    patient = labels.rows.set_index("image")["patient"]
    shared = set(patient[list(parts["train_val"])]) & set(patient[list(parts["test"])])
    assert not shared
    assert set(codes(whole)) == {"missing-image", "box-without-image"}
    assert whole.facts["label table"] == "Data_Entry_2017_v2020.csv.gz"
    assert len(whole.rows) == 2_000
