"""Text, boxes and pictures on one RGB image, by Pillow and DejaVu Sans.

The font is the one that matplotlib ships, so a picture looks the same on every machine.

Which findings come first: the called, and each by its probability relative to its threshold.

The right column of the picture: findings in figures, warnings, and who says so.
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
from PIL import Image, ImageDraw, ImageFont

from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects.instance import Model
from chestxray.version import __version__

DARK: Final = "#101114"
PANEL: Final = "#1b1d22"
INK: Final = "#f2f2f2"
DIM: Final = "#a9adb5"
ALERT: Final = "#ffc24a"

_FONTS: Final = Path(mpl.get_data_path()) / "fonts" / "ttf"


class Style(NamedTuple):
    """How text looks: height of the font in pixels, colour, weight."""

    size: int
    colour: str = INK
    bold: bool = False


class Column(NamedTuple):
    """Where text runs: left edge and width, first and last baseline, pixels."""

    left: int
    width: int
    top: int
    bottom: int


_Placed = tuple[tuple[int, int], npt.NDArray[np.uint8]]


class Canvas:
    """An image to draw on; positions are pixels from its top left corner."""

    def __init__(self, image: Image.Image, pictures: Sequence[_Placed] = ()) -> None:
        self._image = image
        self._draw = ImageDraw.Draw(image)
        self._pictures = list(pictures)

    @classmethod
    def blank(cls, width: int, height: int) -> Canvas:
        """Begin with nothing on it."""
        return cls(Image.new("RGB", (width, height), DARK))

    def copy(self) -> Canvas:
        """Begin another with what is drawn here."""
        return Canvas(self._image.copy(), self._pictures)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Give RGB uint8 [h, w, 3]."""
        drawn = np.array(self._image)
        for (left, top), picture in self._pictures:
            high, wide, _ = picture.shape
            drawn[top : top + high, left : left + wide] = picture
        return drawn

    def picture(self, at: tuple[int, int], picture: npt.NDArray[np.uint8]) -> None:
        """Lay an RGB picture [h, w, 3] on; it lies above all that is drawn."""
        self._pictures.append((at, picture))

    def box(self, at: tuple[int, int], size: tuple[int, int], colour: str) -> None:
        """Fill a rectangle of a width and a height."""
        left, top = at
        self._draw.rectangle((left, top, left + size[0] - 1, top + size[1] - 1), fill=colour)

    def text(self, at: tuple[int, int], text: str, style: Style, anchor: str = "ls") -> None:
        """Write a line; `anchor` is Pillow's, by default left on the baseline."""
        (left, top), ink = _ink(text, style, anchor)
        self._draw.bitmap((at[0] + left, at[1] + top), ink, fill=style.colour)

    def paragraph(
        self, at: tuple[int, int], width: int, text: str, style: Style, most: int = 99
    ) -> int:
        """Write text in lines of a greatest width.

        Args:
            at: left edge and first baseline.
            width: pixels.
            text: to write.
            style: of it.
            most: lines; an ellipsis ends what does not fit.

        Returns:
            The baseline of the line after.
        """
        left, baseline = at
        for line in wrapped(text, width, style, most):
            self.text((left, baseline), line, style)
            baseline += round(1.35 * style.size)
        return baseline

    def paragraphs(
        self, column: Column, written: Sequence[tuple[str, Style]], lines: int, more: str
    ) -> int:
        """Write texts below each other, of at most `lines` lines each, as many as fit.

        Args:
            column: where.
            written: texts and their styles.
            lines: at most, of one text.
            more: what to say, with the number left out, where not all fit.

        Returns:
            The baseline after the last.
        """
        baseline = column.top
        for number, (text, style) in enumerate(written):
            left_out = len(written) - number
            rows = len(wrapped(text, column.width, style, lines)) + (left_out > 1)
            if baseline + (rows - 1) * round(1.35 * style.size) > column.bottom:
                self.text((column.left, baseline), f"and {left_out} {more}", style)
                return baseline + round(1.35 * style.size)
            at = (column.left, baseline)
            baseline = style.size // 2 + self.paragraph(at, column.width, text, style, lines)
        return baseline


@lru_cache(256)
def wrapped(text: str, width: int, style: Style, most: int) -> list[str]:
    """Break text into at most `most` lines that fit a width, words that are too long as well."""
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


def _broken(word: str, width: int, style: Style) -> list[str]:
    if _width(word, style) <= width:
        return [word]
    pieces = [""]
    for letter in word:
        if _width(pieces[-1] + letter, style) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _width(text: str, style: Style) -> float:
    return _font(style).getlength(text)


@lru_cache(2048)
def _ink(text: str, style: Style, anchor: str) -> tuple[tuple[int, int], Image.Image]:
    """Give a line's shape, and where its top left corner lies from the anchor.

    Most of what pictures say is said again and again; its shapes are kept.
    """
    font = _font(style)
    left, top, right, bottom = font.getbbox(text, anchor=anchor)
    corner = math.floor(left), math.floor(top)
    ink = Image.new("L", (math.ceil(right) - corner[0], math.ceil(bottom) - corner[1]))
    ImageDraw.Draw(ink).text((-corner[0], -corner[1]), text, 255, font, anchor)
    return corner, ink


@cache
def _font(style: Style) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if style.bold else "DejaVuSans.ttf"
    return ImageFont.truetype(_FONTS / name, style.size, layout_engine=ImageFont.Layout.BASIC)


Thresholds = Mapping[str, float | None]


def ranked(reading: Reading, thresholds: Thresholds) -> list[str]:
    """Give all findings, the most relevant first; those without a threshold come last."""

    def relevance(finding: str) -> tuple[bool, float]:
        threshold, probability = thresholds[finding], reading.probabilities[finding]
        return threshold is not None, probability / max(threshold or 1.0, 1e-12)

    return sorted(reading.probabilities, key=relevance, reverse=True)


def relevant(reading: Reading, thresholds: Thresholds, most: int) -> list[str]:
    """Give the findings to show heat of: at most `most` called ones, or the one nearest to it."""
    order = ranked(reading, thresholds)
    called = [finding for finding in order if reading.calls[finding]]
    return called[:most] or order[:1]


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
