"""The right column of the picture: findings in figures, warnings, and who says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chestxray import __version__
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects.canvas import ALERT, DIM, INK, PANEL, Canvas, Column, Style
from chestxray.serving.gateway.objects.identity import Model
from chestxray.serving.gateway.objects.ranking import Thresholds, ranked

_ROW: Final = 42
_MARKS: Final = {True: "CALLED", False: "", None: "no thresh."}


def table(canvas: Canvas, column: Column, reading: Reading, thresholds: Thresholds) -> None:
    """Write all findings with probability, threshold and call, the most relevant first."""
    head = ("finding", "probability", "threshold", "")
    _row(canvas, column, column.top, head, [Style(19, DIM)] * 4)
    for number, finding in enumerate(ranked(reading, thresholds), start=1):
        called = reading.calls[finding]
        baseline = column.top + number * _ROW
        if called:
            canvas.box((column.left - 14, baseline - 29), (column.width + 22, _ROW - 3), PANEL)
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
    canvas.text((column.left, baseline), texts[0], styles[0])
    for edge, text, style in zip((0.63, 0.82, 1.0), texts[1:], styles[1:], strict=True):
        canvas.text((column.left + round(edge * column.width), baseline), text, style, "rs")


def warnings(canvas: Canvas, column: Column, sentences: Sequence[str]) -> None:
    """Write why not to trust the figures, below the table."""
    below = column._replace(top=column.top + 15 * _ROW + 16)
    written = [(f"Warning: {sentence}", Style(19, ALERT)) for sentence in sentences]
    canvas.paragraphs(below, written, 3, "more warnings, in the report")


def signature(canvas: Canvas, column: Column, model: Model) -> None:
    """Write what read the radiograph, at the foot of the column."""
    read = f"{model.name}, chestxray {__version__}"
    foot = column._replace(top=column.bottom + 40, bottom=column.bottom + 120)
    lines = [(read, Style(18, DIM)), (f"trained on {model.data}", Style(18, DIM))]
    canvas.paragraphs(foot, lines, 1, "more")


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
