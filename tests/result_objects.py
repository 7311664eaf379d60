"""Parts of the tests of result objects: a radiograph, a reading of it, the results."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

import chestxray
import dicom_files
from chestxray.dataset import pixels
from chestxray.errors import Notice, RefusedError
from chestxray.findings import Findings, vocabulary
from chestxray.reading.reader import Reader, Reading
from chestxray.serving import result_objects as objects
from chestxray.sources.nih import FINDINGS


def issuer(name: str) -> Dataset:
    item = Dataset()
    item.LocalNamespaceEntityID = name
    return item


KINDS = {"sr", "sc", "regions", "seg"}
HEIGHT, WIDTH = 240, 320
THRESHOLDS = dict.fromkeys(FINDINGS, 0.2) | {"Hernia": None}
CALLED = ("Effusion", "Mass")
LONG = "Tracheal deviation of unknown significance, to the left or right"[:64].replace(",", " -")
SETS = {
    "one": Findings(["Pneumothorax"]),
    "five": Findings(["Effusion", "Pneumothorax", "Consolidation", "Rib fracture", "Pacemaker"]),
    "forty": Findings(
        [
            *list(vocabulary())[:23],
            LONG[:64],
            "4th rib / 5th rib",
            "Épaississement",
            "Hiatus hernia (large)",
        ]
        + [f"Own finding {number}" for number in range(13)]
    ),
}
"""Findings of other models: some with a public code, most with a private one."""
NO_EVIDENCE = "the positives in validation are of 2 patients, at least 5 are needed"
WARNING = Notice("dark", "the image is darker than any of training")
USUAL = {
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.11",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.12",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.13",
    "PatientName": "Doe^Jane",
    "PatientID": "P-1",
    "PatientBirthDate": "19600101",
    "PatientSex": "F",
    "StudyDate": "20260101",
    "StudyTime": "120000",
    "StudyID": "S-1",
    "AccessionNumber": "A-1",
    "ReferringPhysicianName": "Doe^John",
    "BodyPartExamined": "CHEST",
}
NEEDED = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
HEADERS = {
    "DX": {},
    "CR": {"Modality": "CR"},
    "only UIDs": dict.fromkeys(set(USUAL) - set(NEEDED)),
    "empty": dict.fromkeys(set(USUAL) - set(NEEDED), ""),
    "knee": {"BodyPartExamined": "KNEE"},
    "one name": {"PatientName": "Cher"},
    "Japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
    "Japanese in UTF-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "山田^太郎"},
    "an issuer, a clock": {
        "IssuerOfPatientID": "HOSPITAL",
        "IssuerOfAccessionNumberSequence": [issuer("ORDERS")],
        "TimezoneOffsetFromUTC": "+0900",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": ["by hand", "by machine"],
    },
    "German": {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Müller^Jörg",
        "StudyDescription": "Thorax, Übersicht",
    },
}


def reader_of(run: Path, thresholds: Mapping[str, float | None] = THRESHOLDS) -> Reader:
    """A reader with these thresholds."""
    loaded = chestxray.load(run / "bundle")
    card = loaded.bundle.card.model_copy(update={"thresholds": thresholds})
    return Reader(dataclasses.replace(loaded.bundle, card=card), loaded.engine)


def film(
    folder: Path,
    photometric: str = "MONOCHROME2",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    **more,
) -> Path:
    """A DICOM file of a ramp; `more` replaces attributes, None removes them."""
    ramp = np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(size[::-1])
    header = {key: value for key, value in (USUAL | more).items() if value is not None}
    path = folder / "film.dcm"
    path.write_bytes(dicom_files.dicom(ramp, 8, photometric, **header))
    return path


def reading(
    called: Sequence[str] = CALLED,
    heat: np.ndarray | None = None,
    findings: Sequence[str] = FINDINGS,
) -> Reading:
    """Called findings have 0.9 and more, the others 0.1."""
    heat = np.eye(7, dtype=np.float32) if heat is None else heat
    odds = {f: 0.9 + 0.001 * called.index(f) if f in called else 0.1 for f in findings}
    return Reading(
        probabilities=odds,
        calls={f: None if f == "Hernia" else f in called for f in findings},
        heatmaps=dict.fromkeys(findings, heat),
        warnings=(WARNING,),
        model="a model",
        image=np.zeros((7, 7), np.uint8),
        thresholds={f: None if f == "Hernia" else 0.5 for f in FINDINGS},
        not_assessed={"Hernia": NO_EVIDENCE},
    )


def refusal(path: Path) -> RefusedError:
    return RefusedError(
        path,
        [
            Notice("view-lateral", "the view is lateral, frontal ones are read", {}, refuses=True),
            WARNING,
        ],
    )


def make(
    path: Path,
    outcome: Reading | RefusedError,
    reader: Reader,
    kinds: Collection[str] = KINDS,
    **options: bool,
) -> list[objects.ResultObject]:
    """The result objects of a file."""
    data = path.read_bytes()
    source = objects.SourceImage.read(data, hashlib.sha256(data).hexdigest())
    return list(objects.make(source, pixels.decode(data), outcome, reader, kinds, **options))


def made(path: Path, outcome: Reading | RefusedError, reader: Reader) -> dict[str, Dataset]:
    results = make(path, outcome, reader)
    parsed = {result.kind: dcmread(io.BytesIO(result.content)) for result in results}
    assert [result.uid for result in results] == [d.SOPInstanceUID for d in parsed.values()]
    return parsed


def items(root: Dataset, meaning: str) -> list[Dataset]:
    """All content items under a root whose concept has this meaning, in order."""
    found = []
    for item in root.get("ContentSequence", []):
        named = item.get("ConceptNameCodeSequence")
        if named and named[0].CodeMeaning == meaning:
            found.append(item)
        found += items(item, meaning)
    return found


def number(item: Dataset) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def comments(root: Dataset) -> list[str]:
    return [item.TextValue for item in items(root, "Comment")]
