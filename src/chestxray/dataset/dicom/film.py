"""A DICOM file to a grey array as it is meant to be shown, and what the file says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.dataset.dicom.codecs import Samples, samples
from chestxray.dataset.dicom.display import display_table
from chestxray.dataset.dicom.elements import Elements, MalformedError, parse
from chestxray.dataset.dicom.form import Form, form_of
from chestxray.dataset.dicom.header import Header, header
from chestxray.dataset.intake import Source, contents
from chestxray.dataset.raster import check_size
from chestxray.errors import ImageError

Shown = npt.NDArray[np.uint16]

# Detectors state 0.1 and 0.1001 mm; film scanners of old had pixels of 1 by 2.
_SQUARE_WITHIN: Final = 0.01
_STEEPEST_ASPECT: Final = 8.0
# Values that multi-frame objects keep elsewhere than others do (PS3.3 C.7.6.16.2).
_FUNCTIONAL: Final = (
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)


def read(source: Source) -> tuple[Shown, Header]:
    """Read a DICOM file.

    Args:
        source: its path, its bytes, or a binary file open at its beginning.

    Returns:
        uint16 [h, w], 0 to 65535 over the nominal range of the display pipeline's last step,
        bright = dense, pixels square; and the header.

    Raises:
        ImageError: no DICOM, truncated, damaged, no pixels, several frames, too large, or encoded
            in a way that is not read.
    """
    return decode_dicom(*contents(source))


def decode_dicom(path: Path, data: bytes) -> tuple[Shown, Header]:
    """Decode the bytes of a DICOM file, its preamble included; `path` is named in errors."""
    try:
        return _decoded(path, data)
    except MalformedError as error:
        raise ImageError(path, f"its DICOM content cannot be read: {error}") from error


def _decoded(path: Path, data: bytes) -> tuple[Shown, Header]:
    if data[128:132] != b"DICM":
        raise MalformedError("no DICOM file: DICM does not stand at byte 128")
    syntax, elements = parse(data)
    elements = _with_functional_groups(elements)
    form = form_of(path, elements)
    aspect = _aspect(elements)
    height, width = _square_size(form, aspect)
    check_size(path, width, height)
    stored, notes = samples(syntax, elements, form)
    shown, doubts = _shown(stored, elements, form)
    if (height, width) != (form.rows, form.columns):
        # The coarser side is enlarged, so that nothing seen is lost.
        shown = np.asarray(cv2.resize(shown, (width, height), interpolation=cv2.INTER_LINEAR))
        notes += (f"pixels {aspect:.3g} times as high as wide were made square",)
    return shown, header(syntax, elements, notes + doubts)


def _shown(stored: Samples, elements: Elements, form: Form) -> tuple[Shown, tuple[str, ...]]:
    if form.samples == 1:
        table, notes = display_table(elements, form)
        return table[stored], notes
    note = (f"a colour image ({form.photometric}): its luminance is read",)
    return stored.astype(np.uint16) * 257, note


def _with_functional_groups(elements: Elements) -> Elements:
    """Give a multi-frame object's one frame its values, those of the frame before the shared."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        group = elements.first(groups)
        for keyword in _FUNCTIONAL:
            macro = None if group is None else group.first(keyword)
            if macro is not None:
                elements = elements.merged(macro)
    return elements


def _aspect(elements: Elements) -> float:
    """Give a pixel's height divided by its width (PS3.3 C.7.6.3.1.7)."""
    for keyword in (
        "PixelSpacing",
        "ImagerPixelSpacing",
        "NominalScannedPixelSpacing",
        "PixelAspectRatio",
    ):
        sizes = elements.numbers(keyword)
        if len(sizes) == 2 and min(sizes) > 0:
            return sizes[0] / sizes[1]
    return 1.0


def _square_size(form: Form, aspect: float) -> tuple[int, int]:
    """Give height and width after the coarser side is enlarged until pixels are square."""
    if not 1 / _STEEPEST_ASPECT <= aspect <= _STEEPEST_ASPECT:
        raise MalformedError(f"pixels {aspect:.3g} times as high as wide: no radiograph has them")
    if abs(aspect - 1) < _SQUARE_WITHIN:
        return form.rows, form.columns
    return round(form.rows * max(aspect, 1)), round(form.columns * max(1 / aspect, 1))
