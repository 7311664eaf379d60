"""Files become grey arrays, grey arrays become canonical images: what is kept, what is refused."""

from __future__ import annotations

import io
import multiprocessing
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread

from chestxray.dataset.pixels import canonical, decode, placement
from chestxray.dataset.radiograph import Radiograph
from chestxray.dataset.raster import _PIXEL_LIMIT
from chestxray.errors import ImageError
from dicom_files import RAMP12, dicom

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"", cut: int = 0
) -> bytes:
    """Write a PNG by hand: an oracle that shares nothing with the decoder."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    packed = zlib.compress(rows)
    data = chunk(b"IDAT", packed[: len(packed) - cut])
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def noise(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(tmp_path: Path, data: bytes, name: str = "radiograph.png") -> np.ndarray:
    (tmp_path / name).write_bytes(data)
    return decode(tmp_path / name)


# --- what is read -------------------------------------------------------------------------------


def test_8_bit_grey_comes_back_as_it_is(tmp_path):
    image = noise((40, 60))
    assert np.array_equal(decoded(tmp_path, encoded(image)), image)


def test_16_bit_grey_comes_back_as_it_is(tmp_path):
    image = noise((40, 60), np.uint16)
    result = decoded(tmp_path, encoded(image))
    assert result.dtype == np.uint16
    assert np.array_equal(result, image)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(8, 1, 1, GREY, b"\0\xa5"), [255, 0, 255, 0, 0, 255, 0, 255]),
        (png(4, 1, 2, GREY, b"\0\x1b"), [0, 85, 170, 255]),
        (png(4, 1, 4, GREY, b"\0\x01\x8f"), [0, 17, 136, 255]),
        (
            png(
                3,
                1,
                8,
                PALETTE,
                b"\0\0\1\2",
                chunk(b"PLTE", b"\t\t\t\xc8\xc8\xc8\xff\xff\xff"),
            ),
            [9, 200, 255],
        ),
        (png(2, 1, 8, GREY_ALPHA, b"\0" + bytes([100, 255, 100, 0])), [100, 0]),
        (png(2, 1, 8, RGBA, b"\0" + bytes([80] * 3 + [255] + [80] * 3 + [128])), [80, 40]),
        (png(2, 1, 16, RGB, b"\0" + struct.pack(">6H", *[1000] * 3, *[65535] * 3)), [1000, 65535]),
        (png(2, 1, 16, RGBA, b"\0" + struct.pack(">8H", *[7] * 3, 65535, *[7] * 3, 0)), [7, 0]),
    ],
    ids=["1 bit", "2 bits", "4 bits", "palette", "grey+alpha", "RGBA", "RGB 16", "RGBA 16"],
)
def test_every_kind_of_png_becomes_grey_over_its_nominal_range(tmp_path, data, expected):
    assert decoded(tmp_path, data).tolist() == [expected]


def test_colour_becomes_luminance(tmp_path):
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    expected = [round(255 * weight) for weight in (0.299, 0.587, 0.114)]  # ITU-R BT.601
    assert decoded(tmp_path, encoded(primaries)).tolist() == [expected]


def test_equal_red_green_and_blue_are_the_grey_value_exactly(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decoded(tmp_path, encoded(np.dstack([grey] * 3))), grey)


def test_nih_rgba_files_are_grey_under_an_opaque_alpha(real, capfd):
    found = 0
    for path in sorted((real / "nih-sample" / "full-size").glob("*.png")):
        with Image.open(path) as file:
            if file.mode == "RGBA":
                found += 1
                assert np.array_equal(decode(path), np.asarray(file)[..., 0])
    assert found == 4
    assert capfd.readouterr().err == ""  # libpng complains about their grey colour profile


def test_png_chunks_about_colour_do_not_change_pixels(tmp_path):
    rows = b"\0\x10\x80\xf0"
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"tEXt", b"a\0b")
    plain, managed = png(3, 1, 8, GREY, rows), png(3, 1, 8, GREY, rows, gamma)
    assert np.array_equal(decoded(tmp_path, plain), decoded(tmp_path, managed))


def test_jpeg_comes_back_within_its_own_loss(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    result = decoded(tmp_path, encoded(ramp, "JPEG", quality=95), "radiograph.jpg")
    assert np.abs(result.astype(int) - ramp).max() <= 3


def test_jpeg_is_turned_as_its_exif_orientation_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    image = np.zeros((32, 64), dtype=np.uint8)
    image[:, :32] = 200
    turned = decoded(tmp_path, encoded(image, "JPEG", exif=exif), "radiograph.jpeg")
    assert turned.shape == (64, 32)
    assert turned[:24].min() > 150
    assert turned[40:].max() < 50


def test_a_name_without_a_known_suffix_is_judged_by_content(tmp_path):
    image = noise((8, 8))
    assert np.array_equal(decoded(tmp_path, encoded(image), "1.2.840.10008"), image)


# --- what is refused ----------------------------------------------------------------------------

PNG, JPEG = encoded(noise((64, 64))), encoded(noise((64, 64)), "JPEG")
ROWS = b"".join(b"\0" + bytes(64) for _ in range(64))
CMYK = Image.new("CMYK", (8, 8))


def cmyk() -> bytes:
    buffer = io.BytesIO()
    CMYK.save(buffer, "JPEG")
    return buffer.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("f.png", b"", "empty"),
        ("f.png", PNG[: len(PNG) // 2], "truncated"),
        ("f.png", PNG[:-12], "truncated"),
        ("f.png", PNG[:-1], "truncated"),
        ("f.png", PNG[:20], "truncated"),
        ("f.png", flipped(PNG, len(PNG) // 2), "checksum of PNG chunk b'IDAT'"),
        ("f.png", flipped(PNG, 18), "checksum of PNG chunk b'IHDR'"),
        ("f.png", png(64, 64, 8, GREY, ROWS, cut=20), "damaged"),
        ("f.png", png(64, 64, 8, GREY, ROWS[: 65 * 30]), "damaged"),
        ("f.png", png(0, 64, 8, GREY, b""), "0 × 64 pixels"),
        ("f.png", png(64, 64, 3, GREY, ROWS), "damaged"),
        ("f.png", png(100_000, 100_000, 1, GREY, b""), "100000 × 100000 pixels"),
        ("f.png", JPEG, r"the name says PNG \(.png\), but the content is JPEG"),
        ("f.jpg", PNG, r"the name says JPEG \(.jpg\), but the content is PNG"),
        ("f.dcm", PNG, r"the name says DICOM \(.dcm\), but the content is PNG"),
        ("f.jpg", JPEG[: len(JPEG) // 2], "truncated"),
        ("f.jpg", JPEG[:-2], "truncated"),
        ("f.jpg", JPEG[:60], "no frame header"),
        ("f.jpg", cmyk(), "4 components"),
        ("f.png", b"<!DOCTYPE html><title>Sign in</title>", "not PNG, JPEG or DICOM"),
        ("f.png", bytes(5000), "not PNG, JPEG or DICOM"),
        ("f", b"GIF89a" + bytes(50), "the content is GIF"),
        ("f.gif", b"GIF89a" + bytes(50), "the content is GIF"),
        ("f.dcm", bytes(128) + b"DICM", "DICOM"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_its_name_and_what_is_wrong(tmp_path, name, data, reason, capfd):
    with pytest.raises(ImageError, match=reason) as caught:
        decoded(tmp_path, data, name)
    assert caught.value.path == tmp_path / name
    assert str(tmp_path) not in caught.value.reason
    del capfd  # libpng also says on standard error what it could not decode


def test_bytes_and_open_files_are_read_as_the_file_is(tmp_path):
    for name, data in (("f.png", PNG), ("f.jpg", JPEG), ("f.dcm", dicom(RAMP12, 12))):
        expected = decoded(tmp_path, data, name)
        assert np.array_equal(decode(data), expected)
        assert np.array_equal(decode(io.BytesIO(data)), expected)
        with (tmp_path / name).open("rb") as file:
            assert np.array_equal(decode(file), expected)


def test_only_dicom_has_a_header():
    assert Radiograph.read(PNG).header is None
    assert Radiograph.read(JPEG).header is None
    header = Radiograph.read(dicom(RAMP12, 12, ViewPosition="PA")).header
    assert header is not None
    assert header.view_position == "PA"


def test_a_missing_file_and_a_folder_are_image_errors(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        decode(tmp_path / "none.png")
    with pytest.raises(ImageError, match="directory"):
        decode(tmp_path)


def test_a_bomb_is_refused_before_memory_is_taken_for_it(tmp_path):
    side = 12_000
    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(bytes(side + 1)) for _ in range(side)) + rows.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, GREY, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    assert len(bomb) < 2_000_000 < _PIXEL_LIMIT < side**2
    with pytest.raises(ImageError, match="decompression bomb"):
        decoded(tmp_path, bomb)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@given(cut=st.floats(0, 1, exclude_max=True))
def test_no_truncated_file_is_decoded(tmp_path_factory, kind, cut):
    data = PNG if kind == "PNG" else JPEG
    path = tmp_path_factory.mktemp("cut") / f"f.{kind.lower()}"
    path.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(ImageError):
        decode(path)


@given(at=st.integers(0, len(PNG) - 1))
def test_no_png_with_a_flipped_byte_is_decoded(tmp_path_factory, at):
    path = tmp_path_factory.mktemp("flip") / "f.png"
    path.write_bytes(flipped(PNG, at))
    with pytest.raises(ImageError):
        decode(path)


# --- the canonical image ------------------------------------------------------------------------


def test_16_bits_become_8_by_the_nominal_range():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(canonical(ramp, 256), np.rint(ramp / 257).astype(np.uint8))


def test_a_dark_16_bit_image_stays_dark():
    dim = noise((64, 64), np.uint16) // 16  # 12 bits' worth of values
    assert canonical(dim, 64).max() <= 16


def test_8_bits_and_the_same_in_16_bits_are_one_image():
    image = noise((96, 96))
    wide = canonical(image.astype(np.uint16) * 257, 32)
    assert np.abs(canonical(image, 32).astype(int) - wide).max() <= 1


def test_resizing_by_a_whole_factor_is_the_mean_of_blocks():
    image = noise((128, 128))
    means = image.reshape(32, 4, 32, 4).mean(axis=(1, 3))
    assert np.abs(canonical(image, 32) - means).max() <= 0.5


@given(width=st.integers(1, 80), height=st.integers(1, 80))
def test_an_image_lies_in_its_square_where_placement_says(width, height):
    side = max(width, height)
    square = canonical(np.full((height, width), 255, dtype=np.uint8), side)
    x, y, w, h = (round(fraction * side) for fraction in placement(width, height))
    assert (w, h) == (width, height)
    assert (square[y : y + h, x : x + w] == 255).all()
    assert int(square.sum()) == 255 * width * height
    assert abs((side - w) - 2 * x) <= 1
    assert abs((side - h) - 2 * y) <= 1


def test_a_wide_image_keeps_its_proportions():
    image = np.full((100, 200), 255, dtype=np.uint8)
    result = canonical(image, 50)
    assert result.sum(axis=0).std() == 0
    assert abs(int((result[:, 25] > 127).sum()) - 25) <= 1


def test_a_small_image_is_enlarged_smoothly():
    ramp = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (16, 1))
    assert np.abs(np.diff(canonical(ramp, 64)[0].astype(int))).max() <= 5


def test_the_source_is_left_alone_and_the_result_is_its_own():
    image = noise((32, 32))
    before = image.copy()
    canonical(image, 32)[:] = 0
    assert np.array_equal(image, before)


def loaded(path: Path) -> bytes:
    return Radiograph.read(path).canonical(224).tobytes()


def test_a_file_gives_the_same_bits_in_every_process(real):
    paths = sorted((real / "nih-sample" / "full-size").glob("*.png"))[:3]
    paths += sorted((real / "dicom").glob("*.dcm"))
    here = [loaded(path) for path in paths]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(loaded, paths)) == here
    assert [loaded(path) for path in paths] == here


# --- DICOM --------------------------------------------------------------------------------------


def test_12_bit_dicom_is_scaled_by_its_bits_not_by_its_values(tmp_path):
    result = decoded(tmp_path, dicom(RAMP12 // 2, 12), "f.dcm")
    assert np.array_equal(result, np.rint((RAMP12 // 2) / 4095 * 65535))


def test_monochrome1_is_inverted_once(tmp_path):
    plain = decoded(tmp_path, dicom(RAMP12, 12), "f.dcm")
    for more in ({}, {"PresentationLUTShape": "INVERSE"}):
        inverted = decoded(tmp_path, dicom(RAMP12, 12, "MONOCHROME1", **more), "f.dcm")
        assert np.abs(inverted.astype(int) - (65535 - plain.astype(int))).max() <= 1


def test_a_window_is_applied_over_the_nominal_range(tmp_path):
    result = decoded(tmp_path, dicom(RAMP12, 12, WindowCenter=2048, WindowWidth=1024), "f.dcm")
    # PS3.3 C.11.2.1.2.1, linear
    expected = np.clip((RAMP12 - 2047.5) / 1023 + 0.5, 0, 1) * 65535
    assert np.abs(result - expected).max() <= 20


def test_rescale_and_signed_values_end_in_the_whole_range(tmp_path):
    signed = (RAMP12.astype(np.int16) - 2048).astype(np.int16)
    result = decoded(tmp_path, dicom(signed, 12, RescaleSlope=2, RescaleIntercept=-100), "f.dcm")
    assert np.array_equal(result, np.rint(RAMP12 / 4095 * 65535))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (dicom(np.zeros((3, 8, 8), np.uint8), 8, NumberOfFrames=3), "3 frames"),
        (dicom(RAMP12, 12, Rows=20_000, Columns=20_000), "20000 × 20000 pixels"),
        (dicom(RAMP12, 12, "RGB"), "SamplesPerPixel is 1, RGB has 3"),
        (dicom(RAMP12, 12)[:-100], "truncated"),
        (dicom(RAMP12, 12)[:300], "truncated|cut off before"),
    ],
    ids=["frames", "bomb", "colour", "cut in the pixels", "cut before the pixels"],
)  # fmt: skip
def test_a_dicom_file_that_is_no_whole_radiograph_is_refused(tmp_path, data, reason):
    with pytest.raises(ImageError, match=reason):
        decoded(tmp_path, data, "f.dcm")


def test_the_real_dicom_files_decode_with_dense_bright(real):
    plain, inverted, small = (decode(path) for path in sorted((real / "dicom").glob("*.dcm")))
    assert plain.shape == inverted.shape == (1024, 1024)
    # The second file is the first one's pixels under the name MONOCHROME1.
    assert np.abs(plain.astype(int) + inverted - 65535).max() <= 1
    stored = dcmread(real / "dicom" / "highdicom_dx_image.dcm").pixel_array
    assert small.shape == (169, 211)
    assert np.corrcoef(small.ravel(), stored.ravel())[0, 1] < -0.99  # MONOCHROME1


def test_a_long_thin_image_is_refused_before_it_is_padded_to_a_square(tmp_path):
    """80 by 100,000 pixels are few, but the square around them has ten thousand million."""
    path = tmp_path / "thin.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((80, 100_000), np.uint8))[1].tobytes())
    with pytest.raises(ImageError, match="no side may exceed"):
        decode(path)
