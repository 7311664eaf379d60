"""What was called and what was there, as counts, a small panel a finding."""

from __future__ import annotations

from typing import Final

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from chestxray.report.figures.style import FIRST, INK, QUIET, SECOND, Drawing

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
