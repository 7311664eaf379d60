"""A file from others costs a bounded time and memory, and its own row only, on every path.

The files that take long are a JPEG of thousands of scans, each of which makes a decoder work
through the whole image, and a DICOM file of millions of items.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, uid

from chestxray.dataset import decoding, masks, packing
from chestxray.dataset.preparation import prepare
from chestxray.dataset.radiograph import Radiograph
from chestxray.dataset.shards import Shard
from chestxray.dataset.verification import verify
from chestxray.dicom_elements import MalformedError, read_header
from chestxray.errors import ArtifactError, DecoderError, ImageError
from chestxray.findings import Findings
from chestxray.reading import explain, predict
from decoder_work import page_faults_of_arrays, treated
from dicom_files import dicom, encapsulated, written
from nih_tree import names, picture, write_tree

RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) // 16
RAMP8 = RAMP.astype(np.uint8)
_MARKER = b"\xff[\xc4\xd9\xda]"  # tables, the end, the next scan
SCANS = "the JPEG has 101 scans: at most 100 are decoded"


def jpeg(scans: int, grey: npt.NDArray[np.uint8] = RAMP8, place: int = 0) -> bytes:
    """A progressive JPEG of which one scan is repeated; a repetition of the first changes no pixel.

    The first scan sets the coefficients that it codes; the last one, -1, which refines them, takes
    a decoder longest.
    """
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    starts = [found.start() for found in re.finditer(b"\xff\xda", data)]
    end = min(
        found.start() for found in re.finditer(_MARKER, data) if found.start() > starts[place]
    )
    scan = data[starts[place] : end]
    return data[:end] + scan * (scans - len(starts)) + data[end:]


def dicom_jpeg(scans: int) -> bytes:
    grey = np.zeros((64, 64), np.uint8)
    return encapsulated(dicom(grey, 8), uid.JPEGBaseline8Bit, jpeg(scans))


# --- what is counted before decoding ------------------------------------------------------------


@pytest.mark.parametrize("make", [jpeg, dicom_jpeg])
def test_a_jpeg_of_more_than_100_scans_is_refused(make):
    with pytest.raises(ImageError, match=SCANS):
        Radiograph.read(make(101))
    assert Radiograph.read(make(100)).pixels.shape == (64, 64)


def test_scans_within_the_limit_change_no_pixel():
    assert np.array_equal(Radiograph.read(jpeg(7)).pixels, Radiograph.read(jpeg(90)).pixels)


@pytest.mark.parametrize("filler", [b"\xff\xfe\x00\x02", b"\xff" * 4, b"\x00" * 4])
def test_a_jpeg_of_too_many_segments_is_refused(filler):
    whole = jpeg(6)

    def filled(count: int) -> bytes:
        at = whole.index(b"\xff\xdb")
        return whole[:at] + filler * count + whole[at:]

    with pytest.raises(ImageError, match="more than 10000 segments before its first scan"):
        Radiograph.read(filled(100_000))
    if filler[:2] == b"\xff\xfe":
        assert Radiograph.read(filled(5_000)).pixels.shape == (64, 64)


def test_a_png_of_too_many_chunks_is_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "PNG")
    whole = buffer.getvalue()
    at = whole.index(b"IDAT") - 4
    empty = struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))
    with pytest.raises(ImageError, match="more than 200000 chunks"):
        Radiograph.read(whole[:at] + empty * 200_001 + whole[at:])
    assert Radiograph.read(whole[:at] + empty * 1_000 + whole[at:]).pixels.shape == (8, 8)


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 16])
def test_what_hangs_or_dies_costs_its_own_row_and_all_others_keep_their_order(tmp_path, chunk):
    order = ("1", "hangs", "2", "dies", "3", "bad", "dies once", "4")
    with decoding.DecoderPool(treated, 2, seconds=2) as pool:
        found = list(pool.map([tmp_path / name for name in order], chunk=chunk))
    reasons = {
        "hangs": "decoding took more than 2 s",
        "dies": "the decoder ended unexpectedly on this file, twice",
        "bad": "bad",
    }
    told = [one.reason if isinstance(one, ImageError) else one for one in found]
    assert told == [reasons.get(name, name) for name in order]


@pytest.mark.skipif(sys.platform != "linux", reason="only GNU's C library has mallopt")
def test_a_decoder_keeps_the_memory_of_an_image_for_the_next_one():
    """Without that, the system cleared all pages of all arrays again for each image."""
    with decoding.DecoderPool(page_faults_of_arrays, 1) as pool:
        faults = list(pool.map(range(3)))
    assert faults[-1] < 1000, "of 61,440 pages in ten rounds"


def test_a_killed_decoder_is_told_from_a_file_that_takes_too_long(tmp_path):
    decoder = decoding.Isolated(treated, 2)
    with pytest.raises(DecoderError):
        decoder.call("x", tmp_path / "dies")
    with pytest.raises(ImageError, match="took more than 2 s"):
        decoder.call("x", tmp_path / "hangs")
    assert decoder.call("x", tmp_path / "1") == "1"
    decoder.close()


def test_leaving_a_pool_ends_chunks_that_hang(tmp_path):
    start = time.monotonic()
    with decoding.DecoderPool(treated, 1, seconds=600) as pool:
        results = pool.map([tmp_path / "1", *[tmp_path / "hangs"] * 30], chunk=1)
        assert next(results) == "1"
    assert time.monotonic() - start < 300


def test_a_file_that_hangs_is_left_out_of_the_shards_and_the_rest_is_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SECONDS_PER_FILE", 2)
    paths = [tmp_path / f"{row}.png" for row in range(6)]
    for row, path in enumerate(paths):
        Image.fromarray(picture(row)).save(path)
    good = packing.pack(
        [str(p) for p in paths if p.stem != "3"], 32, tmp_path / "a", tmp_path / "n"
    )
    paths[3] = tmp_path / "3.jpg"
    paths[3].write_bytes(jpeg(100, np.full((8000, 8000), 128, np.uint8), place=-1))
    made = packing.pack([str(p) for p in paths], 32, tmp_path / "b", tmp_path / "m")
    assert made.files[3] == packing.Unreadable(reason="decoding took more than 2 s")
    assert made.shards == good.shards
    assert (tmp_path / "a/00000.npy").read_bytes() == (tmp_path / "b/00000.npy").read_bytes()


def test_a_mask_that_hangs_is_told_and_the_others_are_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "SECONDS_PER_FILE", 2)
    slow, plain = tmp_path / "slow.jpg", tmp_path / "plain.png"
    slow.write_bytes(jpeg(100, np.full((8000, 8000), 128, np.uint8), place=-1))
    Image.fromarray(np.repeat(np.uint8([[255], [0]]), [32, 32], 0).repeat(64, 1)).save(plain)
    files = [("a", "Mass", str(slow)), ("b", "Mass", str(plain))]
    table = pd.DataFrame(files, columns=["image", "finding", "path"])
    part = Shard(name="00000.npy", images=2, bytes=1, sha256="0" * 64)
    findings = Findings(("Mass",))
    (made,) = masks.pack_masks(table, ["a", "b"], [part], findings, 64, tmp_path / "masks")
    assert made.unreadable == (f"{slow}: decoding took more than 2 s",)
    found = masks.Masks(tmp_path / "masks", [made.shard], findings, 64)[0:2]
    assert np.argwhere(found[:, 0].any(2)).tolist() == [[1, row] for row in range(8)]


def test_a_full_disk_is_not_held_against_the_images(tmp_path, monkeypatch):
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    monkeypatch.setattr(packing, "_temporary", lambda *_: Path("/dev/full"))
    with pytest.raises(ArtifactError, match="free some disk space"):
        packing.pack([str(tmp_path / "0.png")], 512, tmp_path / "images", tmp_path / "notes")


# --- the verbs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with one hostile file; a decoder would work on it for a minute and more."""
    raw = write_tree(tmp_path_factory.mktemp("hostile") / "raw", 20)
    data = jpeg(2000, np.full((8000, 8000), 128, np.uint8), place=-1)
    assert len(data) < 600_000
    (file,) = raw.rglob(names(20)[4])
    file.unlink()
    file.with_suffix(".jpg").write_bytes(data)
    return raw


def test_prepare_and_verify_name_a_hostile_file_and_go_on(hostile, tmp_path):
    dataset = prepare(hostile, tmp_path / "out", 16, "patient")
    (failure,) = dataset.manifest.failures
    assert failure.image == names(20)[4]
    assert failure.reason == "the JPEG has 2000 scans: at most 100 are decoded"
    assert len(dataset.images) == 19
    (problem,) = verify(hostile).problems
    assert problem.code == "unreadable-image"
    assert problem.loses
    assert "2000 scans" in problem.examples[0]


def test_predict_and_explain_name_a_hostile_file_and_go_on(hostile, run, tmp_path):
    files = sorted((hostile / "images_001/images").iterdir())[3:6]
    table = predict(run / "bundle", files, tmp_path / "predictions.csv", force=True)
    assert table.read == 2
    drawn = explain(run / "bundle", files, tmp_path / "drawn", findings=["Mass"], force=True)
    assert len(drawn.pictures) == 2
    for unread in (table.failed, drawn.unread):
        assert list(unread) == [Path(names(20)[4]).with_suffix(".jpg").name]
        assert "2000 scans" in next(iter(unread.values()))


# --- headers ------------------------------------------------------------------------------------


def code(meaning: str) -> Dataset:
    item = Dataset()
    item.CodeMeaning = meaning
    return item


def long(count: int) -> Dataset:
    item = Dataset()
    item.TextValue = "x" * count
    return item


HEADERS = {
    "plain": {"ViewPosition": "PA"},
    "coded": {"ViewCodeSequence": [code("antero-posterior"), code("other")]},
    "long before": {"ViewPosition": "PA", "OtherPatientIDsSequence": [long(300_000)]},
    "very long before": {"ViewPosition": "PA", "OtherPatientIDsSequence": [long(3_000_000)]},
}
SYNTAXES = {
    "explicit": (uid.ExplicitVRLittleEndian, {}),
    "implicit": (uid.ImplicitVRLittleEndian, {"implicit_vr": True, "little_endian": True}),
    "deflated": (uid.DeflatedExplicitVRLittleEndian, {}),
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("header", HEADERS)
def test_a_header_says_what_pydicom_reads(tmp_path, header, syntax):
    file = dcmread(io.BytesIO(dicom(RAMP, 12, **HEADERS[header])))
    file.file_meta.TransferSyntaxUID, options = SYNTAXES[syntax]
    path = tmp_path / "x.dcm"
    path.write_bytes(written(file, **options))
    elements, expected = read_header(path), dcmread(path)
    assert elements.text("SOPInstanceUID") == expected.SOPInstanceUID
    assert elements.text("ViewPosition") == expected.get("ViewPosition", "")
    first = elements.first("ViewCodeSequence")
    meaning = "" if first is None else first.text("CodeMeaning")
    assert meaning == (expected.get("ViewCodeSequence") or [code("")])[0].CodeMeaning


def test_a_header_of_any_size_takes_bounded_memory(tmp_path):
    whole = dicom(RAMP, 12)
    path = tmp_path / "large.dcm"
    at = whole.index(b"\x08\x00\x16\x00UI")
    item = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"
    sequence = struct.pack("<HH2sHI", 0x0008, 0x0006, b"SQ", 0, 0xFFFFFFFF) + item * 2**23
    path.write_bytes(whole[:at] + sequence + whole[at:])
    tracemalloc.start()
    with pytest.raises(MalformedError, match="more than 100000 data elements"):
        read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6, "of a file of 67 MB"


@pytest.mark.parametrize("content", [b"", b"not DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 64])
def test_a_file_without_a_header_is_malformed(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(MalformedError):
        read_header(tmp_path / "x")
