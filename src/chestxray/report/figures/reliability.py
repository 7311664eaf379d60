"""Reliability diagrams: how often a finding is there, against how probable it was called."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.axes import Axes

from chestxray.report.figures.curves import MARGINS, PANEL, unit_square
from chestxray.report.figures.style import FAINT, FIRST, SECOND, Drawing

_ENDS: Final = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def reliability(entry: dict[str, Any], name: str) -> Drawing:
    """Draw the bins as given, hollow squares, and recalibrated, full circles with intervals.

    A square is wider than a circle, so that both are seen where they coincide. Where nothing was
    recalibrated, the intervals stand at the bins as given. The axes end where the data do, since a
    rare finding fills only a corner of the unit square; an interval can go on beyond them.

    Args:
        entry: `as_given` and `recalibrated` (None without it), each with `bins`.
        name: of the finding.
    """
    given = entry["as_given"]["bins"]
    mended = entry["recalibrated"]["bins"] if entry["recalibrated"] else None
    shown = [*given, *(mended or [])]
    reach = max(value for row in shown for value in (row["mean_probability"], row["observed"]))
    end = next(end for end in _ENDS if reach <= end)

    def draw(axes: Axes) -> None:
        axes.plot([0, end], [0, end], ":", color=FAINT, linewidth=0.9)
        if mended is not None:
            _bins(axes, mended, "o", whiskers=True)
        _bins(axes, given, "s", whiskers=mended is None)
        unit_square(axes, end)

    return Drawing(f"Reliability diagram of {name}", PANEL, MARGINS, draw)


def _bins(axes: Axes, rows: list[dict[str, Any]], marker: str, whiskers: bool) -> None:
    x = [row["mean_probability"] for row in rows]
    hollow = marker == "s"
    colour = SECOND if hollow else FIRST
    axes.plot(
        x, [row["observed"] for row in rows], marker, color=colour,
        markersize=4.4 if hollow else 2.6, markerfacecolor="none" if hollow else colour,
        markeredgewidth=0.7, clip_on=False,
    )  # fmt: skip
    known = [row for row in rows if whiskers and row["low"] is not None]
    axes.vlines(
        [row["mean_probability"] for row in known],
        [row["low"] for row in known],
        [row["high"] for row in known],
        color=colour, linewidth=0.7, alpha=0.6,
    )  # fmt: skip
