"""One radiograph in, one reading out: what command line, web and PACS share.

    radiograph ─► judged_image ─► reader ─► reading
                   gate: header, pixels      probabilities, calls, heatmaps, warnings

`load` gives a reader, `predict` reads many radiographs into a table, `explain` draws heatmaps,
`explain_pairs` tests them on phantoms drawn without and with a finding, `validate` measures a
bundle on other data sets.
Names are loaded when they are first used, since decoder processes need none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.reading.explanation import ExplanationRun, explain
    from chestxray.reading.gate.notices import NOTICES
    from chestxray.reading.judged_image import JudgedImage
    from chestxray.reading.phantom_pairs import PairExplanation, explain_pairs
    from chestxray.reading.prediction import PredictionRun, predict
    from chestxray.reading.reader import Reader, load
    from chestxray.reading.reading import Reading
    from chestxray.reading.validation import validate

__all__ = [
    "NOTICES",
    "ExplanationRun",
    "JudgedImage",
    "PairExplanation",
    "PredictionRun",
    "Reader",
    "Reading",
    "explain",
    "explain_pairs",
    "load",
    "predict",
    "validate",
]

__getattr__ = exports(
    __name__,
    {
        "explanation": (
            "ExplanationRun",
            "explain",
        ),
        "gate.notices": ("NOTICES",),
        "judged_image": ("JudgedImage",),
        "phantom_pairs": (
            "PairExplanation",
            "explain_pairs",
        ),
        "prediction": (
            "PredictionRun",
            "predict",
        ),
        "reader": (
            "Reader",
            "load",
        ),
        "reading": ("Reading",),
        "validation": ("validate",),
    },
)
