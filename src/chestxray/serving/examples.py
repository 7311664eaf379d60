"""Example radiographs for the viewer: phantoms, drawn in memory when first asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final, NamedTuple

import cv2

from chestxray.sources.phantom.population import exams, patient
from chestxray.sources.phantom.render import render

PIXELS: Final = 640
_SEED: Final = 5


class Example(NamedTuple):
    """A phantom: who it is of, and which findings are drawn into it."""

    patient: int
    findings: tuple[str, ...]


EXAMPLES: Final = {
    "clear": Example(3, ()),
    "effusion": Example(4, ("Effusion",)),
    "cardiomegaly": Example(6, ("Cardiomegaly", "Edema")),
    "pneumothorax": Example(8, ("Pneumothorax",)),
    "mass": Example(9, ("Mass", "Nodule")),
    "consolidation": Example(11, ("Consolidation", "Pneumonia")),
}


@cache
def png(name: str) -> bytes:
    """Draw an example as a PNG; raises KeyError for an unknown name."""
    example = EXAMPLES[name]
    exam = replace(exams(patient(_SEED, example.patient))[0], findings=frozenset(example.findings))
    _, data = cv2.imencode(".png", render(exam, PIXELS).image)
    return bytes(data)
