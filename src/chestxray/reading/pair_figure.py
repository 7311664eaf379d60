"""Draws pairs of phantoms: without, with, the drawn mask, and the change of the class map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from chestxray.artifacts import written
from chestxray.dataset.pixels import Canonical
from chestxray.findings import label

_INK: Final = "#e8e8e8"
_DARK: Final = "#101114"
_OUTLINE: Final = "#ffd84d"
_COLOURS: Final = "bwr"  # red: more evidence; blue: less
_SIDE: Final = 2.35  # inches of a panel


@dataclass(frozen=True)
class PairPanel:
    """One pair to draw.

    Attributes:
        finding: that differs.
        without, with_finding: uint8 [S, S].
        mask: bool [S, S], where the finding was drawn.
        change: float [h, w], class map with − without, in logits.
        probabilities: of the finding, without and with it.
    """

    finding: str
    without: Canonical
    with_finding: Canonical
    mask: npt.NDArray[np.bool_]
    change: npt.NDArray[np.floating[Any]]
    probabilities: tuple[float, float]


def write_pairs(path: Path, panels: Sequence[PairPanel]) -> None:
    """Write a PNG with a row a pair.

    The change has a colour scale of its own in each row, even about 0, since the changes of two
    findings can differ by a factor of a hundred.
    """
    size = (4 * _SIDE + 0.9, len(panels) * (_SIDE + 0.32) + 0.35)
    figure = Figure(figsize=size, dpi=110, facecolor=_DARK, layout="constrained")
    rows = figure.subplots(len(panels), 4, squeeze=False)
    for axes, panel in zip(rows, panels, strict=True):
        _row(figure, list(axes), panel)
    figure.supxlabel("phantoms · for research, not a medical device", color=_INK, fontsize=9)
    with written(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=_DARK, metadata={"Software": None})


def _row(figure: Figure, axes: list[Axes], panel: PairPanel) -> None:
    without, with_finding = panel.probabilities
    name = label(panel.finding)
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": "bilinear"}
    for place, image, title in (
        (0, panel.without, f"without: {without:.1%}"),
        (1, panel.with_finding, f"with {name}: {with_finding:.1%}"),
        (2, panel.with_finding, "drawn mask"),
        (3, panel.with_finding, "change of the map, logits"),
    ):
        axes[place].imshow(image, **grey)
        axes[place].set_title(title, color=_INK, fontsize=10, loc="left", parse_math=False)
        axes[place].set_axis_off()
    side = len(panel.without)
    change = cv2.resize(
        panel.change.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR
    )
    most = float(np.abs(panel.change).max()) or 1.0
    scale = Normalize(-most, most)
    axes[3].imshow(
        change, cmap=_COLOURS, norm=scale, alpha=np.clip(np.abs(change) / most, 0, 1) * 0.75
    )
    for axis in axes[2:]:
        axis.contour(panel.mask.astype(np.float32), [0.5], colors=_OUTLINE, linewidths=1.2)
    bar = figure.colorbar(ScalarMappable(scale, _COLOURS), ax=axes[3], fraction=0.05, pad=0.02)
    bar.set_ticks([-most, 0, most], labels=[f"−{most:.2g}", "0", f"+{most:.2g}"])
    bar.ax.tick_params(colors=_INK, labelsize=8)
    bar.outline.set_visible(False)
