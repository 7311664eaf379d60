"""DICOM radiographs written by the tests, and dcmtk, which says how they are to be shown."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import (
    JPEG2000,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

SOP_CLASSES = {
    "DX": DigitalXRayImageStorageForPresentation,
    "CR": ComputedRadiographyImageStorage,
}
RAMP12 = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def dataset(stored: np.ndarray, bits: int, photometric: str = "MONOCHROME2", **more) -> Dataset:
    """A radiograph with these stored values; `more` adds or replaces attributes, None removes."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.Modality = more.pop("Modality", "DX")
    file.SOPClassUID = SOP_CLASSES.get(file.Modality, SOP_CLASSES["DX"])
    file.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    file.Rows, file.Columns = stored.shape[:2] if stored.shape[-1] == 3 else stored.shape[-2:]
    file.SamplesPerPixel = 1
    file.PhotometricInterpretation = photometric
    file.BitsAllocated, file.BitsStored, file.HighBit = stored.itemsize * 8, bits, bits - 1
    file.PixelRepresentation = int(stored.dtype.kind == "i")
    file.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    file["PixelData"].VR = "OW" if stored.itemsize == 2 else "OB"
    for keyword, value in more.items():
        if value is None:
            delattr(file, keyword)
        else:
            setattr(file, keyword, value)
    return file


def written(file: Dataset, **options) -> bytes:
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True, **options)
    return buffer.getvalue()


def dicom(stored: np.ndarray, bits: int, photometric: str = "MONOCHROME2", **more) -> bytes:
    return written(dataset(stored, bits, photometric, **more))


def lut(entries: np.ndarray, first: int, bits: int) -> list[Dataset]:
    """The one item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return [item]


def encapsulated(data: bytes, syntax: str, stream: bytes) -> bytes:
    """The file with its pixels replaced by a compressed stream."""
    file = dcmread(io.BytesIO(data))
    file.file_meta.TransferSyntaxUID = syntax
    file.PixelData = encapsulate([stream])
    file["PixelData"].VR = "OB"
    file["PixelData"].is_undefined_length = True
    return written(file)


def samples(data: bytes, decoder: str = "") -> np.ndarray:
    """The stored values, as pydicom gives them."""
    return pixel_array(io.BytesIO(data), raw=True, decoding_plugin=decoder)


def rle(data: bytes) -> bytes:
    """By pydicom's own encoder."""
    file = dcmread(io.BytesIO(data))
    file.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return written(file)


def jpeg_2000(data: bytes, **options) -> bytes:
    options = options or {"reversible": True}
    stream = imagecodecs.jpeg2k_encode(
        samples(data),
        codecformat="J2K",
        bitspersample=dcmread(io.BytesIO(data)).BitsStored,
        **options,
    )
    syntax = JPEG2000Lossless if options.get("reversible") else JPEG2000
    return encapsulated(data, syntax, stream)


def jpeg_ls(data: bytes) -> bytes:
    return encapsulated(data, JPEGLSLossless, imagecodecs.jpegls_encode(samples(data)))


def jpeg_lossless(data: bytes) -> bytes:
    """Of the bits stored, as SV1 (predictor 1)."""
    stream = imagecodecs.jpeg8_encode(
        samples(data),
        lossless=True,
        predictor=1,
        bitspersample=dcmread(io.BytesIO(data)).BitsStored,
    )
    return encapsulated(data, JPEGLosslessSV1, stream)


# --- dcmtk --------------------------------------------------------------------------------------


def dcmtk(tool: str, *options: str, data: bytes, folder: Path) -> bytes:
    """Run one of dcmtk's tools over a file; the Python packages' tools of that name are not it."""
    path = shutil.which(tool, path="/usr/bin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{tool} is not there: install Debian's dcmtk")
    before, after = folder / "before.dcm", folder / "after"
    before.write_bytes(data)
    subprocess.run([path, "-q", *options, str(before), str(after)], check=True, timeout=60)
    return after.read_bytes()


def shown_by_dcmtk(data: bytes, folder: Path, *options: str, tool: str = "dcm2pnm") -> np.ndarray:
    """The grey values, 0 to 255, that dcmtk shows."""
    pgm = dcmtk(tool, "-O", *options, "+op", data=data, folder=folder)
    return cv2.imdecode(np.frombuffer(pgm, np.uint8), cv2.IMREAD_UNCHANGED)
