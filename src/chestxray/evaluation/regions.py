"""Where a heatmap points: its peak, one box around it, and how well a box meets the true ones.

Wang 2017 (arXiv 1705.02315, section 3) scales a heatmap to 0..255, cuts it at 60 and at 180, puts
a box around every isolated region, and calls a finding located when any box overlaps enough, with
the false boxes counted beside. Here a heatmap gives one box, around the region that holds its
peak: it is chosen without a look at the truth, and nothing is gained by guessing often.

The cut is half of the map's own peak. Enlarged bilinearly, a block of hot cells keeps its edges at
just that height, so a box is as large as the cells it stands for. It is fixed beforehand, between
Wang's two, and fitted to no box.

Where findings are, to hold heatmaps against: boxes (NIH) or exact masks (phantoms).

All places are fractions of the original image's sides, with the origin at the top left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from chestxray.artifacts import require
from chestxray.dataset.pixels import placement
from chestxray.errors import ImageError, PredictionsError
from chestxray.evaluation.labels import Labels, Pairs

CUT: Final = 0.5
CHOSEN_BY: Final = (
    "a rule fixed beforehand, fitted to no box: at half of its peak a block of hot cells keeps its "
    "edges when the heatmap is enlarged bilinearly"
)

_FINE: Final = 256  # least side of the grid that boxes are cut out on

Heat = npt.NDArray[np.floating[Any]]
Box = npt.NDArray[np.float64]


class Pointed(NamedTuple):
    """A place that a finding is said to be at, in fractions of the original image's sides.

    Attributes:
        point: x, y; None for nowhere in the image.
        box: float [4], left, top, right, bottom; None for nowhere in the image.
    """

    point: tuple[float, float] | None
    box: Box | None


def detect(heat: Heat, size: tuple[int, int]) -> Pointed:
    """Give the peak of a heatmap and the box around it.

    Args:
        heat: [h, w], over the canonical square; what is not above 0 is no evidence.
        size: width and height of the original image; only their ratio matters.

    Returns:
        The centre of the hottest cell, and the box of its region, cut to the image; nowhere
        without heat, and where they lie in the square's padding.
    """
    if not heat.max() > 0:
        return Pointed(None, None)
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    rows, columns = heat.shape
    x, y = (peak[1] + 0.5) / columns, (peak[0] + 0.5) / rows
    place = placement(*size)
    (point,) = _in_image(np.array([[x, y]]), place)
    box = _in_image(_region(heat, (x, y)), place).clip(0, 1).ravel()
    inside = bool((point >= 0).all() and (point <= 1).all())
    return Pointed(
        (float(point[0]), float(point[1])) if inside else None,
        box if _area(box) > 0 else None,
    )


def _region(heat: Heat, peak: tuple[float, float]) -> Box:
    """Give the corners [2, 2] of the region around the peak, as fractions of the heatmap."""
    rows, columns = heat.shape
    times = 2 * -(-_FINE // (2 * max(heat.shape)))  # even: no sample falls on the edge of a cell
    fine = cv2.resize(
        heat.astype(np.float32), (columns * times, rows * times), interpolation=cv2.INTER_LINEAR
    )
    hot = (fine >= CUT * float(heat.max())).astype(np.uint8)
    _, regions, boxes, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
    high, wide = hot.shape
    left, top, width, height, _ = boxes[regions[int(peak[1] * high), int(peak[0] * wide)]]
    return np.array([[left, top], [left + width, top + height]]) / (wide, high)


def _in_image(points: Box, place: tuple[float, float, float, float]) -> Box:
    """Move points [n, 2] from fractions of the canonical square to those of the image in it."""
    left, top, wide, high = place
    return (points - (left, top)) / (wide, high)


def overlap(box: Box | None, true: Box) -> tuple[float, float]:
    """Give IoU and IoBB, each with the true box that it is greatest with.

    IoU is the intersection over the union, IoBB the intersection over the area of `box`, the
    detected one (Wang 2017), which a small box within the true one brings to 1.

    Args:
        box: float [4], left, top, right, bottom; None overlaps nothing.
        true: float [n, 4], n >= 1.
    """
    if box is None:
        return 0.0, 0.0
    wide, high = (np.minimum(box[2:], true[:, 2:]) - np.maximum(box[:2], true[:, :2])).clip(0).T
    both = wide * high
    union = _area(box) + _area(true.T) - both
    return float((both / union).max()), float((both / _area(box)).max())


def mean_box(boxes: Box, patients: npt.NDArray[np.int64], patient: int) -> Box | None:
    """Give the mean box of all patients but one; None where there is no other.

    Args:
        boxes: float [n, 4], of one finding.
        patients: int64 [n], whose they are.
        patient: whose are left out.
    """
    others = boxes[patients != patient]
    return others.mean(axis=0) if len(others) else None


def _area(box: Box) -> Box:
    return np.asarray((box[2] - box[0]) * (box[3] - box[1]))


@dataclass(frozen=True)
class Boxes:
    """One or more boxes of a finding in an image.

    Attributes:
        corners: float [n, 4], left, top, right, bottom.
    """

    corners: npt.NDArray[np.float64]

    def holds(self, x: float, y: float) -> bool:
        """Tell whether a point lies in any box."""
        left, top, right, bottom = self.corners.T
        return bool(((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).any())

    @property
    def area(self) -> float:
        """Share of the image that the boxes cover together, summed over the grid of their edges."""
        inside = self.corners.clip(0, 1)
        xs, ys = np.unique(inside[:, [0, 2]]), np.unique(inside[:, [1, 3]])
        return sum(
            float((right - left) * (bottom - top))
            for left, right in pairwise(xs)
            for top, bottom in pairwise(ys)
            if self.holds((left + right) / 2, (top + bottom) / 2)
        )


@dataclass(frozen=True)
class Mask:
    """The pixels of a finding in an image: bool [height, width]."""

    inside: npt.NDArray[np.bool_]

    def holds(self, x: float, y: float) -> bool:
        """Tell whether the pixel at a point is in the mask."""
        height, width = self.inside.shape
        return bool(self.inside[min(int(y * height), height - 1), min(int(x * width), width - 1)])

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """The box around all its pixels, as `Boxes.corners`, float [1, 4]; there must be some."""
        rows, columns = np.nonzero(self.inside)
        height, width = self.inside.shape
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return np.array([edges], dtype=np.float64) / (width, height, width, height)

    @property
    def area(self) -> float:
        """Share of the image."""
        return float(self.inside.mean())


@dataclass(frozen=True)
class Case:
    """One finding in one image.

    Attributes:
        row: of `Pairs`.
        finding: what is there.
        region: where it is.
        size: width and height of the original image; only their ratio matters.
    """

    row: int
    finding: str
    region: Boxes | Mask
    size: tuple[int, int]


def from_boxes(truth: Labels, pairs: Pairs) -> Iterator[Case]:
    """Give a case for each image and finding with boxes.

    Raises:
        PredictionsError: labels without boxes.
    """
    if truth.boxes is None:
        raise PredictionsError(
            "a bare label table has no boxes: give a dataset to --labels, or masks to --masks"
        )
    row_of = {name: row for row, name in enumerate(pairs.images)}
    boxes = truth.boxes[truth.boxes["image"].isin(row_of)]
    named = {truth.findings[j]: pairs.findings[i] for i, j in pairs.findings.common(truth.findings)}
    for (image, labelled), group in boxes.groupby(["image", "finding"], sort=True):
        finding = named.get(str(labelled))
        if finding is None:
            continue
        x, y, w, h = group[["x", "y", "w", "h"]].to_numpy(dtype=np.float64).T
        size = truth.rows.loc[str(image), ["width", "height"]].to_numpy(dtype=np.int64)
        corners = np.stack([x, y, x + w, y + h], axis=1)
        yield Case(row_of[image], finding, Boxes(corners), (int(size[0]), int(size[1])))


def from_masks(folder: Path, pairs: Pairs) -> Iterator[Case]:
    """Give a case for each `<image stem>_<Finding>.png` that is not empty.

    Raises:
        ArtifactError: no such folder.
        ImageError: a file that is no image.
    """
    require(folder, "chestxray synth")
    files = {path.name: path for path in folder.iterdir()}
    for row, image in enumerate(pairs.images):
        for finding in pairs.findings:
            path = files.get(f"{Path(image).stem}_{finding}.png")
            if path is not None and (inside := _read_mask(path)).any():
                height, width = inside.shape
                yield Case(row, finding, Mask(inside), (width, height))


def _read_mask(path: Path) -> npt.NDArray[np.bool_]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L")) > 0
    except (UnidentifiedImageError, OSError) as error:
        raise ImageError(path, f"is no mask: {error}") from error
