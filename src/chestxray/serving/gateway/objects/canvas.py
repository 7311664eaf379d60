"""Text, boxes and pictures on one RGB image, by Pillow and DejaVu Sans.

The font is the one that matplotlib ships, so a picture looks the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

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
