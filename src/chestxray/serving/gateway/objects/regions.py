"""The report of regions: for each called finding a box in the image's own pixels (TID 1410).

The box surrounds the region of the heatmap that holds its peak (`evaluation.boxes`). It is where
the model's evidence lies, not an outline of the finding.

References: PS3.16 TID 1410; PS3.3 C.18.6.1.2 (coordinates: the image's top left corner is 0, 0).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from highdicom.sr import (
    Comprehensive3DSR,
    ContentSequence,
    GraphicTypeValues,
    ImageRegion,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    SourceImageForRegion,
)

from chestxray.evaluation import boxes
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects import codes
from chestxray.serving.gateway.objects.document import document, tracking
from chestxray.serving.gateway.objects.identity import Model
from chestxray.serving.gateway.objects.report import percent
from chestxray.serving.gateway.objects.source import Source

_WHAT = "A box surrounds where the model's evidence is strongest; it outlines no finding."


def regions(
    source: Source, model: Model, reading: Reading, shape: tuple[int, int]
) -> Comprehensive3DSR | None:
    """Make the report of regions; None where no called finding points into the image.

    Args:
        source: the image.
        model: that read it.
        reading: what it said.
        shape: height and width of the image, pixels.
    """
    groups = list(_groups(source, model, reading, shape))
    if not groups:
        return None
    notes = [f"Warning: {warning}" for warning in reading.warnings]
    return document("regions", source, model, groups, [_WHAT, *notes])


def _groups(
    source: Source, model: Model, reading: Reading, shape: tuple[int, int]
) -> Iterator[ContentSequence]:
    height, width = shape
    for finding, heat in reading.heatmaps.items():
        box = boxes.detect(heat, (width, height)).box if reading.calls[finding] else None
        if box is not None:
            yield PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=tracking("regions", source, model, finding),
                referenced_region=ImageRegion(
                    GraphicTypeValues.POLYLINE,
                    _corners(box * (width, height, width, height)),
                    SourceImageForRegion(source.sop_class, source.uid),
                ),
                finding_type=codes.FINDING[finding],
                measurements=[percent(codes.CERTAINTY, reading.probabilities[finding])],
            )


def _corners(box: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give the closed outline [5, 2], column and row, of left, top, right, bottom."""
    left, top, right, bottom = box
    around = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return np.array(around, dtype=np.float64)
