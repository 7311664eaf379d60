"""Result objects of one image: what the gateway sends back into its study.

| kind      | object                        | content                                         |
|-----------|-------------------------------|-------------------------------------------------|
| `sr`      | Comprehensive 3D SR, TID 1500 | all findings with certainty, or the refusal     |
| `sc`      | Secondary Capture, RGB        | the same as a picture, with heatmaps            |
| `regions` | Comprehensive 3D SR, TID 1500 | a box for each called finding that has a region |

Regions are kept apart from findings: viewers that draw boxes show a report of both as blank. A
refusal gives the first two, without probabilities. All are PRELIMINARY, UNVERIFIED, for research.

The same image, model and version give the same UIDs, but not the same bytes: they contain the time.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pydicom import Dataset

from chestxray.dataset.pixels import Grey
from chestxray.errors import RefusedError
from chestxray.reading.reader import Reader, Reading
from chestxray.serving.gateway.result_objects import secondary_capture, structured_report
from chestxray.serving.gateway.result_objects.instance import Model
from chestxray.serving.gateway.source_image import SourceImage

__all__ = ["ResultObject", "SourceImage", "make"]


@dataclass(frozen=True)
class ResultObject:
    """A result object.

    Attributes:
        kind: `sr`, `sc` or `regions`.
        uid: its SOP instance UID.
        content: the DICOM file.
    """

    kind: str
    uid: str
    content: bytes


def make(
    source: SourceImage,
    pixels: Grey,
    outcome: Reading | RefusedError,
    reader: Reader,
    kinds: Collection[str],
) -> Iterator[ResultObject]:
    """Make the result objects of an image.

    Args:
        source: attributes of the image that was read.
        pixels: its decoded pixels, bright = dense.
        outcome: the reading or the refusal.
        reader: the reader that made it.
        kinds: of `sr`, `sc` and `regions`. There is no object of regions where no finding is
            called, or where no called finding has a region.
    """
    model, thresholds = Model.of(reader), reader.bundle.card.thresholds
    refused = isinstance(outcome, RefusedError)
    if "sr" in kinds:
        yield _file("sr", structured_report.report(source, model, outcome, thresholds))
    if "sc" in kinds:
        scale = secondary_capture.SCALE
        drawn = secondary_capture.draw(pixels, model, outcome, thresholds, scale)
        yield _file("sc", secondary_capture.capture(source, model, drawn, refused=refused))
    if "regions" in kinds and isinstance(outcome, Reading):
        found = structured_report.regions(source, model, outcome)
        if found is not None:
            yield _file("regions", found)


def _file(kind: str, result: Dataset) -> ResultObject:
    buffer = io.BytesIO()
    result.save_as(buffer, enforce_file_format=True)
    return ResultObject(kind, str(result.SOPInstanceUID), buffer.getvalue())
