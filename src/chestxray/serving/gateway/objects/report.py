"""The report of findings: for each a group with its certainty, its threshold, and the call.

One TID 1501 group for a finding, as IHE's AI Results profile has it: within a single group nothing
would tie a certainty to its finding. A refusal is a report without groups that says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from highdicom.sr import (
    CodedConcept,
    Comprehensive3DSR,
    ContentSequence,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
)

from chestxray.errors import RefusedError
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects import codes
from chestxray.serving.gateway.objects.document import document, tracking
from chestxray.serving.gateway.objects.identity import Model
from chestxray.serving.gateway.objects.source import Source

_DECIMALS = 3


def report(
    source: Source,
    model: Model,
    outcome: Reading | RefusedError,
    thresholds: Mapping[str, float | None],
) -> Comprehensive3DSR:
    """Make the report of a reading or a refusal.

    Args:
        source: the image.
        model: that read it.
        outcome: what it said.
        thresholds: finding → probability from which it is called, None without one.
    """
    if isinstance(outcome, RefusedError):
        notes = [
            f"Not read ({notice.code}): {notice}" if notice.refuses else f"Warning: {notice}"
            for notice in outcome.notices
        ]
        return document("sr", source, model, (), [*notes, "No finding was looked for."])
    groups = list(_groups(source, model, outcome, thresholds))
    notes = [f"Warning: {warning}" for warning in outcome.warnings]
    return document("sr", source, model, groups, notes)


def percent(name: CodedConcept, share: float) -> Measurement:
    """Say a share in [0, 1] in percent; NumPy's floats are made Python's, which are wanted."""
    return Measurement(name=name, value=round(100 * float(share), _DECIMALS), unit=codes.PERCENT)


def _groups(
    source: Source, model: Model, reading: Reading, thresholds: Mapping[str, float | None]
) -> Iterator[ContentSequence]:
    for finding, probability in reading.probabilities.items():
        threshold = thresholds[finding]
        measured = [percent(codes.CERTAINTY, probability)]
        if threshold is not None:
            measured.append(percent(codes.THRESHOLD, threshold))
        called = QualitativeEvaluation(codes.CALLED, codes.CALLS[reading.calls[finding]])
        yield MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking("sr", source, model, finding),
            finding_type=codes.FINDING[finding],
            measurements=measured,
            qualitative_evaluations=[called],
            source_images=[SourceImageForMeasurementGroup(source.sop_class, source.uid)],
        )
