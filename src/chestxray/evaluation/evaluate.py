"""Predictions and labels in, `metrics.json` and `curves.json` out.

Each metric is `{"value", "low", "high"}`; one that is not defined has `null` and a `reason`. `low`
and `high` are the place of confidence intervals, `null` until there are some.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from chestxray import __version__
from chestxray.artifacts import write_json
from chestxray.errors import PredictionsError
from chestxray.evaluation import metrics
from chestxray.evaluation.curves import curves
from chestxray.evaluation.labels import UNKNOWN_SPLIT, Labels, Pairs, pair
from chestxray.evaluation.metrics import Floats, mean_of_defined
from chestxray.evaluation.predictions import examples
from chestxray.evaluation.thresholds import youden
from chestxray.findings import FINDINGS

RANKING: Final[dict[str, Callable[[Floats, Floats], float]]] = {
    "auroc": metrics.auroc,
    "auprc": metrics.average_precision,
    "bce": metrics.cross_entropy,
}
CALLING: Final[dict[str, Callable[[Floats, Floats, float], float]]] = {
    "accuracy": metrics.accuracy,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "specificity": metrics.specificity,
    "f1": metrics.f1,
}
METRICS: Final = (*RANKING, *CALLING)

LOCALISATION: Final = "localisation.json"
NO_VALIDATION: Final = "no validation predictions: --fit-on"


def evaluate(
    predictions: Path,
    truth: Labels,
    out: Path,
    fit_on: Path | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """Evaluate a table of predictions and write the folder `out`.

    Args:
        predictions: the table.
        truth: the labels, of the validation images too where `fit_on` is given.
        out: gets `curves.json`, then `metrics.json`; a `localisation.json` of an earlier
            evaluation goes, since it may be of other predictions.
        fit_on: predictions on validation, which the thresholds are chosen on.
        split: the part that the predictions must be of.

    Returns:
        What `metrics.json` holds.

    Raises:
        PredictionsError: a table that cannot be evaluated, or a patient on both sides.
    """
    pairs = pair(predictions, truth, split)
    validation = _validation(fit_on, truth, pairs) if fit_on else None
    findings = {
        finding: _finding(pairs, validation, column) for column, finding in enumerate(FINDINGS)
    }
    result = {
        "split": pairs.split,
        "split_sha256": truth.split_sha256,
        "source": truth.source,
        "generation": truth.generation,
        "images": len(pairs.images),
        "patients": len(np.unique(pairs.patients)),
        "failed": pairs.failed,
        "unpredicted": pairs.unpredicted,
        "fit_on": _fit_on(validation),
        "findings": findings,
        "mean": {metric: _mean(metric, findings) for metric in METRICS},
        "package_version": __version__,
    }
    (out / LOCALISATION).unlink(missing_ok=True)
    columns = zip(FINDINGS, pairs.labels.T, pairs.probabilities.T, strict=True)
    write_json(out / "curves.json", {finding: curves(y, p) for finding, y, p in columns})
    write_json(out / "metrics.json", result)
    return result


def _validation(path: Path, truth: Labels, evaluated: Pairs) -> Pairs:
    """Read the validation predictions and keep them apart from the evaluated ones."""
    validation = pair(path, truth)
    if validation.split not in {"val", UNKNOWN_SPLIT}:
        raise PredictionsError(
            f"{path} holds predictions of part {validation.split!r}: thresholds are chosen on "
            f"validation alone, give predictions of part 'val' to --fit-on"
        )
    both = np.intersect1d(evaluated.patients, validation.patients)
    if len(both):
        raise PredictionsError(
            f"{len(both)} patients stand both in the evaluated predictions and in --fit-on "
            f"({examples([str(patient) for patient in both])}): thresholds must be chosen on "
            f"patients that are not evaluated"
        )
    return validation


def _fit_on(validation: Pairs | None) -> dict[str, Any] | None:
    if validation is None:
        return None
    return {
        "split": validation.split,
        "images": len(validation.images),
        "patients": len(np.unique(validation.patients)),
    }


def _finding(pairs: Pairs, validation: Pairs | None, column: int) -> dict[str, Any]:
    """Give the counts, the threshold and all metrics of one finding."""
    y, p = pairs.labels[:, column], pairs.probabilities[:, column]
    threshold, no_threshold = _threshold(validation, column)
    one_sided = _one_sided(y)
    values = {name: _metric(rule(y, p), one_sided) for name, rule in RANKING.items()}
    for name, rule in CALLING.items():
        if threshold is None or one_sided:
            values[name] = _metric(math.nan, one_sided or no_threshold)
        else:
            values[name] = _metric(rule(y, p, threshold), "", "nothing is called")
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    return {
        "positives": positives,
        "negatives": negatives,
        "unknown": len(y) - positives - negatives,
        "prevalence": positives / (positives + negatives) if positives + negatives else None,
        "threshold": {"value": threshold} | ({"reason": no_threshold} if no_threshold else {}),
        **values,
    }


def _threshold(validation: Pairs | None, column: int) -> tuple[float | None, str]:
    """Give the threshold, or the reason why there is none."""
    if validation is None:
        return None, NO_VALIDATION
    y = validation.labels[:, column]
    one_sided = _one_sided(y)
    reason = f"{one_sided} in the validation predictions" if one_sided else ""
    return youden(y, validation.probabilities[:, column]), reason


def _one_sided(y: Floats) -> str:
    """Tell what is missing for a comparison of positives and negatives, or nothing."""
    missing = [
        word for word, label in (("positives", 1), ("negatives", 0)) if not (y == label).any()
    ]
    return f"no {' and no '.join(missing)}" if missing else ""


def _metric(value: float, one_sided: str, undefined: str = "") -> dict[str, Any]:
    """Give a metric in its JSON shape; any reason makes it null."""
    reason = one_sided or (undefined if math.isnan(value) else "")
    entry: dict[str, Any] = {"value": None if reason else value, "low": None, "high": None}
    return entry | ({"reason": reason} if reason else {})


def _mean(metric: str, findings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Average a metric over the findings that have it, and tell how many they are."""
    defined = [
        entry[metric]["value"] for entry in findings.values() if entry[metric]["value"] is not None
    ]
    reasons = Counter(entry[metric].get("reason", "") for entry in findings.values())
    why = reasons.most_common(1)[0][0]
    return _metric(mean_of_defined(defined), "", why) | {"findings": len(defined)}
