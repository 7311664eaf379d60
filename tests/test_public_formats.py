"""The formats in which public data sets store radiographs, each through the one decoder."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import public_trees
import small_trees
from chestxray import sources
from chestxray.dataset.pixels import canonical, decode
from chestxray.dataset.radiograph import Radiograph
from dicom_files import dicom, jpeg_2000
from public_trees import change

GREY = np.add.outer(np.arange(64), np.arange(0, 192, 3)).astype(np.uint8)
"""Grey values 0 to 252, as uint8 [64, 64]."""
DEEP = (GREY.astype(np.uint16) * 16 + 7).astype(np.uint16)
"""12 bits."""


def saved(mode: str) -> bytes:
    """A PNG of `GREY` in a mode of Pillow."""
    buffer = io.BytesIO()
    image = Image.fromarray(GREY)
    if mode == "P":
        image = image.convert("P")
        image.putpalette([level for grey in range(256) for level in (grey, grey, grey)])
    else:
        image = image.convert(mode)
    image.save(buffer, "PNG")
    with Image.open(io.BytesIO(buffer.getvalue())) as written:
        assert written.mode == mode
    return buffer.getvalue()


def test_a_16_bit_png_of_padchest_keeps_every_level_and_becomes_8_bits_by_the_nominal_range() -> (
    None
):
    levels = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    pixels = decode(cv2.imencode(".png", levels)[1].tobytes())
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, levels)
    assert np.array_equal(canonical(pixels, 64), np.rint(levels / 257).astype(np.uint8))
    dark = cv2.imencode(".png", levels // 16)[1].tobytes()
    assert canonical(decode(dark), 64).max() == 16, "12 bits in 16 are not stretched"


def test_padchests_rows_that_state_monochrome1_are_counted_and_their_png_is_not_inverted(
    phantoms: Path, tmp_path: Path
) -> None:
    films = public_trees.films(phantoms, 4)
    tree = public_trees.padchest(tmp_path, films)
    before = sources.read(tree)
    assert before.problems == ()
    table = next(tree.glob("PADCHEST*"))
    change(
        table,
        lambda t: t.assign(PhotometricInterpretation_DICOM=["MONOCHROME1", *["MONOCHROME2"] * 3]),
    )
    after = sources.read(tree)
    assert [(p.code, p.count, p.loses) for p in after.problems] == [("inverted-in-table", 1, False)]
    pd.testing.assert_frame_equal(before.rows, after.rows)
    shown = canonical(decode(after.rows["path"].iloc[0]), 64)
    assert np.array_equal(shown, films[0].pixels)


def test_openis_png_is_not_inverted_where_its_table_of_headers_states_monochrome1(
    phantoms: Path, tmp_path: Path
) -> None:
    """The table describes the DICOM files, whose inversion the PNG files have already."""
    films = public_trees.films(phantoms, 2)
    tree = small_trees.openi(tmp_path, films)
    table = (tree / "nlmcxr_dicom_metadata.csv").read_text()
    assert "MONOCHROME1" in table
    read = sources.read(tree)
    for film, path in zip(films, read.rows["path"], strict=True):
        assert np.array_equal(decode(path), film.pixels)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "JPEG 2000"])
def test_monochrome1_in_the_header_is_inverted_once_whatever_the_compression(packed: bool) -> None:
    form = jpeg_2000 if packed else bytes
    dense = decode(form(dicom(DEEP, 12)))
    inverted = decode(form(dicom(4095 - DEEP, 12, "MONOCHROME1")))
    assert np.array_equal(dense, inverted)
    assert np.array_equal(dense, np.rint(DEEP / 4095 * 65535).astype(np.uint16))


def test_a_jpeg_2000_dicom_file_of_vindr_has_the_pixels_of_the_plain_one() -> None:
    plain = dicom(DEEP, 12)
    assert np.array_equal(decode(jpeg_2000(plain)), decode(plain))
    lossy = decode(jpeg_2000(plain, reversible=False, level=40)).astype(int)
    assert 0 < np.abs(lossy - decode(plain)).mean() < 655, "within a hundredth of the range"


def test_a_histogram_equalised_jpg_of_mimic_is_shown_as_it_is_and_not_equalised_again() -> None:
    rng = np.random.default_rng(0)
    narrow = np.clip(rng.normal(90, 6, (64, 64)).cumsum(1) / np.arange(1, 65), 0, 255)
    narrow = cv2.GaussianBlur(narrow.astype(np.uint8), (9, 9), 0)
    equalised = cv2.equalizeHist(narrow)
    assert equalised.max() - equalised.min() > 250 > 10 * narrow.std()
    for image in (equalised, narrow):
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        shown = decode(data).astype(int)
        assert np.abs(shown - image).mean() < 3
        assert abs(shown.mean() - image.mean()) < 1
        assert np.array_equal(canonical(decode(data), 64), decode(data))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_a_copy_of_a_grey_image_in_colour_or_with_a_palette_is_the_grey_image_exactly(
    mode: str,
) -> None:
    read = Radiograph.read(saved(mode))
    assert np.array_equal(read.pixels, GREY)
    assert read.chroma == 0
    assert read.pixels_sha256 == Radiograph.read(saved("L")).pixels_sha256


def test_an_rgb_jpg_of_a_grey_image_is_the_grey_image_within_its_own_loss() -> None:
    copy = cv2.merge([GREY, GREY, GREY])
    one, three = (
        decode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
        for image in (GREY, copy)
    )
    assert np.abs(one.astype(int) - three).max() <= 1
