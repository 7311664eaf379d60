"""What a DICOM file says of its image, for those who judge whether it should be read.

Nothing here names the patient. Values stand as the file gives them, in capitals; what is absent is
empty or None, never a guess.

References: PS3.3 sections C.7.1.1 and C.7.2.2 (patient), C.7.3.1 and C.8.11 (series and DX),
C.7.6.1 and C.7.6.3 (image); PS3.5 section 6.2 (age strings).
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Final

from chestxray.dataset.dicom.elements import Elements

_AGE: Final = re.compile(r"(\d{1,3})([DWMY]?)")
_UNITS_A_YEAR: Final = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}


@dataclass(frozen=True)
class Header:
    """What the file says of its image.

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
        notes: what is doubtful about the pixels, a sentence each.
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


def header(syntax: str, elements: Elements, notes: tuple[str, ...]) -> Header:
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
