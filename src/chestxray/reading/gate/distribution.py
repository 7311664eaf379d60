"""Whether a film is like those that the model was trained on, by what is fitted in its bundle.

Two witnesses speak: its look, and the network's features. A film whose look passes, and well, only
when it is turned or made a positive is rotated or inverted. Otherwise each witness warns beyond its
limit, and they refuse where both are beyond theirs or one is far beyond its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.errors import Notice
from chestxray.model.out_of_distribution import STATES, Detector
from chestxray.reading.gate.notices import refusal, warning

_WELL: Final = 0.85  # times the limit: between it and the limit lie many righted corners of films
# Code, the multiple of the limit beyond which it refuses alone, and what it says. Another exposure
# moves the features of a good film more than its look.
_WITNESSES: Final = (
    ("unlike-chest", 1.25, "looks unlike a whole frontal chest radiograph of the kind trained on"),
    ("far-from-training", 1.5, "is to the network unlike every film that it was validated on"),
)


def judge(
    detector: Detector,
    images: npt.NDArray[np.uint8],
    features: npt.NDArray[np.float32],
) -> list[tuple[Notice, ...]]:
    """Give what is to be said of each film.

    Args:
        detector: of the model.
        images: uint8 [B, S, S], canonical.
        features: float32 [B, C], pooled.
    """
    limits = detector.limits
    looks = detector.template.strangeness(images) / limits.look
    far = detector.feature_distance(features) / limits.features
    return [tuple(_of_film(*ratios)) for ratios in zip(looks.tolist(), far.tolist(), strict=True)]


def _of_film(looks: list[float], far: float) -> Iterator[Notice]:
    """Judge by multiples of the limits: of the look in each of `STATES`, and of the features."""
    as_it_lies, best = looks[0], min(looks)
    if as_it_lies > 1 and best < _WELL:
        yield from _placed(*STATES[looks.index(best)], as_it_lies=as_it_lies, righted=best)
    else:
        yield from _unlike(as_it_lies, far)


def _placed(degrees: int, negative: bool, **ratios: float) -> Iterator[Notice]:
    if negative:
        yield refusal(
            "inverted",
            "the film is a negative, with bright lungs: invert it and send it again",
            **ratios,
        )
    if degrees:
        clockwise = (360 - degrees) % 360
        yield refusal(
            "rotated",
            f"the film lies turned by {clockwise} degrees clockwise: turn it upright and send it "
            f"again",
            degrees=float(clockwise),
            **ratios,
        )


def _unlike(*ratios: float) -> Iterator[Notice]:
    all_beyond = min(ratios) > 1
    for (code, far, words), ratio in zip(_WITNESSES, ratios, strict=True):
        if ratio > 1:
            make = refusal if all_beyond or ratio > far else warning
            sentence = f"the film {words}: {ratio:.3g} times the distance that passes"
            yield make(code, sentence, ratio=ratio)
