"""The picture of a reading as a DICOM object: Secondary Capture, RGB, uncompressed.

    ┌────────────────────────────────────────────────────────────┐
    │ title                                         for research │
    ├──────────────────────────┬────────┬────────────────────────┤
    │ most relevant finding    │ second │ finding  prob.  thresh │
    │ over the radiograph      │ third  │ …                      │
    │                          │ plain  │ warnings, model        │
    └──────────────────────────┴────────┴────────────────────────┘

Heatmaps are shown of at most three called findings; where none is called, of the one nearest to its
threshold, marked as not called. A refusal shows the plain radiograph and the reason in large
letters, without probabilities. Nothing about the patient is written into the picture.

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
from chestxray.findings import label
from chestxray.reading.overlay import COLOURS, blend
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.result_objects import codes, drawing
from chestxray.serving.gateway.result_objects.drawing import (
    ALERT,
    DIM,
    INK,
    Canvas,
    Column,
    Style,
    Thresholds,
)
from chestxray.serving.gateway.result_objects.instance import (
    LOSSY,
    MAKER,
    NOTE,
    NOTHING_REPORTED,
    UNVERIFIED,
    Model,
    SourceImage,
    instance,
)
from chestxray.version import __version__

_SIZE: Final = (2000, 1200)

_MARGIN: Final = 28
_TOP: Final = 104
_BOTTOM: Final = 1046
_MAIN: Final = 1024  # the size of many radiographs: those are shown pixel by pixel
_SMALL: Final = 306
_PITCH: Final = 356
_SIDE: Final = _MARGIN + _MAIN + 26
_COLUMN: Final = _SIDE + _SMALL + 36
_HEATMAPS: Final = 3
_GAP: Final = 54
_BAR: Final = (120, 18)

_STEPS: Final = 256
_NO_FRACTIONS: Final = np.empty(0, dtype=np.uint16)  # positions in the table are whole numbers


def draw(
    image: Grey, model: Model, outcome: Reading | RefusedError, thresholds: Thresholds
) -> npt.NDArray[np.uint8]:
    """Draw a reading or a refusal.

    Args:
        image: the radiograph, bright = dense.
        model: the model that read it.
        outcome: the reading or the refusal.
        thresholds: finding → probability from which it is called; None without a threshold.

    Returns:
        RGB uint8 [1200, 2000, 3].
    """
    square = canonical(image, _MAIN)
    if isinstance(outcome, RefusedError):
        canvas = _frame(model).copy()
        _refusal(canvas, square, outcome)
    else:
        canvas = _frame_of_reading(model).copy()
        shown = drawing.relevant(outcome, thresholds, _HEATMAPS)
        _radiographs(canvas, square, outcome, shown)
        below = drawing.table(canvas, _column(), outcome, thresholds) + _GAP
        drawing.warnings(canvas, _column()._replace(top=below), outcome)
    return canvas.pixels()


def _column() -> Column:
    return Column(_COLUMN, _SIZE[0] - _COLUMN - _MARGIN, _TOP + 22, _BOTTOM)


@cache
def _frame(model: Model) -> Canvas:
    """Draw what all pictures of a model share."""
    canvas = Canvas.blank(*_SIZE)
    canvas.text((_MARGIN, 52), "chestxray", Style(40, bold=True))
    canvas.text((_MARGIN, 86), UNVERIFIED, Style(24, DIM))
    canvas.text((_SIZE[0] - _MARGIN, 52), NOTE, Style(32, ALERT, bold=True), "rs")
    drawing.signature(canvas, _column(), model)
    return canvas


@cache
def _frame_of_reading(model: Model) -> Canvas:
    """Draw what all its readings share besides: table heads and the scale of heat."""
    canvas = _frame(model).copy()
    drawing.head(canvas, _column())
    (width, height), right, baseline = _BAR, _MARGIN + _MAIN, _TOP + _MAIN + 42
    ramp = mpl.colormaps[COLOURS](np.linspace(0, 1, width))[:, :3]
    bar = np.rint(255 * np.tile(ramp, (height, 1, 1))).astype(np.uint8)
    canvas.image((right - width - 34, baseline - height), bar)
    canvas.text((right - width - 44, baseline - 2), "0", Style(20, DIM), "rs")
    canvas.text((right, baseline - 2), "≥1", Style(20, DIM), "rs")
    return canvas


def _radiographs(
    canvas: Canvas, square: npt.NDArray[np.uint8], reading: Reading, shown: list[str]
) -> None:
    first, *others = shown
    canvas.image((_MARGIN, _TOP), _tinted(square, reading.heatmaps[first]))
    baseline, right = _TOP + _MAIN + 42, _MARGIN + _MAIN - _BAR[0] - 92
    call = {True: "called", False: "not called", None: "not assessed"}[reading.calls[first]]
    style = Style(25, bold=True)
    room = right - _MARGIN - 220  # beside the peak of the heat
    caption, style = drawing.fitted(
        label(first), f" {drawing.percent(reading.probabilities[first])}, {call}", room, style, 17
    )
    canvas.text((_MARGIN, baseline), caption, style)
    peak = f"heat up to {reading.heatmaps[first].max():.2f}"
    canvas.text((right, baseline - 2), peak, Style(20, DIM), "rs")
    small = cv2.resize(square, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA).astype(np.uint8)
    tiles = [
        (_tinted(small, reading.heatmaps[other]), *_caption(reading, other)) for other in others
    ]
    tiles.append((_plain(small), "without heat", Style(20, DIM)))
    for number, (tile, text, tile_style) in enumerate(tiles):
        top = _TOP + number * _PITCH
        canvas.image((_SIDE, top), tile)
        canvas.text((_SIDE, top + _SMALL + 28), text, tile_style)


def _caption(reading: Reading, finding: str) -> tuple[str, Style]:
    share = f" {drawing.percent(reading.probabilities[finding])}"
    return drawing.fitted(label(finding), share, _SMALL, Style(20, DIM), 15)


def _refusal(canvas: Canvas, square: npt.NDArray[np.uint8], refusal: RefusedError) -> None:
    canvas.image((_MARGIN, _TOP), _plain(square))
    canvas.text((_SIDE, _TOP + 100), "NOT READ", Style(110, ALERT, bold=True))
    column = Column(_SIDE, _SIZE[0] - _SIDE - _MARGIN, _TOP + 190, _BOTTOM - 90)
    reasons = [
        (_sentence(str(notice)), Style(42, INK, bold=True) if notice.refuses else Style(28, DIM))
        for notice in sorted(refusal.notices, key=lambda notice: not notice.refuses)
    ]
    baseline = canvas.paragraphs(column, reasons, 4, "more in the report")
    canvas.text((_SIDE, baseline + 30), NOTHING_REPORTED, Style(32))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _tinted(image: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Lay a heatmap over a radiograph as `reading.overlay.blend` does, by a lookup table.

    Looking up each of a million pixels takes a tenth of the time of blending it. No pixel differs
    by more than four grey levels.

    Args:
        image: [S, S].
        heat: [h, w], at least 0; 1 and more is full colour.

    Returns:
        RGB uint8 [S, S, 3].
    """
    smooth = cv2.resize(heat, image.shape, interpolation=cv2.INTER_LINEAR)
    step = cv2.convertScaleAbs(cv2.sqrt(smooth), alpha=_STEPS - 1)  # saturates at the last
    place = cv2.merge((image, step)).astype(np.int16)
    colours = cv2.remap(_colours(), place, _NO_FRACTIONS, cv2.INTER_NEAREST)
    return np.asarray(colours, dtype=np.uint8)


@cache
def _colours() -> npt.NDArray[np.uint8]:
    """Give the lookup table, RGB uint8 [256, 256, 3]: step of heat × grey value.

    The square root makes the steps even in opacity.
    """
    steps = np.arange(_STEPS)
    grey = np.tile(steps.astype(np.uint8), (_STEPS, 1))
    heat = np.repeat(((steps / (_STEPS - 1)) ** 2).astype(np.float32)[:, None], _STEPS, axis=1)
    return blend(grey, heat)


def _plain(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(square[..., None], 3, axis=2)


def capture(
    source: SourceImage, model: Model, drawn: npt.NDArray[np.uint8], *, refused: bool
) -> Dataset:
    """Make the DICOM object of a picture.

    Args:
        source: the image that was read.
        model: the model that read it.
        drawn: RGB uint8 [h, w, 3].
        refused: whether the gate refused the image; it may not show a chest then.
    """
    result = instance("sc", source, model)
    _part(result, source, refused=refused)
    _image(result, source)
    _pixels(result, drawn)
    return result


def _part(result: Dataset, source: SourceImage, *, refused: bool) -> None:
    """State which part of the body is shown."""
    if not refused:
        result.BodyPartExamined = "CHEST"
        return
    result.Laterality = ""  # type 2C, except for unpaired body parts
    source.copy_known(result, "BodyPartExamined", "Laterality")
    if source.values.get("BodyPartExamined") == "CHEST":
        del result.Laterality


def _image(result: Dataset, source: SourceImage) -> None:
    result.PatientOrientation = ""
    result.DateOfSecondaryCapture = result.ContentDate
    result.TimeOfSecondaryCapture = result.ContentTime
    result.ImageType = ["DERIVED", "SECONDARY"]
    result.BurnedInAnnotation = "YES"
    result.ConversionType = "WSD"
    result.SecondaryCaptureDeviceManufacturer = MAKER
    result.SecondaryCaptureDeviceManufacturerModelName = result.ManufacturerModelName
    result.SecondaryCaptureDeviceSoftwareVersions = __version__
    result.DerivationDescription = f"Reduced to 8 bits, heatmaps and text burned in. {NOTE}"
    result.ImageComments = NOTE
    result.SourceImageSequence = [_reference(source)]
    source.copy_known(result, *LOSSY)


def _reference(source: SourceImage) -> Dataset:
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
