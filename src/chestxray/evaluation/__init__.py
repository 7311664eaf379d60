"""Predictions and labels in, typed results with confidence intervals out. No torch.

`evaluate` measures one table of predictions, `compare` tests the difference of two, and `plan`
gives the number of patients that a study needs. A new metric is one entry in the registry
`METRICS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chestxray.lazy import exports

if TYPE_CHECKING:
    from chestxray.evaluation.bootstrap import Interval
    from chestxray.evaluation.calibration import Calibration, fit_calibration
    from chestxray.evaluation.causal import CausalEffects, PairedAnswers, causal_effects
    from chestxray.evaluation.comparison import compare
    from chestxray.evaluation.cross_validation import CrossValidation
    from chestxray.evaluation.evaluation import evaluate
    from chestxray.evaluation.focal_link import FocalLink
    from chestxray.evaluation.labels import Labels
    from chestxray.evaluation.metrics import METRICS, Metric, register
    from chestxray.evaluation.model_comparison import compare_models
    from chestxray.evaluation.predictions import Predictions
    from chestxray.evaluation.results import Comparison, ModelComparison, Results, schema
    from chestxray.evaluation.sample_size import SampleSize, plan
    from chestxray.evaluation.thresholds import OperatingPoints, fit_operating_points
    from chestxray.evaluation.validation_results import ExternalValidation

__all__ = [
    "METRICS",
    "Calibration",
    "CausalEffects",
    "Comparison",
    "CrossValidation",
    "ExternalValidation",
    "FocalLink",
    "Interval",
    "Labels",
    "Metric",
    "ModelComparison",
    "OperatingPoints",
    "PairedAnswers",
    "Predictions",
    "Results",
    "SampleSize",
    "causal_effects",
    "compare",
    "compare_models",
    "evaluate",
    "fit_calibration",
    "fit_operating_points",
    "plan",
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
        "causal": (
            "CausalEffects",
            "PairedAnswers",
            "causal_effects",
        ),
        "comparison": ("compare",),
        "cross_validation": ("CrossValidation",),
        "evaluation": ("evaluate",),
        "focal_link": ("FocalLink",),
        "labels": ("Labels",),
        "model_comparison": ("compare_models",),
        "metrics": (
            "METRICS",
            "Metric",
            "register",
        ),
        "predictions": ("Predictions",),
        "results": (
            "Comparison",
            "ModelComparison",
            "Results",
            "schema",
        ),
        "sample_size": (
            "SampleSize",
            "plan",
        ),
        "thresholds": (
            "OperatingPoints",
            "fit_operating_points",
        ),
        "validation_results": ("ExternalValidation",),
    },
)
