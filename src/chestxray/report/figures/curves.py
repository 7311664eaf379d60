"""ROC and precision-recall curves with their bands, a small panel a finding."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.axes import Axes

from chestxray.report.figures.style import BAND, FAINT, FIRST, SECOND, Drawing, Margins

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
