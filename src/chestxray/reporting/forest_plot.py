"""Forest plots: one value with its interval per row, beside what it may be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from chestxray.evaluation.signed_numbers import number
from chestxray.reporting.formatting import span
from chestxray.reporting.svg import FAINT, FIRST, INK, QUIET, Drawing, scaled, wrapped

_ROW: Final = 0.172  # inches of a row with a label of one line
_LINE: Final = 0.75  # rows that each line of a label takes, if it has several
_WIDTH: Final = 3.6  # inches
_LEFT: Final = 0.04  # inches before a label, as before a caption
_RIGHT: Final = 0.14  # inches to the next panel
_LABELS: Final = 1.2  # inches
_VALUES: Final = 1.22  # inches
_LETTERS: Final = 20  # characters of a line of a label
_LETTER: Final = 0.056  # inches


@dataclass(frozen=True)
class Row:
    """One row of a forest plot.

    Attributes:
        label: what it is about.
        metric: value, low, high; None makes the row a heading.
        note: small, after the label, such as the number of positives.
        marks: values to compare with, drawn faintly.
        total: drawn like a summary, as a mean is.
    """

    label: str
    metric: dict[str, Any] | None
    note: str = ""
    marks: tuple[float, ...] = ()
    total: bool = False

    @property
    def lines(self) -> list[str]:
        """The label in lines; a heading may extend over the plot."""
        if self.metric is None:
            return [self.label]
        indent = self.label[: len(self.label) - len(self.label.lstrip())]
        return [indent + line for line in wrapped(self.label.strip(), _LETTERS)]

    @property
    def height(self) -> float:
        """The room it needs, in rows with a label of one line."""
        return max(1.0, _LINE * len(self.lines) + 0.2)


def forest_plot(
    title: str,
    rows: Sequence[Row],
    reference: float | None,
    limits: tuple[float, float],
    axis: str,
    labels: float | None = None,
) -> Drawing:
    """Draw rows from top to bottom.

    A value without an interval is drawn hollow; a row without a value has a dash.

    Args:
        title: what it shows.
        rows: at least one.
        reference: position of the dotted line, such as 0.5 for chance.
        limits: of the axis; an interval that extends beyond them ends with an arrow.
        axis: label of the axis.
        labels: inches for the labels, so that panels of one figure have their axes below each
            other; by default what these rows need, see `width_of_labels`.
    """
    tops = [sum(row.height for row in rows[:place]) for place in range(len(rows) + 1)]
    room = width_of_labels(rows) if labels is None else labels

    def draw(axes: Axes) -> None:
        if reference is not None:
            axes.axvline(reference, color=FAINT, linestyle=":", linewidth=0.9, zorder=0)
        for top, row in zip(tops, rows, strict=False):
            place = top + row.height / 2
            _label(axes, place, row, room)
            if row.metric is not None:
                _interval(axes, place, row.metric, limits, row.total)
                axes.plot(
                    row.marks, [place] * len(row.marks), "|", color=INK, markersize=8.5,
                    markeredgewidth=0.8, zorder=4,
                )  # fmt: skip
        axes.set(xlim=limits, ylim=(tops[-1] + 0.1, -0.1), yticks=[], xlabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        axes.spines["left"].set_visible(False)

    height = _ROW * tops[-1] + 0.42
    return Drawing(title, (_WIDTH, height), (room, 0.37, _VALUES + _RIGHT, 0.05), draw)


def width_of_labels(rows: Sequence[Row]) -> float:
    """Give the inches that the longest label needs with its note."""
    needed = (
        _LEFT
        + _LETTER * max(map(len, row.lines))
        + (0.05 * len(row.note) + 0.17 if row.note else 0.04)
        for row in rows
        if row.metric is not None
    )
    return max([_LABELS, *needed])


def _label(axes: Axes, place: float, row: Row, labels: float) -> None:
    """Write what a row is about on the left and its value on the right.

    Args:
        axes: of the plot.
        place: of the row.
        row: to write about.
        labels: inches from the left edge to the axes.
    """
    frame: Any = ("axes fraction", "data")
    weight = "bold" if row.total or row.metric is None else "normal"
    axes.annotate(
        "\n".join(row.lines), (0, place), (scaled((_LEFT - labels) * 72), 0), weight=weight,
        annotation_clip=False, xycoords=frame, textcoords="offset points", va="center_baseline",
        linespacing=1.1,
    )  # fmt: skip
    axes.annotate(
        row.note, (0, place), (scaled(-7), 0), size=scaled(6.5), color=QUIET, annotation_clip=False,
        xycoords=frame, textcoords="offset points", va="center_baseline", ha="right",
    )  # fmt: skip
    if row.metric is not None:
        axes.annotate(
            _value(row.metric), (1, place), (scaled(_VALUES * 72), 0), weight=weight,
            size=scaled(7), annotation_clip=False, xycoords=frame, textcoords="offset points",
            va="center_baseline", ha="right",
        )  # fmt: skip


def _value(metric: dict[str, Any]) -> str:
    """Write value and interval, or a dash; the table beside the plot gives the reason."""
    if metric["value"] is None:
        return "–"
    if metric["low"] is None:
        return number(metric["value"])
    return f"{number(metric['value'])} ({span(metric)})"


def _interval(
    axes: Axes, place: float, metric: dict[str, Any], limits: tuple[float, float], total: bool
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
