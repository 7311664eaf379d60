"""A DICOM radiograph to a grey array, as far as pydicom decodes it.

Modality LUT, VOI (a VOI LUT sequence before a window), the nominal range of the output, then
MONOCHROME1 inverted once (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.4 N.2). The display pipeline's finer
points (presentation states, padding values, burned-in annotation) are not in it.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from chestxray.dataset.raster import check_size
from chestxray.errors import ImageError

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

# What pydicom and its plug-ins raise for elements that are missing, impossible or cut off.
_UNDECODABLE = (
    AttributeError,
    BytesLengthException,
    EOFError,
    IndexError,
    InvalidDicomError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def decode_dicom(path: Path, data: bytes) -> Grey:
    """Decode one grey frame as it is meant to be shown.

    Args:
        path: named in errors.
        data: the file's bytes.

    Returns:
        uint16 [h, w], 0 to 65535 over the nominal range of the output, bright = dense.

    Raises:
        ImageError: no pixels, several frames, colour, too large, or not to be decoded.
    """
    try:
        dataset = dcmread(io.BytesIO(data))
        _check(path, dataset)
        return _displayed(dataset)
    except _UNDECODABLE as error:
        raise ImageError(path, f"its DICOM content cannot be decoded: {error}") from error


def _check(path: Path, dataset: Dataset) -> None:
    if "PixelData" not in dataset:
        raise ImageError(path, "a DICOM object without pixels, or cut off before them")
    check_size(path, int(dataset.Columns), int(dataset.Rows))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ImageError(path, f"a DICOM object of {frames} frames: a radiograph has one")
    if dataset.PhotometricInterpretation not in {"MONOCHROME1", "MONOCHROME2"}:
        raise ImageError(
            path,
            f"a DICOM object in {dataset.PhotometricInterpretation}: a radiograph is "
            f"MONOCHROME1 or MONOCHROME2",
        )


def _displayed(dataset: Dataset) -> npt.NDArray[np.uint16]:
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = _nominal_range(dataset)
    shown = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.rint(shown * 65535).astype(np.uint16)


def _nominal_range(dataset: Dataset) -> tuple[float, float]:
    """Give the least and the greatest value that the last step of the pipeline can put out."""
    if dataset.get("VOILUTSequence"):
        return 0.0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if dataset.PixelRepresentation == 0:
        low, high = 0, 2**bits - 1
    slope = float(dataset.get("RescaleSlope", 1))
    intercept = float(dataset.get("RescaleIntercept", 0))
    ends = (low * slope + intercept, high * slope + intercept)
    return min(ends), max(ends)
