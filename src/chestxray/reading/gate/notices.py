"""Every message of the gate, in one table: to change what a user is told, change it here.

A notice has a stable code, by which programs recognise it, and a sentence with the figures behind
it. It either refuses the radiograph or warns; some codes do the one or the other, depending on how
far a value is beyond its limit. Sentences have no full stop at the end, since they are also joined
into lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from chestxray.errors import Notice

_Values = Mapping[str, float | str]


@dataclass(frozen=True)
class NoticeKind:
    """What a code means.

    Attributes:
        meaning: when it is given, as a phrase.
        refuses: template of the sentence where the radiograph is refused; empty where it never is.
        warns: template of the sentence where it is read with a warning; empty where it never is.
    """

    meaning: str
    refuses: str = ""
    warns: str = ""


_SATURATED: Final = (
    "{black:.0%} of the pixels are completely black and {white:.0%} completely white, so details "
    "are lost there: send the image with another window"
)
_UNLIKE_CHEST: Final = (
    "The image does not look like a complete, upright, frontal chest radiograph: it differs by "
    "{times} times the accepted limit"
)
_FAR_FROM_TRAINING: Final = (
    "To the model this radiograph is unlike all those that it was checked on: it differs by "
    "{times} times the accepted limit"
)

NOTICES: Final[dict[str, NoticeKind]] = {
    # headers of DICOM files
    "modality-other": NoticeKind(
        "Modality is not CR or DX",
        refuses="Modality is {modality}: only radiographs (CR or DX) are read",
    ),
    "modality-unknown": NoticeKind(
        "Modality is missing",
        warns="Modality is missing, so the header does not confirm that this is a radiograph",
    ),
    "body-part-other": NoticeKind(
        "BodyPartExamined names a part other than the chest",
        refuses="BodyPartExamined is {body_part}: only chest radiographs are read",
    ),
    "body-part-unknown": NoticeKind(
        "BodyPartExamined is missing, or does not mean the chest only",
        warns="BodyPartExamined is {stated}, so the header does not confirm that this is a chest "
        "radiograph",
    ),
    "view-lateral": NoticeKind(
        "ViewPosition or PatientOrientation means a lateral view",
        refuses="{attribute} is {view}, a lateral view: only frontal views (PA or AP) are read",
    ),
    "view-other": NoticeKind(
        "ViewPosition is oblique, decubitus or lordotic",
        refuses="ViewPosition is {view}: only frontal views (PA or AP) are read",
    ),
    "view-unknown": NoticeKind(
        "ViewPosition is missing or unknown",
        warns="ViewPosition is {stated}, so the header does not confirm that this is a frontal "
        "view (PA or AP)",
    ),
    "age-under-18": NoticeKind(
        "the patient is a child",
        warns="The patient is {years_or_months} old: the training data contain few children",
    ),
    "for-processing": NoticeKind(
        "the image holds raw detector values",
        refuses="PresentationIntentType is FOR PROCESSING, so the image holds raw detector values: "
        "send the image that is FOR PRESENTATION",
    ),
    "secondary-capture": NoticeKind(
        "the SOP class is Secondary Capture, not CR or DX",
        warns="The file is a secondary capture, not an image of the CR or DX class: another "
        "program wrote these pixels and may have changed their grey values",
    ),
    "burned-in": NoticeKind(
        "text, such as a name, is part of the pixels",
        warns="BurnedInAnnotation is YES: text is part of the image",
    ),
    "pixels-doubtful": NoticeKind(
        "the decoder had to make an assumption, or a value is unusual",
        warns="The pixels may not be shown as intended: {notes}",
    ),
    # pixels
    "too-small": NoticeKind(
        "the image has fewer pixels than the model's input",
        refuses="The image has {width:.0f} × {height:.0f} pixels, but the model needs "
        "{wanted:.0f} × {wanted:.0f}: send the original image",
        warns="The image has {width:.0f} × {height:.0f} pixels and was enlarged to the model's "
        "{wanted:.0f} × {wanted:.0f}",
    ),
    "blank": NoticeKind(
        "the image has hardly any contrast or detail",
        refuses="The image has hardly any contrast or detail: the standard deviation of the grey "
        "levels is {contrast:.2g} of 255 (minimum {least_contrast}), and the edge strength is "
        "{detail:.2g} of it (minimum {least_detail})",
    ),
    "saturated": NoticeKind(
        "much of the image is completely black or white",
        refuses=_SATURATED,
        warns=_SATURATED,
    ),
    "colour": NoticeKind(
        "the image has colours",
        refuses="The image is in colour (mean saturation {chroma:.2g}, maximum {limit}): "
        "radiographs must be greyscale",
        warns="Parts of the image are in colour (mean saturation {chroma:.2g}): coloured marks may "
        "be mistaken for anatomy",
    ),
    # out of the distribution of the training images
    "inverted": NoticeKind(
        "the image is a negative, with bright lungs",
        refuses="The image is a negative (the lungs are bright): invert it and send it again",
    ),
    "rotated": NoticeKind(
        "the image is rotated by 90, 180 or 270 degrees",
        refuses="The image is rotated clockwise by {degrees:.0f} degrees: turn it upright and send "
        "it again",
    ),
    "unlike-chest": NoticeKind(
        "the image does not look like a complete chest radiograph",
        refuses=_UNLIKE_CHEST,
        warns=_UNLIKE_CHEST,
    ),
    "far-from-training": NoticeKind(
        "the network's features differ from those of all validation radiographs",
        refuses=_FAR_FROM_TRAINING,
        warns=_FAR_FROM_TRAINING,
    ),
    # the model itself
    "gate-not-fitted": NoticeKind(
        "the bundle has no out-of-distribution detector, so the four checks above are skipped",
        warns="Rotated, inverted and non-chest images are not detected; {advice}",
    ),
    "trained-on-synthetic": NoticeKind(
        "the model was trained on synthetic radiographs only",
        warns="The model was trained on synthetic radiographs only, so its results on real ones "
        "are meaningless",
    ),
    "fitted-on-training-images": NoticeKind(
        "the images that an ensemble was calibrated on may be training images of its members",
        warns="Calibration and thresholds were fitted on images of {source} that members of this "
        "model may have been trained on, so probabilities may be too sure",
    ),
    "imported-not-calibrated": NoticeKind(
        "the model was imported, and its probabilities are those of the original network",
        warns="This model was imported from {format} and is not calibrated: its probabilities are "
        "the original network's own, which may be far from the observed frequency; to calibrate "
        "them for your patients, run `chestxray calibrate`",
    ),
    "not-calibrated": NoticeKind(
        "the probabilities of some findings are not calibrated",
        warns="The probabilities of these findings are not calibrated: {names}",
    ),
}


ANOTHER_KIND: Final = frozenset(
    {"modality-other", "body-part-other", "view-lateral", "view-other", "for-processing"}
)
"""Codes of refusals by which the header says that this is no frontal chest radiograph."""


def refusal(code: str, values: _Values | None = None, **words: str) -> Notice:
    """Make a notice that refuses.

    Args:
        code: in `NOTICES`.
        values: figures behind the sentence, kept in the notice and available to its template.
        words: further parts of the template.
    """
    return _notice(code, NOTICES[code].refuses, values or {}, words, refuses=True)


def warning(code: str, values: _Values | None = None, **words: str) -> Notice:
    """Make a notice that warns; see `refusal`."""
    return _notice(code, NOTICES[code].warns, values or {}, words, refuses=False)


def in_words(notices: Iterable[Notice]) -> str:
    """Put notices into one line, refusals first, such as `code: sentence; warning: code: …`."""
    refusals_first = sorted(notices, key=lambda notice: not notice.refuses)
    return "; ".join(
        f"{'' if notice.refuses else 'warning: '}{notice.code}: {notice}"
        for notice in refusals_first
    )


def _notice(
    code: str, template: str, values: _Values, words: Mapping[str, str], *, refuses: bool
) -> Notice:
    if not template:
        raise ValueError(f"the notice {code} never {'refuses' if refuses else 'warns'}")
    return Notice(code, template.format_map({**values, **words}), dict(values), refuses)
