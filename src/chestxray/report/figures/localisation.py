"""How many boxes are found as the overlap asked for grows, a small panel a finding."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from chestxray.report.figures.curves import MARGINS, PANEL
from chestxray.report.figures.style import BAND, FIRST, QUIET, SECOND, Drawing


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
