"""How figures for print are laid out: the size of their text, and of the page that they must fit.

A panel grows with its text, so that nothing overlaps; fewer panels stand side by side then, and the
figure is never wider than its page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chestxray.errors import ConfigError

NOMINAL: Final = 7.5
"""Points of the text of panels as they are drawn; their inches are for this size."""
LEAST: Final = 6.0
MOST: Final = 12.0


@dataclass(frozen=True)
class PrintStyle:
    """The layout of figures for print.

    Attributes:
        points: size of most of the text; the smallest, such as a legend's, has 0.8 of it.
        width: of the page, inches.
        height: likewise.
    """

    points: float
    width: float
    height: float

    @property
    def scale(self) -> float:
        """How much larger than nominal a panel and its text are."""
        return self.points / NOMINAL

    def columns(self, wanted: int, panel: float) -> int:
        """Give how many panels fit side by side.

        Args:
            wanted: at most.
            panel: nominal inches of the widest one.
        """
        return max(1, min(wanted, int(self.width / self.scale / panel + 1e-6)))


JOURNAL: Final = PrintStyle(NOMINAL, 7.2, 9.2)
"""Two columns of a journal's page."""
SLIDE: Final = PrintStyle(16.0, 13.3, 7.0)
"""A slide of 13.33 by 7.5 inches."""


def print_style(name: str) -> PrintStyle:
    """Give a style by what a user says.

    Args:
        name: `journal`, `slide`, or the points of the text on a journal's page, such as `9`.

    Raises:
        ConfigError: it is none of these.
    """
    named = {"journal": JOURNAL, "slide": SLIDE}
    if name in named:
        return named[name]
    try:
        points = float(name)
    except ValueError:
        points = 0.0
    if not LEAST <= points <= MOST:
        raise ConfigError(
            f"style {name!r}: give journal ({JOURNAL.points:g} points), slide "
            f"({SLIDE.points:g} points), or the size of the text in points, from {LEAST:g} to "
            f"{MOST:g}"
        )
    return PrintStyle(points, JOURNAL.width, JOURNAL.height)
