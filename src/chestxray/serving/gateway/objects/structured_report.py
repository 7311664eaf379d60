"""The frame that both structured reports share: TID 1500, observed by a device, of one image.

PRELIMINARY and UNVERIFIED: no person has looked at it. The content is encoded here and handed to
pydicom as the bytes of one element, which writes them as they are.

References: PS3.16 TID 1500, TID 1004, TID 4019; PS3.3 C.17.2 (SR Document General).

The report of findings: for each a group with its certainty, its threshold, and the call.

One TID 1501 group for a finding, as IHE's AI Results profile has it: within a single group nothing
would tie a certainty to its finding. A refusal is a report without groups that says why.

The report of regions: for each called finding a box in the image's own pixels (TID 1410).

The box surrounds the region of the heatmap that holds its peak (`evaluation.boxes`). It is where
the model's evidence lies, not an outline of the finding.

References: PS3.16 TID 1410; PS3.3 C.18.6.1.2 (coordinates: the image's top left corner is 0, 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from chestxray.errors import Notice, RefusedError
from chestxray.evaluation import localization as boxes
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects import codes
from chestxray.serving.gateway.objects import encoding as content
from chestxray.serving.gateway.objects.encoding import (
    CONTAINS,
    CONTEXT,
    MODIFIER,
    SELECTED,
    Instance,
    sequence,
)
from chestxray.serving.gateway.objects.instance import (
    CHARACTERS,
    MAKER,
    NOTE,
    NOTHING_SAID,
    UNVERIFIED,
    Model,
    Source,
    instance,
)
from chestxray.version import __version__

_CONTENT: Final = Tag("ContentSequence")


def document(
    kind: str, source: Source, model: Model, groups: Sequence[bytes], notes: Sequence[str]
) -> Dataset:
    """Make a report.

    Args:
        kind: of result, `sr` or `regions`.
        source: the image.
        model: that read it.
        groups: measurement groups (TID 1501 or TID 1410), encoded; none for a refusal.
        notes: further sentences for people.
    """
    result = instance(kind, source, model)
    result.CompletionFlag = "COMPLETE"
    result.PreliminaryFlag = "PRELIMINARY"
    result.VerificationFlag = "UNVERIFIED"
    result.ReferencedPerformedProcedureStepSequence = []
    result.PerformedProcedureCodeSequence = []
    result.CurrentRequestedProcedureEvidenceSequence = [_evidence(source)]
    result.CodingSchemeIdentificationSequence = [codes.own_scheme()]
    _root(result, [*_head(model), *_body(model, groups, (NOTE, UNVERIFIED, *notes))])
    return result


def tracking(kind: str, source: Source, model: Model, finding: str) -> list[bytes]:
    """Name a group, for people and for good, and what it is about."""
    uid = model.uid(kind, *source.seed, finding)
    return [
        content.text(CONTEXT, codes.TRACKING, finding.replace("_", " ")),
        content.uid(CONTEXT, codes.TRACKING_UID, uid),
        content.coded(CONTAINS, codes.FOUND, codes.FINDING[finding]),
    ]


def shown(source: Source) -> Instance:
    """Name the image."""
    return Instance(source.sop_class, source.uid)


def _evidence(source: Source) -> Dataset:
    image, series, study = Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID = source.sop_class
    image.ReferencedSOPInstanceUID = source.uid
    series.SeriesInstanceUID = source.values["SeriesInstanceUID"]
    series.ReferencedSOPSequence = [image]
    study.StudyInstanceUID = source.values["StudyInstanceUID"]
    study.ReferencedSeriesSequence = [series]
    return study


def _root(result: Dataset, items: Sequence[bytes]) -> None:
    """Make a data set the root of a content tree."""
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "1500"
    result.ValueType = "CONTAINER"
    result.ConceptNameCodeSequence = [codes.dataset(codes.REPORT)]
    result.ContinuityOfContent = "CONTINUOUS"
    result.ContentTemplateSequence = [template]
    encoded = sequence(items)
    result[_CONTENT] = RawDataElement(_CONTENT, "SQ", len(encoded), encoded, 0, False, True)
    # Tells pydicom that these bytes are encoded as the file will be.
    result.set_original_encoding(False, True, convert_encodings(CHARACTERS))


@cache
def _head(model: Model) -> tuple[bytes, ...]:
    return (
        content.coded(MODIFIER, codes.LANGUAGE, codes.ENGLISH),
        content.coded(CONTEXT, codes.OBSERVER, codes.DEVICE),
        content.uid(CONTEXT, codes.DEVICE_UID, model.device),
        content.text(CONTEXT, codes.DEVICE_NAME, MAKER),
        content.text(CONTEXT, codes.DEVICE_MAKER, MAKER),
        content.text(CONTEXT, codes.DEVICE_MODEL, model.name),
        content.text(CONTEXT, codes.DEVICE_SERIAL, model.weights),
        content.coded(MODIFIER, codes.PROCEDURE_REPORTED, codes.PROCEDURE),
    )


def _body(model: Model, groups: Sequence[bytes], notes: Sequence[str]) -> list[bytes]:
    comments = [content.text(CONTAINS, codes.COMMENT, note) for note in notes]
    said = content.container(codes.EVALUATIONS, comments)
    if not groups:
        return [said]
    return [content.container(codes.MEASUREMENTS, [*_algorithm(model), *groups]), said]


@cache
def _algorithm(model: Model) -> tuple[bytes, ...]:
    parameters = (
        f"weights SHA-256 {model.weights}",
        f"trained on {model.data}, by chestxray {model.trained_by}",
    )
    return (
        content.text(MODIFIER, codes.ALGORITHM, model.name),
        content.text(MODIFIER, codes.ALGORITHM_VERSION, __version__),
        *(content.text(MODIFIER, codes.ALGORITHM_PARAMETERS, text) for text in parameters),
    )


def report(
    source: Source,
    model: Model,
    outcome: Reading | RefusedError,
    thresholds: Mapping[str, float | None],
) -> Dataset:
    """Make the report of a reading or a refusal.

    Args:
        source: the image.
        model: that read it.
        outcome: what it said.
        thresholds: finding → probability from which it is called, None without one.
    """
    if isinstance(outcome, RefusedError):
        notes = [_note("Not read" if n.refuses else "Warning", n) for n in outcome.notices]
        return document("sr", source, model, (), [*notes, NOTHING_SAID])
    groups = list(_groups(source, model, outcome, thresholds))
    return document("sr", source, model, groups, warnings(outcome))


def warnings(reading: Reading) -> list[str]:
    """Say why not to trust a reading."""
    return [_note("Warning", notice) for notice in reading.warnings]


def _note(head: str, notice: Notice) -> str:
    """Say what the gate said, with its code, for people and programs."""
    return f"{head} ({notice.code}): {notice}"


def percent(name: Code, share: float) -> bytes:
    """Say a share in [0, 1] in percent."""
    return content.number(name, 100 * float(share), codes.PERCENT)


def _groups(
    source: Source, model: Model, reading: Reading, thresholds: Mapping[str, float | None]
) -> Iterator[bytes]:
    image = content.image(CONTAINS, codes.MEASURED_IN, shown(source))
    for finding, probability in reading.probabilities.items():
        items = [
            *tracking("sr", source, model, finding),
            percent(codes.CERTAINTY, probability),
        ]
        threshold = thresholds[finding]
        if threshold is not None:
            items.append(percent(codes.THRESHOLD, threshold))
        call = codes.CALLS[reading.calls[finding]]
        items += [content.coded(CONTAINS, codes.CALLED, call), image]
        yield content.container(codes.GROUP, items, template="1501")


_WHAT = "A box surrounds where the model's evidence is strongest; it outlines no finding."
_SIDE: Final = 100_000  # of the square, in the whole numbers that `boxes.detect` takes a shape in


def regions(source: Source, model: Model, reading: Reading) -> Dataset | None:
    """Make the report of regions; None where no called finding points into the image.

    Args:
        source: the image.
        model: that read it.
        reading: what it said.
    """
    groups = list(_region_groups(source, model, reading))
    if not groups:
        return None
    return document("regions", source, model, groups, [_WHAT, *warnings(reading)])


def _region_groups(source: Source, model: Model, reading: Reading) -> Iterator[bytes]:
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
