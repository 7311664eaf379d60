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
_NONE_CALLED: Final = "No finding is called. That rules none of them out."
_MARKS: Final = {True: "CALLED", False: "", None: ""}


def table(canvas: Canvas, column: Column, reading: Reading, thresholds: Thresholds) -> None:
    """Write all findings with probability, threshold and call, the most relevant first."""
    for number, finding in enumerate(ranked(reading, thresholds), start=1):
        called = reading.calls[finding]
        baseline = column.top + number * _ROW
        if called:
            canvas.box((column.left - 14, baseline - 29), (column.width + 22, _ROW - 3), PANEL)
        colour = ALERT if called else INK
        strong, weak = Style(23, colour, bold=bool(called)), Style(22, DIM)
        figure, limit = figures(reading.probabilities[finding], thresholds[finding])
        mark = Style(20, ALERT if called else DIM, bold=bool(called))
        styles = [strong, _fitting(figure, strong), _fitting(limit, weak), mark]
        _row(canvas, column, baseline, (title(finding), figure, limit, _MARKS[called]), styles)


def _fitting(figure: str, style: Style) -> Style:
    """Write a figure of more digits than usual smaller, so that it stays in its column."""
    return style._replace(size=style.size - 2 * max(0, len(figure) - len("12.3 %")))


def head(canvas: Canvas, column: Column) -> None:
    """Write what stands in the table's columns."""
    names = ("finding", "probability", "threshold", "")
    _row(canvas, column, column.top, names, [Style(19, DIM)] * 4)


def _row(
    canvas: Canvas, column: Column, baseline: int, texts: Sequence[str], styles: Sequence[Style]
) -> None:
    canvas.text((column.left, baseline), texts[0], styles[0])
    for edge, text, style in zip((0.64, 0.83, 1.0), texts[1:], styles[1:], strict=True):
        canvas.text((column.left + round(edge * column.width), baseline), text, style, "rs")


def warnings(canvas: Canvas, column: Column, reading: Reading) -> None:
    """Write below the table how not to take it."""
    below = column._replace(top=column.top + 15 * _ROW + 12)
    written = [(f"Warning: {warning}", Style(22, ALERT)) for warning in reading.warnings]
    if not any(reading.calls.values()):
        written.insert(0, (_NONE_CALLED, Style(22, INK)))
    canvas.paragraphs(below, written, 3, "more warnings in the report")


def signature(canvas: Canvas, column: Column, model: Model) -> None:
    """Write what read the radiograph, at the foot of the column."""
    foot = column._replace(top=column.bottom + 34, bottom=column.bottom + 150)
    read = f"{model.name}, chestxray {__version__}"
    lines = [(read, Style(20, DIM)), (f"trained on {model.data}", Style(20, DIM))]
    canvas.paragraphs(foot, lines, 2, "more")


def title(finding: str) -> str:
    """Write a finding for people."""
    return finding.replace("_", " ")


def figures(probability: float, threshold: float | None) -> tuple[str, str]:
    """Write both, with up to two more digits where it takes them to tell the two apart."""
    pairs = [(share(probability, digits), share(threshold, digits)) for digits in (1, 2, 3)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])


def share(value: float | None, digits: int = 1) -> str:
    """Write a share in percent; what is not 0 or 1 is never rounded to it."""
    if value is None:
        return "none"
    least = 10**-digits
    if 0 < 100 * value < least / 2:
        return f"<{least:.{digits}f} %"
    if 100 - least / 2 <= 100 * value < 100:
        return f">{100 - least:.{digits}f} %"
    return f"{100 * value:.{digits}f} %"
