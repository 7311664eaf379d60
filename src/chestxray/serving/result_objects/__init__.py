"""Result objects of one image: what the gateway sends back into its study, and the web service too.

| kind      | object                        | content                                         |
|-----------|-------------------------------|-------------------------------------------------|
| `sr`      | Comprehensive 3D SR, TID 1500 | all findings with certainty, or the refusal     |
| `sc`      | Secondary Capture, in colour  | the same as a picture, with heatmaps            |
| `regions` | Comprehensive 3D SR, TID 1500 | a box for each called finding that has a region |
| `seg`     | Segmentation, binary          | the pixels within its first contour of heat     |

Regions are kept apart from findings: viewers that draw boxes show a report of both as blank. A
refusal gives the first two, without probabilities; each object of a forced reading says first that
the gate refuses the image. All are PRELIMINARY, UNVERIFIED, for research.

The same image, model, version and findings give the same UIDs, but not the same bytes: they contain
the time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

from pydicom import Dataset

from chestxray.dataset.pixels import Grey
from chestxray.errors import RefusedError
from chestxray.reading.reader import Reader, Reading
from chestxray.serving import dicom_writing
from chestxray.serving.result_objects import (
    secondary_capture,
    segmentation,
    structured_report,
)
from chestxray.serving.result_objects.instance import Model
from chestxray.serving.source_image import SourceImage

__all__ = ["KINDS", "ResultObject", "SourceImage", "make"]

KINDS: Final = ("sr", "sc", "regions", "seg")


@dataclass(frozen=True)
class ResultObject:
    """A result object.

    Attributes:
        kind: of `KINDS`.
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
    *,
    compressed: bool = True,
) -> Iterator[ResultObject]:
    """Make the result objects of an image.

    Args:
        source: attributes of the image that was read.
        pixels: its decoded pixels, bright = dense.
        outcome: the reading, which may be limited to some findings; or the refusal.
        reader: the reader that made it.
        kinds: of `KINDS`. There are no regions where no called finding has one, and likewise no
            segmentation.
        compressed: whether pictures are in JPEG Baseline; all else is in Explicit VR Little Endian.
    """
    model, thresholds = Model.of(reader), reader.bundle.card.thresholds
    source = replace(source, scope=_scope(outcome, reader))
    if "sr" in kinds:
        yield _file("sr", structured_report.report(source, model, outcome, thresholds))
    if "sc" in kinds:
        scale = secondary_capture.SCALE
        drawn = secondary_capture.draw(pixels, model, outcome, thresholds, scale)
        # Another object than the one in JPEG, whose pixels differ.
        of = source if compressed else replace(source, scope=(*source.scope, "uncompressed"))
        picture = secondary_capture.capture(of, model, outcome, drawn, compressed=compressed)
        yield _file("sc", picture)
    if isinstance(outcome, RefusedError):
        return
    if "regions" in kinds:
        found = structured_report.regions(source, model, outcome)
        if found is not None:
            yield _file("regions", found)
    if "seg" in kinds:
        found = segmentation.segmentation(source, model, outcome, thresholds)
        if found is not None:
            yield _file("seg", found)


def _scope(outcome: Reading | RefusedError, reader: Reader) -> tuple[str, ...]:
    """Give what tells results apart that say different things of one image."""
    if isinstance(outcome, RefusedError):
        return ()
    forced = ("forced",) if outcome.forced else ()
    some = tuple(outcome.probabilities)
    return forced if some == tuple(reader.findings) else (*forced, *some)


def _file(kind: str, result: Dataset) -> ResultObject:
    return ResultObject(kind, str(result.SOPInstanceUID), dicom_writing.file(result))
