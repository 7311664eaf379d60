"""The picture of a reading: the radiograph under heat, beside it all findings in figures.

    ┌────────────────────────────────────────────────────────────┐
    │ title                                         for research │
    ├──────────────────────────┬────────┬────────────────────────┤
    │ most relevant finding    │ second │ finding  prob.  thresh │
    │ over the radiograph      │ third  │ …                      │
    │                          │ plain  │ warnings, model        │
    └──────────────────────────┴────────┴────────────────────────┘

Heat is shown of at most three called findings; where nothing is called, of the one nearest to its
threshold, marked as not called. A refusal shows the plain radiograph and the reason in large
letters, and no probability. Nothing of the patient is written into it.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from chestxray.dataset.pixels import Grey, canonical
from chestxray.errors import RefusedError
from chestxray.reading.overlay import COLOURS
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects import scores
from chestxray.serving.gateway.objects.canvas import ALERT, DIM, INK, Canvas, Column, Style
from chestxray.serving.gateway.objects.identity import NOTE, NOTHING_SAID, UNVERIFIED, Model
from chestxray.serving.gateway.objects.ranking import Thresholds, relevant
from chestxray.serving.gateway.objects.tint import tinted

SIZE: Final = (2000, 1200)

_MARGIN: Final = 28
_TOP: Final = 104
_BOTTOM: Final = 1046
_MAIN: Final = 1024  # the size of many films: those are shown pixel by pixel
_SMALL: Final = 306
_PITCH: Final = 356
_SIDE: Final = _MARGIN + _MAIN + 26
_COLUMN: Final = _SIDE + _SMALL + 36
_HEATMAPS: Final = 3
_BAR: Final = (120, 18)


def draw(
    image: Grey, model: Model, outcome: Reading | RefusedError, thresholds: Thresholds
) -> npt.NDArray[np.uint8]:
    """Draw a reading or a refusal.

    Args:
        image: the radiograph, bright = dense.
        model: that read it.
        outcome: what it said.
        thresholds: finding → probability from which it is called, None without one.

    Returns:
        RGB uint8 [1200, 2000, 3].
    """
    square = canonical(image, _MAIN)
    if isinstance(outcome, RefusedError):
        canvas = _frame(model).copy()
        _refusal(canvas, square, outcome)
    else:
        canvas = _frame_of_reading(model).copy()
        _films(canvas, square, outcome, relevant(outcome, thresholds, _HEATMAPS))
        scores.table(canvas, _column(), outcome, thresholds)
        scores.warnings(canvas, _column(), outcome)
    return canvas.pixels()


def _column() -> Column:
    return Column(_COLUMN, SIZE[0] - _COLUMN - _MARGIN, _TOP + 22, _BOTTOM)


@cache
def _frame(model: Model) -> Canvas:
    """Draw what all pictures of a model have in common."""
    canvas = Canvas.blank(*SIZE)
    canvas.text((_MARGIN, 52), "chestxray", Style(40, bold=True))
    canvas.text((_MARGIN, 86), UNVERIFIED, Style(24, DIM))
    canvas.text((SIZE[0] - _MARGIN, 52), NOTE, Style(32, ALERT, bold=True), "rs")
    scores.signature(canvas, _column(), model)
    return canvas


@cache
def _frame_of_reading(model: Model) -> Canvas:
    """Draw what all its readings have in common besides: heads, and the one scale of heat."""
    canvas = _frame(model).copy()
    scores.head(canvas, _column())
    (width, height), right, baseline = _BAR, _MARGIN + _MAIN, _TOP + _MAIN + 42
    ramp = mpl.colormaps[COLOURS](np.linspace(0, 1, width))[:, :3]
    bar = np.rint(255 * np.tile(ramp, (height, 1, 1))).astype(np.uint8)
    canvas.picture((right - width - 34, baseline - height), bar)
    canvas.text((right - width - 44, baseline - 2), "0", Style(20, DIM), "rs")
    canvas.text((right, baseline - 2), "≥1", Style(20, DIM), "rs")
    return canvas


def _films(
    canvas: Canvas, square: npt.NDArray[np.uint8], reading: Reading, shown: list[str]
) -> None:
    first, *others = shown
    canvas.picture((_MARGIN, _TOP), tinted(square, reading.heatmaps[first]))
    call = {True: "called", False: "not called", None: "no threshold"}[reading.calls[first]]
    baseline, right = _TOP + _MAIN + 42, _MARGIN + _MAIN - _BAR[0] - 92
    canvas.text((_MARGIN, baseline), f"{_caption(reading, first)}, {call}", Style(25, bold=True))
    peak = f"heat up to {reading.heatmaps[first].max():.2f}"
    canvas.text((right, baseline - 2), peak, Style(20, DIM), "rs")
    small = cv2.resize(square, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA).astype(np.uint8)
    tiles = [(tinted(small, reading.heatmaps[other]), _caption(reading, other)) for other in others]
    tiles.append((_plain(small), "without heat"))
    for number, (tile, caption) in enumerate(tiles):
        top = _TOP + number * _PITCH
        canvas.picture((_SIDE, top), tile)
        canvas.text((_SIDE, top + _SMALL + 28), caption, Style(20, DIM))


def _caption(reading: Reading, finding: str) -> str:
    return f"{scores.title(finding)} {scores.share(reading.probabilities[finding])}"


def _refusal(canvas: Canvas, square: npt.NDArray[np.uint8], refusal: RefusedError) -> None:
    canvas.picture((_MARGIN, _TOP), _plain(square))
    canvas.text((_SIDE, _TOP + 100), "NOT READ", Style(110, ALERT, bold=True))
    column = Column(_SIDE, SIZE[0] - _SIDE - _MARGIN, _TOP + 190, _BOTTOM - 90)
    reasons = [
        (_sentence(str(notice)), Style(42, INK, bold=True) if notice.refuses else Style(28, DIM))
        for notice in sorted(refusal.notices, key=lambda notice: not notice.refuses)
    ]
    baseline = canvas.paragraphs(column, reasons, 4, "more in the report")
    canvas.text((_SIDE, baseline + 30), NOTHING_SAID, Style(32))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(square[..., None], 3, axis=2)
