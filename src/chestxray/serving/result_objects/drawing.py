"""Draws text, boxes and images, and the table of findings, on the picture of a reading.

Pillow writes text in DejaVu Sans, the font that matplotlib ships, so a picture looks the same on
every machine. The table lists findings by the distance of their probability above their threshold
in log-odds, as the viewer does, so the called ones come first; those that are not assessed come
last, in words. Where not all fit, it says how many are missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from chestxray.evaluation.logistic_regression import log_odds
from chestxray.findings import label
from chestxray.reading.reader import Reading
from chestxray.serving.result_objects.instance import Model, refusals
from chestxray.version import __version__

_DARK: Final = "#101114"
_PANEL: Final = "#1b1d22"
INK: Final = "#f2f2f2"
DIM: Final = "#a9adb5"
ALERT: Final = "#ffc24a"

Thresholds = Mapping[str, float | None]
"""Finding → probability from which it is called; None without a threshold."""

_FONTS: Final = Path(mpl.get_data_path()) / "fonts" / "ttf"
_LINE_HEIGHT: Final = 1.35  # of a paragraph, in font sizes
_EDGES: Final = (0.64, 0.83, 1.0)  # right edges of the table's columns, in its width
_SMALLEST: Final = 0.72  # font size of a long name, in that of a short one
_NONE_CALLED: Final = "No finding is called. This does not rule out any finding."
_NOT_ASSESSED: Final = "Not assessed, for lack of evidence in validation:"
_MARKS: Final = {True: "CALLED", False: "", None: "not assessed"}


class Style(NamedTuple):
    """How text looks: font size in pixels, colour, weight."""

    size: int
    colour: str = INK
    bold: bool = False


class Column(NamedTuple):
    """Where text is written: left edge and width, first and last baseline, in pixels."""

    left: int
    width: int
    top: int
    bottom: int


class _Rows(NamedTuple):
    """The rows of a table of findings: their height in pixels, and how many findings are listed."""

    height: int
    listed: int


_ROOMY: Final = _Rows(42, 14)
_DENSE: Final = _Rows(33, 17)

_Pixels = npt.NDArray[np.uint8]


class Canvas:
    """An image to draw on; positions are pixels of the layout from its top left corner.

    Attributes:
        scale: pixels of the image, in those of the layout.
    """

    def __init__(self, planes: _Pixels, scale: float = 1.0) -> None:
        self.scale = scale
        self._planes = planes  # uint8 [3, h, w]: a plane is written to faster than every third byte

    @classmethod
    def blank(cls, width: int, height: int, scale: float = 1.0) -> Canvas:
        """Make an empty canvas of a layout's width and height."""
        planes = np.empty((3, round(scale * height), round(scale * width)), np.uint8)
        planes[:] = _rgb(_DARK)
        return cls(planes, scale)

    def copy(self) -> Canvas:
        """Make an independent copy."""
        return Canvas(self._planes.copy(), self.scale)

    def pixels_of(self, length: int) -> int:
        """Give a length of the layout in pixels of the image."""
        return round(self.scale * length)

    def pixels(self) -> _Pixels:
        """Give RGB uint8 [h, w, 3], as a view of this canvas."""
        return np.moveaxis(self._planes, 0, -1)

    def image(self, at: tuple[int, int], image: _Pixels) -> None:
        """Place an image, RGB [h, w, 3] or grey [h, w], in pixels of the image."""
        top, left = self.pixels_of(at[1]), self.pixels_of(at[0])
        height, width = image.shape[:2]
        planes = image if image.ndim == 2 else np.moveaxis(image, -1, 0)
        self._planes[:, top : top + height, left : left + width] = planes

    def box(self, at: tuple[int, int], size: tuple[int, int], colour: str) -> None:
        """Fill a rectangle of a width and a height."""
        left, top, right, bottom = map(
            self.pixels_of, (at[0], at[1], at[0] + size[0], at[1] + size[1])
        )
        self._planes[:, top:bottom, left:right] = _rgb(colour)

    def text(self, at: tuple[int, int], text: str, style: Style, anchor: str = "ls") -> None:
        """Write a line; `anchor` is Pillow's, by default left on the baseline."""
        if not text:
            return
        (left, top), ink = _ink(text, style, anchor, self.scale)
        left, top = left + self.pixels_of(at[0]), top + self.pixels_of(at[1])
        ink.lay_on(self._planes, left, top)

    def paragraph(
        self, at: tuple[int, int], width: int, text: str, style: Style, most: int = 99
    ) -> int:
        """Write text in lines of a maximum width.

        Args:
            at: left edge and first baseline.
            width: pixels.
            text: the text.
            style: of the text.
            most: maximum number of lines; an ellipsis ends text that does not fit.

        Returns:
            The baseline of the next line.
        """
        left, baseline = at
        for line in _wrapped(text, width, style, most):
            self.text((left, baseline), line, style)
            baseline += round(_LINE_HEIGHT * style.size)
        return baseline

    def paragraphs(
        self, column: Column, written: Sequence[tuple[str, Style]], lines: int, more: str
    ) -> int:
        """Write as many texts below each other as fit.

        Args:
            column: where.
            written: texts and their styles.
            lines: maximum number of lines of one text.
            more: what to write after the number of texts that do not fit.

        Returns:
            The baseline after the last text.
        """
        baseline = column.top
        for number, (text, style) in enumerate(written):
            left_out = len(written) - number
            rows = len(_wrapped(text, column.width, style, lines)) + (left_out > 1)
            if baseline + (rows - 1) * round(_LINE_HEIGHT * style.size) > column.bottom:
                self.text((column.left, baseline), f"and {left_out} {more}", style)
                return baseline + round(_LINE_HEIGHT * style.size)
            at = (column.left, baseline)
            baseline = style.size // 2 + self.paragraph(at, column.width, text, style, lines)
        return baseline


@lru_cache(256)
def _wrapped(text: str, width: int, style: Style, most: int) -> list[str]:
    """Break text into at most `most` lines that fit a width, breaking words that are too long."""
    rows = [""]
    for word in text.split():
        pieces = _broken(word, width, style)
        for piece in pieces:
            longer = f"{rows[-1]} {piece}".strip()
            if _width(longer, style) <= width:
                rows[-1] = longer
            else:
                rows.append(piece)
    if len(rows) <= most:
        return rows
    return [*rows[: most - 1], f"{rows[most - 1][:-2]}…"]


def fitted(name: str, rest: str, width: int, style: Style, least: int) -> tuple[str, Style]:
    """Fit a name and a text that follows it into one line.

    Args:
        name: shortened by an ellipsis where the smallest font is still too large.
        rest: never shortened.
        width: pixels.
        style: used where it fits.
        least: smallest font size.

    Returns:
        The line and its style.
    """
    while _width(name + rest, style) > width and style.size > least:
        style = style._replace(size=style.size - 1)
    short = name
    while _width(short + rest, style) > width and len(short) > 1:
        name = name[:-1]
        short = name.rstrip() + "…"
    return short + rest, style


def table(canvas: Canvas, column: Column, reading: Reading, thresholds: Thresholds) -> int:
    """Write findings with probability, threshold and call, the most relevant first.

    Returns:
        The baseline below the table.
    """
    order = _ranked(reading, thresholds)
    rows = _ROOMY if len(order) <= _ROOMY.listed else _DENSE
    listed = order if len(order) == rows.listed + 1 else order[: rows.listed]  # a line says as much
    baseline = column.top
    for finding in listed:
        baseline += rows.height
        _row_of(finding, canvas, column, baseline, rows.height, reading, thresholds)
    hidden = order[len(listed) :]
    if hidden:
        baseline += rows.height
        canvas.text((column.left, baseline), _hidden(hidden, reading), Style(18, INK))
    return baseline


def head(canvas: Canvas, column: Column) -> None:
    """Write the heads of the table's columns."""
    names = ("finding", "probability", "threshold", "")
    _row(canvas, column, column.top, names, [Style(19, DIM)] * 4)


def warnings(canvas: Canvas, column: Column, reading: Reading) -> None:
    """Write the warnings of a reading, what is not assessed, and that nothing is called."""
    others = [warning for warning in reading.warnings if not warning.refuses]
    written = [(f"Warning: {warning}", Style(22, ALERT)) for warning in others]
    unassessed = [label(finding) for finding, call in reading.calls.items() if call is None]
    if unassessed:
        which = ", ".join(unassessed)
        written.insert(0, (f"{_NOT_ASSESSED} {which}", Style(22, INK)))
    if not any(reading.calls.values()):
        written.insert(0, (_NONE_CALLED, Style(22, INK)))
    if reading.forced:
        first, *reasons = refusals(reading)
        written = [(reason, Style(22, ALERT)) for reason in reasons] + written
        written.insert(0, (first, Style(30, ALERT, bold=True)))
    canvas.paragraphs(column, written, 3, "more in the report")


def signature(canvas: Canvas, column: Column, model: Model) -> None:
    """Write what read the radiograph, at the foot of the column."""
    foot = column._replace(top=column.bottom + 34, bottom=column.bottom + 150)
    read = f"{model.name}, chestxray {__version__}"
    lines = [(read, Style(20, DIM)), (f"trained on {model.data}", Style(20, DIM))]
    canvas.paragraphs(foot, lines, 2, "more")


def _ranked(reading: Reading, thresholds: Thresholds) -> list[str]:
    """Give all findings, the most relevant first and those without a threshold last."""
    reached = log_odds(np.array(list(reading.probabilities.values())))
    limits = [thresholds[finding] for finding in reading.probabilities]
    needed = log_odds(np.array([0.5 if limit is None else limit for limit in limits]))
    above = zip(reading.probabilities, limits, (reached - needed).tolist(), strict=True)
    relevance = {
        finding: (False, reading.probabilities[finding]) if limit is None else (True, distance)
        for finding, limit, distance in above
    }
    return sorted(relevance, key=relevance.__getitem__, reverse=True)


def relevant(reading: Reading, thresholds: Thresholds, most: int) -> list[str]:
    """Give the findings whose heat is shown: at most `most` called ones, or the nearest to it."""
    order = _ranked(reading, thresholds)
    called = [finding for finding in order if reading.calls[finding]]
    return called[:most] or order[:1]


def _percentages(probability: float, threshold: float | None) -> tuple[str, str]:
    """Write both, with up to two more digits where it takes them to differ."""
    pairs = [(percent(probability, digits), percent(threshold, digits)) for digits in (1, 2, 3)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share in percent; a share that is not 0 or 1 is never rounded to it."""
    if value is None:
        return "none"
    least = 10**-digits
    if 0 < 100 * value < least / 2:
        return f"<{least:.{digits}f} %"
    if 100 - least / 2 <= 100 * value < 100:
        return f">{100 - least:.{digits}f} %"
    return f"{100 * value:.{digits}f} %"


def _row_of(
    finding: str,
    canvas: Canvas,
    column: Column,
    baseline: int,
    height: int,
    reading: Reading,
    thresholds: Thresholds,
) -> None:
    called = reading.calls[finding]
    if called:
        top, high = baseline - round(0.69 * height), height - 3
        canvas.box((column.left - 14, top), (column.width + 22, high), _PANEL)
    smaller = 0 if height == _ROOMY.height else 3
    colour = ALERT if called else INK
    strong = Style(23 - smaller, colour, bold=bool(called))
    weak = Style(22 - smaller, DIM)
    shown, limit = _percentages(reading.probabilities[finding], thresholds[finding])
    if called is None:
        limit = ""  # the words "not assessed" take its place
    mark = Style(18 - smaller, ALERT if called else DIM, bold=bool(called))
    styles = [strong, _narrowed(shown, strong), _narrowed(limit, weak), mark]
    room = round(_EDGES[0] * column.width - _width(shown, styles[1])) - 14
    _row(canvas, column, baseline, ("", shown, limit, _MARKS[called]), styles)
    _name(canvas, (column.left, baseline), room, label(finding), strong)


def _name(canvas: Canvas, at: tuple[int, int], room: int, name: str, style: Style) -> None:
    """Write a name, smaller where it does not fit, and in two lines where that is not enough."""
    least, small = round(_SMALLEST * style.size), style
    while _width(name, small) > room and small.size > least:
        small = small._replace(size=small.size - 1)
    left, baseline = at
    lines = [name] if _width(name, small) <= room else _wrapped(name, room, small, 2)
    top = baseline - round(0.62 * small.size) * (len(lines) - 1)
    for number, line in enumerate(lines):
        canvas.text((left, top + number * round(1.12 * small.size)), line, small)


def _hidden(hidden: Sequence[str], reading: Reading) -> str:
    """Write how many findings the table does not list."""
    called = sum(bool(reading.calls[finding]) for finding in hidden)
    text = f"and {len(hidden)} more findings in the report"
    return f"{text}, {called} of them called" if called else f"{text}, none of them called"


def _narrowed(figure: str, style: Style) -> Style:
    """Write a figure with more digits than usual smaller, so that it fits its column."""
    return style._replace(size=style.size - 2 * max(0, len(figure) - len("12.3 %")))


def _row(
    canvas: Canvas, column: Column, baseline: int, texts: Sequence[str], styles: Sequence[Style]
) -> None:
    canvas.text((column.left, baseline), texts[0], styles[0])
    for edge, text, style in zip(_EDGES, texts[1:], styles[1:], strict=True):
        canvas.text((column.left + round(edge * column.width), baseline), text, style, "rs")


def _broken(word: str, width: int, style: Style) -> list[str]:
    if _width(word, style) <= width:
        return [word]
    pieces = [""]
    for letter in word:
        if _width(pieces[-1] + letter, style) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


@lru_cache(4096)
def _width(text: str, style: Style) -> float:
    return _font(style).getlength(text)


class _Ink(NamedTuple):
    """A line of text, to be laid on a picture as Pillow does: opacity × colour, and what it leaves.

    Attributes:
        colour: 255 × what it adds to each plane, with a half for rounding, uint16 [3, h, w].
        rest: 255 × what it leaves of what was there, uint16 [h, w].
    """

    colour: npt.NDArray[np.uint16]
    rest: npt.NDArray[np.uint16]

    def lay_on(self, planes: _Pixels, left: int, top: int) -> None:
        """Lay it on a picture [3, h, w]; what is outside of it is left out."""
        height, width = self.rest.shape
        first, above = max(-left, 0), max(-top, 0)
        there = planes[:, top + above : max(top + height, 0), left + first : max(left + width, 0)]
        here = np.s_[..., above : above + there.shape[1], first : first + there.shape[2]]
        mixed = self.rest[here] * there
        mixed += self.colour[here]
        mixed += mixed >> 8  # divided by 255
        mixed >>= 8
        there[:] = mixed


@lru_cache(1024)
def _ink(text: str, style: Style, anchor: str, scale: float) -> tuple[tuple[int, int], _Ink]:
    """Give a line, and the offset of its top left corner from the anchor.

    Most texts are the same in every picture, so they are cached.
    """
    font = _font(style, scale)
    left, top, right, bottom = font.getbbox(text, anchor=anchor)
    corner = math.floor(left), math.floor(top)
    ink = Image.new("L", (math.ceil(right) - corner[0], math.ceil(bottom) - corner[1]))
    ImageDraw.Draw(ink).text((-corner[0], -corner[1]), text, 255, font, anchor)
    opacity = np.asarray(ink, np.uint16)
    return corner, _Ink(opacity * _rgb(style.colour) + np.uint16(128), 255 - opacity)


def _rgb(colour: str) -> npt.NDArray[np.uint16]:
    """Give a colour as [3, 1, 1]."""
    return np.array(ImageColor.getrgb(colour), np.uint16)[:, None, None]


@cache
def _font(style: Style, scale: float = 1.0) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if style.bold else "DejaVuSans.ttf"
    return ImageFont.truetype(
        _FONTS / name, scale * style.size, layout_engine=ImageFont.Layout.BASIC
    )
