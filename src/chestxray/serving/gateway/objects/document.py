"""The frame that both structured reports share: TID 1500, observed by a device, of one image.

PRELIMINARY and UNVERIFIED: no person has looked at it. References: PS3.16 TID 1500, TID 1004,
TID 4019; PS3.3 C.17.2 (SR Document General).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    LanguageOfContentItemAndDescendants,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
)

from chestxray import __version__
from chestxray.serving.gateway.objects import codes
from chestxray.serving.gateway.objects.identity import MAKER, NOTE, UNVERIFIED, Model
from chestxray.serving.gateway.objects.source import CHARACTERS, Source

_CONTAINS: Final = RelationshipTypeValues.CONTAINS
_SERIES: Final = {
    "sr": (9001, "chestxray findings, for research use"),
    "regions": (9003, "chestxray regions, for research use"),
}


def document(
    kind: str,
    source: Source,
    model: Model,
    groups: Sequence[ContentSequence],
    notes: Sequence[str],
) -> Comprehensive3DSR:
    """Make a report.

    Args:
        kind: of result, `sr` or `regions`.
        source: the image.
        model: that read it.
        groups: measurement groups (TID 1501 or TID 1410), none for a refusal.
        notes: further sentences for people.
    """
    number, description = _SERIES[kind]
    result = Comprehensive3DSR(
        evidence=[source.reference()],
        content=_root(model, groups, (NOTE, UNVERIFIED, *notes)),
        series_instance_uid=model.uid(kind, source.uid, "series"),
        series_number=number,
        series_description=description,
        sop_instance_uid=model.uid(kind, source.uid),
        instance_number=1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[codes.own_scheme()],
        specific_character_set=CHARACTERS,
    )
    source.copy_to(result)
    model.sign(result)
    return result


def tracking(kind: str, source: Source, model: Model, finding: str) -> TrackingIdentifier:
    """Name a group, for people and for good."""
    return TrackingIdentifier(
        uid=model.uid(kind, source.uid, finding), identifier=finding.replace("_", " ")
    )


def _root(
    model: Model, groups: Sequence[ContentSequence], notes: Sequence[str]
) -> ContainerContentItem:
    root = ContainerContentItem(name=codes.REPORT, template_id="1500")
    root.ContentSequence = ContentSequence(
        [
            *LanguageOfContentItemAndDescendants(codes.ENGLISH),
            *_observer(model),
            CodeContentItem(
                name=codes.PROCEDURE_REPORTED,
                value=codes.PROCEDURE,
                relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
            ),
        ]
    )
    if groups:
        items = [*_algorithm(model), *(item for group in groups for item in group)]
        root.ContentSequence.append(_container(codes.MEASUREMENTS, items))
    comments = [TextContentItem(codes.COMMENT, note, _CONTAINS) for note in notes]
    root.ContentSequence.append(_container(codes.EVALUATIONS, comments))
    return root


def _container(name: CodedConcept, items: Sequence[ContentItem]) -> ContainerContentItem:
    container = ContainerContentItem(name=name, relationship_type=_CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container


def _observer(model: Model) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=model.device,
        name=MAKER,
        manufacturer_name=MAKER,
        model_name=model.name,
        serial_number=model.weights,
    )
    context = ObserverContext(observer_type=codes.DEVICE, observer_identifying_attributes=device)
    return ObservationContext(observer_device_context=context)


def _algorithm(model: Model) -> AlgorithmIdentification:
    return AlgorithmIdentification(
        name=model.name,
        version=__version__,
        parameters=[f"weights SHA-256 {model.weights}", f"trained on {model.data}"],
    )
