"""Drawings as SVG inside the page, or as SVG, PDF and PNG files with several panels for print.

Colours are drawn as the light scheme has them. Inside the page each is replaced by its variable in
the style sheet, so that figures follow the light and the dark scheme; files keep the colours. The
two series colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish;
line style or marker differs too. Text stays text, in the font of the page.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chestxray.artifacts import write_text, written
from chestxray.reporting.print_style import JOURNAL, NOMINAL, PrintStyle

INK: Final = "#1d2733"
QUIET: Final = "#5b6875"
FAINT: Final = "#a9b3bd"
FIRST: Final = "#0072b2"
SECOND: Final = "#d55e00"
SERIES: Final = (FIRST, SECOND, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of several series, as Okabe and Ito (2008) give them."""
LINES: Final = ("-", "--", "-.", ":")
VARIABLES: Final = {
    INK: "--ink", QUIET: "--quiet", FAINT: "--faint", FIRST: "--first", SECOND: "--second",
}  # fmt: skip

BAND: Final = 0.2  # opacity of an interval around a curve

_CAPTION: Final = 0.08  # inches above a panel with a caption, in files
_LINE: Final = 0.12  # inches of one line of a caption or a note
_NOTE: Final = 0.1  # inches of room around a note
_NOTE_LETTERS: Final = 23  # an inch
_CAPTION_LETTERS: Final = 15  # an inch
_LEAST_WIDTH: Final = 3.4  # inches of a file, so that its note has room
_DPI: Final = 300  # of PNG files, which is what journals ask for

Margins = tuple[float, float, float, float]

_STYLE: Final = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "pdf.fonttype": 42,  # text that stays text: journals refuse Type 3 fonts
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}
_POINTS: Final = {
    "axes.labelpad": 4.0,
    "axes.linewidth": 0.6,
    "font.size": NOMINAL,
    "xtick.major.pad": 3.5,
    "xtick.major.size": 3.5,
    "xtick.major.width": 0.6,
    "ytick.major.pad": 3.5,
    "ytick.major.size": 3.5,
    "ytick.major.width": 0.6,
}
"""What grows with the text."""


@dataclass(frozen=True)
class Drawing:
    """One panel.

    Attributes:
        title: what the figure shows, as its text alternative. It seeds the names inside the SVG,
            too, so no two figures of the page may share it.
        inches: width and height.
        margins: left, bottom, right and top of the axes, inches. Fixed, because finding them
            takes longer than all the drawing.
        draw: draws on the axes.
    """

    title: str
    inches: tuple[float, float]
    margins: Margins
    draw: Callable[[Axes], None]


_Panels = Sequence[tuple[str, Drawing]]


_scale = ContextVar("scale", default=1.0)


def scaled(points: float) -> float:
    """Give points that grow with the text of the figure that is being drawn."""
    return _scale.get() * points


@contextmanager
def _in_style(scale: float, salt: str = "") -> Iterator[None]:
    """Set what a figure of this scale looks like, and what its SVG's names are made of."""
    grown = {name: scale * value for name, value in _POINTS.items()}
    style: Any = _STYLE | grown | {"svg.hashsalt": salt or None}
    before = _scale.set(scale)
    try:
        with mpl.rc_context(style):
            yield
    finally:
        _scale.reset(before)


def inline(drawing: Drawing) -> str:
    """Give an `<svg>` element that scales with its container and follows the page's colours."""
    text = _svg([[("", drawing)]], drawing.title)
    text = text[text.index("<svg") :]
    for part in (r' (?:width|height)="[\d.]+pt"', r" font-family: [^;]*;"):
        text = re.sub(part, "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    label = escape(drawing.title, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def save(
    path: Path,
    panels: _Panels,
    columns: int,
    title: str,
    note: str,
    style: PrintStyle = JOURNAL,
) -> None:
    """Write panels as SVG, PDF and PNG files at the size of print; numbered ones if too tall.

    Args:
        path: of the SVG file; `roc.svg` becomes `roc-1.svg`, `roc-2.svg`, … where one page is not
            enough. The PDF and the PNG file, 300 dpi on white, have the same name.
        panels: caption and drawing of each.
        columns: how many are drawn side by side, where the page is wide enough.
        title: of the figure.
        note: what its marks mean.
        style: size of the text and the page.
    """
    columns = style.columns(columns, max(drawing.inches[0] for _, drawing in panels))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    pages = _pages(rows, style.height / style.scale)
    names = []
    for place, rows in enumerate(pages, start=1):
        name, label = path, title
        if len(pages) > 1:
            name = path.with_stem(f"{path.stem}-{place}")
            label = f"{title} ({place} of {len(pages)})"
        write_text(name, _document(rows, label, note, style.scale))
        _save_print(name, rows, label, note, style.scale)
        names.append(name.stem)
    _remove_earlier(path, names)


def _remove_earlier(path: Path, names: Sequence[str]) -> None:
    """Remove pages of an earlier drawing of a figure, which had more or fewer of them."""
    of_figure = re.compile(rf"{re.escape(path.stem)}(-\d+)?")
    for file in path.parent.glob(f"{path.stem}*"):
        if of_figure.fullmatch(file.stem) and file.stem not in names:
            file.unlink()


def _save_print(path: Path, rows: Sequence[_Panels], title: str, note: str, scale: float) -> None:
    """Write the PDF and the PNG file beside an SVG file."""
    with _in_style(scale):
        figure = _figure(rows, note, scale)
        about = {"pdf": {"Title": title, "CreationDate": None}, "png": {"Title": title}}
        for kind, metadata in about.items():
            with written(path.with_suffix(f".{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=_DPI, metadata=metadata)


def wrapped(name: str, letters: int) -> list[str]:
    """Break a name into lines of at most `letters` characters."""
    return textwrap.wrap(name, letters, break_long_words=True) or [""]


def _document(rows: Sequence[_Panels], title: str, note: str, scale: float) -> str:
    svg = _svg(rows, title, note, scale).replace(
        "<svg", '<svg role="img" font-family="Arial, Helvetica, Liberation Sans, sans-serif"', 1
    )
    end = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:end]}\n <title>{escape(title)}</title>{svg[end:]}"


def _pages(rows: Sequence[_Panels], most: float) -> list[list[_Panels]]:
    """Distribute rows of panels over pages of at most this height, in their order."""
    pages: list[list[_Panels]] = [[]]
    height = 0.0
    for row in rows:
        if pages[-1] and height + _height(row) > most:
            pages.append([])
            height = 0.0
        pages[-1].append(row)
        height += _height(row)
    return pages


def _captions(row: _Panels) -> list[str]:
    """Break the captions of a row to the width of their panels."""
    return [
        "\n".join(wrapped(caption, int(drawing.inches[0] * _CAPTION_LETTERS)))
        for caption, drawing in row
    ]


def _above(row: _Panels) -> float:
    """Give the inches that the captions of a row take above its panels."""
    if not any(caption for caption, _ in row):
        return 0.0
    return _CAPTION + _LINE * max(caption.count("\n") + 1 for caption in _captions(row))


def _height(row: _Panels) -> float:
    return max(drawing.inches[1] for _, drawing in row) + _above(row)


def _svg(rows: Sequence[_Panels], title: str, note: str = "", scale: float = 1.0) -> str:
    """Give an SVG document without what only matplotlib needs."""
    file = io.StringIO()
    with _in_style(scale, title):
        figure = _figure(rows, note, scale)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
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


def _figure(rows: Sequence[_Panels], note: str, scale: float) -> Figure:
    """Draw rows of panels on one figure, in the style that is in force.

    Lengths are nominal; text and lines in points are scaled, and so is the whole figure.
    """
    width = max(sum(drawing.inches[0] for _, drawing in row) for row in rows)
    width = max(width, _LEAST_WIDTH) if note else width
    lines = wrapped(note, int(width * _NOTE_LETTERS)) if note else []
    foot = _NOTE + _LINE * len(lines) if note else 0.0
    size = (width, sum(map(_height, rows)) + foot)
    figure = Figure(figsize=(scale * size[0], scale * size[1]))
    foot_text = "\n".join(lines)
    figure.text(0.04 / size[0], 0.06 / size[1], foot_text, size=scaled(6.5), color=QUIET)
    top = size[1]
    for row in rows:
        left, above = 0.0, _above(row)
        for caption, (_, drawing) in zip(_captions(row), row, strict=True):
            axes = figure.add_axes(_frame(drawing, (left, top - above), size))
            drawing.draw(axes)
            _widen(axes, scale)
            figure.text(
                (left + 0.04) / size[0], (top - 0.03) / size[1], caption, weight="bold", va="top"
            )
            left += drawing.inches[0]
        top -= _height(row)
    return figure


def _widen(axes: Axes, scale: float) -> None:
    """Scale the width of lines and the size of markers, as their text is scaled."""
    legend = axes.get_legend()
    for line in (*axes.lines, *(legend.get_lines() if legend else ())):
        line.set_linewidth(scale * line.get_linewidth())
        line.set_markersize(scale * line.get_markersize())
        line.set_markeredgewidth(scale * line.get_markeredgewidth())
    for drawn in axes.collections:
        drawn.set_linewidth(
            [scale * float(width) for width in np.atleast_1d(drawn.get_linewidth())]
        )


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
