"""Compare two models on the same images: is one better than the other?

Both are measured on the same resamples of patients, and the difference is taken within each, so
what makes the images hard for both cancels out (the paired bootstrap). DeLong's test, with patients
as clusters, is a cross-check without resampling.

The mean over findings is the one question asked, and is not corrected. The findings are many
questions at once: their p-values are adjusted by Holm's method.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError
from chestxray.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Bounds,
    Draws,
    Interval,
    Values,
    average,
    holm,
    p_value,
)
from chestxray.evaluation.delong import compare_aurocs, compare_means
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.labels import Labels, Pairs, pair
from chestxray.evaluation.metrics import resampled
from chestxray.evaluation.predictions import Predictions
from chestxray.evaluation.result_details import ResampleSettings
from chestxray.evaluation.results import ComparedFinding, ComparedMean, Comparison, DeLongTest
from chestxray.evaluation.weighted_counts import Column
from chestxray.findings import Findings, key
from chestxray.progress import progress


@dataclass(frozen=True)
class Paired:
    """Two tables of predictions of the same n images.

    Attributes:
        findings: the K that both predict and that are labelled, as the first names them.
        left_out: each other finding, with the reason.
        labels: float64 [n, K], 1, 0, NaN = unknown.
        a, b: float64 [n, K], the probabilities of each.
        patients: int64 [n].
        split: which split all images belong to.
        only_a, only_b: images that only one gives probabilities for, left out here.
        neither: labelled images of the split that neither gives probabilities for.
    """

    findings: Findings
    left_out: dict[str, str]
    labels: Values
    a: Values
    b: Values
    patients: npt.NDArray[np.int64]
    split: str
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def read(
        cls,
        a: Predictions | Path | str,
        b: Predictions | Path | str,
        truth: Labels,
        split: str | None = None,
    ) -> Paired:
        """Read two tables of predictions and keep the images that both have.

        Args:
            a: the first table.
            b: the second.
            truth: the labels.
            split: which split both must be of.

        Raises:
            PredictionsError: a table that cannot be evaluated, or no image or finding in common.
        """
        first, second = (
            pair(of if isinstance(of, Predictions) else Path(of), truth, split) for of in (a, b)
        )
        both, rows, other_rows = np.intersect1d(
            first.images, second.images, assume_unique=True, return_indices=True
        )
        if not len(both):
            raise PredictionsError(
                f"{_named(a)} and {_named(b)} have no image in common: give predictions of the "
                f"same images"
            )
        only_a, only_b = len(first.images) - len(both), len(second.images) - len(both)
        splits = truth.rows["split"]
        of_part = int((splits == splits[first.images[0]]).sum())
        common = first.findings.common(second.findings)
        if not common:
            raise PredictionsError(
                f"{_named(a)} and {_named(b)} have no labelled finding in common: give predictions "
                f"of the same findings"
            )
        ours, theirs = (list(places) for places in zip(*common, strict=True))
        findings = Findings(first.findings[place] for place in ours)
        return cls(
            findings=findings,
            left_out=_left_out(first, second, findings),
            labels=first.labels[rows][:, ours],
            a=first.probabilities[rows][:, ours],
            b=second.probabilities[other_rows][:, theirs],
            patients=first.patients[rows],
            split=first.split,
            only_a=only_a,
            only_b=only_b,
            neither=of_part - len(both) - only_a - only_b,
        )


def _left_out(first: Pairs, second: Pairs, findings: Findings) -> dict[str, str]:
    """Say why each finding is not compared, once under whatever spellings."""
    only_one = {
        name: "predicted by only one of the two"
        for name in (*first.findings, *second.findings)
        if findings.place(name) is None
    }
    names: dict[str, str] = {}
    found: dict[str, str] = {}
    for name, reason in chain(*(of.items() for of in (first.left_out, second.left_out, only_one))):
        found[names.setdefault(key(name), name)] = reason
    return found


def compare(
    a: Predictions | Path | str,
    b: Predictions | Path | str,
    labels: Labels | Dataset | Path | str,
    *,
    split: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    out: Path | str | None = None,
) -> Comparison:
    """Compare two models by their predictions of the same images.

    For each finding and for the mean over findings the result has the AUROC of both, the difference
    B - A with its interval and its bootstrap p-value, and DeLong's test. The p-values of findings
    are also given adjusted for their number (`p_holm`). `sentence` says which model is better, by
    the interval of the mean's difference.

    Args:
        a: the first table of predictions, or its file.
        b: the second.
        labels: a prepared dataset, a label table, or either opened.
        split: which split both must be of, `test` by default.
        resamples: of patients, at least 1.
        seed: of the resamples.
        out: folder to write `comparison.json` to; nothing is written by default.

    Raises:
        PredictionsError: a table that cannot be evaluated, or no image or finding in common.
        SourceError: a label table that cannot be read.
        ArtifactError: a file that does not exist.
    """
    truth = Labels.of(labels)
    paired = Paired.read(a, b, truth, split)
    draws = Draws.of(paired.patients, resamples, seed)
    aurocs = {}
    with progress("compare", len(paired.findings), "findings") as advance:
        for k, finding in enumerate(paired.findings):
            aurocs[finding] = _aurocs(paired, draws, k)
            advance()
    delong = compare_means(paired.labels, paired.a, paired.b, paired.patients)
    mean = _mean(list(aurocs.values()), draws, delong)
    comparison = Comparison(
        a=_named(a),
        b=_named(b),
        source=truth.source,
        split=paired.split,
        split_name=truth.split_name,
        images=len(paired.patients),
        patients=len(np.unique(paired.patients)),
        only_a=paired.only_a,
        only_b=paired.only_b,
        neither=paired.neither,
        left_out=paired.left_out,
        intervals=ResampleSettings(level=LEVEL, resamples=resamples, seed=seed),
        findings=_findings(paired, aurocs, draws),
        mean=mean,
        sentence=sentence(mean.a, mean.b, mean.difference),
    )
    if out is not None:
        comparison.write(Path(out))
    return comparison


def _named(table: Predictions | Path | str) -> str:
    return "a table in memory" if isinstance(table, Predictions) else str(table)


def _aurocs(paired: Paired, draws: Draws, k: int) -> tuple[Values, Values]:
    """Give the AUROCs of both for one finding, float64 [1 + R + G] each, on the same resamples."""

    def of(probabilities: Values) -> Values:
        column = Column(paired.labels[:, k], probabilities[:, k])
        return resampled(column, draws, ("auroc",))["auroc"]

    first = of(paired.a)
    same = np.array_equal(paired.a[:, k], paired.b[:, k])
    return first, first if same else of(paired.b)


def _findings(
    paired: Paired, aurocs: dict[str, tuple[Values, Values]], draws: Draws
) -> dict[str, ComparedFinding]:
    """Compare each finding, with Holm's p-value where there is a p-value."""
    p = {}
    for k, (finding, (a, b)) in enumerate(aurocs.items()):
        y = paired.labels[:, k]
        patients = min(len(np.unique(paired.patients[y == side])) for side in (0, 1))
        p[finding] = p_value(draws, b - a, patients)
    tested = {finding: of for finding, of in p.items() if of is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    found = {}
    for k, (finding, (a, b)) in enumerate(aurocs.items()):
        y = paired.labels[:, k]
        why = one_sided(y)
        found[finding] = ComparedFinding(
            positives=int((y == 1).sum()),
            a=draws.interval(a, why),
            b=draws.interval(b, why),
            difference=_difference(a, b, draws, why),
            p=p[finding],
            delong=compare_aurocs(y, paired.a[:, k], paired.b[:, k], paired.patients),
            p_holm=adjusted.get(finding),
        )
    return found


def _mean(aurocs: list[tuple[Values, Values]], draws: Draws, delong: DeLongTest) -> ComparedMean:
    """Average over the findings that have an AUROC."""
    defined = [both for both in aurocs if not np.isnan(both[0][0])]
    if not defined:
        none = Interval(value=None, reason="no finding has positives and negatives")
        return ComparedMean(findings=0, a=none, b=none, difference=none, p=None, delong=delong)
    a, b = (average(of) for of in zip(*defined, strict=True))
    return ComparedMean(
        findings=len(defined),
        a=draws.interval(a),
        b=draws.interval(b),
        difference=_difference(a, b, draws),
        p=p_value(draws, b - a, draws.counts.shape[1]),
        delong=delong,
    )


def _difference(a: Values, b: Values, draws: Draws, why: str = "") -> Interval:
    """Give b - a; for models that rank equally it is 0, whichever patients are drawn."""
    if not np.isnan(a[0]) and np.array_equal(a, b, equal_nan=True):
        return Interval(value=0.0, low=0.0, high=0.0, percentile=Bounds(low=0.0, high=0.0))
    return draws.interval(b - a, why)


def sentence(a: Interval, b: Interval, difference: Interval) -> str:
    """Say in one sentence which model is better, by the interval of the mean's difference."""
    if difference.value is None:
        return f"It is not known which model is better: {difference.reason}."
    means = f"the mean AUROC is {a.value:.3f} for A and {b.value:.3f} for B"
    if difference.low is None or difference.high is None:
        return f"It is not known which model is better: {means}, and {difference.reason}."
    low, high = difference.low, difference.high
    if difference.value == low == high == 0:
        return f"A and B rank the images equally: both have a mean AUROC of {a.value:.3f}."
    by = f"difference {difference.value:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    if low > 0:
        return f"B is better than A: {means}, {by}."
    if high < 0:
        return f"B is worse than A: {means}, {by}."
    return f"No difference between A and B was shown: {means}, {by}."
