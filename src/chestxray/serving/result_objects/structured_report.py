"""The structured reports: of findings, of a refusal, and of regions.

All are TID 1500 reports by a device about one image, PRELIMINARY and UNVERIFIED: no person has
looked at them. The content is encoded here and handed to pydicom as the bytes of one element.

- Findings: one TID 1501 group per finding with its certainty, threshold and call, as IHE's AI
  Results profile expects; in a single group nothing would tie a certainty to its finding. A finding
  that is not assessed has no threshold, the call "Not assessed" (a private code: the Standard's
  baseline of yes and no has no third answer), and a comment with the reason.
- Refusal: no groups, but comments with the reasons.
- Regions: one TID 1410 group per called finding with a box in the image's own pixels. The box
  surrounds the region of the heatmap that contains its peak (`evaluation.localization`). It shows
  where the model's evidence is, and does not outline the finding.

References: PS3.16 TID 1500, 1004, 1410, 1501, 4019; PS3.3 C.17.2 (SR Document General), C.18.6.1.2
(coordinates: the top left corner of the image is 0, 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from chestxray.errors import Notice, RefusedError
from chestxray.evaluation.localization import detect
from chestxray.findings import label
from chestxray.reading.evidence import no_place
from chestxray.reading.reader import Reading
from chestxray.serving.dicom_writing import sequence
from chestxray.serving.result_objects import codes
from chestxray.serving.result_objects import content_items as content
from chestxray.serving.result_objects.content_items import (
    CONTAINS,
    CONTEXT,
    MODIFIER,
    SELECTED,
    ImageReference,
)
from chestxray.serving.result_objects.instance import (
    MAKER,
    NOTE,
    NOTHING_REPORTED,
    UNVERIFIED,
    Model,
    instance,
    reference,
    refusals,
)
from chestxray.serving.source_image import CHARACTERS, SourceImage
from chestxray.version import __version__

_CONTENT: Final = Tag("ContentSequence")


def _document(
    kind: str,
    source: SourceImage,
    model: Model,
    groups: Sequence[bytes],
    notes: Sequence[str],
    forced: Sequence[str] = (),
) -> Dataset:
    """Make a report.

    Args:
        kind: `sr` or `regions`.
        source: the image.
        model: the model that read it.
        groups: encoded measurement groups (TID 1501 or 1410); none for a refusal.
        notes: further comments.
        forced: comments before all others, of a forced reading.
    """
    result = instance(kind, source, model, forced=bool(forced))
    result.CompletionFlag = "COMPLETE"
    result.PreliminaryFlag = "PRELIMINARY"
    result.VerificationFlag = "UNVERIFIED"
    result.ReferencedPerformedProcedureStepSequence = []
    result.PerformedProcedureCodeSequence = []
    result.CurrentRequestedProcedureEvidenceSequence = [_evidence(source)]
    result.CodingSchemeIdentificationSequence = [codes.private_scheme()]
    comments = (*forced, NOTE, UNVERIFIED, *notes)
    _root(result, [*_head(model), *_body(model, groups, comments)])
    return result


def _identification(kind: str, source: SourceImage, model: Model, finding: str) -> list[bytes]:
    """Identify a group by name and by UID, and name its finding."""
    uid = model.uid(kind, *source.seed, finding)
    return [
        _tracking(finding),
        content.uid(CONTEXT, codes.TRACKING_UID, uid),
        content.coded(CONTAINS, codes.FOUND, codes.finding(finding)),
    ]


@lru_cache(4096)
def _tracking(finding: str) -> bytes:
    return content.text(CONTEXT, codes.TRACKING, label(finding))


def _reference(source: SourceImage) -> ImageReference:
    """Reference the image."""
    return ImageReference(source.sop_class, source.uid)


def _evidence(source: SourceImage) -> Dataset:
    series, study = Dataset(), Dataset()
    series.SeriesInstanceUID = source.values["SeriesInstanceUID"]
    series.ReferencedSOPSequence = [reference(source)]
    study.StudyInstanceUID = source.values["StudyInstanceUID"]
    study.ReferencedSeriesSequence = [series]
    return study


def _root(result: Dataset, items: Sequence[bytes]) -> None:
    """Make a data set the root of the content."""
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "1500"
    result.ValueType = "CONTAINER"
    result.ConceptNameCodeSequence = [codes.dataset(codes.REPORT)]
    result.ContinuityOfContent = "CONTINUOUS"
    result.ContentTemplateSequence = [template]
    encoded = sequence(items)
    result[_CONTENT] = RawDataElement(_CONTENT, "SQ", len(encoded), encoded, 0, False, True)
    # Tells pydicom that these bytes are already encoded as the file will be.
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
        f"operating point {model.operating_point}",
    )
    return (
        content.text(MODIFIER, codes.ALGORITHM, model.name),
        content.text(MODIFIER, codes.ALGORITHM_VERSION, __version__),
        *(content.text(MODIFIER, codes.ALGORITHM_PARAMETERS, text) for text in parameters),
    )


def report(
    source: SourceImage,
    model: Model,
    outcome: Reading | RefusedError,
    thresholds: Mapping[str, float | None],
) -> Dataset:
    """Make the report of a reading or a refusal.

    Args:
        source: the image.
        model: the model that read it.
        outcome: the reading or the refusal.
        thresholds: finding → probability from which it is called; None without a threshold.
    """
    if isinstance(outcome, RefusedError):
        notes = [_note("Not read" if n.refuses else "Warning", n) for n in outcome.notices]
        return _document("sr", source, model, (), [*notes, NOTHING_REPORTED])
    groups = list(_finding_groups(source, model, outcome, thresholds))
    notes = [*_not_assessed(outcome), *_warnings(outcome)]
    return _document("sr", source, model, groups, notes, refusals(outcome))


def _not_assessed(reading: Reading) -> list[str]:
    """Say which findings are never called and why; equal reasons together."""
    reasons: dict[str, list[str]] = {}
    for finding, reason in reading.not_assessed.items():
        reasons.setdefault(reason, []).append(label(finding))
    return [f"Not assessed: {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _warnings(reading: Reading) -> list[str]:
    """Give the warnings of a reading as comments, without the refusals of a forced one."""
    return [_note("Warning", notice) for notice in reading.warnings if not notice.refuses]


def _note(head: str, notice: Notice) -> str:
    """Write a notice with its code."""
    return f"{head} ({notice.code}): {notice}"


def _percent(name: Code, share: float) -> bytes:
    """Make a NUM item in percent of a share in [0, 1]."""
    return content.number(name, 100 * float(share), codes.PERCENT)


@lru_cache(4096)
def _threshold(threshold: float) -> bytes:
    return _percent(codes.THRESHOLD, threshold)


def _finding_groups(
    source: SourceImage, model: Model, reading: Reading, thresholds: Mapping[str, float | None]
) -> Iterator[bytes]:
    image = content.image(CONTAINS, codes.MEASURED_IN, _reference(source))
    for finding, probability in reading.probabilities.items():
        items = [
            *_identification("sr", source, model, finding),
            _percent(codes.CERTAINTY, probability),
        ]
        threshold = thresholds[finding]
        if threshold is not None:
            items.append(_threshold(threshold))
        call = codes.CALLS[reading.calls[finding]]
        items += [content.coded(CONTAINS, codes.CALLED, call), image]
        yield content.container(codes.GROUP, items, template="1501")


_BOX_NOTE: Final = (
    "A box surrounds where the model's evidence is strongest; it does not outline the finding."
)
_SIDE: Final = 100_000  # of the square, in the whole numbers that `detect` takes as shape


def regions(source: SourceImage, model: Model, reading: Reading) -> Dataset | None:
    """Make the report of regions; None where no called finding has localised evidence.

    Args:
        source: the image.
        model: the model that read it.
        reading: the reading.
    """
    groups = list(_region_groups(source, model, reading))
    if not groups:
        return None
    notes = [_BOX_NOTE, *_warnings(reading)]
    return _document("regions", source, model, groups, notes, refusals(reading))


def _region_groups(source: SourceImage, model: Model, reading: Reading) -> Iterator[bytes]:
    width, height = source.size
    # Of the radiograph with square pixels, as it was read; those of the file may not be square.
    _, _, wide, high = reading.placement
    shape = round(_SIDE * wide), round(_SIDE * high)
    image = content.image(SELECTED, codes.REGION_OF, _reference(source))
    for finding, heat in reading.heatmaps.items():
        pointed = reading.calls[finding] and no_place(heat) is None
        box = detect(heat, shape).box if pointed else None
        if box is not None:
            corners = _corners(box * (width, height, width, height))
            items = [
                *_identification("regions", source, model, finding),
                _percent(codes.CERTAINTY, reading.probabilities[finding]),
                content.outline(codes.REGION, corners, image),
            ]
            yield content.container(codes.GROUP, items, template="1410")


def _corners(box: npt.NDArray[np.float64]) -> list[float]:
    """Give the closed outline of a box: column and row of five corners."""
    left, top, right, bottom = box.tolist()
    return [left, top, right, top, right, bottom, left, bottom, left, top]
