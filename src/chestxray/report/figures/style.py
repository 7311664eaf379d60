"""How a drawing becomes SVG inside the page, or a plate of panels in a file for print.

Colours are drawn as the light scheme has them. Inside the page each is exchanged for its name in
the style sheet, so that figures follow the light and the dark scheme; files keep the colours. The
two series colours are Okabe and Ito's (2008), which colour-blind readers tell apart; line style or
marker tells them apart too. Text is text, in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chestxray.artifacts import write_text

INK: Final = "#1d2733"
QUIET: Final = "#5b6875"
FAINT: Final = "#a9b3bd"
FIRST: Final = "#0072b2"
SECOND: Final = "#d55e00"
VARIABLES: Final = {
    INK: "--ink", QUIET: "--quiet", FAINT: "--faint", FIRST: "--first", SECOND: "--second",
}  # fmt: skip

BAND: Final = 0.2  # opacity of an interval around a curve
HEADLINE: Final = 0.2  # inches above a panel for its caption, in files
FOOT: Final = 0.22  # inches below the panels for the note, in files

Margins = tuple[float, float, float, float]

_STYLE: Final = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 7.5,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "ytick.major.width": 0.6,
}


@dataclass(frozen=True)
class Drawing:
    """What is drawn on one pair of axes.

    Attributes:
        title: what the figure shows, for who cannot see it. It also seeds the names inside, so it
            must be the only one of its kind on the page; the same figure is the same text.
        inches: width and height.
        margins: left, bottom, right and top of the axes, inches. Given, since having them found
            takes longer than all the drawing.
        draw: draws it.
    """

    title: str
    inches: tuple[float, float]
    margins: Margins
    draw: Callable[[Axes], None]


def inline(drawing: Drawing) -> str:
    """Give an `<svg>` element that scales with its container and follows the page's colours."""
    text = _svg([("", drawing)], 1, drawing.title)
    text = text[text.index("<svg") :]
    for part in (r' (?:width|height)="[\d.]+pt"', r" font-family: [^;]*;"):
        text = re.sub(part, "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    label = escape(drawing.title, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def save(
    path: Path, panels: Sequence[tuple[str, Drawing]], columns: int, title: str, note: str
) -> None:
    """Write a plate of panels as an SVG file, at the size of print.

    Args:
        path: the file.
        panels: caption and drawing of each; all of one size, or in one column.
        columns: how many stand side by side.
        title: of the plate.
        note: what its marks mean.
    """
    label = escape(title)
    svg = _svg(panels, columns, title, note).replace(
        "<svg", '<svg role="img" font-family="Arial, Helvetica, Liberation Sans, sans-serif"', 1
    )
    svg = re.sub(r"(<svg[^>]*>)", rf"\1\n <title>{label}</title>", svg, count=1)
    write_text(path, svg)


def _svg(panels: Sequence[tuple[str, Drawing]], columns: int, title: str, note: str = "") -> str:
    """Give an SVG document without what only matplotlib needs."""
    file = io.StringIO()
    style: Any = _STYLE | {"svg.hashsalt": title}
    with mpl.rc_context(style):
        plate = _plate(panels, columns, note)
        plate.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    for part in (
        r"<metadata>.*?</metadata>",
        r"<style .*?</style>",
        r"<!DOCTYPE.*?>",
        r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|\w+Collection)_\d+"',
        r' transform="rotate\(-0 [^"]*"',
    ):
        text = re.sub(part, "", text, flags=re.DOTALL)
    return re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)


def _plate(panels: Sequence[tuple[str, Drawing]], columns: int, note: str) -> Figure:
    """Draw panels in rows on one figure, in the style that is in force."""
    headline = HEADLINE if any(caption for caption, _ in panels) else 0.0
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(drawing.inches[1] for _, drawing in row) + headline for row in rows]
    width = max(sum(drawing.inches[0] for _, drawing in row) for row in rows)
    size = (width, sum(heights) + (FOOT if note else 0))
    figure = Figure(figsize=size)
    figure.text(0.04 / size[0], 0.06 / size[1], note, size=6.5, color=QUIET)
    top = size[1]
    for row, height in zip(rows, heights, strict=True):
        left = 0.0
        for caption, drawing in row:
            drawing.draw(figure.add_axes(_frame(drawing, (left, top - headline), size)))
            figure.text(
                (left + 0.04) / size[0], (top - 0.13) / size[1], caption, weight="bold", size=7.5
            )
            left += drawing.inches[0]
        top -= height
    return figure


def _frame(
    drawing: Drawing, corner: tuple[float, float], size: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Give the axes' rectangle as fractions of the figure; `corner` is the panel's top left."""
    left, bottom, right, top = drawing.margins
    width, height = drawing.inches
    return (
        (corner[0] + left) / size[0],
        (corner[1] - height + bottom) / size[1],
        (width - left - right) / size[0],
        (height - bottom - top) / size[1],
    )
