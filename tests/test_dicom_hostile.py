"""A damaged or hostile DICOM file is refused with a reason, within bounds of memory and time."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate

from chestxray.dataset.radiograph import Radiograph
from chestxray.dicom_elements import _DEPTH_LIMIT, _ELEMENT_LIMIT, _INFLATED_LIMIT, parse
from chestxray.errors import ImageError
from dicom_files import RAMP12, dicom, jpeg_2000, jpeg_lossless, jpeg_ls, lut, rle, written

SMALL = RAMP12[:32, :48].copy()
PLAIN = dicom(
    SMALL,
    12,
    "MONOCHROME1",
    VOILUTSequence=lut(np.arange(1000) // 8, 0, 8),
    PatientAge="040Y",
    PixelSpacing=[1, 2],
    WindowCenter=100,
    WindowWidth=200,
    RescaleSlope=2,
)
BODY = PLAIN.index(b"\x08\x00\x16\x00UI")  # after the file meta header
META = PLAIN[:BODY]


def recoded(syntax: uid.UID, **options) -> bytes:
    file = dcmread(io.BytesIO(PLAIN))
    file.file_meta.TransferSyntaxUID = syntax
    return written(file, **options)


def deflated(body: bytes, zeros: int = 0) -> bytes:
    """A file of the deflated syntax with this data set, and many zeros after it."""
    file = dcmread(io.BytesIO(recoded(uid.DeflatedExplicitVRLittleEndian)))
    meta = written(file)
    at = 144 + struct.unpack_from("<I", meta, 140)[0]
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    head = packer.compress(body) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands by itself
    return meta[:at] + head + block * (zeros // 2**20) + packer.flush()


BASES = {
    "explicit": PLAIN,
    "implicit": recoded(uid.ImplicitVRLittleEndian, implicit_vr=True, little_endian=True),
    "deflated": deflated(PLAIN[BODY:]),
    "RLE": rle(PLAIN),
    "JPEG lossless": jpeg_lossless(PLAIN),
    "JPEG 2000": jpeg_2000(PLAIN),
    "JPEG-LS": jpeg_ls(PLAIN),
}


def mutated(data: bytes, seed: str) -> bytes:
    """Cut, or change, insert or remove bytes, in the header or anywhere."""
    rng = random.Random(seed)
    if rng.random() < 0.15:
        return data[: rng.randrange(len(data))]
    low = rng.choice([132, max(132, len(data) - 3000)])
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(low, len(changed))
        changed[at] = rng.choice([0, 127, 128, 255, rng.randrange(256), changed[at] ^ 1])
    if rng.random() < 0.1:
        at = rng.randrange(low, len(changed))
        changed[at:at] = changed[at : at + rng.randrange(1, 32)]
    return bytes(changed)


def fuzz(base: str, rounds: range) -> tuple[int, int, float]:
    """Read mutants: how many were read and refused, and the slowest in seconds."""
    counts, slowest = [0, 0], 0.0
    for index in rounds:
        data = mutated(BASES[base], f"{base} {index}")
        start = time.perf_counter()
        try:
            shown = Radiograph.read(data).pixels
        except ImageError:
            counts[1] += 1
        else:
            assert shown.dtype == np.uint16
            assert shown.ndim == 2
            counts[0] += 1
        slowest = max(slowest, time.perf_counter() - start)
    return counts[0], counts[1], slowest


@pytest.mark.parametrize("base", BASES)
def test_a_mutated_file_is_read_or_refused_and_nothing_else(base):
    read, refused, slowest = fuzz(base, range(150))
    assert read
    assert refused
    assert slowest < 5


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_twenty_thousand_mutated_files_are_read_or_refused_and_nothing_else(base):
    read, refused, slowest = fuzz(base, range(20_000))
    print(f"{base}: {read} read, {refused} refused, slowest {slowest:.2f} s")
    assert slowest < 5


@pytest.mark.parametrize("base", BASES)
def test_no_truncated_file_is_read(base):
    data = BASES[base]
    for cut in {*range(0, len(data) - 8, 37), *range(BODY, BODY + 60), len(data) - 9}:
        with pytest.raises(ImageError):
            Radiograph.read(data[:cut] or b"\0")


# --- the nastiest, in a process of their own ----------------------------------------------------

UNDEFINED = b"\xff\xff\xff\xff"
SEQUENCE = b"\x08\x00\x12\x21SQ\0\0" + UNDEFINED
PIXELS = b"\xe0\x7f\x10\x00OW\0\0"
ITEM = b"\xfe\xff\x00\xe0"


def body_with(extra: bytes) -> bytes:
    return META + extra + PLAIN[BODY:]


def claiming(data: bytes, rows: int, columns: int) -> bytes:
    file = dcmread(io.BytesIO(data))
    stream = b"".join(parse(data)[1].fragments()[1:])
    syntax = file.file_meta.TransferSyntaxUID
    if syntax == uid.JPEG2000Lossless:
        sizes = struct.pack(">8I", columns, rows, 0, 0, columns, rows, 0, 0)
        stream = stream[:8] + sizes + stream[40:]
    elif syntax != uid.RLELossless:
        old = struct.pack(">HH", file.Rows, file.Columns)
        assert stream.count(old) == 1
        stream = stream.replace(old, struct.pack(">HH", rows, columns))
    file.Rows, file.Columns = rows, columns
    del file.PixelSpacing
    file.PixelData = encapsulate([stream])
    return written(file)


def fragments(count: int) -> bytes:
    data = BASES["RLE"]
    at = data.index(b"\xe0\x7f\x10\x00OB\0\0" + UNDEFINED) + 12
    return data[:at] + (ITEM + bytes(4)) * count + data[at:]


NASTY = {
    "a deflate bomb": lambda: (
        deflated(PLAIN[BODY:], zeros=2 * _INFLATED_LIMIT),
        "inflates to more",
    ),
    "a bomb in an element": lambda: (
        deflated(b"\x08\x00\x16\x00UN\0\0" + struct.pack("<I", 2**31), zeros=2 * _INFLATED_LIMIT),
        "inflates to more",
    ),
    "4 GB in an element": lambda: (
        body_with(b"\x08\x00\x05\x00OB\0\0\xfe\xff\xff\xff"),
        "claims 4294967294 bytes",
    ),
    "4 GB of pixels": lambda: (
        PLAIN.replace(PIXELS + struct.pack("<I", 3072), PIXELS + b"\xf0\xff\xff\xff"),
        "claims 4294967280 bytes",
    ),
    "deep sequences": lambda: (
        body_with((SEQUENCE + ITEM + UNDEFINED) * 100_000),
        f"{_DEPTH_LIMIT} deep",
    ),
    "a million items": lambda: (
        body_with(SEQUENCE + (ITEM + bytes(4)) * 1_000_000),
        f"{_ELEMENT_LIMIT}",
    ),
    "a million elements": lambda: (
        body_with(
            b"".join(struct.pack("<HH2sH", 9, n % 65536, b"LO", 0) for n in range(1_000_000))
        ),
        f"{_ELEMENT_LIMIT} data elements",
    ),
    "a million fragments": lambda: (fragments(1_000_000), f"{_ELEMENT_LIMIT}"),
    "a table that is not there": lambda: (
        dicom(SMALL, 12, VOILUTSequence=lut(np.zeros(2), 0, 16)).replace(
            struct.pack("<4H", 0x3002, 0x5355, 6, 2), struct.pack("<4H", 0x3002, 0x5355, 6, 0)
        ),
        "65536",
    ),
    "65535 rows and columns": lambda: (
        dicom(SMALL, 12, Rows=65535, Columns=65535),
        "65535 × 65535 pixels",
    ),
    "more pixels than bytes": lambda: (
        dicom(SMALL, 12, Rows=8000, Columns=9000),
        "144000000 bytes",
    ),
    "a frame that is two": lambda: (
        dicom(np.stack([SMALL, SMALL]), 12, Rows=32, Columns=48),
        "several frames",
    ),
    "RLE of 72 million pixels": lambda: (claiming(BASES["RLE"], 8000, 9000), "truncated"),
    "JPEG 2000 of 72 million pixels": lambda: (claiming(BASES["JPEG 2000"], 8000, 9000), "damaged"),
    "JPEG-LS of 72 million pixels": lambda: (claiming(BASES["JPEG-LS"], 8000, 9000), "damaged"),
    "JPEG of 72 million pixels": lambda: (
        claiming(BASES["JPEG lossless"], 8000, 9000),
        "bytes for 9000 × 8000 pixels",
    ),
}
CHILD = r"""
import json, re, resource, sys, time
from pathlib import Path
from chestxray.dataset.radiograph import Radiograph
from chestxray.errors import ImageError
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = peak()
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
start = time.perf_counter()
try:
    Radiograph.read(sys.argv[1])
    reason = ""
except ImageError as error:
    reason = error.reason
seconds = time.perf_counter() - start
print(json.dumps([reason, seconds, peak() - before]))
"""


@pytest.mark.parametrize("case", NASTY)
def test_a_nasty_file_is_refused_within_bounds_of_memory_and_time(case, tmp_path):
    data, reason = NASTY[case]()
    path = tmp_path / "nasty.dcm"
    path.write_bytes(data)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, check=True, timeout=120
    )
    found, seconds, megabytes = json.loads(child.stdout)
    print(f"{case:<35} {len(data) / 1e6:6.2f} MB file {seconds:6.2f} s {megabytes:6.0f} MB {found}")
    assert reason in found
    assert seconds < 20
    assert megabytes < 1500


def test_a_file_that_never_ends_is_not_swallowed():
    endless = Path("/dev/zero")
    if not endless.exists():
        pytest.skip("no /dev/zero here")
    with pytest.raises(ImageError, match="larger than 512 MB"):
        Radiograph.read(endless)
