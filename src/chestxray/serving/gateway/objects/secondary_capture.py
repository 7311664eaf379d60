"""Heat over a radiograph, as `reading.overlay.blend` lays it, by a table of what it gives.

Blending a picture of a million pixels takes ten times as long as looking each pixel up. The table
holds every grey value under 256 steps of heat, as even in opacity as the square root makes them;
no pixel differs from the blended by more than four grey levels.

The picture of a reading: the radiograph under heat, beside it all findings in figures.

    ┌────────────────────────────────────────────────────────────┐
    │ title                                         for research │
    ├──────────────────────────┬────────┬────────────────────────┤
    │ most relevant finding    │ second │ finding  prob.  thresh │
    │ over the radiograph      │ third  │ …                      │
    │                          │ plain  │ warnings, model        │
    └──────────────────────────┴────────┴────────────────────────┘

Heat is shown of at most three called findings; where nothing is called, of the one nearest to its
threshold, marked as not called. A refusal shows the plain radiograph and the reason in large
letters, and no probability. Nothing of the patient is written into it.

The picture as a DICOM object: Secondary Capture, RGB, uncompressed.

References: PS3.3 A.8.1 (Secondary Capture Image IOD), C.7.6.1 (General Image), C.7.6.3 (Image
Pixel), C.8.6.1 (SC Equipment).
"""

from __future__ import annotations

from functools import cache
from typing import Final

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from chestxray.dataset.pixels import Grey, canonical
from chestxray.errors import RefusedError
from chestxray.reading.overlay import COLOURS, blend
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects import codes
from chestxray.serving.gateway.objects import drawing as scores
from chestxray.serving.gateway.objects.drawing import (
    ALERT,
    DIM,
    INK,
    Canvas,
    Column,
    Style,
    Thresholds,
    relevant,
)
from chestxray.serving.gateway.objects.instance import (
    LOSSY,
    MAKER,
    NOTE,
    NOTHING_SAID,
    UNVERIFIED,
    Model,
    Source,
    instance,
)
from chestxray.version import __version__

_STEPS: Final = 256
_WHOLE: Final = np.empty(0, dtype=np.uint16)  # places are whole numbers: there are no fractions


def tinted(image: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Lay a heatmap over a radiograph.

    Args:
        image: [S, S].
        heat: [h, w], at least 0; 1 and more is full colour.

    Returns:
        RGB uint8 [S, S, 3].
    """
    smooth = cv2.resize(heat, image.shape, interpolation=cv2.INTER_LINEAR)
    step = cv2.convertScaleAbs(cv2.sqrt(smooth), alpha=_STEPS - 1)  # saturates at the last
    place = cv2.merge((image, step)).astype(np.int16)
    laid = cv2.remap(_table(), place, _WHOLE, cv2.INTER_NEAREST)
    return np.asarray(laid, dtype=np.uint8)


@cache
def _table() -> npt.NDArray[np.uint8]:
    """Give RGB uint8 [256, 256, 3], for each step of heat and each grey value."""
    steps = np.arange(_STEPS)
    grey = np.tile(steps.astype(np.uint8), (_STEPS, 1))
    heat = np.repeat(((steps / (_STEPS - 1)) ** 2).astype(np.float32)[:, None], _STEPS, axis=1)
    return blend(grey, heat)


SIZE: Final = (2000, 1200)

_MARGIN: Final = 28
_TOP: Final = 104
_BOTTOM: Final = 1046
_MAIN: Final = 1024  # the size of many films: those are shown pixel by pixel
_SMALL: Final = 306
_PITCH: Final = 356
_SIDE: Final = _MARGIN + _MAIN + 26
_COLUMN: Final = _SIDE + _SMALL + 36
_HEATMAPS: Final = 3
_BAR: Final = (120, 18)


def draw(
    image: Grey, model: Model, outcome: Reading | RefusedError, thresholds: Thresholds
) -> npt.NDArray[np.uint8]:
    """Draw a reading or a refusal.

    Args:
        image: the radiograph, bright = dense.
        model: that read it.
        outcome: what it said.
        thresholds: finding → probability from which it is called, None without one.

    Returns:
        RGB uint8 [1200, 2000, 3].
    """
    square = canonical(image, _MAIN)
    if isinstance(outcome, RefusedError):
        canvas = _frame(model).copy()
        _refusal(canvas, square, outcome)
    else:
        canvas = _frame_of_reading(model).copy()
        _films(canvas, square, outcome, relevant(outcome, thresholds, _HEATMAPS))
        scores.table(canvas, _column(), outcome, thresholds)
        scores.warnings(canvas, _column(), outcome)
    return canvas.pixels()


def _column() -> Column:
    return Column(_COLUMN, SIZE[0] - _COLUMN - _MARGIN, _TOP + 22, _BOTTOM)


@cache
def _frame(model: Model) -> Canvas:
    """Draw what all pictures of a model have in common."""
    canvas = Canvas.blank(*SIZE)
    canvas.text((_MARGIN, 52), "chestxray", Style(40, bold=True))
    canvas.text((_MARGIN, 86), UNVERIFIED, Style(24, DIM))
    canvas.text((SIZE[0] - _MARGIN, 52), NOTE, Style(32, ALERT, bold=True), "rs")
    scores.signature(canvas, _column(), model)
    return canvas


@cache
def _frame_of_reading(model: Model) -> Canvas:
    """Draw what all its readings have in common besides: heads, and the one scale of heat."""
    canvas = _frame(model).copy()
    scores.head(canvas, _column())
    (width, height), right, baseline = _BAR, _MARGIN + _MAIN, _TOP + _MAIN + 42
    ramp = mpl.colormaps[COLOURS](np.linspace(0, 1, width))[:, :3]
    bar = np.rint(255 * np.tile(ramp, (height, 1, 1))).astype(np.uint8)
    canvas.picture((right - width - 34, baseline - height), bar)
    canvas.text((right - width - 44, baseline - 2), "0", Style(20, DIM), "rs")
    canvas.text((right, baseline - 2), "≥1", Style(20, DIM), "rs")
    return canvas


def _films(
    canvas: Canvas, square: npt.NDArray[np.uint8], reading: Reading, shown: list[str]
) -> None:
    first, *others = shown
    canvas.picture((_MARGIN, _TOP), tinted(square, reading.heatmaps[first]))
    call = {True: "called", False: "not called", None: "no threshold"}[reading.calls[first]]
    baseline, right = _TOP + _MAIN + 42, _MARGIN + _MAIN - _BAR[0] - 92
    canvas.text((_MARGIN, baseline), f"{_caption(reading, first)}, {call}", Style(25, bold=True))
    peak = f"heat up to {reading.heatmaps[first].max():.2f}"
    canvas.text((right, baseline - 2), peak, Style(20, DIM), "rs")
    small = cv2.resize(square, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA).astype(np.uint8)
    tiles = [(tinted(small, reading.heatmaps[other]), _caption(reading, other)) for other in others]
    tiles.append((_plain(small), "without heat"))
    for number, (tile, caption) in enumerate(tiles):
        top = _TOP + number * _PITCH
        canvas.picture((_SIDE, top), tile)
        canvas.text((_SIDE, top + _SMALL + 28), caption, Style(20, DIM))


def _caption(reading: Reading, finding: str) -> str:
    return f"{scores.title(finding)} {scores.share(reading.probabilities[finding])}"


def _refusal(canvas: Canvas, square: npt.NDArray[np.uint8], refusal: RefusedError) -> None:
    canvas.picture((_MARGIN, _TOP), _plain(square))
    canvas.text((_SIDE, _TOP + 100), "NOT READ", Style(110, ALERT, bold=True))
    column = Column(_SIDE, SIZE[0] - _SIDE - _MARGIN, _TOP + 190, _BOTTOM - 90)
    reasons = [
        (_sentence(str(notice)), Style(42, INK, bold=True) if notice.refuses else Style(28, DIM))
        for notice in sorted(refusal.notices, key=lambda notice: not notice.refuses)
    ]
    baseline = canvas.paragraphs(column, reasons, 4, "more in the report")
    canvas.text((_SIDE, baseline + 30), NOTHING_SAID, Style(32))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(square[..., None], 3, axis=2)


def capture(
    source: Source, model: Model, drawn: npt.NDArray[np.uint8], *, refused: bool
) -> Dataset:
    """Wrap a picture.

    Args:
        source: the image that it shows.
        model: that read it.
        drawn: RGB uint8 [h, w, 3].
        refused: whether the picture tells of a refusal; then it may show no chest.
    """
    result = instance("sc", source, model)
    _part(result, source, refused=refused)
    _image(result, source)
    _pixels(result, drawn)
    return result


def _part(result: Dataset, source: Source, *, refused: bool) -> None:
    """Say which part of the body it shows."""
    if not refused:
        result.BodyPartExamined = "CHEST"
        return
    result.Laterality = ""  # type 2C, but for what the Standard knows to be unpaired
    source.copy_known(result, "BodyPartExamined", "Laterality")
    if source.values.get("BodyPartExamined") == "CHEST":
        del result.Laterality


def _image(result: Dataset, source: Source) -> None:
    result.PatientOrientation = ""
    result.DateOfSecondaryCapture = result.ContentDate
    result.TimeOfSecondaryCapture = result.ContentTime
    result.ImageType = ["DERIVED", "SECONDARY"]
    result.BurnedInAnnotation = "YES"
    result.ConversionType = "WSD"
    result.SecondaryCaptureDeviceManufacturer = MAKER
    result.SecondaryCaptureDeviceManufacturerModelName = result.ManufacturerModelName
    result.SecondaryCaptureDeviceSoftwareVersions = __version__
    result.DerivationDescription = f"Reduced to 8 bits, heatmaps and text drawn in. {NOTE}"
    result.ImageComments = NOTE
    result.SourceImageSequence = [_reference(source)]
    source.copy_known(result, *LOSSY)


def _reference(source: Source) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.sop_class
    reference.ReferencedSOPInstanceUID = source.uid
    reference.SpatialLocationsPreserved = "NO"
    reference.PurposeOfReferenceCodeSequence = [codes.dataset(codes.SOURCE_IMAGE)]
    return reference


def _pixels(result: Dataset, drawn: npt.NDArray[np.uint8]) -> None:
    result.Rows, result.Columns, result.SamplesPerPixel = drawn.shape
    result.PhotometricInterpretation = "RGB"
    result.PlanarConfiguration = 0
    result.BitsAllocated = result.BitsStored = 8
    result.HighBit = 7
    result.PixelRepresentation = 0
    result.PixelData = drawn.tobytes()
    result["PixelData"].VR = "OB"
