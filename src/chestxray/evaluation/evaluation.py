"""Evaluate predictions against labels: metrics per finding, their mean, and further results.

`evaluate` reads the predictions, pairs them with the labels, and measures. All figures use one set
of resamples by patient, so figures of one image stay together. A metric stays an array over the
resamples (see `bootstrap`) until the end, so that the average over findings has an interval of its
own. What the results hold is in `results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import numpy as np

from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError, SourceError
from chestxray.evaluation.baselines import baselines
from chestxray.evaluation.benchmarks import benchmarks
from chestxray.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Draws,
)
from chestxray.evaluation.bundle_thresholds import CARD, BundleThresholds, seen_beside
from chestxray.evaluation.curves import curves, reliability
from chestxray.evaluation.labels import Labels, Pairs, pair
from chestxray.evaluation.leave_out import Named, check_used, read_lists
from chestxray.evaluation.localization import Case, check_belongs, from_boxes, from_masks, locate
from chestxray.evaluation.predictions import Predictions, counted, file_of
from chestxray.evaluation.prior_shift import check_prevalence, prevalences
from chestxray.evaluation.reference import reference as against_reference
from chestxray.evaluation.result_details import LeftOut, PointWorkload, ResampleSettings
from chestxray.evaluation.results import (
    FitOn,
    Results,
)
from chestxray.evaluation.scoring import Scores, as_called, mean_of, micro_of, score
from chestxray.evaluation.seen_images import Seen, SeenImages, seen_images
from chestxray.evaluation.subgroups import subgroups
from chestxray.evaluation.thresholds import (
    MAIN,
    OperatingPoints,
    fit_operating_points,
)
from chestxray.evaluation.workload import Images, workloads
from chestxray.execution import carry
from chestxray.findings import Findings
from chestxray.progress import progress
from chestxray.storage import fetched, staged_folder
from chestxray.version import __version__

_ELSEWHERE: Final = (
    "give labels of this data set, or, where the model was trained elsewhere, --bundle instead of "
    "--fit-on: a bundle has its thresholds with it"
)


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
    leave_out: Path | str | Sequence[Path | str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    out: Path | str | None = None,
) -> Results:
    """Evaluate predictions.

    The findings that predictions and labels have in common are scored; `Results.left_out` names the
    others.

    Args:
        predictions: a table of predictions, its file, or a run folder with one. This and all other
            files and folders may be paths or URLs.
        labels: a prepared dataset, a label table, or either opened.
        split: which split the predictions are of, `test` by default.
        fit_on: predictions on validation, which thresholds and recalibration are fitted on. Without
            them and without a bundle there are no metrics of calls at thresholds.
        bundle: that made the predictions. Its own thresholds are evaluated, and calibration is
            corrected for the prevalence of these images. Which of these images it has seen is told
            for the bundle of a run folder too, whose predictions these are.
        prevalence: finding → known prevalence of the evaluated images, in (0, 1); needs `fit_on`
            or `bundle`. Others are estimated from the probabilities.
        heatmaps: `heatmaps.npy` of these predictions, for localization.
        masks: folder of masks to locate against, instead of the dataset's boxes.
        reference: a table of labels adjudicated by radiologists (Majkowska 2020).
        leave_out: files of `chestxray overlap`, or tables with a column `image`: the images that
            they name are left out, with all others of their patients, also of `fit_on`.
        resamples: of patients, for the intervals; 0 for values alone.
        seed: of the resamples.
        out: folder to write the results to; nothing is written by default.

    Raises:
        PredictionsError: predictions, heatmaps or masks that cannot be evaluated with these labels.
        SourceError: a label table or a reference that cannot be read, or a file of images to leave
            out that names none of the labels.
        ArtifactError: a file that does not exist.
        StorageError: a URL is refused, nothing is there, or the store does not answer.
    """
    if masks is not None and heatmaps is None:
        raise PredictionsError("masks need heatmaps to compare with them: give heatmaps too")
    predictions = _on_this_machine(predictions)
    fit_on = None if fit_on is None else _on_this_machine(fit_on)
    maps, regions, adjudicated = (
        None if path is None else fetched(path, beside=[_note_of(path)])
        for path in (heatmaps, masks, reference)
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
        leave_out=leave_out,
    )
    results = evaluation.results(maps, regions, adjudicated)
    if out is not None:
        with staged_folder(out, "evaluate") as folder:
            results.write(folder)
            _carry(predictions, labels, folder)
    return results


def _carry(
    predictions: Predictions | Path | str, labels: Labels | Dataset | Path | str, out: Path
) -> None:
    """Let the results say where what they are of was made."""
    if not isinstance(predictions, Predictions):
        carry(file_of(Path(predictions)), out)
    if not isinstance(labels, Labels):
        carry(labels.folder if isinstance(labels, Dataset) else Path(labels), out)


def _on_this_machine(table: Predictions | Path | str) -> Predictions | Path:
    """Give predictions by a path of this machine, with the card of the bundle beside them."""
    if isinstance(table, Predictions):
        return table
    return fetched(table, beside=[f"bundle/{CARD}"], without=["checkpoints"])


def _note_of(heatmaps: Path | str) -> str:
    """Name the file that says which predictions heatmaps belong to."""
    return Path(heatmaps).with_suffix(".json").name


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
        seen: lists of images that the model which made the predictions has seen, as far as known.
        left_out: what was left out because files of the user name it; None without such files.
    """

    truth: Labels
    pairs: Pairs
    validation: Pairs | None
    seed: int
    draws: Draws
    bundle: BundleThresholds | None = None
    prevalence: Mapping[str, float] = field(default_factory=dict)
    seen: tuple[Seen, ...] = ()
    left_out: LeftOut | None = None

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
        leave_out: Path | str | Sequence[Path | str] = (),
    ) -> Self:
        """Read predictions and pair them with the labels; arguments as in `evaluate`.

        Raises:
            PredictionsError: predictions that cannot be evaluated or that the bundle did not make,
                a patient that is both evaluated and fitted on, a prevalence outside (0, 1), or
                one without a bundle or validation to correct from.
            SourceError: a file of images to leave out that names none of the labels, or all that
                are evaluated.
        """
        named = _named(leave_out, truth)
        pairs, left_out = _unnamed(pair(_table(predictions), truth, split), truth, named)
        if bundle is not None:
            bundle.check_made(pairs.models)
        validation = None if fit_on is None else _validation(fit_on, truth, pairs)
        if validation is not None:
            validation, _ = _unnamed(validation, truth, named)
        draws = Draws.of(pairs.patients, resamples, seed)
        known = _prevalences(prevalence or {}, pairs.findings)
        if known and bundle is None and validation is None:
            raise PredictionsError(
                "a known prevalence corrects probabilities of which it is known what prevalence "
                "they contain: give --bundle or --fit-on too"
            )
        seen = bundle.seen if bundle else seen_beside(predictions, pairs.models)
        return cls(truth, pairs, validation, seed, draws, bundle, known, seen, left_out)

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
                scores[finding] = score(
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
            uncalibrated_import=self.bundle.uncalibrated_import if self.bundle else None,
            seen_images=list(self._seen_images()),
            left_out_images=self.left_out,
            as_called=as_called(pairs, self.draws),
            workload=self._workload(scores),
            intervals=ResampleSettings(
                level=LEVEL,
                resamples=self.draws.resamples,
                seed=self.seed,
                weights=self.draws.kind,
            ),
            findings={finding: of.result for finding, of in scores.items()},
            mean=mean_of(scores, self.draws),
            micro=micro_of(pairs, self.draws, scores),
            baselines=baselines(
                self.truth, pairs, self.draws, {name: of.values for name, of in scores.items()}
            ),
            package_version=__version__,
        )

    def _seen_images(self) -> tuple[SeenImages, ...]:
        """Tell which evaluated images the model may have seen; empty where it is not known."""
        if not self.seen:
            return ()
        found = seen_images(self.seen, self.truth.evaluated(self.pairs.images.tolist()))
        if (left := self.left_out) is None:
            return found
        return tuple(
            of if of.images is not None
            else of.model_copy(update={"sentence": left.after(of.sentence)})
            for of in found
        )  # fmt: skip

    def _workload(self, scores: dict[str, Scores]) -> dict[str, PointWorkload]:
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


def _table(source: Predictions | Path | str) -> Predictions | Path:
    return source if isinstance(source, Predictions) else Path(source)


def _named(leave_out: Path | str | Sequence[Path | str], truth: Labels) -> Named:
    """Read the files of images to leave out, each of which names some of the labels."""
    lists = read_lists(leave_out)
    named = Named.of(lists, truth)
    check_used(lists, [(named, truth)])
    return named


def _unnamed(pairs: Pairs, truth: Labels, named: Named) -> tuple[Pairs, LeftOut | None]:
    """Leave out the patients of whom files name an image, and count what is left out."""
    if not named.files:
        return pairs, None
    out = named.among(pairs.images, truth)
    if out.all():
        raise SourceError(
            f"{', '.join(named.files)} leaves no image: all {counted(len(out), 'image')} that are "
            f"predicted are of patients whom it names; give predictions of other images"
        )
    return pairs.only(~out), named.left_out(pairs.patients[out].tolist())


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
