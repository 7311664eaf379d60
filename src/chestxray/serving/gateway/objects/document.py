"""The frame that both structured reports share: TID 1500, observed by a device, of one image.

PRELIMINARY and UNVERIFIED: no person has looked at it. The content is encoded here and handed to
pydicom as the bytes of one element, which writes them as they are.

References: PS3.16 TID 1500, TID 1004, TID 4019; PS3.3 C.17.2 (SR Document General).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from chestxray import __version__
from chestxray.serving.gateway.objects import codes, content
from chestxray.serving.gateway.objects.content import CONTAINS, CONTEXT, MODIFIER, Instance
from chestxray.serving.gateway.objects.encoding import sequence
from chestxray.serving.gateway.objects.identity import MAKER, NOTE, UNVERIFIED, Model
from chestxray.serving.gateway.objects.instance import instance
from chestxray.serving.gateway.objects.source import CHARACTERS, Source

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
