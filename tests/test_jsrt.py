"""The reader of JSRT and its raw images in the one decoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import public_trees
import small_trees
from chestxray import sources
from chestxray.dataset import prepare, verify
from chestxray.dataset.pixels import decode
from chestxray.dataset.radiograph import Radiograph
from chestxray.dataset.verification import Verdict
from chestxray.errors import ImageError, SourceError
from public_trees import Film, codes


@pytest.fixture(scope="module")
def films(phantoms: Path) -> list[Film]:
    return public_trees.films(phantoms, 7)


@pytest.fixture(scope="module")
def made(films: list[Film], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_trees.jsrt(tmp_path_factory.mktemp("jsrt"), films)


@pytest.fixture
def tree(made: Path, tmp_path: Path) -> Path:
    """A copy whose lists may be changed; the images are links."""
    return Path(shutil.copytree(made, tmp_path / "tree", copy_function=_linked))


def _linked(source: str, target: str) -> None:
    if source.endswith(".IMG"):
        Path(target).symlink_to(source)
    else:
        shutil.copy(source, target)


def film_of(image: str, films: list[Film]) -> Film:
    return films[int(image[-3:]) - 1]


def test_names_give_nodules_and_lists_give_size_place_sex_and_age(
    tree: Path, films: list[Film]
) -> None:
    assert sources.recognise(tree).name == "jsrt"
    read = sources.read(tree)
    assert read.findings == ("Nodule/Mass", "Nodule", "Mass")
    assert read.problems == ()
    assert len(read.rows) == len(films)
    for row in read.rows.to_dict("records"):
        film = film_of(row["image"], films)
        size = small_trees.jsrt_size(film)
        expected = [float(bool(film.findings) and it) for it in (True, size <= 30, size > 30)]
        assert [row[finding] for finding in read.findings] == expected
        assert (row["sex"], row["age"], row["view"]) == (film.sex, film.age, "PA")
        boxes = read.boxes[read.boxes["image"] == row["image"]]
        assert sorted(boxes["finding"]) == sorted(f for f in read.findings if row[f] == 1)
        side = size / 0.175
        square = np.array([500 + film.number - side / 2, 1000 - side / 2, side, side]) / 2048
        assert np.allclose(boxes[[*"xywh"]], square, atol=1e-6)
    assert {0.0, 1.0} == set(read.rows["Nodule"]) == set(read.rows["Mass"])


def test_the_lists_are_read_whatever_separates_words_and_lines(tree: Path) -> None:
    before = sources.read(tree)
    path = tree / "Clinical_Information/CLNDAT_EN.txt"
    text = path.read_bytes()
    for changed in (
        text.replace(b"\r", b"\r\n"), text.replace(b"\r", b"\n\n"), text.replace(b"\t", b"  "),
        text.replace(b"\r", b""), b"\xef\xbb\xbf" + text, text + b"\r" + text,
        text.replace(b"malignant", b"\xe9?").replace(b".IMG", b".img"),
    ):  # fmt: skip
        path.write_bytes(changed)
        after = sources.read(tree)
        pd.testing.assert_frame_equal(before.rows, after.rows)
        pd.testing.assert_frame_equal(before.boxes, after.boxes)
        assert codes(after) == {}


def test_lines_that_are_missing_odd_or_contrary_leave_the_size_open(tree: Path) -> None:
    before = sources.read(tree)
    path = tree / "Clinical_Information/CLNDAT_EN.txt"
    lines = path.read_bytes().decode().split("\r")
    size = lines[2].split("\t")[2]
    changed = [
        lines[0].replace("\t3\t", "\tvery\t"), lines[1], lines[1].replace("1000", "9"),
        lines[2].replace(f"\t{size}\t", "\t?\t"), *lines[4:],
    ]  # fmt: skip
    path.write_text("\n".join(changed))
    read = sources.read(tree)
    assert (codes(read)["unreadable-line"], codes(read)["conflicting-rows"]) == (1, 1)
    assert codes(read)["no-line"] == 3, "the fourth has none at all"
    nodules = read.rows[read.rows["Nodule/Mass"] == 1]
    assert nodules["Nodule"].isna().tolist() == [True] * 4 + [False] * (len(nodules) - 4)
    assert len(nodules) == (before.rows["Nodule/Mass"] == 1).sum()
    assert set(read.boxes["image"]) == set(nodules["image"][nodules["Nodule"].notna()])


def test_without_the_lists_the_label_stays_and_the_kind_is_unknown(tree: Path) -> None:
    shutil.rmtree(tree / "Clinical_Information")
    read = sources.read(tree)
    assert codes(read) == {"no-line": 7}
    assert read.rows["Nodule/Mass"].notna().all()
    assert (read.rows["Nodule"].isna() == (read.rows["Nodule/Mass"] == 1)).all()
    assert len(read.boxes) == 0


def test_a_png_copy_beside_the_raw_image_is_not_used_and_one_alone_is_read(
    tree: Path, films: list[Film]
) -> None:
    first, second = sorted(tree.rglob("*.IMG"))[:2]
    small_trees.placed(tree / f"png/{first.stem}.png", small_trees.png(films[0].pixels))
    read = sources.read(tree).rows.set_index("image")
    assert read.loc[first.stem, "path"].endswith(".IMG")
    second.unlink()
    small_trees.placed(tree / f"png/{second.stem}.png", small_trees.png(films[0].pixels))
    small_trees.placed(tree / "png/other.png", small_trees.png(films[0].pixels))
    read = sources.read(tree)
    assert read.rows.set_index("image").loc[second.stem, "path"].endswith(".png")
    assert codes(read) == {"missing-row": 1}


def test_raw_images_become_a_dataset_and_are_verified(
    made: Path, films: list[Film], tmp_path: Path
) -> None:
    dataset = prepare(made, tmp_path / "dataset", size=64, allow_empty=True)
    assert dataset.manifest.failures == ()
    for row, values in enumerate(dataset.index.to_dict("records")):
        packed = dataset.images[np.array([row])][0].astype(int)
        assert np.abs(packed - film_of(values["image"], films).pixels).max() <= 1
    assert len(dataset.boxes)
    verdict = verify(made)
    assert isinstance(verdict, Verdict)
    assert [(kind.format, kind.pixels, n) for kind, n in verdict.kinds] == [
        ("JSRT 16-bit", "2048 × 2048", 7)
    ]
    assert verdict.collection.facts["images of the data set"] == "all: 7 of 247"
    assert verdict.passed


# The raw image in the decoder


def test_a_raw_image_is_inverted_over_its_nominal_12_bits(tmp_path: Path) -> None:
    stored = np.zeros((2048, 2048), ">u2")
    stored[0, :3] = [0, 4095, 2048]
    pixels = decode(small_trees.placed(tmp_path / "JPCLN001.IMG", stored.tobytes()))
    assert pixels.dtype == np.uint16
    assert pixels[0, :3].tolist() == [65535, 0, round((4095 - 2048) * 65535 / 4095)]
    stored[:] = 4095 - np.arange(2048) * 2
    pixels = decode(small_trees.placed(tmp_path / "JPCLN002.IMG", stored.tobytes()))
    assert (np.diff(pixels.astype(int), axis=1) > 0).all(), "every level stays a level of its own"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(2048 * 2048 * 2 - 1), "has 8388608 bytes, not 8388607"),
        (bytes(10), "has 8388608 bytes, not 10"),
        (b"\x00\x10" * 2048 * 2048, "damaged, or its bytes are in another order"),
    ],
)
def test_a_raw_image_that_is_not_jsrts_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    data = data if reason.startswith("has") else b"\xff\x0f" * 2048 * 2048
    with pytest.raises(ImageError, match=reason):
        decode(small_trees.placed(tmp_path / "x.img", data))
    with pytest.raises(ImageError, match="not PNG, JPEG or DICOM"):
        decode(bytes(2048 * 2048 * 2))


def test_the_suffix_img_does_not_hide_another_format(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = small_trees.placed(tmp_path / "x.img", cv2.imencode(".png", grey)[1].tobytes())
    assert Radiograph.read(path).kind == "PNG"


def test_a_folder_without_jsrts_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CLNDAT_EN.txt").write_text("JPCLN001.IMG\t5\t15\t53\tMale\t1634\t692\tmalignant")
    with pytest.raises(SourceError, match=r"holds no image of JSRT \(JPCLN001.IMG"):
        sources.read(tmp_path, "jsrt")
