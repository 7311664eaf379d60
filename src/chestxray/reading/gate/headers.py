"""What a DICOM file says of itself that speaks against reading it.

AP views pass without a word: about 40 % of NIH's films are AP. Children are warned of and not
refused, since NIH's films show some too (about 5 %), though too few to vouch for.

References: PS3.3 sections C.7.3.1 (modality), C.8.11.1 (presentation intent), C.8.11.5 (view
position), C.7.6.1.1.1 (patient orientation); PS3.16 annex L (body parts).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from chestxray.dataset.dicom import Header
from chestxray.notices import Notice
from chestxray.reading.gate.codes import refusal, warning

_MODALITIES: Final = ("CR", "DX")
_CHEST: Final = re.compile("CHEST|THORAX|TORAX|LUNG")
# Body parts as the Standard spells them, their words in code meanings, and frequent spellings.
_ELSEWHERE: Final = re.compile(
    "ABDOMEN|ANKLE|ARM|BREAST|CALCANEUS|CALF|CLAVICLE|COCCYX|SPINE|ELBOW|EXTREMITY|FACE|FEMUR|"
    "FINGER|FOOT|FOREARM|HAND|HEAD|HIP|HUMERUS|JAW|KNEE|LEG|MANDIBLE|MAXILLA|NECK|NOSE|ORBIT|"
    "PELVI|RADIUS|SACRUM|SCAPULA|SHOULDER|SINUS|SKULL|STERNUM|TEETH|THIGH|THUMB|TIBIA|TOE|TOOTH|"
    "ULNA|WHOLEBODY|WRIST|ZYGOMA"
)
_FRONTAL: Final = re.compile(r"PA|AP|(POSTERO|ANTERO)[ -]?(ANTERIOR|POSTERIOR)")
_SIDEWAYS: Final = re.compile(r"LL|RL|LAT|LLAT|RLAT|.*LATERAL")
_ASKEW: Final = re.compile(r"[LR][LAP]?[DO]|.*(DECUB|OBLIQUE|LORDOTIC|TANGENTIAL).*")
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
    if _CHEST.search(part):
        return
    if _ELSEWHERE.search(part):
        yield refusal(
            "body-part-other",
            f"BodyPartExamined is {part}: only chest radiographs are read",
            body_part=part,
        )
    else:
        said = f"BodyPartExamined is {part}, which" if part else "the file"
        yield warning("body-part-unknown", f"{said} does not say chest", body_part=part)


def _view(header: Header) -> Iterator[Notice]:
    view = header.view_position
    if _ASKEW.fullmatch(view):
        yield refusal(
            "view-other",
            f"ViewPosition is {view}: only frontal views, PA and AP, are read",
            view=view,
        )
    elif _SIDEWAYS.fullmatch(view) or (not view and _runs_forwards(header)):
        said = view or "\\".join(header.patient_orientation)
        name = "ViewPosition" if view else "PatientOrientation"
        yield refusal(
            "view-lateral",
            f"{name} is {said}, a lateral view: only frontal views, PA and AP, are read",
            view=said,
        )
    elif not _FRONTAL.fullmatch(view):
        said = f"ViewPosition is {view}, which" if view else "the file"
        yield warning("view-unknown", f"{said} does not say a frontal view (PA or AP)", view=view)


def _runs_forwards(header: Header) -> bool:
    """Tell whether rows run from front to back, or back to front."""
    return header.patient_orientation[:1] != () and header.patient_orientation[0][:1] in ("A", "P")


def _others(header: Header) -> Iterator[Notice]:
    age = header.patient_age
    if age is not None and age < _ADULT:
        yield warning(
            "age-under-18",
            f"the patient is {age:.3g} years old: few of the training films show children",
            age=age,
        )
    if header.presentation_intent == "FOR PROCESSING":
        yield refusal(
            "for-processing",
            "PresentationIntentType is FOR PROCESSING, the detector's raw values: send the image "
            "FOR PRESENTATION",
        )
    if header.burned_in_annotation:
        yield warning("burned-in", "BurnedInAnnotation is YES: text is part of the picture")
    if header.notes:
        yield warning("pixels-doubtful", "; ".join(header.notes))
