"""A DICOM file to a grey array as it is meant to be shown, and the header that describes it.

Nothing in the header identifies the patient. Values are as the file gives them, in capitals; what
is absent is empty or None, never a guess.

References: PS3.3 sections C.7.1.1 and C.7.2.2 (patient), C.7.3.1 and C.8.11 (series and DX),
C.7.6.1 and C.7.6.3 (image); PS3.5 section 6.2 (age strings).
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.dataset.dicom.display import display_table
from chestxray.dataset.dicom.pixel_data import Form, Samples, form_of, samples
from chestxray.dataset.raster import check_size
from chestxray.dicom_elements import Elements, MalformedError, parse
from chestxray.errors import ImageError

_Shown = npt.NDArray[np.uint16]
_Plane = Literal["patient", "detector", "unknown"]

_AGE: Final = re.compile(r"(\d{1,3})([DWMY]?)")
_UNITS_A_YEAR: Final = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}
# Of sizes in mm: detectors state 0.1 and 0.1001 mm; film scanners of old had pixels of 1 by 2.
_EQUAL_WITHIN: Final = 0.01
_STEEPEST_ASPECT: Final = 8.0
_COARSEST: Final = 10.0  # mm
# Values that multi-frame objects keep elsewhere than others do (PS3.3 C.7.6.16.2).
_FUNCTIONAL: Final = (
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)


@dataclass(frozen=True)
class Spacing:
    """The physical distance between the pixels of a decoded image (PS3.3 section 10.7.1.3).

    Attributes:
        row: mm from one row to the next.
        column: mm from one column to the next.
        plane: where a length in the image has this size. "patient": the file's spacing is
            calibrated. "detector": at the receptor, where the shadow is larger than the patient's
            part. "unknown": the file has a PixelSpacing but does not say which of the two it is,
            or it is larger than at the receptor, which no magnification explains.
    """

    row: float
    column: float
    plane: _Plane


@dataclass(frozen=True)
class Header:
    """What a DICOM file says of its image.

    Attributes:
        sop_class_uid: kind of object.
        sop_instance_uid: identity of the image.
        study_instance_uid: identity of its study.
        series_instance_uid: identity of its series.
        transfer_syntax_uid: how the pixels are encoded.
        modality: CR, DX, ...
        body_part: BodyPartExamined, or the meaning of the anatomic region's code.
        view_position: ViewPosition, or the meaning of the view's code: PA, AP, LL, ...
        laterality: ImageLaterality or Laterality.
        patient_orientation: direction of rows and of columns, such as ("L", "F").
        patient_age: years, from PatientAge or from birth date and study date.
        presentation_intent: FOR PRESENTATION or FOR PROCESSING.
        burned_in_annotation: whether text is part of the pixels; None where it is not said.
        image_type: ("ORIGINAL", "PRIMARY", ...).
        photometric: PhotometricInterpretation.
        rows: of the stored image; the decoded one has more where pixels were not square.
        columns: of the stored image.
        bits: BitsStored.
        notes: what is doubtful about the pixels, one phrase each.
        spacing: of the decoded pixels; None where the file does not give it.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    body_part: str
    view_position: str
    laterality: str
    patient_orientation: tuple[str, ...]
    patient_age: float | None
    presentation_intent: str
    burned_in_annotation: bool | None
    image_type: tuple[str, ...]
    photometric: str
    rows: int
    columns: int
    bits: int
    notes: tuple[str, ...]
    spacing: Spacing | None = None


def _header(
    syntax: str, elements: Elements, notes: tuple[str, ...], spacing: Spacing | None
) -> Header:
    """Gather the header of an image whose pixels are decoded."""
    return Header(
        sop_class_uid=elements.text("SOPClassUID"),
        sop_instance_uid=elements.text("SOPInstanceUID"),
        study_instance_uid=elements.text("StudyInstanceUID"),
        series_instance_uid=elements.text("SeriesInstanceUID"),
        transfer_syntax_uid=syntax,
        modality=_capitals(elements, "Modality"),
        body_part=_capitals(elements, "BodyPartExamined")
        or _meaning(elements, "AnatomicRegionSequence"),
        view_position=_capitals(elements, "ViewPosition") or _meaning(elements, "ViewCodeSequence"),
        laterality=_capitals(elements, "ImageLaterality") or _capitals(elements, "Laterality"),
        patient_orientation=elements.texts("PatientOrientation"),
        patient_age=_age(elements),
        presentation_intent=_capitals(elements, "PresentationIntentType"),
        burned_in_annotation={"YES": True, "NO": False}.get(
            _capitals(elements, "BurnedInAnnotation")
        ),
        image_type=elements.texts("ImageType"),
        photometric=_capitals(elements, "PhotometricInterpretation"),
        rows=elements.word("Rows"),
        columns=elements.word("Columns"),
        bits=elements.word("BitsStored"),
        notes=notes,
        spacing=spacing,
    )


def _capitals(elements: Elements, keyword: str) -> str:
    return elements.text(keyword).upper()


def _meaning(elements: Elements, keyword: str) -> str:
    code = elements.first(keyword)
    return "" if code is None else _capitals(code, "CodeMeaning")


def _age(elements: Elements) -> float | None:
    """Give the age in years; a number without a unit, as some files have it, counts years."""
    stated = _AGE.fullmatch(_capitals(elements, "PatientAge"))
    if stated:
        return int(stated[1]) / _UNITS_A_YEAR[stated[2]]
    born = _date(elements.text("PatientBirthDate"))
    taken = _date(elements.text("StudyDate"))
    if born is None or taken is None or taken < born:
        return None
    return (taken - born).days / _UNITS_A_YEAR["D"]


def _date(text: str) -> dt.date | None:
    try:
        return dt.datetime.strptime(text, "%Y%m%d").replace(tzinfo=dt.UTC).date()
    except ValueError:
        return None


def decode_dicom(path: Path, data: bytes) -> tuple[_Shown, Header]:
    """Decode a DICOM file.

    Args:
        path: named in errors.
        data: the file's bytes, preamble included.

    Returns:
        uint16 [h, w], 0 to 65535 over the nominal range of the display pipeline's last step,
        bright = dense, pixels square; and the header.

    Raises:
        ImageError: truncated, damaged, no pixels, several frames, too large, or encoded in a way
            that is not supported.
    """
    try:
        return _decoded(path, data)
    except MalformedError as error:
        raise ImageError(path, f"the DICOM content cannot be read: {error}") from error


def _decoded(path: Path, data: bytes) -> tuple[_Shown, Header]:
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
        notes += (f"pixels {aspect:.3g} times as high as wide were resampled to square ones",)
    spacing = _spacing(elements, form.rows / height, form.columns / width)
    return shown, _header(syntax, elements, notes + doubts, spacing)


def _shown(stored: Samples, elements: Elements, form: Form) -> tuple[_Shown, tuple[str, ...]]:
    if form.samples == 1:
        table, notes = display_table(elements, form)
        return table.take(stored), notes  # half the time of table[stored]
    note = (f"the image is in colour ({form.photometric}) and its luminance is used",)
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


def _spacing(elements: Elements, rows: float, columns: float) -> Spacing | None:
    """Give the distance of decoded pixels; a spacing that no radiograph can have is None.

    Args:
        elements: the data set.
        rows: stored rows in a decoded one.
        columns: stored columns in a decoded one.
    """
    stated = _mm(elements, "PixelSpacing")
    receptor = _mm(elements, "ImagerPixelSpacing") or _mm(elements, "NominalScannedPixelSpacing")
    plane = _plane(stated, receptor, elements.text("PixelSpacingCalibrationType"))
    sizes = stated or receptor
    return Spacing(sizes[0] * rows, sizes[1] * columns, plane) if sizes else None


def _plane(stated: tuple[float, ...], receptor: tuple[float, ...], calibration: str) -> _Plane:
    """Say where a PixelSpacing holds; the shadow at the receptor is never smaller than the part.

    Args:
        stated: PixelSpacing in mm, or ().
        receptor: spacing at the receptor in mm, or ().
        calibration: PixelSpacingCalibrationType, or "".
    """
    ratios = [mine / its for mine, its in zip(stated, receptor, strict=False)]
    if not stated or (ratios and all(abs(ratio - 1) < _EQUAL_WITHIN for ratio in ratios)):
        return "detector"
    smaller = bool(ratios) and max(ratios) <= 1 - _EQUAL_WITHIN
    return "patient" if calibration or smaller else "unknown"


def _mm(elements: Elements, keyword: str) -> tuple[float, ...]:
    """Give a spacing as the file states it; () where it is absent, malformed or implausible."""
    try:
        sizes = elements.numbers(keyword)
    except MalformedError:
        return ()
    return sizes if len(sizes) == 2 and all(0 < size < _COARSEST for size in sizes) else ()


def _square_size(form: Form, aspect: float) -> tuple[int, int]:
    """Give height and width after the coarser side is enlarged until pixels are square."""
    if not 1 / _STEEPEST_ASPECT <= aspect <= _STEEPEST_ASPECT:
        raise MalformedError(f"pixel aspect ratio {aspect:.3g} is implausible for a radiograph")
    if abs(aspect - 1) < _EQUAL_WITHIN:
        return form.rows, form.columns
    return round(form.rows * max(aspect, 1)), round(form.columns * max(1 / aspect, 1))
