"""When the gate refuses a radiograph or warns: by its header, its pixels, and the training images.

The header. AP views pass without a notice: about 40 % of NIH's radiographs are AP. Children are
warned of, not refused: about 5 % of NIH's radiographs show some. Missing and unclear values are
warned of, since the headers of real files are often incomplete, and the pixels are checked anyway.
References: PS3.3 sections C.7.3.1 (modality), C.8.11.1 (presentation intent), C.8.11.5 and C.8.1.1
(view position), C.7.6.1.1.1 (patient orientation); PS3.16 annex L (body parts), CID 4010 (views).

The pixels. Limits are constants with a wide margin around 1,136 of NIH's radiographs: their least
contrast is a standard deviation of 27 grey levels and their least detail 0.050; at most 3.5 % of an
image is white and, with one exception in a hundred, 19 % black. See docs/log.md.

The training images. The bundle's detector measures how an image looks and where the network's
features lie. An image whose look passes clearly only after it is turned or inverted is refused as
rotated or inverted. Otherwise each measure warns beyond its limit, and they refuse where both are
beyond their limits or one is far beyond.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.uid import DigitalXRayImageStorageForProcessing, SecondaryCaptureImageStorage

from chestxray.dataset.dicom import Header
from chestxray.dataset.pixels import Grey, canonical
from chestxray.errors import Notice
from chestxray.model.out_of_distribution import STATES, Detector
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
# codes (postero-anterior, left lateral projection). Other views come first: LATERAL DECUBITUS.
_OTHER_VIEW: Final = re.compile(r"^[LR][LAP]?[DO]$|DECUB|OBLIQ|LORDOTIC|TANGENTIAL|AXIAL")
_LATERAL_VIEW: Final = re.compile(r"\b([LR]L|[LR]?LAT)\b|LATERAL")
_FRONTAL_VIEW: Final = re.compile(
    r"\b(PA|AP|P[-.]A|A[-.]P)\b|FRONTAL|POSTERO[- ]?ANTERIOR|ANTERO[- ]?POSTERIOR"
)
_ADULT: Final = 18.0

_CONTRAST: Final = 5.0  # standard deviation, grey levels of 255
_DETAIL: Final = 0.03  # mean edge strength, in standard deviations
_WHITE: Final = (0.10, 0.40)  # share of the pixels beyond which to warn, to refuse
_BLACK: Final = (0.70, 0.90)
_CHROMA: Final = (0.004, 0.04)
_SIDE: Final = 128  # pixels, at which contrast and detail are measured
_SAMPLES: Final = 512  # per side, of the pixels that are counted

_CLEARLY: Final = 0.85  # times the limit: above it lie corners of radiographs after turning
# Code, and the multiple of the limit beyond which it refuses alone. Another exposure moves the
# features of a good radiograph more than its look.
_REFUSES_ALONE: Final = (("unlike-chest", 1.25), ("far-from-training", 1.5))


def header(found: Header) -> tuple[Notice, ...]:
    """Judge the header of a DICOM file."""
    return (*_modality(found), *_body_part(found), *_view(found), *_other_attributes(found))


def pixels(image: Grey, size: int, chroma: float = 0.0) -> tuple[Notice, ...]:
    """Judge decoded pixels.

    Args:
        image: grey uint8 or uint16 [h, w].
        size: side of the canonical image that the model sees, pixels.
        chroma: of the file, see `Radiograph.chroma`.
    """
    return (*_size(image, size), *_contents(image), *_range(image), *_colour(chroma))


def distribution(
    detector: Detector, images: npt.NDArray[np.uint8], features: npt.NDArray[np.float32]
) -> list[tuple[Notice, ...]]:
    """Judge images by what the model was trained on.

    Args:
        detector: of the model.
        images: uint8 [B, S, S], canonical.
        features: float32 [B, C], pooled.

    Returns:
        The notices on each image.
    """
    limits = detector.limits
    looks = detector.template.strangeness(images) / limits.look
    far = detector.feature_distance(features) / limits.features
    pairs = zip(looks.tolist(), far.tolist(), strict=True)
    return [tuple(_of_image(look, distance)) for look, distance in pairs]


def _modality(found: Header) -> Iterator[Notice]:
    modality = found.modality
    if not modality:
        yield warning("modality-unknown")
    elif modality not in _MODALITIES:
        yield refusal("modality-other", {"modality": modality})


def _body_part(found: Header) -> Iterator[Notice]:
    part = found.body_part
    chest, elsewhere = _CHEST.search(part), _ELSEWHERE.search(part)
    if elsewhere and not chest:
        yield refusal("body-part-other", {"body_part": part})
    elif elsewhere or not chest:
        yield warning("body-part-unknown", {"body_part": part}, stated=part or "missing")


def _view(found: Header) -> Iterator[Notice]:
    view, orientation = found.view_position, found.patient_orientation
    words = view.replace("_", " ")
    if _OTHER_VIEW.search(words):
        yield refusal("view-other", {"view": view})
    elif _LATERAL_VIEW.search(words):
        yield refusal("view-lateral", {"view": view}, attribute="ViewPosition")
    elif _FRONTAL_VIEW.search(words):
        return
    elif orientation and orientation[0].startswith(("A", "P")):
        # Rows run from front to back, or from back to front.
        values = {"view": "\\".join(orientation)}
        yield refusal("view-lateral", values, attribute="PatientOrientation")
    else:
        yield warning("view-unknown", {"view": view}, stated=view or "missing")


def _other_attributes(found: Header) -> Iterator[Notice]:
    age = found.patient_age
    if age is not None and age < _ADULT:
        yield warning("age-under-18", {"age": age}, years_or_months=_age_in_words(age))
    raw = found.sop_class_uid == DigitalXRayImageStorageForProcessing
    if raw or found.presentation_intent == "FOR PROCESSING":
        yield refusal("for-processing")
    if found.sop_class_uid == SecondaryCaptureImageStorage:
        yield warning("secondary-capture")
    if found.burned_in_annotation:
        yield warning("burned-in")
    if found.notes:
        yield warning("pixels-doubtful", notes="; ".join(found.notes))


def _age_in_words(age: float) -> str:
    count, unit = (int(age), "year") if age >= 2 else (round(age * 12), "month")
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _size(image: Grey, size: int) -> Iterator[Notice]:
    height, width = image.shape
    values = {"height": float(height), "width": float(width), "wanted": float(size)}
    if min(height, width) * 2 < size:
        yield refusal("too-small", values)
    elif max(height, width) < size:
        yield warning("too-small", values)


def _contents(image: Grey) -> Iterator[Notice]:
    side = min(_SIDE, max(image.shape))
    small = canonical(image, side).astype(np.float32)
    contrast = float(small.std())
    edges = cv2.Laplacian(small, cv2.CV_32F)[1:-1, 1:-1]
    detail = float(np.abs(edges).mean()) / max(contrast, 1e-6) if edges.size else 0.0
    if contrast < _CONTRAST or detail < _DETAIL:
        values = {"contrast": contrast, "detail": detail}
        least = {"least_contrast": f"{_CONTRAST:g}", "least_detail": f"{_DETAIL:g}"}
        yield refusal("blank", values, **least)


def _range(image: Grey) -> Iterator[Notice]:
    step = max(1, max(image.shape) // _SAMPLES)
    sample, top = image[::step, ::step], np.iinfo(image.dtype).max
    black, white = float((sample == 0).mean()), float((sample == top).mean())
    values = {"black": black, "white": white}
    if black > _BLACK[1] or white > _WHITE[1]:
        yield refusal("saturated", values)
    elif black > _BLACK[0] or white > _WHITE[0]:
        yield warning("saturated", values)


def _colour(chroma: float) -> Iterator[Notice]:
    values = {"chroma": chroma}
    if chroma > _CHROMA[1]:
        yield refusal("colour", values, limit=f"{_CHROMA[1]:g}")
    elif chroma > _CHROMA[0]:
        yield warning("colour", values)


def _of_image(looks: list[float], far: float) -> Iterator[Notice]:
    """Judge by multiples of the limits: of the look in each of `STATES`, and of the features."""
    as_it_is, best = looks[0], min(looks)
    if as_it_is > 1 and best < _CLEARLY:
        yield from _turned(*STATES[looks.index(best)], as_it_is=as_it_is, corrected=best)
    else:
        yield from _out_of_distribution(as_it_is, far)


def _turned(degrees: int, negative: bool, **ratios: float) -> Iterator[Notice]:
    if negative:
        yield refusal("inverted", ratios)
    if degrees:
        yield refusal("rotated", {"degrees": float((360 - degrees) % 360), **ratios})


def _out_of_distribution(*ratios: float) -> Iterator[Notice]:
    all_beyond = min(ratios) > 1
    for (code, far), ratio in zip(_REFUSES_ALONE, ratios, strict=True):
        if ratio > 1:
            make = refusal if all_beyond or ratio > far else warning
            # Rounded up, so that a value beyond the limit is never shown as 1.
            yield make(code, {"ratio": ratio}, times=f"{math.ceil(ratio * 100) / 100:.2f}")
