"""One figure from the models of K folds and S seeds, with an interval for patients and seeds.

Every image is predicted by the models of its fold, which have not seen its patient, one per seed.
Scores of different models are not on one scale, so images of different folds are never ranked
against each other: pooling scores pulls the AUROC towards chance where folds differ in prevalence
(Forman and Scholz 2010, doi:10.1145/1882471.1882479; Airola 2011, doi:10.1016/j.csda.2010.11.018).
Instead, each metric is computed within each fold and averaged with the weight that the fold has in
it: pairs of a positive and a negative for the AUROC, which gives the chance that of two images of
one fold, the one with the finding scores higher; positives for the AUPRC. A fold without the
finding then has no weight. The seeds are averaged with equal weight.

The interval has two parts. Patients are resampled as everywhere (`bootstrap`), and the average over
seeds is computed in every resample. Runs of one fold differ by their seed alone, so their variance
around the fold's mean, pooled over folds, gives the error that remains from K × S runs, with
Student's t at K (S - 1) degrees of freedom. Both are joined by the method of variance estimates
recovery, MOVER (Zou and Donner 2008, doi:10.1002/sim.3095): the squares of the distances to the
limits add up. Resampling the seeds themselves would find (S - 1) / S of their variance, half of it
with 2 seeds.

What it holds: the mean performance of models trained by this recipe on training sets of this size,
from these patients. It does not hold another draw of the training patients; no unbiased estimate of
that exists from one cross-validation (Bengio and Grandvalet 2004, JMLR 5:1089), and intervals like
this one can be too narrow where a model learns much from few patients (Bates 2023,
doi:10.1080/01621459.2023.2197686). With one seed the interval accounts for patients alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from chestxray.artifacts import write_json
from chestxray.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Draws,
    Interval,
    Number,
    Values,
    average,
)
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.metrics import METRICS, mean_of_defined
from chestxray.evaluation.result_details import Model, ResampleSettings
from chestxray.evaluation.weighted_counts import Column, Weighted
from chestxray.findings import Findings
from chestxray.progress import progress

CROSS_METRICS: Final = ("auroc", "auprc")
_FILE: Final = "crossval.json"
_ROUNDING: Final = 1e-12
_METHOD: Final = (
    "Each metric is computed within each fold, averaged over folds by pairs of a positive and a "
    "negative (AUROC) or by positives (AUPRC), and over seeds. The 95 % interval joins the BCa "
    "bootstrap by patient with the variance between seeds within folds (Student's t) by MOVER "
    "(Zou and Donner 2008). It does not hold another draw of the training patients."
)
_ONE_SEED: Final = " With one seed it accounts for patients alone: give more seeds."


class CrossRun(Model):
    """One model: its fold and seed, and its figures on the fold's images.

    Attributes:
        fold: from 1.
        seed: of the recipe.
        model: identity of the weights.
        images, patients: of the fold.
        mean: metric → its average over the findings that have it in this fold.
        findings: finding → metric → its value; None where it is not defined.
    """

    fold: int
    seed: int
    model: str
    images: int
    patients: int
    mean: dict[str, Number]
    findings: dict[str, dict[str, Number]]


class CrossFigure(Model):
    """One metric over all folds and seeds.

    Attributes:
        pooled: the figure, with the interval for patients and seeds.
        patients: the same with the interval for patients alone.
        seed_sd: standard deviation of this figure between repetitions of the whole
            cross-validation with other seeds; None with one seed.
    """

    pooled: Interval
    patients: Interval
    seed_sd: Number


class CrossFinding(Model):
    """One finding over all folds and seeds."""

    positives: int
    negatives: int
    unknown: int
    auroc: CrossFigure
    auprc: CrossFigure


class CrossMean(Model):
    """The average over the findings that have a metric; `findings` counts them."""

    findings: int
    auroc: CrossFigure
    auprc: CrossFigure


class CrossValidation(Model):
    """What `crossval.json` holds.

    Attributes:
        format: version of the file format.
        source: of the labels.
        recipe: name of the recipe.
        folds: how many.
        seeds: of the recipe, one repetition each.
        images, patients: each tested once per seed.
        intervals: how the resamples were made.
        method: what the figures and intervals are.
        runs: one per fold and seed.
        findings: finding → its figures.
        mean: over findings.
        package_version: that made the file.
    """

    format: int = 1
    source: str
    recipe: str
    folds: int
    seeds: list[int]
    images: int
    patients: int
    intervals: ResampleSettings
    method: str
    runs: list[CrossRun]
    findings: dict[str, CrossFinding]
    mean: CrossMean
    package_version: str

    def write(self, folder: Path) -> None:
        """Write `crossval.json` to a folder."""
        write_json(folder / _FILE, self.model_dump(mode="json"))

    def __repr__(self) -> str:
        """Show the size and the mean AUROC."""
        auroc = self.mean.auroc.pooled
        figure = "not defined" if auroc.value is None else f"{auroc.value:.3f}"
        if auroc.low is not None:
            figure += f" ({auroc.low:.3f}–{auroc.high:.3f})"
        return (
            f"CrossValidation({self.source}, recipe {self.recipe}: {self.folds} folds × "
            f"{len(self.seeds)} seeds, {self.images:,} images of {self.patients:,} patients; mean "
            f"AUROC {figure})"
        )

    __str__ = __repr__


@dataclass(frozen=True)
class Folded:
    """Predictions of every image by the models of its fold.

    Attributes:
        findings: K.
        labels: float [n, K], 1, 0, NaN = unknown.
        patients: the patient of each image, [n] of any kind that sorts.
        fold: int64 [n], from 1.
        probabilities: float64 [S, n, K], one table per seed.
    """

    findings: Findings
    labels: npt.NDArray[np.floating]
    patients: npt.NDArray[np.object_] | npt.NDArray[np.int64]
    fold: npt.NDArray[np.int64]
    probabilities: Values

    @property
    def folds(self) -> int:
        """How many folds there are."""
        return int(self.fold.max())


@dataclass(frozen=True)
class _Measured:
    """One metric of one finding.

    Attributes:
        values: float64 [1 + R + G], averaged over folds and seeds.
        by_run: float64 [F, S], the plain value of each run; NaN where undefined.
        parts: float64 [F, S], what each run contributes to the figure of its seed.
    """

    values: Values
    by_run: Values
    parts: Values


@dataclass(frozen=True)
class Pooled:
    """The figures of a cross-validation before anything is said of its runs.

    Attributes:
        findings: finding → its figures.
        mean: over findings.
        by_run: metric → float64 [F, S, K], the plain value of each run.
    """

    findings: dict[str, CrossFinding]
    mean: CrossMean
    by_run: dict[str, Values]


def method(seeds: int) -> str:
    """Say what figures and intervals are, with this number of seeds."""
    return _METHOD + _ONE_SEED * (seeds == 1)


def pool(folded: Folded, resamples: int = RESAMPLES, seed: int = 0) -> Pooled:
    """Measure a cross-validation; see the module for the method.

    Args:
        folded: the predictions.
        resamples: of patients; 0 for values alone.
        seed: of the resamples.
    """
    draws = Draws.of(folded.patients, resamples, seed)
    measured: dict[str, dict[str, _Measured]] = {}
    with progress("measure", len(folded.findings), "findings") as advance:
        for k, finding in enumerate(folded.findings):
            measured[finding] = _measure(folded, draws, k)
            advance()
    findings = {}
    for k, (finding, of) in enumerate(measured.items()):
        y = folded.labels[:, k]
        figures = {name: _figure(of[name], draws, one_sided(y)) for name in CROSS_METRICS}
        counts = [int((y == label).sum()) for label in (1, 0)]
        findings[finding] = CrossFinding(
            positives=counts[0], negatives=counts[1], unknown=len(y) - sum(counts), **figures
        )
    by_run = {
        name: np.stack([of[name].by_run for of in measured.values()], axis=2)
        for name in CROSS_METRICS
    }
    return Pooled(findings, _mean(list(measured.values()), draws), by_run)


def runs(
    folded: Folded, pooled: Pooled, seeds: Sequence[int], models: npt.NDArray[np.object_]
) -> list[CrossRun]:
    """List the runs with their figures.

    Args:
        folded: the predictions.
        pooled: their figures.
        seeds: S, of the recipe.
        models: text [F, S], the identity of each run's weights.
    """
    found = []
    for f in range(folded.folds):
        here = folded.fold == f + 1
        for s, seed in enumerate(seeds):
            of = {name: pooled.by_run[name][f, s] for name in CROSS_METRICS}
            found.append(
                CrossRun(
                    fold=f + 1,
                    seed=seed,
                    model=str(models[f, s]),
                    images=int(here.sum()),
                    patients=len(np.unique(folded.patients[here])),
                    mean={name: mean_of_defined(values) for name, values in of.items()},
                    findings={
                        finding: {name: float(of[name][k]) for name in CROSS_METRICS}
                        for k, finding in enumerate(folded.findings)
                    },
                )
            )
    return found


def _measure(folded: Folded, draws: Draws, k: int) -> dict[str, _Measured]:
    """Measure one finding: each metric within each fold, averaged over folds and seeds."""
    seeds = len(folded.probabilities)
    each = np.stack(
        [
            [_in_fold(folded, draws, k, f, s) for s in range(seeds)]
            for f in range(1, folded.folds + 1)
        ]
    )  # [F, S, 1 + R + G, 4]
    found = {}
    for place, name in enumerate(CROSS_METRICS):
        values, weights = each[..., place], each[..., len(CROSS_METRICS) + place]
        total = weights.sum(axis=0)
        share = np.divide(weights, total, out=np.full_like(weights, np.nan), where=total > 0)
        parts = np.nan_to_num(values) * share
        by_seed = parts.sum(axis=0)  # [S, 1 + R + G]
        found[name] = _Measured(by_seed.mean(axis=0), values[..., 0], parts[..., 0])
    return found


def _in_fold(folded: Folded, draws: Draws, k: int, fold: int, seed: int) -> Values:
    """Give AUROC, AUPRC, pairs and positives of a fold, float64 [1 + R + G, 4]."""
    rows = np.flatnonzero(folded.fold == fold)
    column = Column(folded.labels[rows, k], folded.probabilities[seed, rows, k], rows)

    def statistic(w: Values) -> Values:
        weighted = Weighted(column, w)
        metrics = [METRICS[name].of_scores(weighted) for name in CROSS_METRICS]
        positives = np.where(weighted.pairs > 0, weighted.steps.positives[:, 0], 0.0)
        return np.stack([*metrics, weighted.pairs, positives], axis=1)

    return draws.apply(statistic, column.rows)


def _mean(measured: list[dict[str, _Measured]], draws: Draws) -> CrossMean:
    """Average over the findings that have each metric."""
    figures, counted = {}, 0
    for name in CROSS_METRICS:
        defined = [of[name] for of in measured if not np.isnan(of[name].values[0])]
        counted = len(defined)
        if not defined:
            defined = [measured[0][name]]
        mean = _Measured(
            average([of.values for of in defined]),
            np.mean([of.by_run for of in defined], axis=0),
            np.mean([of.parts for of in defined], axis=0),
        )
        figures[name] = _figure(mean, draws, "no finding has positives and negatives")
    return CrossMean(findings=counted, **figures)


def _figure(measured: _Measured, draws: Draws, missing: str) -> CrossFigure:
    """Give a figure with both of its intervals."""
    by_patient = draws.interval(measured.values, missing or "not defined for these labels")
    seeds = measured.parts.shape[1]
    if seeds == 1 or by_patient.value is None:
        return CrossFigure(pooled=by_patient, patients=by_patient, seed_sd=None)
    deviation = seed_deviation(measured.parts)
    folds = len(measured.parts)
    reach = float(stdtrit(folds * (seeds - 1), (1 + LEVEL) / 2)) * deviation / math.sqrt(seeds)
    return CrossFigure(pooled=joined(by_patient, reach), patients=by_patient, seed_sd=deviation)


def seed_deviation(parts: Values) -> float:
    """Give the standard deviation, between seeds, of a sum over folds.

    Args:
        parts: float64 [F, S], what each run contributes. Runs of one fold differ by seed alone;
            runs of different folds are independent of each other, also where they share a seed,
            since they draw different images.
    """
    spread = float(np.sum((parts - parts.mean(axis=1, keepdims=True)) ** 2))
    return math.sqrt(spread / (parts.shape[1] - 1))


def joined(interval: Interval, reach: float) -> Interval:
    """Widen an interval within 0 to 1 by an independent error of 0 ± `reach`.

    Zou and Donner 2008 (MOVER): the squares of the distances to the limits add up.
    """
    value, low, high = interval.value, interval.low, interval.high
    if value is None or low is None or high is None or reach < _ROUNDING:
        return interval
    return interval.model_copy(
        update={
            "low": max(0.0, value - math.hypot(value - low, reach)),
            "high": min(1.0, value + math.hypot(high - value, reach)),
        }
    )
