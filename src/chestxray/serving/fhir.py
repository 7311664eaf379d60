"""A reading as a FHIR R4 DiagnosticReport with an Observation for each finding.

The report is one resource: observations and the model (a Device) are contained in it, since they
mean nothing without it, so it can be stored by one request. Its status is preliminary: no person
has looked at it. Patient, order, study and image of a DICOM file are referenced by their
identifiers alone; a reading of PNG or JPEG has none of them.

Probability and threshold are in percent. A finding below its threshold has the interpretation
"Negative" with the text "not called"; one that is not assessed has none, and a note with the
reason. R4 has no place for notes of a report, so warnings are in its conclusion.

A forced reading has neither interpretations nor conclusion codes, which a program might use without
the text; the conclusion and the notes of each observation begin with the refusal.

References: https://hl7.org/fhir/R4/diagnosticreport.html, observation.html, device.html, and
terminologies-systems.html (URIs of code systems); DICOM PS3.20 (identifiers as `urn:dicom:uid`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from chestxray.findings import label, term
from chestxray.reading.reader import Reading
from chestxray.serving.responses import RESEARCH_NOTICE
from chestxray.serving.result_objects import codes
from chestxray.serving.result_objects.instance import MAKER, UNVERIFIED, Model, refusals
from chestxray.serving.source_image import SourceImage
from chestxray.version import __version__

_Json = dict[str, Any]

_SYSTEMS: Final = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    codes.SCHEME: f"urn:oid:{codes.SCHEME_UID}",
}
_TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
_UCUM: Final = "http://unitsofmeasure.org"
_UIDS: Final = "urn:dicom:uid"
_URIS: Final = "urn:ietf:rfc:3986"
_CHEST_FILM: Final = {
    "system": _SYSTEMS["SCT"],
    "code": "399208008",
    "display": "Plain X-ray of chest",
}
_CALLS: Final = {True: ("POS", "Positive", "called"), False: ("NEG", "Negative", "not called")}
_DATE: Final = re.compile(r"(\d{4})(\d\d)(\d\d)")
_TIME: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d)([0-5]\d)(\.\d{1,6})?")


def diagnostic_report(
    reading: Reading, model: Model, source: SourceImage | None, digest: str
) -> _Json:
    """Make the report of a reading.

    Args:
        reading: the reading, which may be limited to some findings.
        model: the model that made it.
        source: of a DICOM file, what identifies it.
        digest: SHA-256 of the file, from which the report's identifier is derived.
    """
    about = _about(source)
    observations = [
        _observation(number, finding, reading, about)
        for number, finding in enumerate(reading.probabilities, 1)
    ]
    conclusion = _conclusion(reading)
    called = [finding for finding, call in reading.calls.items() if call and not reading.forced]
    uid = model.uid("fhir", digest, *reading.probabilities)
    return {
        "resourceType": "DiagnosticReport",
        "text": {"status": "generated", "div": _narrative(reading, conclusion)},
        "contained": [_device(model), *observations],
        "identifier": [{"system": _URIS, "value": f"urn:oid:{uid}"}],
        **_order(source),
        "status": "preliminary",
        "category": [{"coding": [_coding("v2-0074", "RAD", "Radiology")]}],
        "code": {"coding": [_CHEST_FILM], "text": "Reading of a chest radiograph by software"},
        **about,
        "issued": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "result": [{"reference": f"#{each['id']}"} for each in observations],
        **_study(source),
        "conclusion": conclusion,
        **({"conclusionCode": [_concept(finding) for finding in called]} if called else {}),
    }


def _observation(number: int, finding: str, reading: Reading, about: _Json) -> _Json:
    call, threshold = reading.calls[finding], reading.thresholds[finding]
    found: _Json = {
        "resourceType": "Observation",
        "id": f"finding-{number}",
        "status": "preliminary",
        "category": [{"coding": [_coding("observation-category", "imaging", "Imaging")]}],
        "code": _concept(finding),
        **about,
        "valueQuantity": _percent(reading.probabilities[finding]),
        "device": {"reference": "#model"},
    }
    if call is not None and not reading.forced:
        code, display, text = _CALLS[call]
        coding = _coding("v3-ObservationInterpretation", code, display)
        found["interpretation"] = [{"coding": [coding], "text": text}]
    if threshold is not None:
        limit = "The finding is called from this probability on."
        found["referenceRange"] = [{"high": _percent(threshold), "text": limit}]
    if notes := list(_notes(finding, reading)):
        found["note"] = [{"text": text} for text in notes]
    return found


def _notes(finding: str, reading: Reading) -> Iterator[str]:
    for refusal in refusals(reading):
        yield f"{_sentence(refusal)}."
    if finding in reading.not_assessed:
        yield f"Not assessed: {reading.not_assessed[finding]}."
    if reading.calls[finding] and finding in reading.not_localised:
        yield f"{reading.not_localised[finding].capitalize()}."


def _concept(finding: str) -> _Json:
    """Give all codes of a finding; a private one where the vocabulary has none."""
    known = term(finding)
    public = [] if known is None else [(c.scheme, c.value, c.meaning) for c in known.codes]
    own = codes.finding(finding)
    listed = public or [(own.scheme_designator, own.value, own.meaning)]
    coding = [
        {"system": _SYSTEMS[scheme], "code": value, "display": meaning}
        for scheme, value, meaning in listed
    ]
    return {"coding": coding, "text": label(finding)}


def _coding(system: str, code: str, display: str) -> _Json:
    return {"system": f"{_TERMINOLOGY}/{system}", "code": code, "display": display}


def _percent(share: float) -> _Json:
    return {"value": round(100 * share, 4), "unit": "%", "system": _UCUM, "code": "%"}


def _device(model: Model) -> _Json:
    return {
        "resourceType": "Device",
        "id": "model",
        "identifier": [{"system": _URIS, "value": f"urn:oid:{model.device}"}],
        "manufacturer": MAKER,
        "serialNumber": model.weights,
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "version": [{"value": __version__}],
        "note": [{"text": f"Trained on {model.data}. {RESEARCH_NOTICE}"}],
    }


def _about(source: SourceImage | None) -> _Json:
    """Give what report and observations say alike: the patient and the time of the study."""
    values = {} if source is None else source.values
    found: _Json = {}
    if patient := values.get("PatientID", "").strip():
        identifier: _Json = {
            "type": {"coding": [_coding("v2-0203", "MR", "Medical record number")]},
            "value": patient,
        }
        if issuer := values.get("IssuerOfPatientID", "").strip():
            identifier["assigner"] = {"display": issuer}
        found["subject"] = {"type": "Patient", "identifier": identifier}
    if source is not None and (when := _when(source)):
        found["effectiveDateTime"] = when
    return found


def _order(source: SourceImage | None) -> _Json:
    number = "" if source is None else source.values.get("AccessionNumber", "").strip()
    if not number:
        return {}
    kind = {"coding": [_coding("v2-0203", "ACSN", "Accession ID")]}
    return {"basedOn": [{"type": "ServiceRequest", "identifier": {"type": kind, "value": number}}]}


def _study(source: SourceImage | None) -> _Json:
    if source is None:
        return {}
    study = {"system": _UIDS, "value": f"urn:oid:{source.values['StudyInstanceUID']}"}
    image = f"image {source.uid}"
    return {"imagingStudy": [{"type": "ImagingStudy", "identifier": study, "display": image}]}


def _when(source: SourceImage) -> str:
    """Give date and time of the study; the date alone where its offset from UTC is not stated."""
    date = _DATE.fullmatch(source.values.get("StudyDate", "").strip())
    if date is None:
        return ""
    time = _TIME.fullmatch(source.values.get("StudyTime", "").strip())
    try:
        year, month, number = map(int, date.groups())
        day = datetime(year, month, number, tzinfo=source.timezone or UTC)
    except ValueError:
        return ""
    if time is None or source.timezone is None:
        return f"{day.date()}"
    hour, minute, second = map(int, time.groups()[:3])
    return day.replace(hour=hour, minute=minute, second=second).isoformat()


def _conclusion(reading: Reading) -> str:
    called = [
        f"{label(finding)} ({100 * reading.probabilities[finding]:.1f} %)"
        for finding, call in reading.calls.items()
        if call
    ]
    said = f"Called: {', '.join(called)}." if called else "No finding is called."
    refused = [f"{_sentence(refusal)}." for refusal in refusals(reading)]
    others = [f"{_sentence(str(each))}." for each in reading.warnings if not each.refuses]
    warnings = ["Warnings:", *others] if others else []
    return " ".join((*refused, said, *warnings, UNVERIFIED, RESEARCH_NOTICE))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")


def _narrative(reading: Reading, conclusion: str) -> str:
    rows = "".join(
        f"<li>{escape(label(finding))}: {100 * probability:.1f} %</li>"
        for finding, probability in reading.probabilities.items()
    )
    return (
        f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{escape(conclusion)}</p>'
        f"<ul>{rows}</ul></div>"
    )
