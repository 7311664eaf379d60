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

from typing import Final

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from chestxray.dataset.pixels import Grey, canonical
from chestxray.errors import RefusedError
from chestxray.reading.overlay import COLOURS, blend
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects import scores
from chestxray.serving.gateway.objects.canvas import ALERT, DIM, INK, Canvas, Column, Style
from chestxray.serving.gateway.objects.identity import NOTE, UNVERIFIED, Model
from chestxray.serving.gateway.objects.ranking import Thresholds, relevant

SIZE: Final = (2000, 1200)

_MARGIN: Final = 28
_TOP: Final = 106
_BOTTOM: Final = 1082
_MAIN: Final = 1004
_SMALL: Final = 306
_PITCH: Final = 349
_SIDE: Final = _MARGIN + _MAIN + 26
_COLUMN: Final = _SIDE + _SMALL + 40
_HEATMAPS: Final = 3


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
    canvas = Canvas(*SIZE)
    square = canonical(image, _MAIN)
    column = Column(_COLUMN, SIZE[0] - _COLUMN - _MARGIN, _TOP + 22, _BOTTOM)
    _header(canvas)
    if isinstance(outcome, RefusedError):
        _refusal(canvas, square, outcome)
    else:
        _films(canvas, square, outcome, relevant(outcome, thresholds, _HEATMAPS))
        scores.table(canvas, column, outcome, thresholds)
        scores.warnings(canvas, column, [str(warning) for warning in outcome.warnings])
    scores.signature(canvas, column, model)
    return canvas.pixels()


def _header(canvas: Canvas) -> None:
    canvas.text((_MARGIN, 52), "chestxray", Style(40, bold=True))
    canvas.text((_MARGIN, 85), UNVERIFIED, Style(21, DIM))
    canvas.text((SIZE[0] - _MARGIN, 52), NOTE, Style(32, ALERT, bold=True), "rs")


def _films(
    canvas: Canvas, square: npt.NDArray[np.uint8], reading: Reading, shown: list[str]
) -> None:
    first, *others = shown
    canvas.picture((_MARGIN, _TOP), blend(square, reading.heatmaps[first]))
    baseline = _TOP + _MAIN + 42
    canvas.text((_MARGIN, baseline), _caption(reading, first), Style(32, INK, bold=True))
    _colour_bar(canvas, baseline)
    small = cv2.resize(square, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA).astype(np.uint8)
    tiles = [(blend(small, reading.heatmaps[other]), _caption(reading, other)) for other in others]
    tiles.append((_plain(small), "without heat"))
    for number, (tile, caption) in enumerate(tiles):
        top = _TOP + number * _PITCH
        canvas.picture((_SIDE, top), tile)
        canvas.text((_SIDE, top + _SMALL + 27), caption, Style(18, DIM))


def _caption(reading: Reading, finding: str) -> str:
    call = {True: "called", False: "not called", None: "no threshold"}[reading.calls[finding]]
    return f"{scores.title(finding)} {scores.share(reading.probabilities[finding])}, {call}"


def _colour_bar(canvas: Canvas, baseline: int) -> None:
    """Draw the one scale of all heatmaps, under the right end of the first."""
    width, right = 190, _MARGIN + _MAIN
    ramp = mpl.colormaps[COLOURS](np.linspace(0, 1, width))[:, :3]
    bar = np.rint(255 * np.tile(ramp, (18, 1, 1))).astype(np.uint8)
    canvas.picture((right - width - 32, baseline - 18), bar)
    canvas.text((right - width - 42, baseline - 2), "heat 0", Style(18, DIM), "rs")
    canvas.text((right, baseline - 2), "≥1", Style(18, DIM), "rs")


def _refusal(canvas: Canvas, square: npt.NDArray[np.uint8], refusal: RefusedError) -> None:
    canvas.picture((_MARGIN, _TOP), _plain(square))
    canvas.text((_SIDE, _TOP + 100), "NOT READ", Style(110, ALERT, bold=True))
    column = Column(_SIDE, SIZE[0] - _SIDE - _MARGIN, _TOP + 190, _BOTTOM - 90)
    reasons = [
        (_sentence(str(notice)), Style(42, INK, bold=True) if notice.refuses else Style(28, DIM))
        for notice in refusal.notices
    ]
    baseline = canvas.paragraphs(column, reasons, 4, "more reasons, in the report")
    canvas.text((_SIDE, baseline + 30), "No finding was looked for.", Style(32))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(square[..., None], 3, axis=2)
