"""What the decoded pixels themselves say against reading them; no model is needed.

Limits are constants, chosen with a wide berth around 1,136 of NIH's films: their least contrast is
a standard deviation of 27 grey levels and their least detail 0.050; at most 3.5 % of a film is
white and, with one exception in a hundred, 19 % black. See docs/log.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np

from chestxray.dataset.pixels import Grey, canonical
from chestxray.errors import Notice
from chestxray.reading.gate.notices import refusal, warning

_CONTRAST: Final = 5.0
_DETAIL: Final = 0.03
_WHITE: Final = (0.10, 0.40)  # warns, refuses
_BLACK: Final = (0.70, 0.90)
_COLOUR: Final = (0.004, 0.04)
_SIDE: Final = 128  # at which contrast and detail are measured
_SAMPLES: Final = 512  # a side, of the pixels that are counted


def judge(image: Grey, size: int, chroma: float) -> tuple[Notice, ...]:
    """Give what is to be said of a decoded film's pixels.

    Args:
        image: grey uint8 or uint16 [h, w].
        size: side of the canonical image that the model sees, pixels.
        chroma: how much colour the file had, see `dataset.colour`.
    """
    found = (*_size(image, size), *_contents(image), *_range(image), *_colour(chroma))
    return tuple(found)


def _size(image: Grey, size: int) -> Iterator[Notice]:
    height, width = image.shape
    values = {"height": float(height), "width": float(width), "wanted": float(size)}
    if min(height, width) * 2 < size:
        yield refusal(
            "too-small",
            f"{width} × {height} pixels, the model looks at {size} × {size}: send the original",
            **values,
        )
    elif max(height, width) < size:
        yield warning(
            "too-small",
            f"{width} × {height} pixels were enlarged to the model's {size} × {size}",
            **values,
        )


def _contents(image: Grey) -> Iterator[Notice]:
    side = min(_SIDE, max(image.shape))
    small = canonical(image, side).astype(np.float32)
    contrast = float(small.std())
    edges = cv2.Laplacian(small, cv2.CV_32F)[1:-1, 1:-1]
    detail = float(np.abs(edges).mean()) / max(contrast, 1e-6) if edges.size else 0.0
    if contrast < _CONTRAST or detail < _DETAIL:
        yield refusal(
            "blank",
            f"hardly any contrast or detail: grey levels deviate by {contrast:.2g} of 255 (at "
            f"least {_CONTRAST:g} wanted), edges by {detail:.2g} of that (at least {_DETAIL:g})",
            contrast=contrast,
            detail=detail,
        )


def _range(image: Grey) -> Iterator[Notice]:
    step = max(1, max(image.shape) // _SAMPLES)
    sample, top = image[::step, ::step], np.iinfo(image.dtype).max
    black, white = float((sample == 0).mean()), float((sample == top).mean())
    values = {"black": black, "white": white}
    sentence = (
        f"{black:.0%} of the picture is black and {white:.0%} white to the limit: what lies there "
        f"cannot be seen; send it with another window"
    )
    if black > _BLACK[1] or white > _WHITE[1]:
        yield refusal("saturated", sentence, **values)
    elif black > _BLACK[0] or white > _WHITE[0]:
        yield warning("saturated", sentence, **values)


def _colour(chroma: float) -> Iterator[Notice]:
    if chroma > _COLOUR[1]:
        yield refusal(
            "colour",
            f"the picture has colours (mean saturation {chroma:.2g}, at most {_COLOUR[1]:g}): a "
            f"radiograph is grey",
            chroma=chroma,
        )
    elif chroma > _COLOUR[0]:
        yield warning(
            "colour",
            f"parts of the picture have colours (mean saturation {chroma:.2g}): marks over it are "
            f"read as if they were anatomy",
            chroma=chroma,
        )
