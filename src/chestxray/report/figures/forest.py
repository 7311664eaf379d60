"""Forest plots: one figure with its interval a row, and beside it what it may be held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from chestxray.report.figures.style import FAINT, FIRST, INK, QUIET, Drawing
from chestxray.report.formatting import number, span

_ROW: Final = 0.172  # inches
_WIDTH: Final = 3.6
_ROOM: Final = 0.1  # to the next panel
_LABELS: Final = 1.2
_FIGURES: Final = 1.22


@dataclass(frozen=True)
class Row:
    """One line of a forest plot.

    Attributes:
        label: what it is about.
        metric: value, low, high; None makes the row a heading.
        note: said quietly after the label, such as the number of positives.
        marks: published figures of the same, drawn faintly.
        total: set apart, as a mean is.
    """

    label: str
    metric: dict[str, Any] | None
    note: str = ""
    marks: tuple[float, ...] = ()
    total: bool = False


def forest(
    title: str, rows: Sequence[Row], reference: float | None, limits: tuple[float, float], axis: str
) -> Drawing:
    """Draw rows from top to bottom.

    A value without an interval is drawn hollow; a row without a value has a dash.

    Args:
        title: what it shows.
        rows: at least one.
        reference: where a dotted line stands, such as 0.5 for guessing.
        limits: of the axis; an interval that goes on ends at them with an arrow.
        axis: what the axis says.
    """

    def draw(axes: Axes) -> None:
        if reference is not None:
            axes.axvline(reference, color=FAINT, linestyle=":", linewidth=0.9, zorder=0)
        for place, row in enumerate(rows):
            _label(axes, place, row)
            if row.metric is not None:
                _interval(axes, place, row.metric, limits, row.total)
                axes.plot(
                    row.marks, [place] * len(row.marks), "|", color=QUIET, markersize=6.5, zorder=1
                )
        axes.set(xlim=limits, ylim=(len(rows) - 0.4, -0.6), yticks=[], xlabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        axes.spines["left"].set_visible(False)

    height = _ROW * len(rows) + 0.42
    return Drawing(title, (_WIDTH, height), (_LABELS, 0.37, _FIGURES + _ROOM, 0.05), draw)


def _label(axes: Axes, place: int, row: Row) -> None:
    """Write what a row is about on the left and its figures on the right."""
    frame: Any = ("axes fraction", "data")
    weight = "bold" if row.total or row.metric is None else "normal"
    note = f"  {row.note}" if row.note else ""
    axes.annotate(
        row.label, (0, place), (-_LABELS * 72, 0), weight=weight, annotation_clip=False,
        xycoords=frame, textcoords="offset points", va="center",
    )  # fmt: skip
    axes.annotate(
        note, (0, place), (-4, 0), size=6.5, color=QUIET, annotation_clip=False,
        xycoords=frame, textcoords="offset points", va="center", ha="right",
    )  # fmt: skip
    if row.metric is not None:
        axes.annotate(
            figures(row.metric), (1, place), (_FIGURES * 72, 0), weight=weight, size=7,
            annotation_clip=False, xycoords=frame, textcoords="offset points", va="center",
            ha="right",
        )  # fmt: skip


def figures(metric: dict[str, Any]) -> str:
    """Write value and interval, or a dash; the reason stands in the table beside the plot."""
    if metric["value"] is None:
        return "–"
    if metric["low"] is None:
        return number(metric["value"])
    return f"{number(metric['value'])} ({span(metric)})"


def _interval(
    axes: Axes, place: int, metric: dict[str, Any], limits: tuple[float, float], total: bool
) -> None:
    value, low, high = (metric[part] for part in ("value", "low", "high"))
    if value is None:
        return
    colour = INK if total else FIRST
    if low is not None:
        inside = max(low, limits[0]), min(high, limits[1])
        axes.plot(inside, (place, place), "-", color=colour, linewidth=1.2, solid_capstyle="butt")
        for end, beyond, marker in (
            (limits[0], low < limits[0], "<"), (limits[1], high > limits[1], ">"),
        ):  # fmt: skip
            if beyond:
                axes.plot(end, place, marker, color=colour, markersize=3.5, clip_on=False)
    hollow = low is None
    axes.plot(
        min(max(value, limits[0]), limits[1]), place, "D" if total else "s", color=colour,
        markersize=4.5 if total else 3.8, markerfacecolor="none" if hollow else colour, zorder=3,
    )  # fmt: skip
