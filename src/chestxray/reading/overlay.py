"""Pictures of a reading: heatmaps over the radiograph, on the one absolute scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from chestxray.artifacts import written

COLOURS: Final = "inferno"
_OPACITY: Final = 0.65
_INK: Final = "#e8e8e8"
_DARK: Final = "#101114"

Grey = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Panel:
    """One finding over one radiograph.

    Attributes:
        finding: its name.
        probability: calibrated.
        called: whether the probability reaches the finding's threshold; None without one.
        heat: [h, w], at least 0; 1 and more is full colour.
        boxes: true boxes x, y, w, h as fractions of the canonical square.
    """

    finding: str
    probability: float
    called: bool | None
    heat: Heat
    boxes: tuple[Box, ...] = ()


def blend(image: Grey, heat: Heat) -> npt.NDArray[np.uint8]:
    """Lay a heatmap over a radiograph.

    Colour and opacity both grow with the heat, so what has none stays the plain radiograph.

    Args:
        image: [S, S].
        heat: [h, w], at least 0; clipped at 1 for display only.

    Returns:
        RGB uint8 [S, S, 3].
    """
    side = image.shape[0]
    smooth = cv2.resize(heat.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    smooth = np.clip(smooth, 0, 1)
    colour = mpl.colormaps[COLOURS](smooth)[..., :3]
    opacity = _OPACITY * np.sqrt(smooth)[..., None]
    grey = np.repeat(image[..., None] / 255, 3, axis=2)
    blended: npt.NDArray[np.uint8] = np.rint(
        255 * ((1 - opacity) * grey + opacity * colour)
    ).astype(np.uint8)
    return blended


def write_overlay(path: Path, name: str, image: Grey, panel: Panel) -> None:
    """Write one finding's picture: the radiograph, the same with heat, the colour bar."""
    figure = Figure(figsize=(9.2, 4.45), dpi=100, facecolor=_DARK, layout="constrained")
    plain, hot = figure.subplots(1, 2)
    _show(plain, np.repeat(image[..., None], 3, axis=2), name, panel.boxes)
    _show(hot, blend(image, panel.heat), _title(panel), panel.boxes)
    _colour_bar(figure, [plain, hot])
    legend = "blue box: where the finding is · " if panel.boxes else ""
    figure.supxlabel(f"{legend}for research, not a medical device", color=_INK, fontsize=9)
    _save(figure, path)


def write_sheet(path: Path, name: str, image: Grey, panels: list[Panel]) -> None:
    """Write all findings of one radiograph on one sheet, the most probable first."""
    figure = Figure(figsize=(15, 9.6), dpi=90, facecolor=_DARK, layout="constrained")
    columns = 5
    rows = -(-(len(panels) + 1) // columns)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    _show(axes[0], np.repeat(image[..., None], 3, axis=2), name, ())
    ranked = sorted(panels, key=lambda panel: -panel.probability)
    for axis, panel in zip(axes[1:], ranked, strict=False):
        _show(axis, blend(image, panel.heat), _title(panel), panel.boxes)
    for axis in axes[len(panels) + 1 :]:
        axis.set_axis_off()
    _colour_bar(figure, axes)
    _save(figure, path)


def _title(panel: Panel) -> str:
    called = {True: " · called", False: "", None: " · no threshold"}[panel.called]
    return f"{panel.finding.replace('_', ' ')} {panel.probability:.1%}{called}"


def _show(axis: Axes, picture: npt.NDArray[np.uint8], title: str, boxes: tuple[Box, ...]) -> None:
    side = picture.shape[0]
    axis.imshow(picture, interpolation="bilinear")
    axis.set_title(title, color=_INK, fontsize=12, loc="left", parse_math=False)
    axis.set_axis_off()
    for x, y, w, h in boxes:
        outline = Rectangle((x * side, y * side), w * side, h * side, fill=False)
        outline.set(edgecolor="#4fd1ff", linewidth=1.4)
        axis.add_patch(outline)


def _colour_bar(figure: Figure, axes: list[Axes]) -> None:
    scale = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = figure.colorbar(scale, ax=axes, fraction=0.02, pad=0.01, extend="max")
    bar.set_label("evidence × probability (one scale for all images)", color=_INK, fontsize=9)
    bar.ax.tick_params(colors=_INK, labelsize=8)
    bar.outline.set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with written(path) as temporary:
        figure.savefig(temporary, facecolor=_DARK, metadata={"Software": None})
