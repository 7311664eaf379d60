"""ROC and precision-recall curves with their bands, a small panel a finding.

What was called and what was there, as counts, a small panel a finding.

How many boxes are found as the overlap asked for grows, a small panel a finding.

Reliability diagrams: how often a finding is there, against how probable it was called.
"""

from __future__ import annotations

from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from chestxray.report.figures.style import BAND, FAINT, FIRST, INK, QUIET, SECOND, Drawing, Margins

PANEL: Final = (1.4, 1.32)
MARGINS: Final[Margins] = (0.32, 0.2, 0.06, 0.05)

_ENDS: Final = (0.2, 0.5, 1.0)

Point = tuple[float, float] | None


def roc(curve: dict[str, Any], called: Point, name: str) -> Drawing:
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
        unit_square(axes)

    return Drawing(f"ROC curve of {name}", PANEL, MARGINS, draw)


def precision_recall(curve: dict[str, Any], called: Point, prevalence: float, name: str) -> Drawing:
    """Draw a precision-recall curve above the prevalence, which is what guessing gives.

    Precision ends where curve and band do, since that of a rare finding fills only the bottom.

    Args:
        curve: `recall` and `precision`; `band` with `recall`, `low` and `high`, or None.
        called: recall and precision at the threshold, None without them.
        prevalence: share of positives.
        name: of the finding.
    """
    highest = max([*curve["precision"], *(curve["band"]["high"] if curve["band"] else ())])
    end = next(end for end in _ENDS if highest <= end)

    def draw(axes: Axes) -> None:
        axes.axhline(prevalence, color=FAINT, linestyle=":", linewidth=0.9)
        _band(axes, curve, "recall")
        axes.plot(curve["recall"], curve["precision"], color=FIRST, linewidth=1.3)
        _mark(axes, called)
        unit_square(axes)
        axes.set_aspect("auto")
        axes.set(ylim=(-0.02 * end, 1.02 * end), yticks=(0, end / 2, end))

    return Drawing(f"Precision-recall curve of {name}", PANEL, MARGINS, draw)


def unit_square(axes: Axes, end: float = 1.0) -> None:
    """Give axes from 0 to `end` with a tick at the ends and in the middle, both of one scale."""
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


def _mark(axes: Axes, point: Point) -> None:
    if point is not None:
        axes.plot(*point, "o", color=SECOND, markersize=4, zorder=3)


_CELLS: Final = (("tp", "fn"), ("fp", "tn"))


def confusion(counts: dict[str, int], name: str) -> Drawing:
    """Draw the four counts; a cell is as dark as its share of its row.

    Rows are what is there, columns what was called. Right calls are blue, wrong ones vermilion and
    framed.

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
                    f"{counts[cell]:,}", middle, ha="center", va="center", size=8, color=INK
                )
        axes.set(xlim=(0, 1.96), ylim=(1.92, 0))
        axes.set_xticks([0.48, 1.48], ["called", "not"])
        axes.set_yticks([0.46, 1.46], ["present", "absent"])
        axes.tick_params(length=0, pad=2, labelsize=6.5, labelcolor=QUIET)
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)

    return Drawing(f"Calls of {name} at the threshold", (1.4, 0.86), (0.42, 0.03, 0.03, 0.17), draw)


def overlap(rows: dict[str, dict[str, Any]], published: dict[float, float], name: str) -> Drawing:
    """Draw the share of boxes found against the overlap asked for.

    Args:
        rows: threshold of IoU, as text → `hit` with its interval, `mean_box`, `centre`.
        published: threshold → share, as published; may be empty.
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

    return Drawing(f"Boxes of {name} found, by overlap asked for", PANEL, MARGINS, draw)


_DIAGONAL: Final = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


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
    end = next(end for end in _DIAGONAL if reach <= end)

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
