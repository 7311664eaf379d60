"""The report of regions: for each called finding a box in the image's own pixels (TID 1410).

The box surrounds the region of the heatmap that holds its peak (`evaluation.boxes`). It is where
the model's evidence lies, not an outline of the finding.

References: PS3.16 TID 1410; PS3.3 C.18.6.1.2 (coordinates: the image's top left corner is 0, 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from chestxray.evaluation import boxes
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects import codes, content
from chestxray.serving.gateway.objects.content import SELECTED
from chestxray.serving.gateway.objects.document import document, shown, tracking
from chestxray.serving.gateway.objects.identity import Model
from chestxray.serving.gateway.objects.report import percent, warnings
from chestxray.serving.gateway.objects.source import Source

_WHAT = "A box surrounds where the model's evidence is strongest; it outlines no finding."
_SIDE: Final = 100_000  # of the square, in the whole numbers that `boxes.detect` takes a shape in


def regions(source: Source, model: Model, reading: Reading) -> Dataset | None:
    """Make the report of regions; None where no called finding points into the image.

    Args:
        source: the image.
        model: that read it.
        reading: what it said.
    """
    groups = list(_groups(source, model, reading))
    if not groups:
        return None
    return document("regions", source, model, groups, [_WHAT, *warnings(reading)])


def _groups(source: Source, model: Model, reading: Reading) -> Iterator[bytes]:
    width, height = source.size
    # As the reader saw it, with square pixels; the header's may be higher than wide, or wider.
    _, _, wide, high = reading.placement
    shape = round(_SIDE * wide), round(_SIDE * high)
    image = content.image(SELECTED, codes.REGION_OF, shown(source))
    for finding, heat in reading.heatmaps.items():
        box = boxes.detect(heat, shape).box if reading.calls[finding] else None
        if box is not None:
            corners = _corners(box * (width, height, width, height))
            items = [
                *tracking("regions", source, model, finding),
                percent(codes.CERTAINTY, reading.probabilities[finding]),
                content.outline(codes.REGION, corners, image),
            ]
            yield content.container(codes.GROUP, items, template="1410")


def _corners(box: npt.NDArray[np.float64]) -> list[float]:
    """Give the closed outline, column and row of five corners, of left, top, right, bottom."""
    left, top, right, bottom = box.tolist()
    return [left, top, right, top, right, bottom, left, bottom, left, top]
