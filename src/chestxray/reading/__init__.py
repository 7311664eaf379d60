"""One radiograph in, one reading out: what command line, web and PACS share.

    radiograph ─► judged_image ─► reader ─► reading
                   gate: header, pixels      probabilities, calls, heatmaps, warnings

`predict.predict` reads many radiographs into a table, `explain.explain` draws their heatmaps.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from chestxray.reading.explain import ExplanationRun
    from chestxray.reading.gate.notices import NOTICES
    from chestxray.reading.judged_image import JudgedImage
    from chestxray.reading.predict import PredictionRun
    from chestxray.reading.reader import Reader
    from chestxray.reading.reading import Reading

__all__ = [
    "NOTICES",
    "ExplanationRun",
    "JudgedImage",
    "PredictionRun",
    "Reader",
    "Reading",
]

_HOMES: Final = {
    "NOTICES": "gate.notices",
    "ExplanationRun": "explain",
    "JudgedImage": "judged_image",
    "PredictionRun": "predict",
    "Reader": "reader",
    "Reading": "reading",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name when it is first used, since decoder processes need none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
