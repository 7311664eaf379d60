"""Evaluation: predictions and labels in, typed results with confidence intervals out. No torch.

`chestxray.evaluate` and `chestxray.compare` are the two functions that most users need; they are
defined in `evaluate` and `comparison`. The public names of this package are loaded when they are
first used, so that importing one of its modules does not import them all.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

_MODULES: Final = {
    "Calibration": "calibration",
    "Comparison": "results",
    "Interval": "bootstrap",
    "Labels": "labels",
    "METRICS": "metrics",
    "Metric": "metrics",
    "Predictions": "predictions",
    "Results": "results",
    "compare": "comparison",
    "fit_calibration": "calibration",
    "fit_thresholds": "thresholds",
    "register": "metrics",
    "schema": "results",
}

__all__ = [
    "METRICS",
    "Calibration",
    "Comparison",
    "Interval",
    "Labels",
    "Metric",
    "Predictions",
    "Results",
    "compare",
    "fit_calibration",
    "fit_thresholds",
    "register",
    "schema",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - each has its own type
    """Load a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
