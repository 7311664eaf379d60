"""What the model was trained on, and how training went."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from chestxray.report.figures.style import FAINT, FIRST, SECOND, Drawing


def distribution(part: str, counts: dict[str, int], widest: float) -> Drawing:
    """Draw how many images of a part show each finding, as bars with counts.

    Args:
        part: its name.
        counts: `images` and a number a name; drawn in this order, `patients` is left out.
        widest: share of images at which the axis ends, the same for all parts.
    """
    names = [name for name in counts if name not in {"images", "patients"}]
    shares = [counts[name] / counts["images"] if counts["images"] else 0.0 for name in names]

    def draw(axes: Axes) -> None:
        places = np.arange(len(names))
        axes.barh(places, shares, height=0.68, color=FIRST)
        for place, name, share in zip(places, names, shares, strict=True):
            axes.annotate(
                f"{counts[name]:,}", (share, place), (3, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(places, [name.replace("_", " ") for name in names])
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_xlim(0, widest * 1.22)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    return Drawing(f"Findings in part {part}", (3.5, 3.0), (1.06, 0.24, 0.05, 0.03), draw)


def history(table: pd.DataFrame, column: str, best_epoch: int) -> Drawing:
    """Draw one column of `history.csv` over the epochs, training and validation."""
    values = table[["split", "epoch", column]]  # a table without them fails here, not in drawing

    def draw(axes: Axes) -> None:
        for split, colour, line in (("train", FIRST, "--"), ("val", SECOND, "-")):
            rows = values[values["split"] == split]
            axes.plot(rows["epoch"], rows[column], line, color=colour, linewidth=1.3)
            best = rows[rows["epoch"] == best_epoch]
            if split == "val":
                axes.plot(best["epoch"], best[column], "o", color=colour, markersize=4.5)
        axes.axvline(best_epoch, color=FAINT, linewidth=0.7, zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", color=FAINT, linewidth=0.4, alpha=0.5)
        axes.set_xlabel("epoch")

    return Drawing(f"{column} by epoch", (3.4, 2.2), (0.42, 0.4, 0.06, 0.05), draw)
