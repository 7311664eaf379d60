"""Every notice that a reading can carry, in one table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from chestxray.errors import Notice

Outcome = Literal["refuses", "warns", "refuses or warns"]

# code → what it says, and what comes of it
NOTICES: Final[dict[str, tuple[str, Outcome]]] = {
    # headers of DICOM files
    "modality-other": ("Modality is none of CR, DX", "refuses"),
    "modality-unknown": ("Modality is absent", "warns"),
    "body-part-other": ("BodyPartExamined names another part than the chest", "refuses"),
    "body-part-unknown": ("BodyPartExamined is absent, or not clearly the chest alone", "warns"),
    "view-lateral": ("ViewPosition or PatientOrientation says lateral", "refuses"),
    "view-other": ("ViewPosition is oblique, decubitus or lordotic", "refuses"),
    "view-unknown": ("ViewPosition is absent or none of these", "warns"),
    "age-under-18": ("the patient is a child: few training films show one", "warns"),
    "for-processing": ("the detector's raw values, not made to be looked at", "refuses"),
    "burned-in": ("text is burned into the pixels, such as a name", "warns"),
    "pixels-doubtful": ("the decoder had to guess, or a value is odd", "warns"),
    # pixels
    "too-small": ("fewer pixels than the model looks at", "refuses or warns"),
    "blank": ("hardly any contrast or detail", "refuses"),
    "saturated": ("much of the picture is black or white to the limit", "refuses or warns"),
    "colour": ("the picture has colours", "refuses or warns"),
    # what the model was trained on
    "inverted": ("a negative of the training films: lungs bright", "refuses"),
    "rotated": ("turned by 90, 180 or 270 degrees", "refuses"),
    "unlike-chest": ("looks like a part of a film, or something else", "refuses or warns"),
    "far-from-training": ("is to the network unlike every film it knows", "refuses or warns"),
    # the model itself
    "gate-not-fitted": ("no gate, or an earlier kind: the four before are left out", "warns"),
    "trained-on-synthetic": ("the model has seen phantoms alone", "warns"),
    "not-calibrated": ("findings whose probability is not calibrated", "warns"),
}


def refusal(code: str, sentence: str, **values: float | str) -> Notice:
    """Make a notice that refuses."""
    return _notice(code, sentence, values, refuses=True)


def warning(code: str, sentence: str, **values: float | str) -> Notice:
    """Make a notice that warns."""
    return _notice(code, sentence, values, refuses=False)


def in_words(notices: Iterable[Notice]) -> str:
    """Put notices into one line, refusals first: code and sentence of each, warnings so named."""
    refusals_first = sorted(notices, key=lambda notice: not notice.refuses)
    return "; ".join(
        f"{'' if notice.refuses else 'warning: '}{notice.code}: {notice}"
        for notice in refusals_first
    )


def _notice(code: str, sentence: str, values: dict[str, float | str], refuses: bool) -> Notice:
    outcome = NOTICES[code][1]
    if ("refuses" if refuses else "warns") not in outcome:
        raise ValueError(f"notice {code} {outcome}")
    return Notice(code, sentence, values, refuses)
