"""Whether a film is like those that the model was trained on, by what is fitted in its bundle.

A film that fits the template clearly better after a turn or as a negative, and then well, is
rotated or inverted. Otherwise two witnesses speak: its look, and the network's features. Each warns
beyond its limit; they refuse where both are beyond theirs or one is far beyond its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.model.familiarity import Familiarity
from chestxray.model.template import STATES
from chestxray.notices import Notice
from chestxray.reading.gate.codes import refusal, warning

_CLEARLY: Final = (
    0.75  # of the misfit as it lies: two of 1,136 upright films fit turned a bit better
)
_FAR: Final = 1.5  # times the limit
_WITNESSES: Final = (
    ("unlike-chest", "looks unlike the frontal chest radiographs of training"),
    ("far-from-training", "is to the network far from all radiographs of training"),
)


def judge(
    familiarity: Familiarity,
    images: npt.NDArray[np.uint8],
    features: npt.NDArray[np.float32],
) -> list[tuple[Notice, ...]]:
    """Give what is to be said of each film.

    Args:
        familiarity: of the model.
        images: uint8 [B, S, S], canonical.
        features: float32 [B, C], pooled.
    """
    limits = familiarity.limits
    misfits = familiarity.template.misfits(images)
    states = np.where(misfits.min(axis=1) < _CLEARLY * misfits[:, 0], misfits.argmin(axis=1), 0)
    looks = familiarity.template.distance(images) / limits.look
    strange = familiarity.feature_distance(features) / limits.features
    return [
        _placed(familiarity, image, state) or tuple(_unlike(float(look), float(far)))
        for image, state, look, far in zip(images, states.tolist(), looks, strange, strict=True)
    ]


def _placed(
    familiarity: Familiarity, image: npt.NDArray[np.uint8], state: int
) -> tuple[Notice, ...]:
    """Say whether the film is turned or a negative: nothing where it would then fit no better."""
    degrees, negative = STATES[state]
    righted = np.rot90(image, -(degrees // 90))
    righted = 255 - righted if negative else righted
    distance = float(familiarity.template.distance(np.ascontiguousarray(righted)[None])[0])
    if state == 0 or distance > familiarity.limits.look:
        return ()
    return tuple(_state(degrees, negative))


def _state(degrees: int, negative: bool) -> Iterator[Notice]:
    if negative:
        yield refusal(
            "inverted", "the film is a negative, with bright lungs: invert it and send it again"
        )
    if degrees:
        clockwise = (360 - degrees) % 360
        yield refusal(
            "rotated",
            f"the film lies turned by {clockwise} degrees clockwise: turn it upright and send it "
            f"again",
            degrees=float(clockwise),
        )


def _unlike(*ratios: float) -> Iterator[Notice]:
    beyond = [ratio > 1 for ratio in ratios]
    for (code, words), ratio in zip(_WITNESSES, ratios, strict=True):
        if ratio > 1:
            make = refusal if all(beyond) or ratio > _FAR else warning
            sentence = f"the film {words}: {ratio:.3g} times the distance that passes"
            yield make(code, sentence, ratio=ratio)
