"""The panels of the report, drawn from finished numbers.

One function per kind: distribution of findings, training history, ROC curve, precision-recall
curve, confusion matrix, reliability diagram, and localization against the overlap required; and the
same of several models in one panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from chestxray.findings import label
from chestxray.reporting.svg import (
    BAND,
    FAINT,
    FIRST,
    INK,
    LINES,
    QUIET,
    SECOND,
    SERIES,
    Drawing,
    Margins,
    scaled,
    wrapped,
)

_PANEL: Final = (1.4, 1.32)
_MARGINS: Final[Margins] = (0.32, 0.2, 0.06, 0.05)
_WIDE_PANEL: Final = (2.35, 2.3)  # with names of axes and a legend
_WIDE_MARGINS: Final[Margins] = (0.42, 0.37, 0.06, 0.06)
_LEGEND_POINTS: Final = 6.0
_PRECISION_ENDS: Final = (0.2, 0.5, 1.0)
_DIAGONAL_ENDS: Final = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_CELLS: Final = (("tp", "fn"), ("fp", "tn"))
_BAR: Final = 0.185  # inches
_NAME: Final = 19  # characters of a line of a finding's name

_Point = tuple[float, float] | None


def distribution(part: str, counts: dict[str, int], widest: float) -> Drawing:
    """Draw how many images of a part have each finding, as bars with counts.

    Args:
        part: its name.
        counts: `images` and a number per finding; drawn in this order, `patients` is left out.
        widest: proportion of images at which the axis ends, the same for all parts.
    """
    names = [name for name in counts if name not in {"images", "patients"}]
    shares = [counts[name] / counts["images"] if counts["images"] else 0.0 for name in names]
    labels = [wrapped(label(name), _NAME) for name in names]
    # A bar with a name of several lines has more room.
    heights = np.array([max(1.0, 0.7 * len(lines) + 0.1) for lines in labels])
    places = np.cumsum(heights) - heights / 2

    def draw(axes: Axes) -> None:
        axes.barh(places, shares, height=0.68, color=FIRST)
        for place, name, share in zip(places, names, shares, strict=True):
            axes.annotate(
                f"{counts[name]:,}",
                (share, place),
                (scaled(3), 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(places, ["\n".join(lines) for lines in labels], linespacing=1.1)
        axes.set_ylim(heights.sum(), 0)
        axes.set_xlim(0, widest * 1.22 or 1)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    height = _BAR * float(heights.sum()) + 0.27
    return Drawing(f"Findings in the {part} split", (3.5, height), (1.15, 0.24, 0.05, 0.03), draw)


def history(table: pd.DataFrame, column: str, best_epochs: Sequence[int]) -> Drawing:
    """Draw one column of `history.csv` over the epochs, training and validation.

    Args:
        table: with a column `member` where several networks were trained.
        column: to draw.
        best_epochs: of each network.
    """
    values = table[["split", "epoch", column]]  # a table without them fails here, not in drawing
    member = table.get("member", pd.Series(1, table.index))
    networks = [values[member == number] for number in range(1, len(best_epochs) + 1)]

    def draw(axes: Axes) -> None:
        width = 1.3 if len(networks) == 1 else 0.9
        for split, colour, line in (("train", FIRST, "--"), ("val", SECOND, "-")):
            for of, best_epoch in zip(networks, best_epochs, strict=True):
                rows = of[of["split"] == split]
                axes.plot(rows["epoch"], rows[column], line, color=colour, linewidth=width)
                if len(rows) == 1:  # a line of one epoch is not visible
                    axes.plot(rows["epoch"], rows[column], "o", color=colour, markersize=4.5)
                best = rows[rows["epoch"] == best_epoch]
                if split == "val":
                    axes.plot(best["epoch"], best[column], "o", color=colour, markersize=4.5)
        for best_epoch in best_epochs:
            axes.axvline(best_epoch, color=FAINT, linewidth=0.7, zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if values["epoch"].max() == values["epoch"].min():
            axes.set_xticks([*best_epochs][:1])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", color=FAINT, linewidth=0.4, alpha=0.5)
        axes.set_xlabel("epoch")

    return Drawing(f"{column} by epoch", (3.4, 2.2), (0.5, 0.4, 0.06, 0.05), draw)


def roc(curve: dict[str, Any], called: _Point, name: str) -> Drawing:
    """Draw a ROC curve.

    Args:
        curve: `fpr` and `tpr`; `band` with `fpr`, `low` and `high`, None where there is none.
        called: false and true positive rate at the threshold, None without one.
        name: of the finding.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], ":", color=FAINT, linewidth=0.9)
        _band(axes, curve, "fpr")
        axes.plot(curve["fpr"], curve["tpr"], color=FIRST, linewidth=1.3)
        _mark(axes, called)
        _unit_square(axes)

    return Drawing(f"ROC curve of {name}", _PANEL, _MARGINS, draw)


def precision_recall(
    curve: dict[str, Any], called: _Point, prevalence: float, name: str
) -> Drawing:
    """Draw a precision-recall curve with the prevalence, which is the precision of chance.

    The precision axis ends where curve and band do: the precision of a rare finding is low.

    Args:
        curve: `recall` and `precision`; `band` with `recall`, `low` and `high`, or None.
        called: recall and precision at the threshold, None without them.
        prevalence: proportion of positives.
        name: of the finding.
    """
    highest = max([*curve["precision"], *(curve["band"]["high"] if curve["band"] else ())])
    end = next(end for end in _PRECISION_ENDS if highest <= end)

    def draw(axes: Axes) -> None:
        axes.axhline(prevalence, color=FAINT, linestyle=":", linewidth=0.9)
        _band(axes, curve, "recall")
        axes.plot(curve["recall"], curve["precision"], color=FIRST, linewidth=1.3)
        _mark(axes, called)
        _unit_square(axes)
        axes.set_aspect("auto")
        axes.set(ylim=(-0.02 * end, 1.02 * end), yticks=(0, end / 2, end))

    return Drawing(f"Precision-recall curve of {name}", _PANEL, _MARGINS, draw)


def rocs(curves: Sequence[dict[str, Any] | None], names: Sequence[str], name: str) -> Drawing:
    """Draw the ROC curves of several models, each with its AUROC.

    Args:
        curves: as of `roc`, None where a model has none.
        names: of the models, with what else is to be written beside the line.
        name: of the finding.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], ":", color=FAINT, linewidth=0.9)
        for place, (curve, text) in enumerate(zip(curves, names, strict=True)):
            if curve is not None:
                axes.plot(curve["fpr"], curve["tpr"], label=text, linewidth=1.1, **series(place))
        _unit_square(axes)
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        axes.xaxis.labelpad = axes.yaxis.labelpad = scaled(1)
        if axes.lines[1:]:
            _legend(axes, "lower right")

    return Drawing(f"ROC curves of {name}", _WIDE_PANEL, _WIDE_MARGINS, draw)


def reliabilities(
    diagrams: Sequence[dict[str, Any] | None], names: Sequence[str], name: str
) -> Drawing:
    """Draw the reliability diagrams of several models as lines over the bins.

    Args:
        diagrams: each with `bins`, None where a model has none.
        names: of the models, with what else is to be written beside the line.
        name: of the finding.
    """
    bins = [row for of in diagrams if of for row in of["bins"]]
    reach = max(value for row in bins for value in (row["mean_probability"], row["observed"]))
    end = next(end for end in _DIAGONAL_ENDS if reach <= end)

    def draw(axes: Axes) -> None:
        axes.plot([0, end], [0, end], ":", color=FAINT, linewidth=0.9)
        for place, (of, text) in enumerate(zip(diagrams, names, strict=True)):
            if of is not None:
                axes.plot(
                    [row["mean_probability"] for row in of["bins"]],
                    [row["observed"] for row in of["bins"]],
                    label=text, linewidth=0.9, marker="o", markersize=2.2, **series(place),
                )  # fmt: skip
        _unit_square(axes, end)
        axes.set(xlabel="probability", ylabel="observed frequency")
        axes.xaxis.labelpad = axes.yaxis.labelpad = scaled(1)
        _legend(axes, "upper left")

    return Drawing(f"Reliability diagrams of {name}", _WIDE_PANEL, _WIDE_MARGINS, draw)


def histories(tables: Mapping[str, pd.DataFrame], column: str, places: Sequence[int]) -> Drawing:
    """Draw one validation column of several runs' `history.csv` over the epochs.

    Args:
        tables: name of a model → its history.
        column: to draw.
        places: of these models among all, which give them their colours.
    """

    def draw(axes: Axes) -> None:
        for place, (text, table) in zip(places, tables.items(), strict=True):
            rows = table[table["split"] == "val"]
            axes.plot(rows["epoch"], rows[column], label=text, linewidth=1.1, **series(place))
            if len(rows) == 1:  # a line of one epoch is not visible
                axes.plot(rows["epoch"], rows[column], "o", color=series(place)["color"])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", color=FAINT, linewidth=0.4, alpha=0.5)
        axes.set(xlabel="epoch", ylabel=column)
        _legend(axes, "best")

    return Drawing(f"{column} on validation by epoch", (3.4, 2.2), (0.5, 0.4, 0.06, 0.05), draw)


def series(place: int) -> dict[str, Any]:
    """Give colour and line of one of several models, which both tell it from its neighbours."""
    return {"color": SERIES[place % len(SERIES)], "linestyle": LINES[place % len(LINES)]}


def _legend(axes: Axes, place: str) -> None:
    axes.legend(
        loc=place, fontsize=scaled(_LEGEND_POINTS), frameon=False, handlelength=1.6, borderpad=0.1
    )


def _unit_square(axes: Axes, end: float = 1.0) -> None:
    """Set both axes from 0 to `end` on one scale, with three ticks each."""
    ticks = (0, end / 2, end)
    room = (-0.02 * end, 1.02 * end)
    axes.set(xlim=room, ylim=room, xticks=ticks, yticks=ticks)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_aspect("equal")


def _band(axes: Axes, curve: dict[str, Any], x: str) -> None:
    band = curve["band"]
    if band is not None:
        axes.fill_between(band[x], band["low"], band["high"], color=FIRST, alpha=BAND, linewidth=0)


def _mark(axes: Axes, point: _Point) -> None:
    if point is not None:
        axes.plot(*point, "o", color=SECOND, markersize=4, zorder=3, clip_on=False)


def confusion(counts: dict[str, int], name: str) -> Drawing:
    """Draw the confusion matrix; the shade of a cell is its proportion of its row.

    Rows are the labels, columns the calls. Correct calls are blue, wrong ones vermilion.

    Args:
        counts: `tp`, `fn`, `fp` and `tn`.
        name: of the finding.
    """

    def draw(axes: Axes) -> None:
        for row, cells in enumerate(_CELLS):
            whole = sum(counts[cell] for cell in cells)
            for column, cell in enumerate(cells):
                share = counts[cell] / whole if whole else 0.0
                colour = FIRST if cell in {"tp", "tn"} else SECOND
                shade = 0.06 + 0.42 * share
                axes.add_patch(
                    Rectangle((column, row), 0.96, 0.92, facecolor=colour, alpha=shade, linewidth=0)
                )
                middle = (column + 0.48, row + 0.46)
                axes.annotate(
                    f"{counts[cell]:,}", middle, ha="center", va="center", size=scaled(8), color=INK
                )
        axes.set(xlim=(0, 1.96), ylim=(1.92, 0))
        axes.set_xticks([0.48, 1.48], ["called", "not called"])
        axes.set_yticks([0.46, 1.46], ["present", "absent"])
        axes.tick_params(length=0, pad=scaled(2), labelsize=scaled(6.5), labelcolor=QUIET)
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)

    return Drawing(f"Confusion matrix of {name}", (1.4, 0.86), (0.42, 0.03, 0.03, 0.17), draw)


def overlap(rows: dict[str, dict[str, Any]], published: dict[float, float], name: str) -> Drawing:
    """Draw the proportion of boxes found against the overlap required.

    Args:
        rows: threshold of IoU, as text → `hit` with its interval, `mean_box`, `centre`.
        published: threshold → published proportion; may be empty.
        name: of the finding.
    """
    thresholds = [float(threshold) for threshold in rows]
    hits = [row["hit"] for row in rows.values()]

    def draw(axes: Axes) -> None:
        if all(hit["low"] is not None for hit in hits):
            axes.fill_between(
                thresholds, [hit["low"] for hit in hits], [hit["high"] for hit in hits],
                color=FIRST, alpha=BAND, linewidth=0,
            )  # fmt: skip
        baseline = [row["mean_box"] for row in rows.values()]
        if None not in baseline:
            axes.plot(thresholds, baseline, "--", color=QUIET, linewidth=0.9)
        axes.plot(thresholds, [hit["value"] for hit in hits], "-", color=FIRST, linewidth=1.3)
        axes.plot(
            list(published), list(published.values()), "D", color=SECOND, markersize=3.4,
            markerfacecolor="none", markeredgewidth=0.9,
        )  # fmt: skip
        axes.set(xlim=(min(thresholds) - 0.01, max(thresholds) + 0.01), ylim=(-0.02, 1.02))
        axes.set(xticks=(thresholds[0], thresholds[-1]), yticks=(0, 0.5, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")

    return Drawing(f"Boxes of {name} found, by overlap required", _PANEL, _MARGINS, draw)


def reliability(entry: dict[str, Any], name: str) -> Drawing:
    """Draw the bins as predicted (open squares) and recalibrated (filled circles, intervals).

    A square is wider than a circle, so that both are visible where they coincide. Without
    recalibration the bins as predicted have the intervals. The axes end where the data do, because
    a rare finding fills only a corner of the unit square; an interval may extend beyond them.

    Args:
        entry: `as_given` and `recalibrated` (None without it), each with `bins`.
        name: of the finding.
    """
    given = entry["as_given"]["bins"]
    recalibrated = entry["recalibrated"]["bins"] if entry["recalibrated"] else None
    shown = [*given, *(recalibrated or [])]
    reach = max(value for row in shown for value in (row["mean_probability"], row["observed"]))
    end = next(end for end in _DIAGONAL_ENDS if reach <= end)

    def draw(axes: Axes) -> None:
        axes.plot([0, end], [0, end], ":", color=FAINT, linewidth=0.9)
        if recalibrated is not None:
            _bins(axes, recalibrated, "o", whiskers=True)
        _bins(axes, given, "s", whiskers=recalibrated is None)
        _unit_square(axes, end)

    return Drawing(f"Reliability diagram of {name}", _PANEL, _MARGINS, draw)


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
