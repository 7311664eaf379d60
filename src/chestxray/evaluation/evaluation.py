"""Evaluate predictions against labels: metrics per finding, their mean, and further results.

`evaluate` reads the predictions, pairs them with the labels, and measures. All figures use one set
of resamples by patient, so figures of one image stay together. A metric stays an array over the
resamples (see `bootstrap`) until the end, so that the average over findings has an interval of its
own. What the results hold is in `results`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from chestxray.evaluation.bundle_thresholds import BundleThresholds
from chestxray.evaluation.curves import NO_VALIDATION, curves, reliability
from chestxray.evaluation.delong import delong
from chestxray.evaluation.evidence import one_sided
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
from chestxray.evaluation.predictions import Predictions, counted, file_of
from chestxray.evaluation.prior_shift import check_prevalence, prevalences
from chestxray.evaluation.reference import reference as against_reference
from chestxray.evaluation.result_details import MeanInterval, PointWorkload, ResampleSettings
from chestxray.evaluation.results import (
    AsCalled,
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
from chestxray.evaluation.thresholds import (
    MAIN,
    Chosen,
    OperatingPoints,
    fit_operating_points,
)
from chestxray.evaluation.weighted_counts import Column
from chestxray.evaluation.workload import Images, rates_at, workloads
from chestxray.findings import Findings
from chestxray.progress import progress
from chestxray.version import __version__

_ELSEWHERE: Final = (
    "give labels of this data set, or, where the model was trained elsewhere, --bundle instead of "
    "--fit-on: a bundle has its thresholds with it"
)
_AS_CALLED: Final = "as_called"
_CALLED: Final = 0.5  # between 0, not called, and 1, called
_STATED: Final = Threshold(value=None, reason="the table states the calls, not the threshold")
_NONE_CHOSEN: Final = Chosen(None, None, NO_VALIDATION)

_Called = npt.NDArray[np.bool_]
_Patients = npt.NDArray[np.int64]


def evaluate(  # noqa: PLR0913 - the options of one command
    predictions: Predictions | Path | str,
    labels: Labels | Dataset | Path | str,
    *,
    split: str | None = None,
    fit_on: Predictions | Path | str | None = None,
    bundle: Path | str | None = None,
    prevalence: Mapping[str, float] | None = None,
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
        predictions: a table of predictions, its file, or a run folder with one.
        labels: a prepared dataset, a label table, or either opened.
        split: which split the predictions are of, `test` by default.
        fit_on: predictions on validation, which thresholds and recalibration are fitted on. Without
            them and without a bundle there are no metrics of calls at thresholds.
        bundle: that made the predictions. Its own thresholds are evaluated, and calibration is
            corrected for the prevalence of these images.
        prevalence: finding → known prevalence of the evaluated images, in (0, 1). Others are
            estimated from the probabilities.
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
        check_belongs(maps, file_of(Path(predictions)))
    thresholds = None if bundle is None else BundleThresholds.read(bundle)
    evaluation = Evaluation.of(
        predictions,
        Labels.of(labels),
        fit_on,
        split=split,
        resamples=resamples,
        seed=seed,
        bundle=thresholds,
        prevalence=prevalence,
    )
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
        bundle: whose thresholds are evaluated; None to choose them on validation.
        prevalence: finding → known prevalence of the evaluated images.
    """

    truth: Labels
    pairs: Pairs
    validation: Pairs | None
    seed: int
    draws: Draws
    bundle: BundleThresholds | None = None
    prevalence: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(  # noqa: PLR0913 - the options of `evaluate`
        cls,
        predictions: Predictions | Path | str,
        truth: Labels,
        fit_on: Predictions | Path | str | None = None,
        *,
        split: str | None = None,
        resamples: int = RESAMPLES,
        seed: int = 0,
        bundle: BundleThresholds | None = None,
        prevalence: Mapping[str, float] | None = None,
    ) -> Self:
        """Read predictions and pair them with the labels; arguments as in `evaluate`.

        Raises:
            PredictionsError: predictions that cannot be evaluated or that the bundle did not make,
                a patient that is both evaluated and fitted on, or a prevalence outside (0, 1).
        """
        pairs = pair(_table(predictions), truth, split)
        if bundle is not None:
            bundle.check_made(pairs.models)
        validation = None if fit_on is None else _validation(fit_on, truth, pairs)
        draws = Draws.of(pairs.patients, resamples, seed)
        known = _prevalences(prevalence or {}, pairs.findings)
        return cls(truth, pairs, validation, seed, draws, bundle, known)

    @cached_property
    def points(self) -> OperatingPoints | None:
        """The operating points: of the bundle, or fitted on validation; None without either."""
        if self.bundle is not None:
            return self.bundle.points(self.pairs.findings)
        on = self.validation
        if on is None:
            return None
        return fit_operating_points(on.probabilities, on.labels, on.patients, on.findings)

    @property
    def main(self) -> str:
        """The operating point that the metrics of calls are of."""
        return MAIN if self.bundle is None else self.bundle.operating_point

    @property
    def fitted_prevalences(self) -> dict[str, float]:
        """The prevalences that the probabilities contain, by finding, as far as known."""
        if self.bundle is not None:
            known = self.bundle.fitted_prevalences(self.pairs.findings)
        elif self.validation is not None:
            known = prevalences(self.validation.labels, self.pairs.findings)
        else:
            return {}
        # Probabilities that do not rank a finding say nothing about its prevalence.
        unranked = self.points.not_assessed if self.points else {}
        return {finding: of for finding, of in known.items() if finding not in unranked}

    @cached_property
    def fitted_on(self) -> Images | None:
        """The calls on validation; None without validation."""
        if self.validation is None or self.points is None:
            return None
        return Images.of_validation(self.validation, self.points)

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
            reliability=reliability(
                pairs, self.validation, draws, self.fitted_prevalences, self.prevalence
            ),
            subgroups=subgroups(pairs, draws, self._thresholds()),
            localization=localization,
            reference=against_reference(reference, pairs, draws) if reference else None,
            benchmarks=benchmarks(results, localization),
        )

    def metrics(self) -> Results:
        """Measure the metrics alone."""
        pairs, points = self.pairs, self.points
        scores = {}
        with progress("evaluate", len(pairs.findings), "findings") as advance:
            for finding in pairs.findings:
                scores[finding] = _score(
                    pairs, self.draws, finding, points, self.fitted_on, self.main
                )
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
            not_assessed=points.not_assessed if points else {},
            operating_point=self.main,
            thresholds_of=self.bundle.model if self.bundle else None,
            as_called=self._as_called(),
            workload=self._workload(scores),
            intervals=ResampleSettings(level=LEVEL, resamples=self.draws.resamples, seed=self.seed),
            findings={finding: of.result for finding, of in scores.items()},
            mean=_mean(scores, self.draws),
            micro=_micro(pairs, self.draws, scores),
            baselines=baselines(
                self.truth, pairs, self.draws, {name: of.values for name, of in scores.items()}
            ),
            package_version=__version__,
        )

    def _workload(self, scores: dict[str, _Scores]) -> dict[str, PointWorkload]:
        """Count the workload of every operating point; empty without validation."""
        if self.points is None:
            return {}
        at = {
            name: {finding: of.called[name] for finding, of in scores.items() if name in of.called}
            for name in self.points.chosen
        }
        return workloads(self.points, self.fitted_on, Images(self.pairs, self.draws, at))

    def _cases(self, masks: Path | None) -> tuple[list[Case], int]:
        """Give the cases, and how many masks belong to none."""
        if masks is None:
            return list(from_boxes(self.truth, self.pairs)), 0
        return from_masks(masks, self.pairs)

    def _thresholds(self) -> dict[str, float | None]:
        if self.points is None:
            return dict.fromkeys(self.pairs.findings)
        return self.points.thresholds(self.main)

    def _as_called(self) -> AsCalled | None:
        """Measure the calls that the table of predictions states; None where it states none."""
        pairs = self.pairs
        if pairs.called is None:
            return None
        calls = replace(pairs, probabilities=pairs.called.astype(np.float64))
        reasons = dict.fromkeys(pairs.not_assessed, "not assessed by the model")
        chosen = {
            finding: Chosen(None, None if finding in reasons else _CALLED, reasons.get(finding, ""))
            for finding in pairs.findings
        }
        points = OperatingPoints({_AS_CALLED: chosen}, reasons, {})
        at = {_AS_CALLED: rates_at(calls, self.draws, points.thresholds(_AS_CALLED))}
        findings = {
            finding: _at_point(calls, self.draws, place, of, at[_AS_CALLED].get(finding))
            for place, (finding, of) in enumerate(chosen.items())
        }
        work = workloads(points, None, Images(calls, self.draws, at))[_AS_CALLED].evaluated
        # The threshold of 0.5 lies between calls written as 0 and 1: it is not one of the model's.
        return AsCalled(
            findings={
                finding: of.model_copy(update={"threshold": _STATED}) if of.threshold.value else of
                for finding, of in findings.items()
            },
            workload=work,
        )


@dataclass(frozen=True)
class _Scores:
    """One finding, measured.

    Attributes:
        values: metric → float64 [1 + R + G], at the main operating point where it needs one.
        called: operating point → metric of calls → float64 [1 + R + G]; none without a threshold.
        counts: float64 [1 + R + G, 4], `Calls` at the main operating point; None without one.
        result: the finding in `metrics.json`.
    """

    values: dict[str, Values]
    called: dict[str, dict[str, Values]]
    counts: Values | None
    result: FindingResult


def _score(
    pairs: Pairs,
    draws: Draws,
    finding: str,
    points: OperatingPoints | None,
    fitted_on: Images | None,
    main_point: str,
) -> _Scores:
    """Measure one finding; without validation or a bundle it has no operating `points`."""
    chosen = points.of(finding) if points else {}
    place = pairs.findings.index(finding)
    y, p = pairs.labels[:, place], pairs.probabilities[:, place]
    column = Column(y, p)
    missing = one_sided(y)
    plain = resampled(column, draws, score_metrics())
    counts = {
        name: draws.apply(partial(column.calls, threshold=at.threshold), column.rows)
        for name, at in chosen.items()
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
        name: _at_point(pairs, draws, place, at, called.get(name)).model_copy(
            update={"validation": fitted_on.plain(name, finding) if fitted_on else None}
        )
        for name, at in (chosen or {main_point: _NONE_CHOSEN}).items()
    }
    main = at_points[main_point]
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    result = FindingResult(
        positives=positives,
        negatives=negatives,
        unknown=len(y) - positives - negatives,
        prevalence=positives / (positives + negatives) if positives + negatives else None,
        threshold=main.threshold,
        confusion=_confusion(counts.get(main_point)),
        operating_points=at_points if chosen else {},
        **intervals,
        **main.metrics,
    )
    return _Scores(plain | called.get(main_point, {}), called, counts.get(main_point), result)


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


def _prevalences(given: Mapping[str, float], findings: Findings) -> dict[str, float]:
    """Give known prevalences under the names that the predictions use.

    Raises:
        PredictionsError: a finding that is not evaluated, or a prevalence outside (0, 1).
    """
    found = {}
    for name, value in given.items():
        place = findings.place(name)
        if place is None:
            raise PredictionsError(
                f"a prevalence is given for {name}, which is not evaluated: evaluated are "
                f"{', '.join(findings)}"
            )
        check_prevalence(value)
        found[findings[place]] = value
    return found


def _validation(source: Predictions | Path | str, truth: Labels, evaluated: Pairs) -> Pairs:
    """Read the validation predictions; they share no patient with the evaluated ones."""
    if not isinstance(source, Predictions):
        source = file_of(Path(source), "validation.csv")
    validation = pair(source, truth, "val", _ELSEWHERE)
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
