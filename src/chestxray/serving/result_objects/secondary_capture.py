"""The picture of a reading as a DICOM object: Secondary Capture, JPEG.

    ┌────────────────────────────────────────────────────────────┐
    │ title                                         for research │
    ├─────────────────┬─────────────────┬────────────────────────┤
    │ the radiograph  │ most relevant   │ finding  prob.  thresh │
    │                 │ finding over it │ …                      │
    ├─────────────────┴─────────────────┤ warnings               │
    │ second, third finding   the scale │ model                  │
    └───────────────────────────────────┴────────────────────────┘

Heatmaps are shown of at most three called findings; where none is called, of the one nearest to its
threshold, marked as not called. A refusal shows the plain radiograph and the reason in large
letters, without probabilities. Nothing about the patient is written into the picture.

JPEG loses what nobody sees here, and takes an eighth of the bytes of RLE Lossless. Of colour, each
second column is kept: dciodvfy takes JPEG of three colours as YBR_FULL_422 only.

References: PS3.3 A.8.1 (Secondary Capture Image IOD), C.7.6.1 (General Image; 1.1.5: lossy
compression), C.7.6.3 (Image Pixel), C.8.6.1 (SC Equipment); PS3.5 8.2.1 (JPEG).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from chestxray.dataset.pixels import Grey, canonical
from chestxray.errors import RefusedError
from chestxray.findings import label
from chestxray.model.heatmaps import TYPICAL_PEAK
from chestxray.reading.evidence import NO_PLACE, no_place
from chestxray.reading.overlay import COLOURS, LEVELS, blend
from chestxray.reading.reader import Reading
from chestxray.serving.result_objects import codes, drawing
from chestxray.serving.result_objects.drawing import (
    ALERT,
    DIM,
    INK,
    Canvas,
    Column,
    Style,
    Thresholds,
)
from chestxray.serving.result_objects.instance import (
    MAKER,
    NOTE,
    NOTHING_REPORTED,
    UNVERIFIED,
    Model,
    instance,
    part_of_body,
    reference,
    refusals,
)
from chestxray.serving.source_image import LOSSY, PICTURE_SIDE, SourceImage
from chestxray.version import __version__

_SIZE: Final = (2000, 1200)
SCALE: Final = 0.7
"""Pixels of the object in those of the layout: 1400 × 840, in which all text is legible."""

_JPEG: Final = (
    *(cv2.IMWRITE_JPEG_QUALITY, 90),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
)
_MARGIN: Final = 28
_TOP: Final = 104
_BOTTOM: Final = 1046
_MAIN: Final = PICTURE_SIDE  # side of a refused radiograph
_PAIR: Final = 670  # side of the radiograph and of the overlay beside it
_SMALL: Final = 236  # side of the overlays of further findings
_BETWEEN: Final = 16
_SIDE: Final = _MARGIN + _MAIN + 26
_COLUMN: Final = _MARGIN + 2 * _PAIR + _BETWEEN + 36
_BELOW: Final = _TOP + _PAIR + 96  # top of the overlays of further findings
_HEATMAPS: Final = 3
_GAP: Final = 54
_BAR: Final = (420, 18)
_TITLE: Final = Style(25, bold=True)
_TYPICAL: Final = f"a typical true call peaks at {TYPICAL_PEAK}"


def draw(
    image: Grey,
    model: Model,
    outcome: Reading | RefusedError,
    thresholds: Thresholds,
    scale: float = 1.0,
) -> npt.NDArray[np.uint8]:
    """Draw a reading or a refusal.

    Args:
        image: the radiograph, bright = dense.
        model: the model that read it.
        outcome: the reading or the refusal.
        thresholds: finding → probability from which it is called; None without a threshold.

        scale: pixels of the picture in those of the layout.

    Returns:
        RGB uint8 [1200 × scale, 2000 × scale, 3].
    """
    square = canonical(image, _MAIN)
    if isinstance(outcome, RefusedError):
        canvas = _frame(model, scale).copy()
        _refusal(canvas, square, outcome)
    else:
        canvas = _frame_of_reading(model, scale).copy()
        shown = drawing.relevant(outcome, thresholds, _HEATMAPS)
        _radiographs(canvas, square, outcome, shown)
        below = drawing.table(canvas, _column(), outcome, thresholds) + _GAP
        drawing.warnings(canvas, _column()._replace(top=below), outcome)
    return canvas.pixels()


def _column() -> Column:
    return Column(_COLUMN, _SIZE[0] - _COLUMN - _MARGIN, _TOP + 22, _BOTTOM)


@cache
def _frame(model: Model, scale: float) -> Canvas:
    """Draw what all pictures of a model share."""
    canvas = Canvas.blank(*_SIZE, scale)
    canvas.text((_MARGIN, 52), "chestxray", Style(40, bold=True))
    canvas.text((_MARGIN, 86), UNVERIFIED, Style(24, DIM))
    canvas.text((_SIZE[0] - _MARGIN, 52), NOTE, Style(32, ALERT, bold=True), "rs")
    drawing.signature(canvas, _column(), model)
    return canvas


@cache
def _frame_of_reading(model: Model, scale: float) -> Canvas:
    """Draw what all its readings share besides: table heads and the scale of heat."""
    canvas = _frame(model, scale).copy()
    drawing.head(canvas, _column())
    (width, height), right, top = _BAR, _COLUMN - 36, _BELOW + 60
    left = right - width
    ramp = mpl.colormaps[COLOURS](np.linspace(0, 1, canvas.pixels_of(width)))[:, :3]
    bar = np.rint(255 * np.tile(ramp, (canvas.pixels_of(height), 1, 1))).astype(np.uint8)
    canvas.image((left, top), bar)
    for heat in (0.0, *LEVELS):
        anchor = "ls" if heat == 0 else "ms" if heat < 1 else "rs"
        text = f"{heat:g}" if heat < 1 else "≥ 1"
        canvas.text((left + round(heat * width), top + height + 26), text, Style(20, DIM), anchor)
    canvas.text((left, top - 14), "evidence on each finding’s own scale", Style(20, DIM))
    contours = f"contours at {', '.join(f'{level:g}' for level in LEVELS)}"
    canvas.text((left, top + height + 60), contours, Style(20, DIM))
    canvas.text((left, top + height + 90), _TYPICAL, Style(20, DIM))
    return canvas


def _radiographs(
    canvas: Canvas, square: npt.NDArray[np.uint8], reading: Reading, shown: list[str]
) -> None:
    """Draw the radiograph, the overlay of the first finding beside it, the others below."""
    first, *others = shown
    large = _reduced(square, canvas.pixels_of(_PAIR))
    left, baseline = _MARGIN + _PAIR + _BETWEEN, _TOP + _PAIR + 34
    canvas.image((_MARGIN, _TOP), large)
    canvas.text((_MARGIN, baseline), "radiograph", Style(20, DIM))
    canvas.image((left, _TOP), blend(large, reading.heatmaps[first]))
    call = {True: "called", False: "not called", None: "not assessed"}[reading.calls[first]]
    share = f" {drawing.percent(reading.probabilities[first])}, {call}"
    canvas.text((left, baseline), *drawing.fitted(label(first), share, _PAIR, _TITLE, 17))
    heat = reading.heatmaps[first]
    note = f"heat up to {heat.max():.2f}", Style(20, DIM)
    if no_place(heat):
        note = f"{NO_PLACE}, heat up to {heat.max():.2f}", Style(20, ALERT)
    canvas.text((left, baseline + 32), *note)
    small = _reduced(square, canvas.pixels_of(_SMALL))
    for number, other in enumerate(others):
        left = _MARGIN + number * (_SMALL + 60)
        canvas.image((left, _BELOW), blend(small, reading.heatmaps[other]))
        _caption(canvas, (left, _BELOW + _SMALL + 28), reading, other)


def _caption(canvas: Canvas, at: tuple[int, int], reading: Reading, finding: str) -> None:
    """Write a further finding's name and probability, and whether no place stands out."""
    share = f" {drawing.percent(reading.probabilities[finding])}"
    canvas.text(at, *drawing.fitted(label(finding), share, _SMALL + 44, Style(20, DIM), 15))
    if no_place(reading.heatmaps[finding]):
        canvas.text((at[0], at[1] + 28), NO_PLACE, Style(20, ALERT))


def _reduced(square: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Reduce a picture of an even side by means of four pixels, then by less than two linearly.

    OpenCV computes both in a tenth of the time of one reduction by area.
    """
    while len(square) >= 2 * side and len(square) % 2 == 0:
        half = len(square) // 2
        square = np.asarray(cv2.resize(square, (half, half), interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def _refusal(canvas: Canvas, square: npt.NDArray[np.uint8], refusal: RefusedError) -> None:
    shown = _reduced(square, canvas.pixels_of(_MAIN))
    canvas.image((_MARGIN, _TOP), shown)
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


def capture(
    source: SourceImage,
    model: Model,
    outcome: Reading | RefusedError,
    drawn: npt.NDArray[np.uint8],
    *,
    compressed: bool = True,
) -> Dataset:
    """Make the DICOM object of a picture.

    Args:
        source: the image that was read.
        model: the model that read it.
        outcome: the reading or the refusal.
        drawn: RGB uint8 [h, w, 3].
        compressed: whether its pixels are in JPEG Baseline, else in Explicit VR Little Endian.
    """
    frame = _jpeg(drawn) if compressed else None
    if frame is not None:
        source = _lossy(source, drawn.nbytes / len(frame))
    forced = [] if isinstance(outcome, RefusedError) else refusals(outcome)
    result = instance("sc", source, model, forced=bool(forced))
    part_of_body(result, source, refused=isinstance(outcome, RefusedError) or outcome.forced)
    _image(result, source)
    result.ImageComments = " ".join((*forced, NOTE))
    _pixels(result, drawn, frame)
    return result


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
    result.SourceImageSequence = [_source(source)]
    source.copy_known(result, *LOSSY)


def _source(source: SourceImage) -> Dataset:
    image = reference(source)
    image.SpatialLocationsPreserved = "NO"
    image.PurposeOfReferenceCodeSequence = [codes.dataset(codes.SOURCE_IMAGE)]
    return image


def _pixels(result: Dataset, drawn: npt.NDArray[np.uint8], frame: bytes | None) -> None:
    result.Rows, result.Columns, result.SamplesPerPixel = drawn.shape
    result.PhotometricInterpretation = "RGB" if frame is None else "YBR_FULL_422"
    result.PlanarConfiguration = 0
    result.BitsAllocated = result.BitsStored = 8
    result.HighBit = 7
    result.PixelRepresentation = 0
    if frame is not None:
        result.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    result.PixelData = drawn.tobytes() if frame is None else encapsulate([frame])
    result["PixelData"].VR = "OB"
    result["PixelData"].is_undefined_length = frame is not None  # PS3.5 A.4


def _jpeg(drawn: npt.NDArray[np.uint8]) -> bytes:
    blue_first = cv2.merge(list(np.moveaxis(drawn, -1, 0)[::-1]))
    _, frame = cv2.imencode(".jpg", blue_first, _JPEG)
    return frame.tobytes()


def _lossy(source: SourceImage, ratio: float) -> SourceImage:
    """Add a compression to those that an image has been through (PS3.3 C.7.6.1.1.5).

    Ratios and methods must correspond one to one, so that those of the image are left out where
    they do not, as where it states no ratio.
    """
    state, *steps = LOSSY
    known = source.values
    before = [known[of].split("\\") if of in known else [] for of in steps]
    if known.get(state) != "01" or len({len(of) for of in before}) > 1:
        before = [[] for _ in steps]
    now = (f"{ratio:.1f}", "ISO_10918_1")
    both = {
        of: "\\".join([*earlier, last])
        for of, earlier, last in zip(steps, before, now, strict=True)
    }
    return replace(source, values={**known, state: "01", **both})
