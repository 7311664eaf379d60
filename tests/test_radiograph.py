"""One radiograph: read, hashed and decoded once, and told from others by its pixels."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import dcmread, uid

from chestxray.dataset import radiograph as module
from chestxray.dataset.pixels import canonical, decode, placement
from chestxray.dataset.radiograph import Radiograph
from chestxray.dicom_elements import is_dicom
from chestxray.errors import ImageError
from dicom_files import RAMP12, dicom, written

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)


def png(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_a_radiograph_holds_the_file_and_what_is_in_it(tmp_path: Path) -> None:
    for name, kind, data in (
        ("a.png", "PNG", png(IMAGE)),
        ("b.dcm", "DICOM", dicom(RAMP12, 12, ViewPosition="PA")),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        found = Radiograph.read(path)
        height, width = found.pixels.shape
        assert (found.path, found.data, found.kind) == (path, data, kind)
        assert found.sha256 == hashlib.sha256(data).hexdigest()
        assert np.array_equal(found.pixels, decode(path))
        assert np.array_equal(found.canonical(32), canonical(found.pixels, 32))
        assert found.placement == placement(width, height)
        assert (found.header is None) == (kind == "PNG")


def test_a_file_is_opened_and_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(np.dstack([IMAGE] * 3)))
    calls = []
    decode_bytes = module.decode_bytes
    monkeypatch.setattr(
        module, "decode_bytes", lambda *args: calls.append(args) or decode_bytes(*args)
    )
    found = Radiograph.read(path)
    path.unlink()  # nothing below can read it again
    assert found.chroma == 0
    assert found.sha256 == hashlib.sha256(found.data).hexdigest()
    assert found.canonical(16).shape == (16, 16)
    assert len(found.pixels_sha256) == 64
    assert len(calls) == 1


def test_the_hash_of_the_pixels_sees_pixels_alone() -> None:
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", "not a pixel")
    same = [png(IMAGE), png(IMAGE, compress_level=0), png(IMAGE, pnginfo=words)]
    assert len({Radiograph.read(data).sha256 for data in same}) == 3
    assert len({Radiograph.read(data).pixels_sha256 for data in same}) == 1
    changed = IMAGE.copy()
    changed[3, 4] ^= 1
    others = [changed, IMAGE.T, IMAGE.astype(np.uint16), IMAGE.reshape(60, 40)]
    hashes = {Radiograph.read(png(array)).pixels_sha256 for array in (IMAGE, *others)}
    assert len(hashes) == 5


def test_a_dicom_file_sent_again_under_another_name_has_the_same_pixels() -> None:
    file = dcmread(io.BytesIO(dicom(RAMP12, 12)))
    before = written(file)
    file.PatientID, file.SOPInstanceUID = "somebody else", uid.generate_uid()
    after = written(file)
    assert before != after
    assert Radiograph.read(before).pixels_sha256 == Radiograph.read(after).pixels_sha256


@pytest.mark.parametrize("depth", [8, 16])
def test_colour_is_measured_alike_in_8_and_16_bits(depth: int) -> None:
    """Red of full strength beside grey: half of the pixels have a spread of 1."""
    red, grey = ([1.0, 0, 0], [0.5] * 3)
    row = np.rint(np.repeat([red, grey], 8, axis=0) * (2**depth - 1)).astype(f">u{depth // 8}")
    lines = b"".join(b"\0" + row.tobytes() for _ in range(16))
    data = b"\x89PNG\r\n\x1a\n"
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 16, 16, depth, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    for kind, body in parts:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    assert Radiograph.read(data).chroma == pytest.approx(0.5, abs=0.01)


def test_only_the_prefix_after_the_preamble_makes_a_dicom_file() -> None:
    assert is_dicom(dicom(RAMP12, 12))
    for data in (b"", b"DICM", bytes(127) + b"DICM", bytes(128) + b"DIC", png(IMAGE)):
        assert not is_dicom(data)


def test_what_is_not_a_radiograph_is_an_image_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "words.png"
    path.write_text("words", encoding="utf-8")
    with pytest.raises(ImageError, match="not PNG, JPEG or DICOM") as caught:
        Radiograph.read(path)
    assert caught.value.path == path
