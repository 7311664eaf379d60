"""What a DICOM file says of itself that speaks against reading it.

AP views pass without a word: about 40 % of NIH's films are AP. Children are warned of and not
refused, since NIH's films show some too (about 5 %), though too few to vouch for. What is absent or
says neither this nor that is warned of: real files are often incomplete, and the pixels are judged
all the same.

References: PS3.3 sections C.7.3.1 (modality), C.8.11.1 (presentation intent), C.8.11.5 and C.8.1.1
(view position), C.7.6.1.1.1 (patient orientation); PS3.16 annex L (body parts), CID 4010 (views).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pydicom.uid import DigitalXRayImageStorageForProcessing

from chestxray.dataset.dicom import Header
from chestxray.errors import Notice
from chestxray.reading.gate.notices import refusal, warning

_MODALITIES: Final = ("CR", "DX")
_CHEST: Final = re.compile("CHEST|THORAX|TORAX|LUNG")
# Body parts as the Standard spells them, their words in code meanings, and frequent spellings.
_ELSEWHERE: Final = re.compile(
    "ABDOMEN|ANKLE|ARM|BREAST|CALCANEUS|CALF|CLAVICLE|COCCYX|SPINE|ELBOW|EXTREMITY|FACE|FEMUR|"
    "FINGER|FOOT|FOREARM|HAND|HEAD|HIP|HUMERUS|JAW|KNEE|LEG|MANDIBLE|MAXILLA|NECK|NOSE|ORBIT|"
    "PELVI|RADIUS|SACRUM|SCAPULA|SHOULDER|SINUS|SKULL|STERNUM|TEETH|THIGH|THUMB|TIBIA|TOE|TOOTH|"
    "ULNA|WHOLEBODY|WRIST|ZYGOMA"
)
# Views as defined terms (PA, LL, RLD), as vendors write them (PA_ERECT, LLAT) and as meanings of
# codes (postero-anterior, left lateral projection). Askew comes first: LATERAL DECUBITUS.
_ASKEW: Final = re.compile(r"^[LR][LAP]?[DO]$|DECUB|OBLIQ|LORDOTIC|TANGENTIAL|AXIAL")
_SIDEWAYS: Final = re.compile(r"\b([LR]L|[LR]?LAT)\b|LATERAL")
_FRONTAL: Final = re.compile(
    r"\b(PA|AP|P[-.]A|A[-.]P)\b|FRONTAL|POSTERO[- ]?ANTERIOR|ANTERO[- ]?POSTERIOR"
)
_ADULT: Final = 18.0


def judge(header: Header) -> tuple[Notice, ...]:
    """Give what is to be said of a DICOM file's header."""
    found = (*_modality(header), *_body_part(header), *_view(header), *_others(header))
    return tuple(found)


def _modality(header: Header) -> Iterator[Notice]:
    modality = header.modality
    if not modality:
        yield warning("modality-unknown", "the file does not say its Modality")
    elif modality not in _MODALITIES:
        yield refusal(
            "modality-other",
            f"Modality is {modality}: only radiographs, {' and '.join(_MODALITIES)}, are read",
            modality=modality,
        )


def _body_part(header: Header) -> Iterator[Notice]:
    part = header.body_part
    chest, elsewhere = _CHEST.search(part), _ELSEWHERE.search(part)
    if elsewhere and not chest:
        yield refusal(
            "body-part-other",
            f"BodyPartExamined is {part}: only chest radiographs are read",
            body_part=part,
        )
    elif elsewhere or not chest:
        said = f"BodyPartExamined is {part}, which" if part else "the file"
        alone = "the chest alone" if chest else "chest"
        yield warning("body-part-unknown", f"{said} does not say {alone}", body_part=part)


def _view(header: Header) -> Iterator[Notice]:
    view = header.view_position
    words = view.replace("_", " ")
    if _ASKEW.search(words):
        yield refusal(
            "view-other",
            f"ViewPosition is {view}: only frontal views, PA and AP, are read",
            view=view,
        )
    elif _SIDEWAYS.search(words):
        yield _lateral("ViewPosition", view)
    elif _FRONTAL.search(words):
        return
    elif header.patient_orientation and header.patient_orientation[0].startswith(("A", "P")):
        # Rows run from front to back, or from back to front.
        yield _lateral("PatientOrientation", "\\".join(header.patient_orientation))
    else:
        said = f"ViewPosition is {view}, which" if view else "the file"
        yield warning("view-unknown", f"{said} does not say a frontal view (PA or AP)", view=view)


def _lateral(name: str, said: str) -> Notice:
    return refusal(
        "view-lateral",
        f"{name} is {said}, a lateral view: only frontal views, PA and AP, are read",
        view=said,
    )


def _others(header: Header) -> Iterator[Notice]:
    age = header.patient_age
    if age is not None and age < _ADULT:
        old = f"{int(age)} years" if age >= 2 else f"{round(age * 12)} months"
        yield warning(
            "age-under-18",
            f"the patient is {old} old: few of the training films show children",
            age=age,
        )
    raw = header.sop_class_uid == DigitalXRayImageStorageForProcessing
    if raw or header.presentation_intent == "FOR PROCESSING":
        yield refusal(
            "for-processing",
            "the image is FOR PROCESSING, the detector's raw values: send the one FOR PRESENTATION",
        )
    if header.burned_in_annotation:
        yield warning("burned-in", "BurnedInAnnotation is YES: text is part of the picture")
    if header.notes:
        yield warning("pixels-doubtful", "; ".join(header.notes))
