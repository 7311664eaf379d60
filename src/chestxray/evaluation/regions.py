"""Where findings are, to hold heatmaps against: boxes (NIH) or exact masks (phantoms).

All places are fractions of the original image's sides, with the origin at the top left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from chestxray.artifacts import require
from chestxray.errors import ImageError, PredictionsError
from chestxray.evaluation.labels import Labels, Pairs
from chestxray.findings import FINDINGS


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
    for (image, finding), group in boxes.groupby(["image", "finding"], sort=True):
        x, y, w, h = group[["x", "y", "w", "h"]].to_numpy(dtype=np.float64).T
        size = truth.rows.loc[str(image), ["width", "height"]].to_numpy(dtype=np.int64)
        corners = np.stack([x, y, x + w, y + h], axis=1)
        yield Case(row_of[image], str(finding), Boxes(corners), (int(size[0]), int(size[1])))


def from_masks(folder: Path, pairs: Pairs) -> Iterator[Case]:
    """Give a case for each `<image stem>_<Finding>.png` that is not empty.

    Raises:
        ArtifactError: no such folder.
        ImageError: a file that is no image.
    """
    require(folder, "chestxray synth")
    files = {path.name: path for path in folder.iterdir()}
    for row, image in enumerate(pairs.images):
        for finding in FINDINGS:
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
