"""Result objects of one image: what the gateway sends back into the study.

| kind      | object                        | says                                         |
|-----------|-------------------------------|----------------------------------------------|
| `sr`      | Comprehensive 3D SR, TID 1500 | all findings with certainty, or the refusal  |
| `sc`      | Secondary Capture, RGB        | the same as a picture, with heatmaps         |
| `regions` | Comprehensive 3D SR, TID 1500 | boxes around what was called, where they lie |

Regions are kept apart from findings: viewers that draw boxes show a report of both as blank.
A refusal gives the first two, without a probability. All are PRELIMINARY, UNVERIFIED, for research.

The same image, model and version give the same UIDs, not the same bytes: the time stands in them.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from chestxray.dataset import pixels
from chestxray.errors import RefusedError
from chestxray.reading.reader import Reader, Reading
from chestxray.serving.gateway.objects import secondary_capture as capture
from chestxray.serving.gateway.objects import secondary_capture as picture
from chestxray.serving.gateway.objects import structured_report as regions
from chestxray.serving.gateway.objects import structured_report as report
from chestxray.serving.gateway.objects.instance import Model, Source


@dataclass(frozen=True)
class Made:
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
    path: Path, outcome: Reading | RefusedError, reader: Reader, kinds: Collection[str]
) -> Iterator[Made]:
    """Make the result objects of an image.

    Args:
        path: the DICOM file that was read.
        outcome: what the reader said of it.
        reader: that said it.
        kinds: of `sr`, `sc` and `regions`. Of regions there is no object where nothing was
            called, or where what was called points nowhere.

    Raises:
        ImageError: the file has no UIDs to refer to, or its pixels cannot be decoded.
    """
    source, model = Source.read(path), Model.of(reader)
    thresholds = reader.bundle.card.thresholds
    refused = isinstance(outcome, RefusedError)
    if "sr" in kinds:
        yield _made("sr", report.report(source, model, outcome, thresholds))
    if "sc" in kinds:
        drawn = picture.draw(pixels.decode(path), model, outcome, thresholds)
        yield _made("sc", capture.capture(source, model, drawn, refused=refused))
    if "regions" in kinds and isinstance(outcome, Reading):
        found = regions.regions(source, model, outcome)
        if found is not None:
            yield _made("regions", found)


def _made(kind: str, result: Dataset) -> Made:
    buffer = io.BytesIO()
    result.save_as(buffer, enforce_file_format=True)
    return Made(kind, str(result.SOPInstanceUID), buffer.getvalue())
