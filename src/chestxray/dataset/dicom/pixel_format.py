"""The form of stored pixels: size, bits, sign, colour; checked before memory is taken for them.

Reference: PS3.3 section C.7.6.3 (image pixel), PS3.5 section 8.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chestxray.dataset.dicom.elements import Elements, MalformedError
from chestxray.dataset.raster import check_size

GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOUR: Final = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})


@dataclass(frozen=True)
class Form:
    """The image pixel attributes.

    Attributes:
        rows: height, pixels.
        columns: width, pixels.
        photometric: a member of `GREY` or `COLOUR`.
        allocated: bits of a stored cell, 8 or 16.
        stored: bits of a sample within it, 1 to 16.
        high: position of a sample's highest bit, from 0.
        signed: whether samples are two's complement.
        by_plane: whether colours are stored plane after plane.
    """

    rows: int
    columns: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool
    by_plane: bool

    @property
    def samples(self) -> int:
        """Samples of a pixel: 1 grey, 3 colour."""
        return 1 if self.photometric in GREY else 3

    @property
    def nbytes(self) -> int:
        """Size of the uncompressed frame."""
        return self.rows * self.columns * self.samples * self.allocated // 8


def form_of(path: Path, elements: Elements) -> Form:
    """Read and check the form of an image.

    Raises:
        ImageError: too large.
        MalformedError: no pixels, several frames, or a form that radiographs do not have.
    """
    if "PixelData" not in elements:
        raise MalformedError("a DICOM object without pixels, or cut off before them")
    form = Form(
        rows=elements.word("Rows"),
        columns=elements.word("Columns"),
        photometric=elements.text("PhotometricInterpretation"),
        allocated=elements.word("BitsAllocated"),
        stored=elements.word("BitsStored"),
        high=elements.word("HighBit", elements.word("BitsStored") - 1),
        signed=bool(elements.word("PixelRepresentation", 0)),
        by_plane=bool(elements.word("PlanarConfiguration", 0)),
    )
    check_size(path, form.columns, form.rows)
    frames = elements.numbers("NumberOfFrames")
    if frames and frames[0] != 1:
        raise MalformedError(f"a DICOM object of {frames[0]:g} frames: a radiograph has one")
    _check_colour(elements, form)
    if form.allocated not in {8, 16} or not 0 < form.stored <= form.high + 1 <= form.allocated:
        raise MalformedError(
            f"{form.allocated} bits allocated, {form.stored} stored, high bit {form.high}: "
            f"8 or 16 allocated and the stored ones within them wanted"
        )
    return form


def _check_colour(elements: Elements, form: Form) -> None:
    samples = elements.word("SamplesPerPixel", 1)
    if form.photometric not in GREY | COLOUR:
        raise MalformedError(
            f"a DICOM object in {form.photometric or 'no PhotometricInterpretation'}: "
            f"a radiograph is MONOCHROME1 or MONOCHROME2"
        )
    if samples != form.samples:
        raise MalformedError(f"a DICOM object in {form.photometric} of {samples} samples a pixel")
    if form.samples == 3 and (form.allocated, form.stored, form.high) != (8, 8, 7):
        raise MalformedError(
            f"a DICOM object in {form.photometric} of {form.stored} bits: 8 wanted"
        )
