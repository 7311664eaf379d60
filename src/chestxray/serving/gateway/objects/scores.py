"""The right column of the picture: findings in figures, warnings, and who says so.

A column is its left edge and its width, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chestxray import __version__
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects.canvas import ALERT, DIM, INK, PANEL, Canvas, Style
from chestxray.serving.gateway.objects.identity import Model
from chestxray.serving.gateway.objects.ranking import Thresholds, ranked

Column = tuple[int, int]

_TOP: Final = 128
_ROW: Final = 42
_WARNINGS: Final = _TOP + 15 * _ROW + 40
_SIGNATURE: Final = 1122
_LINE: Final = 26
_MARKS: Final = {True: "CALLED", False: "", None: "no thresh."}


def table(canvas: Canvas, column: Column, reading: Reading, thresholds: Thresholds) -> None:
    """Write all findings with probability, threshold and call, the most relevant first."""
    left, width = column
    head = ("finding", "probability", "threshold", "")
    _row(canvas, column, _TOP, head, [Style(19, DIM)] * 4)
    for number, finding in enumerate(ranked(reading, thresholds), start=1):
        called = reading.calls[finding]
        baseline = _TOP + number * _ROW
        if called:
            canvas.box((left - 14, baseline - 29), (width + 22, _ROW - 3), PANEL)
        colour = ALERT if called else INK
        strong, weak = Style(24, colour, bold=bool(called)), Style(22, DIM)
        texts = (
            title(finding),
            share(reading.probabilities[finding]),
            share(thresholds[finding]),
            _MARKS[called],
        )
        mark = Style(18, ALERT if called else DIM, bold=bool(called))
        _row(canvas, column, baseline, texts, [strong, strong, weak, mark])


def _row(
    canvas: Canvas, column: Column, baseline: int, texts: Sequence[str], styles: Sequence[Style]
) -> None:
    left, width = column
    canvas.text((left, baseline), texts[0], styles[0])
    for edge, text, style in zip((0.63, 0.82, 1.0), texts[1:], styles[1:], strict=True):
        canvas.text((left + round(edge * width), baseline), text, style, "rs")


def warnings(canvas: Canvas, column: Column, sentences: Sequence[str]) -> None:
    """Write why not to trust the figures; what does not fit is counted."""
    left, width = column
    baseline = _WARNINGS
    for number, sentence in enumerate(sentences):
        if baseline > _SIGNATURE - 4 * _LINE:
            rest = f"and {len(sentences) - number} more warnings, in the report"
            canvas.text((left, baseline), rest, Style(19, ALERT))
            return
        text = f"Warning: {sentence}"
        baseline = 8 + canvas.paragraph((left, baseline), width, text, Style(19, ALERT), most=3)


def signature(canvas: Canvas, column: Column, model: Model) -> None:
    """Write what read the radiograph."""
    left, width = column
    baseline = _SIGNATURE
    for line in (
        f"{model.name}, chestxray {__version__}",
        f"trained on {model.data}",
    ):
        baseline = 3 + canvas.paragraph((left, baseline), width, line, Style(18, DIM), most=2)


def title(finding: str) -> str:
    """Write a finding for people."""
    return finding.replace("_", " ")


def share(value: float | None) -> str:
    """Write a share in percent; what is not 0 or 1 is never rounded to it."""
    if value is None:
        return "none"
    if 0 < value < 0.0005:
        return "<0.1 %"
    if 0.9995 <= value < 1:
        return ">99.9 %"
    return f"{value:.1%}".replace("%", " %")
