"""Evaluate predictions against labels: metrics per finding, their mean, and further results.

`evaluate` reads the predictions, pairs them with the labels, and measures. All figures use one set
of resamples by patient, so figures of one image stay together. A metric stays an array over the
resamples (see `bootstrap`) until the end, so that the average over findings has an interval of its
own. What the results hold is in `results`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError
from chestxray.evaluation.baselines import baselines
from chestxray.evaluation.benchmarks import benchmarks
from chestxray.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Bounds,
    Draws,
    Interval,
    Values,
    average,
    exact_share,
)
from chestxray.evaluation.curves import NO_VALIDATION, curves, reliability
from chestxray.evaluation.delong import delong
from chestxray.evaluation.labels import Labels, Pairs, pair
from chestxray.evaluation.localization import Case, check_belongs, from_boxes, from_masks, locate
from chestxray.evaluation.metrics import (
    METRICS,
    call_metrics,
    interval_of,
    rates,
    resampled,
    score_metrics,
)
from chestxray.evaluation.predictions import Predictions, counted
from chestxray.evaluation.reference import reference as against_reference
from chestxray.evaluation.result_details import MeanInterval, ResampleSettings
from chestxray.evaluation.results import (
    Confusion,
    FindingResult,
    FitOn,
    MeanResult,
    MicroResult,
    OperatingPoint,
    Results,
    Threshold,
)
from chestxray.evaluation.subgroups import subgroups
from chestxray.evaluation.thresholds import MAIN, Chosen, fit_operating_points, one_sided
from chestxray.evaluation.weighted_counts import Column
from chestxray.progress import progress
from chestxray.version import __version__

_NONE_CHOSEN: Final = Chosen(None, None, NO_VALIDATION)

_Points = dict[str, Chosen]
_Called = npt.NDArray[np.bool_]
_Patients = npt.NDArray[np.int64]


def evaluate(  # noqa: PLR0913 - the options of one command
    predictions: Predictions | Path | str,
    labels: Labels | Dataset | Path | str,
    *,
    split: str | None = None,
    fit_on: Predictions | Path | str | None = None,
    heatmaps: Path | str | None = None,
    masks: Path | str | None = None,
    reference: Path | str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    out: Path | str | None = None,
) -> Results:
    """Evaluate predictions.

    The findings that predictions and labels have in common are scored; `Results.left_out` names the
    others.

    Args:
        predictions: a table of predictions, or its file.
        labels: a prepared dataset, a label table, or either opened.
        split: which split the predictions are of, `test` by default.
        fit_on: predictions on validation, which thresholds and recalibration are fitted on. Without
            them there are no metrics of calls.
        heatmaps: `heatmaps.npy` of these predictions, for localization.
        masks: folder of masks to locate against, instead of the dataset's boxes.
        reference: a table of labels adjudicated by radiologists (Majkowska 2020).
        resamples: of patients, for the intervals; 0 for values alone.
        seed: of the resamples.
        out: folder to write the results to; nothing is written by default.

    Raises:
        PredictionsError: predictions, heatmaps or masks that cannot be evaluated with these labels.
        SourceError: a label table or a reference that cannot be read.
        ArtifactError: a file that does not exist.
    """
    if masks is not None and heatmaps is None:
        raise PredictionsError("masks need heatmaps to compare with them: give heatmaps too")
    maps, regions, adjudicated = (
        None if path is None else Path(path) for path in (heatmaps, masks, reference)
    )
    if maps is not None and not isinstance(predictions, Predictions):
        check_belongs(maps, Path(predictions))
    evaluation = Evaluation.of(predictions, Labels.of(labels), fit_on, split, resamples, seed)
    results = evaluation.results(maps, regions, adjudicated)
    if out is not None:
        results.write(Path(out))
    return results


@dataclass(frozen=True)
class Evaluation:
    """Predictions paired with their labels, ready to be measured.

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
        predictions: Predictions | Path | str,
        truth: Labels,
        fit_on: Predictions | Path | str | None = None,
        split: str | None = None,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Self:
        """Read predictions and pair them with the labels; arguments as in `evaluate`.

        Raises:
            PredictionsError: predictions that cannot be evaluated, or a patient that is both
                evaluated and fitted on.
        """
        pairs = pair(_table(predictions), truth, split)
        validation = None if fit_on is None else _validation(_table(fit_on), truth, pairs)
        draws = Draws.of(pairs.patients, resamples, seed)
        return cls(truth, pairs, validation, seed, draws)

    @cached_property
    def points(self) -> dict[str, _Points] | None:
        """Each finding's operating points, fitted on validation; None without validation."""
        if self.validation is None:
            return None
        labels, probabilities = self.validation.labels.T, self.validation.probabilities.T
        columns = zip(self.pairs.findings, labels, probabilities, strict=True)
        return {finding: fit_operating_points(y, p) for finding, y, p in columns}

    def results(
        self,
        heatmaps: Path | None = None,
        masks: Path | None = None,
        reference: Path | None = None,
    ) -> Results:
        """Measure everything; arguments as in `evaluate`."""
        pairs, draws = self.pairs, self.draws
        localization = None
        if heatmaps is not None:
            cases, unmatched = self._cases(masks)
            localization = locate(heatmaps, cases, pairs, draws.resamples, self.seed)
            localization = localization.model_copy(update={"unmatched_masks": unmatched})
        columns = zip(pairs.findings, pairs.labels.T, pairs.probabilities.T, strict=True)
        results = self.metrics()
        return results.with_parts(
            curves={finding: curves(y, p, draws) for finding, y, p in columns},
            reliability=reliability(pairs, self.validation, draws),
            subgroups=subgroups(pairs, draws, self._thresholds()),
            localization=localization,
            reference=against_reference(reference, pairs, draws) if reference else None,
            benchmarks=benchmarks(results, localization),
        )

    def metrics(self) -> Results:
        """Measure the metrics alone."""
        pairs, points = self.pairs, self.points or {}
        scores = {}
        with progress("evaluate", len(pairs.findings), "findings") as advance:
            for finding in pairs.findings:
                scores[finding] = _score(pairs, self.draws, finding, points.get(finding))
                advance(1)
        return Results(
            split=pairs.split,
            split_name=self.truth.split_name,
            split_sha256=self.truth.split_sha256,
            source=self.truth.source,
            synthetic=self.truth.synthetic,
            release=self.truth.release,
            images=len(pairs.images),
            patients=len(np.unique(pairs.patients)),
            failed=pairs.failed,
            unpredicted=pairs.unpredicted,
            unlabelled=pairs.unlabelled,
            matched_by_file_name=pairs.matched_by_file_name,
            left_out=pairs.left_out,
            fit_on=_fit_on(self.validation),
            intervals=ResampleSettings(level=LEVEL, resamples=self.draws.resamples, seed=self.seed),
            findings={finding: of.result for finding, of in scores.items()},
            mean=_mean(scores, self.draws),
            micro=_micro(pairs, self.draws, scores),
            baselines=baselines(
                self.truth, pairs, self.draws, {name: of.values for name, of in scores.items()}
            ),
            package_version=__version__,
        )

    def _cases(self, masks: Path | None) -> tuple[list[Case], int]:
        """Give the cases, and how many masks belong to none."""
        if masks is None:
            return list(from_boxes(self.truth, self.pairs)), 0
        return from_masks(masks, self.pairs)

    def _thresholds(self) -> dict[str, float | None]:
        points = self.points or {}
        return {
            finding: points[finding][MAIN].threshold if finding in points else None
            for finding in self.pairs.findings
        }


@dataclass(frozen=True)
class _Scores:
    """One finding, measured.

    Attributes:
        values: metric → float64 [1 + R + G], at the main operating point where it needs one.
        counts: float64 [1 + R + G, 4], `Calls` at the main operating point; None without one.
        result: the finding in `metrics.json`.
    """

    values: dict[str, Values]
    counts: Values | None
    result: FindingResult


def _score(pairs: Pairs, draws: Draws, finding: str, points: _Points | None) -> _Scores:
    """Measure one finding; without validation predictions it has no operating `points`."""
    place = pairs.findings.index(finding)
    y, p = pairs.labels[:, place], pairs.probabilities[:, place]
    column = Column(y, p)
    missing = one_sided(y)
    plain = resampled(column, draws, score_metrics())
    counts = {
        name: draws.apply(partial(column.calls, threshold=at.threshold), column.rows)
        for name, at in (points or {}).items()
        if at.threshold is not None
    }
    called = {name: rates(of) for name, of in counts.items()}
    intervals = {name: interval_of(name, of, draws, missing) for name, of in plain.items()}
    if not missing:
        low, high = delong(y, p, pairs.patients).interval
        if not math.isnan(low):
            bounds = Bounds(low=low, high=high)
            intervals["auroc"] = intervals["auroc"].model_copy(update={"delong": bounds})
    at_points = {
        name: _at_point(pairs, draws, place, at, called.get(name))
        for name, at in (points or {MAIN: _NONE_CHOSEN}).items()
    }
    main = at_points[MAIN]
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    result = FindingResult(
        positives=positives,
        negatives=negatives,
        unknown=len(y) - positives - negatives,
        prevalence=positives / (positives + negatives) if positives + negatives else None,
        threshold=main.threshold,
        confusion=_confusion(counts.get(MAIN)),
        operating_points=at_points if points else {},
        **intervals,
        **main.metrics,
    )
    return _Scores(plain | called.get(MAIN, {}), counts.get(MAIN), result)


def _at_point(
    pairs: Pairs, draws: Draws, place: int, chosen: Chosen, values: dict[str, Values] | None
) -> OperatingPoint:
    """Give an operating point and the metrics there, or None with the reason."""
    threshold = Threshold(value=chosen.threshold, reason=chosen.reason or None)
    if values is None or chosen.threshold is None:
        none = Interval(value=None, reason=chosen.reason)
        metrics = dict.fromkeys(call_metrics(), none)
    else:
        y, called = pairs.labels[:, place], pairs.probabilities[:, place] >= chosen.threshold
        metrics = {
            name: _of_calls(name, of, draws, y, called, pairs.patients)
            for name, of in values.items()
        }
    return OperatingPoint(wanted=chosen.wanted, threshold=threshold, **metrics)


def _of_calls(
    metric: str, values: Values, draws: Draws, y: Values, called: _Called, patients: _Patients
) -> Interval:
    """Give a metric of calls with its interval.

    Where one side of the labels is missing, a metric that needs both is not defined: a precision of
    0 among no positives says nothing.
    """
    about, missing = METRICS[metric], one_sided(y)
    if missing and about.two_sided:
        return Interval(value=None, reason=missing)
    if values[0] in {0, 1} and about.share_of and draws.resamples:
        of = {"positives": y == 1, "negatives": y == 0, "called": called, "not called": ~called}
        images = of.get(about.share_of, np.ones(len(y), dtype=np.bool_)) & ~np.isnan(y)
        return exact_share(values[0], len(np.unique(patients[images])))
    return interval_of(metric, values, draws, missing or "nothing is called")


def _mean(scores: dict[str, _Scores], draws: Draws) -> MeanResult:
    """Average each metric over the findings that have it, and count them.

    `bootstrap.average` says what happens where a resample leaves a rare finding undefined.
    """
    means = {}
    for metric in METRICS:
        defined = [
            of.values[metric]
            for of in scores.values()
            if metric in of.values and not np.isnan(of.values[metric][0])
        ]
        reasons = Counter(of.result.metrics[metric].reason for of in scores.values())
        mean = Interval(value=None, reason=reasons.most_common(1)[0][0])
        if defined:
            mean = interval_of(metric, average(defined), draws)
        means[metric] = MeanInterval(**vars(mean), findings=len(defined))
    return MeanResult(**means)


def _micro(pairs: Pairs, draws: Draws, scores: dict[str, _Scores]) -> MicroResult:
    """Pool all pairs of image and finding, each called at its finding's main operating point."""
    pooled = resampled(Column.pooled(pairs.labels, pairs.probabilities), draws, score_metrics())
    counts = [of.counts for of in scores.values() if of.counts is not None]
    if counts:
        pooled |= rates(np.sum(counts, axis=0))
    why = Counter(of.result.threshold.reason for of in scores.values()).most_common(1)[0][0]
    none = dict.fromkeys(call_metrics(), Interval(value=None, reason=why))
    return MicroResult(**none | {name: interval_of(name, of, draws) for name, of in pooled.items()})


def _confusion(counts: Values | None) -> Confusion | None:
    if counts is None:
        return None
    tp, fp, tn, fn = counts[0].astype(int).tolist()
    return Confusion(tp=tp, fp=fp, tn=tn, fn=fn)


def _table(source: Predictions | Path | str) -> Predictions | Path:
    return source if isinstance(source, Predictions) else Path(source)


def _validation(source: Predictions | Path, truth: Labels, evaluated: Pairs) -> Pairs:
    """Read the validation predictions; they share no patient with the evaluated ones."""
    validation = pair(source, truth, "val")
    both = np.intersect1d(evaluated.patients, validation.patients)
    if len(both):
        raise PredictionsError(
            f"the evaluated predictions and --fit-on share {counted(len(both), 'patient')}: choose "
            f"thresholds on patients that are not evaluated"
        )
    common = evaluated.findings.common(validation.findings)
    lacking = [name for name in evaluated.findings if validation.findings.place(name) is None]
    if lacking:
        raise PredictionsError(
            f"the validation predictions lack {', '.join(lacking)}, which the evaluated ones have: "
            f"give validation predictions of the same model"
        )
    columns = [place for _, place in common]
    return replace(
        validation,
        findings=evaluated.findings,
        probabilities=validation.probabilities[:, columns],
        labels=validation.labels[:, columns],
    )


def _fit_on(validation: Pairs | None) -> FitOn | None:
    if validation is None:
        return None
    return FitOn(
        split=validation.split,
        images=len(validation.images),
        patients=len(np.unique(validation.patients)),
    )
