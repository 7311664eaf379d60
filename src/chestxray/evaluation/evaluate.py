"""Predictions and labels in, a folder of results out.

    evaluation/
      metrics.json        a metric is `{"value", "low", "high", "percentile"}`, or null with reason
      curves.json         ROC and precision-recall curves with bands
      reliability.json    observed against predicted, as given and recalibrated on validation
      subgroups.json      by sex, age, view, visit and company, with gaps; the view as a shortcut
      localisation.json   heatmaps against boxes or masks, where heatmaps are given
      reference.json      against adjudicated labels, where they are given
      standing.json       beside published figures of the same split

Everything is drawn from one set of resamples by patient, so figures of one image stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from chestxray.artifacts import write_json
from chestxray.errors import PredictionsError
from chestxray.evaluation import localization as localisation
from chestxray.evaluation import reference
from chestxray.evaluation.benchmarks import standing
from chestxray.evaluation.bootstrap import LEVEL, RESAMPLES, Draws
from chestxray.evaluation.curves import curves
from chestxray.evaluation.labels import Labels, Pairs, pair
from chestxray.evaluation.predictions import examples
from chestxray.evaluation.regions import Case
from chestxray.evaluation.reliability import reliability
from chestxray.evaluation.scores import MAIN, Points, macro, micro, score
from chestxray.evaluation.subgroups import subgroups
from chestxray.evaluation.thresholds import fit_operating_points
from chestxray.progress import progress
from chestxray.version import __version__

FILES: Final = (
    "metrics", "curves", "reliability", "subgroups", "localisation", "reference", "standing",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """Predictions beside their labels, ready to be measured.

    Attributes:
        truth: the labels.
        pairs: the evaluated predictions with theirs.
        validation: predictions on validation, which thresholds and recalibration are fitted on.
        seed: of the resamples.
        draws: the resamples of the evaluated patients.
    """

    truth: Labels
    pairs: Pairs
    validation: Pairs | None
    seed: int
    draws: Draws

    @classmethod
    def of(
        cls,
        predictions: Path,
        truth: Labels,
        fit_on: Path | None = None,
        split: str | None = None,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Self:
        """Read predictions and lay the labels beside them.

        Args:
            predictions: the table.
            truth: the labels, of the validation images too where `fit_on` is given.
            fit_on: predictions on validation.
            split: the part that the predictions are of; `test` where the parts are known and
                nothing is said.
            resamples: of patients; 0 for figures without intervals.
            seed: of the resamples.

        Raises:
            PredictionsError: a table that cannot be evaluated, or a patient on both sides.
        """
        pairs = pair(predictions, truth, split)
        validation = _validation(fit_on, truth, pairs) if fit_on else None
        return cls(truth, pairs, validation, seed, Draws.of(pairs.patients, resamples, seed))

    @cached_property
    def points(self) -> dict[str, Points] | None:
        """Each finding's operating points, fitted on validation; None without validation."""
        if self.validation is None:
            return None
        labels, probabilities = self.validation.labels.T, self.validation.probabilities.T
        columns = zip(self.pairs.findings, labels, probabilities, strict=True)
        return {finding: fit_operating_points(y, p) for finding, y, p in columns}

    def metrics(self) -> dict[str, Any]:
        """Give what `metrics.json` holds."""
        points = self.points or {}
        scores = {}
        with progress("evaluate", len(self.pairs.findings), "findings") as advance:
            for finding in self.pairs.findings:
                scores[finding] = score(self.pairs, self.draws, finding, points.get(finding))
                advance(1)
        return {
            "split": self.pairs.split,
            "split_name": self.truth.split_name,
            "split_sha256": self.truth.split_sha256,
            "source": self.truth.source,
            "synthetic": self.truth.synthetic,
            "release": self.truth.release,
            "images": len(self.pairs.images),
            "patients": len(np.unique(self.pairs.patients)),
            "failed": self.pairs.failed,
            "unpredicted": self.pairs.unpredicted,
            "left_out": self.pairs.left_out,
            "fit_on": _fit_on(self.validation),
            "intervals": {
                "level": LEVEL,
                "resamples": self.draws.resamples,
                "seed": self.seed,
                "by": "patient",
            },
            "findings": {finding: of.entry for finding, of in scores.items()},
            "mean": macro(scores, self.draws),
            "micro": micro(self.pairs, self.draws, scores),
            "package_version": __version__,
        }

    def curves(self) -> dict[str, Any]:
        """Give what `curves.json` holds."""
        columns = zip(
            self.pairs.findings, self.pairs.labels.T, self.pairs.probabilities.T, strict=True
        )
        return {finding: curves(y, p, self.draws) for finding, y, p in columns}

    def subgroups(self) -> dict[str, Any]:
        """Give what `subgroups.json` holds."""
        points = self.points or {}
        thresholds = {
            finding: points[finding][MAIN].threshold if finding in points else None
            for finding in self.pairs.findings
        }
        return subgroups(self.pairs, self.draws, thresholds)


def evaluate(
    evaluation: Evaluation,
    out: Path,
    located: tuple[Path, Sequence[Case]] | None = None,
    adjudicated: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure everything and write the folder `out`.

    Args:
        evaluation: what to measure.
        out: the folder; results of an earlier evaluation there go first, since they may be of
            other predictions, and `metrics.json` comes last.
        located: heatmaps, and where findings are.
        adjudicated: a table of reference labels.

    Returns:
        File name without suffix → content.
    """
    results = {
        "curves": evaluation.curves(),
        "reliability": reliability(evaluation.pairs, evaluation.validation, evaluation.draws),
        "subgroups": evaluation.subgroups(),
    }
    if located:
        results["localisation"] = localisation.locate(
            *located, evaluation.pairs, evaluation.draws.resamples, evaluation.seed
        )
    if adjudicated:
        results["reference"] = reference.reference(adjudicated, evaluation.pairs, evaluation.draws)
    metrics = evaluation.metrics()
    results["standing"] = standing(metrics, results.get("localisation"))
    results["metrics"] = metrics
    for name in FILES:
        (out / f"{name}.json").unlink(missing_ok=True)
    for name, content in results.items():
        write_json(out / f"{name}.json", content)
    return results


def _validation(path: Path, truth: Labels, evaluated: Pairs) -> Pairs:
    """Read the validation predictions and keep them apart from the evaluated ones."""
    validation = pair(path, truth, "val")
    both = np.intersect1d(evaluated.patients, validation.patients)
    if len(both):
        raise PredictionsError(
            f"{len(both)} patients stand both in the evaluated predictions and in --fit-on "
            f"({examples([str(patient) for patient in both])}): thresholds must be chosen on "
            f"patients that are not evaluated"
        )
    if validation.findings != evaluated.findings:
        raise PredictionsError(
            f"{path} has the findings {', '.join(validation.findings)}, the evaluated predictions "
            f"have {', '.join(evaluated.findings)}: give validation predictions of the same model"
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
