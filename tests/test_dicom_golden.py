"""Radiographs are shown as dcmtk shows them, within one grey level of 256.

`PYTEST_ADDOPTS=-s` prints the largest difference of each case.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid

from chestxray.dataset.radiograph import Radiograph
from dicom_files import dcmtk, dicom, jpeg_2000, lut, samples, shown_by_dcmtk, written

NATIVE = {
    "implicit": "+ti",
    "explicit": "+te",
    "big endian": "+tb",
    "deflated": "+td",
}
SYNTAXES = {
    "RLE": (uid.RLELossless, "dcmcrle"),
    "JPEG baseline": (uid.JPEGBaseline8Bit, "dcmcjpeg", "+eb", "+q", "95"),
    "JPEG extended, 8 bits": (uid.JPEGExtended12Bit, "dcmcjpeg", "+ee", "+be", "+q", "95"),
    "JPEG extended, 12 bits": (uid.JPEGExtended12Bit, "dcmcjpeg", "+ee", "+q", "95"),
    "JPEG lossless": (uid.JPEGLossless, "dcmcjpeg", "+el"),
    "JPEG lossless SV1": (uid.JPEGLosslessSV1, "dcmcjpeg", "+e1"),
    "JPEG-LS": (uid.JPEGLSLossless, "dcmcjpls", "+el"),
    "JPEG-LS near": (uid.JPEGLSNearLossless, "dcmcjpls", "+en"),
    "JPEG 2000": (uid.JPEG2000Lossless, ""),
    "JPEG 2000 lossy": (uid.JPEG2000, ""),
}
EIGHT_BITS = {"JPEG baseline", "JPEG extended, 8 bits"}
SHOWN_BY = {"dcmcjpeg": "dcmj2pnm", "dcmcjpls": "dcml2pnm"}


def image(bits: int) -> np.ndarray:
    """Every region that matters: the ends of the range, a ramp, noise; smooth enough for JPEG."""
    rng = np.random.default_rng(bits)
    y, x = np.mgrid[0:48, 0:64] / 48
    smooth = 0.5 + 0.45 * np.sin(3 * x + 1) * np.cos(2 * y) + rng.normal(0, 0.01, x.shape)
    smooth[:8, :8], smooth[-8:, -8:] = 0, 1
    scaled = np.rint(np.clip(smooth, 0, 1) * (2**bits - 1))
    return scaled.astype(np.uint8 if bits <= 8 else np.uint16)


def voi_cases(bits: int) -> dict[str, tuple[dict, dict, str]]:
    """Name → attributes, those by which dcmtk shows the same, and its option."""
    top = 2**bits
    center, width = top * 0.55, top * 0.4
    linear = {"WindowCenter": center, "WindowWidth": width}
    exact = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": "LINEAR_EXACT"}
    # dcmtk 3.6.7 knows no LINEAR_EXACT; by PS3.3 C.11.2.1.3.2 this LINEAR is the same.
    as_linear = {"WindowCenter": center + 0.5, "WindowWidth": width + 1}
    sigmoid = {**linear, "VOILUTFunction": "SIGMOID"}
    curve = np.rint(1023 * np.linspace(0, 1, top // 2) ** 1.7)
    table = {"VOILUTSequence": lut(curve, top // 4, 10)}
    return {
        "none": ({}, {}, "-W"),
        "LINEAR": (linear, linear, "+Wi 1"),
        "LINEAR_EXACT": (exact, as_linear, "+Wi 1"),
        "SIGMOID": (sigmoid, sigmoid, "+Wi 1"),
        "LUT": (table, table, "+Wl 1"),
    }


def eight_bits(shown: np.ndarray) -> np.ndarray:
    return (shown.astype(np.int32) + 128) // 257


def difference(name: str, data: bytes, oracle: np.ndarray) -> int:
    shown = Radiograph.read(data).pixels
    worst = int(np.abs(eight_bits(shown) - oracle.astype(int)).max())
    print(f"{name:<60} {worst}")
    return worst


def encoded(plain: bytes, syntax: str, folder: Path) -> bytes:
    if syntax in NATIVE:
        return dcmtk("dcmconv", NATIVE[syntax], data=plain, folder=folder)
    wanted, tool, *options = SYNTAXES[syntax]
    if tool:
        result = dcmtk(tool, *options, data=plain, folder=folder)
    else:
        result = jpeg_2000(plain, level=40) if wanted == uid.JPEG2000 else jpeg_2000(plain)
    assert dcmread(io.BytesIO(result)).file_meta.TransferSyntaxUID == wanted
    return result


def with_attributes(data: bytes, more: dict) -> bytes:
    file = dcmread(io.BytesIO(data))
    file.update(more)
    return written(file)


def expanded(data: bytes) -> bytes:
    """The same file uncompressed, by Pillow's OpenJPEG: dcmtk has no JPEG 2000."""
    file = dcmread(io.BytesIO(data))
    file.PixelData = samples(data, "pillow").tobytes()
    file["PixelData"].VR = "OW"
    file["PixelData"].is_undefined_length = False
    file.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return written(file)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("modality", ["DX", "CR"])
@pytest.mark.parametrize("syntax", [*NATIVE, *SYNTAXES])
def test_every_syntax_is_shown_as_dcmtk_shows_it(syntax, modality, photometric, tmp_path):
    bits = 8 if syntax in EIGHT_BITS else 12
    plain = dicom(image(bits), bits, photometric, Modality=modality)
    tool = SHOWN_BY.get(SYNTAXES.get(syntax, ("", ""))[1], "dcm2pnm")

    def made(more: dict, *, packed: bytes = encoded(plain, syntax, tmp_path)) -> bytes:
        # dcmtk's lossy encoders drop tables, so pixels go first; pydicom does not swap tables.
        if syntax in NATIVE:
            return encoded(with_attributes(plain, more), syntax, tmp_path)
        return with_attributes(packed, more)

    worst = {}
    for voi, (more, same, option) in voi_cases(bits).items():
        theirs = expanded(made(same)) if syntax.startswith("JPEG 2000") else made(same)
        oracle = shown_by_dcmtk(theirs, tmp_path, *option.split(), tool=tool)
        worst[voi] = difference(f"{syntax}, {modality}, {photometric}, {voi}", made(more), oracle)
    assert {voi: levels for voi, levels in worst.items() if levels > 1} == {}


def stored_cases() -> dict[str, tuple[bytes, str]]:
    """Name → file and dcmtk's option, over the ways in which values are stored."""
    found = {}
    for bits in (8, 9, 10, 12, 14, 15, 16):
        grey = image(bits)
        window = {"WindowCenter": 2**bits * 0.4, "WindowWidth": 2**bits * 0.7}
        found[f"{bits} bits"] = (dicom(grey, bits), "-W")
        found[f"{bits} bits, window"] = (dicom(grey, bits, **window), "+Wi 1")
        signed = (grey.astype(np.int32) - 2 ** (bits - 1)).astype(
            np.int8 if bits == 8 else np.int16
        )
        found[f"{bits} bits signed"] = (dicom(signed, bits), "-W")
        moved = {"WindowCenter": -3, "WindowWidth": 2**bits * 0.7}
        found[f"{bits} bits signed, window"] = (
            dicom(signed, bits, "MONOCHROME1", **moved),
            "+Wi 1",
        )
    grey = image(12)
    window = {"WindowCenter": 900.5, "WindowWidth": 2000}
    for slope, intercept in ((1, -1024), (2, 0), (0.37, 12.5), (-1, 4095), (16, -7)):
        rescale = {"RescaleSlope": slope, "RescaleIntercept": intercept}
        found[f"rescale {slope} {intercept}"] = (dicom(grey, 12, **rescale), "-W")
        found[f"rescale {slope} {intercept}, window"] = (
            dicom(grey, 12, "MONOCHROME1", **rescale, **window),
            "+Wi 1",
        )
    curve = np.linspace(65535, 0, 4096)
    for bits in (8, 16):
        table = lut(curve // 2 ** (16 - bits), 0, bits)
        found[f"modality LUT, {bits} bits"] = (dicom(grey, 12, ModalityLUTSequence=table), "-W")
    for bits in (8, 10, 12, 16):
        table = lut(curve[::4] // 2 ** (16 - bits), 1000, bits)
        found[f"VOI LUT, {bits} bits"] = (dicom(grey, 12, VOILUTSequence=table), "+Wl 1")
    low = lut(np.arange(1000), -500, 10)
    found["VOI LUT from -500"] = (
        dicom(grey, 12, VOILUTSequence=low, RescaleSlope=1, RescaleIntercept=-2000),
        "+Wl 1",
    )
    found["high bit 15"] = (dicom((grey << 4).astype(np.uint16), 12, HighBit=15), "-W")
    found["overlay bits"] = (dicom(grey | 0xA000, 12), "-W")
    for width in (1, 2):
        narrow = {"WindowCenter": 2000, "WindowWidth": width}
        found[f"window of {width}"] = (dicom(grey, 12, **narrow), "+Wi 1")
    several = {"WindowCenter": [2000, 1], "WindowWidth": [1500, 9]}
    found["two windows"] = (dicom(grey, 12, **several), "+Wi 1")
    both = {"VOILUTSequence": lut(np.arange(1000), 500, 10), **several}
    found["VOI LUT and window"] = (dicom(grey, 12, **both), "+Wl 1")
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        for shape in ("IDENTITY", "INVERSE"):
            shaped = dicom(grey, 12, photometric, PresentationLUTShape=shape)
            found[f"{photometric}, shape {shape}"] = (shaped, "-W")
    return found


STORED = stored_cases()


@pytest.mark.parametrize("case", STORED)
def test_values_stored_in_any_way_are_shown_as_dcmtk_shows_them(case, tmp_path):
    data, option = STORED[case]
    assert difference(case, data, shown_by_dcmtk(data, tmp_path, *option.split())) <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_outside_the_padding_an_image_is_as_dcmtk_shows_it_and_the_padding_is_black(
    photometric, tmp_path
):
    grey = image(12)
    padded = dicom(
        grey,
        12,
        photometric,
        PixelPaddingValue=4095,
        PixelPaddingRangeLimit=4000,
        WindowCenter=2000,
        WindowWidth=3000,
    )
    shown = Radiograph.read(padded).pixels
    padding = grey >= 4000
    assert 0.02 < padding.mean() < 0.9
    assert (shown[padding] == 0).all()
    oracle = shown_by_dcmtk(padded, tmp_path, "+Wi", "1")
    assert np.abs(eight_bits(shown) - oracle)[~padding].max() <= 1


def test_the_real_files_are_shown_as_dcmtk_shows_them(real, tmp_path):
    for path in sorted((real / "dicom").glob("*.dcm")):
        option = ["+Wi", "1"] if "WindowCenter" in dcmread(path) else ["-W"]
        oracle = shown_by_dcmtk(path.read_bytes(), tmp_path, *option, tool="dcmj2pnm")
        assert difference(path.name, path.read_bytes(), oracle) <= 1
