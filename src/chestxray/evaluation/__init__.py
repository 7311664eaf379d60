"""Predictions and labels in, typed results with confidence intervals out. No torch.

`evaluate` measures one table of predictions, `compare` tests the difference of two. A new metric is
one entry in the registry `METRICS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.evaluation.bootstrap import Interval
    from chestxray.evaluation.calibration import Calibration, fit_calibration
    from chestxray.evaluation.comparison import compare
    from chestxray.evaluation.evaluation import evaluate
    from chestxray.evaluation.focal_link import FocalLink
    from chestxray.evaluation.labels import Labels
    from chestxray.evaluation.metrics import METRICS, Metric, register
    from chestxray.evaluation.predictions import Predictions
    from chestxray.evaluation.results import Comparison, Results, schema
    from chestxray.evaluation.thresholds import fit_thresholds

__all__ = [
    "METRICS",
    "Calibration",
    "Comparison",
    "FocalLink",
    "Interval",
    "Labels",
    "Metric",
    "Predictions",
    "Results",
    "compare",
    "evaluate",
    "fit_calibration",
    "fit_thresholds",
    "register",
    "schema",
]

__getattr__ = exports(
    __name__,
    {
        "bootstrap": ("Interval",),
        "calibration": (
            "Calibration",
            "fit_calibration",
        ),
        "comparison": ("compare",),
        "evaluation": ("evaluate",),
        "focal_link": ("FocalLink",),
        "labels": ("Labels",),
        "metrics": (
            "METRICS",
            "Metric",
            "register",
        ),
        "predictions": ("Predictions",),
        "results": (
            "Comparison",
            "Results",
            "schema",
        ),
        "thresholds": ("fit_thresholds",),
    },
)
