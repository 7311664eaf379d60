"""The report's figures, as SVG to be put into the page: drawn from finished numbers, nothing else.

Colours are names of the page's style sheet, so that figures follow its light and dark scheme, and
text is text, in the page's own font. The two series colours are Okabe and Ito's, which colour-blind
readers tell apart; line style tells them apart too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Colours that matplotlib writes and `_svg` exchanges for the style sheet's.
INK: Final = "#010101"
FAINT: Final = "#020202"
FIRST: Final = "#030303"
SECOND: Final = "#040404"
_VARIABLES: Final = {INK: "--ink", FAINT: "--faint", FIRST: "--first", SECOND: "--second"}

Margins = tuple[float, float, float, float]

_STYLE: Final = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 7.5,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "ytick.major.width": 0.6,
}


def distribution(part: str, counts: dict[str, int], widest: float) -> str:
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

    return _svg((3.5, 3.0), (1.06, 0.24, 0.05, 0.03), draw, f"Findings in part {part}")


def training(history: pd.DataFrame, column: str, best_epoch: int) -> str:
    """Draw one column of `history.csv` over the epochs, training and validation."""

    def draw(axes: Axes) -> None:
        for split, colour, line in (("train", FIRST, "--"), ("val", SECOND, "-")):
            rows = history[history["split"] == split]
            axes.plot(rows["epoch"], rows[column], line, color=colour, linewidth=1.3)
            best = rows[rows["epoch"] == best_epoch]
            if split == "val":
                axes.plot(best["epoch"], best[column], "o", color=colour, markersize=4.5)
        axes.axvline(best_epoch, color=FAINT, linewidth=0.7, zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", color=FAINT, linewidth=0.4, alpha=0.5)
        axes.set_xlabel("epoch")

    return _svg((3.4, 2.2), (0.42, 0.4, 0.06, 0.05), draw, f"{column} by epoch")


def roc(curve: dict[str, Any], called: tuple[float, float] | None, name: str) -> str:
    """Draw a ROC curve.

    Args:
        curve: `fpr` and `tpr`.
        called: false and true positive rate at the threshold, None without one.
        name: of the finding.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], ":", color=FAINT, linewidth=0.9)
        axes.plot(curve["fpr"], curve["tpr"], color=FIRST, linewidth=1.4)
        _mark(axes, called)
        _unit_square(axes)

    return _svg((1.46, 1.35), (0.3, 0.2, 0.04, 0.03), draw, f"ROC curve of {name}")


def precision_recall(
    curve: dict[str, Any], called: tuple[float, float] | None, prevalence: float, name: str
) -> str:
    """Draw a precision-recall curve above the prevalence, which is what guessing gives.

    Args:
        curve: `recall` and `precision`.
        called: recall and precision at the threshold, None without them.
        prevalence: share of positives.
        name: of the finding.
    """

    def draw(axes: Axes) -> None:
        axes.axhline(prevalence, color=FAINT, linestyle=":", linewidth=0.9)
        axes.plot(curve["recall"], curve["precision"], color=FIRST, linewidth=1.4)
        _mark(axes, called)
        _unit_square(axes)

    return _svg((1.46, 1.35), (0.3, 0.2, 0.04, 0.03), draw, f"Precision-recall curve of {name}")


def _mark(axes: Axes, point: tuple[float, float] | None) -> None:
    if point is not None:
        axes.plot(*point, "o", color=SECOND, markersize=4, zorder=3)


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_aspect("equal")


def _svg(
    inches: tuple[float, float], margins: Margins, draw: Callable[[Axes], None], title: str
) -> str:
    """Draw on one pair of axes and give an `<svg>` element that scales with its container.

    Args:
        inches: width and height.
        margins: left, bottom, right and top of the axes, inches. Given, since having them found
            takes longer than all the drawing.
        draw: what to draw.
        title: what the figure shows, for who cannot see it. It also seeds the names inside, so it
            must be the only one of its kind on the page; the same figure is the same text.
    """
    style: Any = _STYLE | {"svg.hashsalt": title}
    with mpl.rc_context(style):
        figure = Figure(figsize=inches)
        left, bottom, right, top = margins
        width, height = inches
        frame = (
            left / width,
            bottom / height,
            1 - (left + right) / width,
            1 - (bottom + top) / height,
        )
        draw(figure.add_axes(frame))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return _tidy(text, title)


def _tidy(text: str, title: str) -> str:
    """Take off what belongs to a file of its own, and let the page's style sheet in."""
    text = text[text.index("<svg") :]
    for part in (
        r"<metadata>.*?</metadata>",
        r"<style .*?</style>",
        r' (?:width|height)="[\d.]+pt"',
        r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|\w+Collection)_\d+"',
        r" font-family: [^;]*;",
        r' transform="rotate\(-0 [^"]*"',
    ):
        text = re.sub(part, "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title, quote=True)}"', 1)
