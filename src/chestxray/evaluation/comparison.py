"""Compare two models on the same images: is one better than the other?

Both are measured on the same resamples of patients, and the difference is taken within each, so
what makes the images hard for both cancels out (the paired bootstrap). Interval, p-value and
sentence come from one test (see `significance`). DeLong's test, with patients as clusters, is a
cross-check without resampling.

The mean over findings is the one question asked, and is not corrected. The findings are many
questions at once: their p-values are adjusted by Holm's method. A finding with fewer than `FEWEST`
patients with it, or without it, is not tested and not in the mean, whose error it would hide.

Whether B is no worse than A by more than a margin is asked one-sided at 2.5 %: of the mean's
difference, the lower limit of the 95 % interval must lie above minus the margin (Piaggio 2012,
doi:10.1001/jama.2012.87802).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError
from chestxray.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Draws,
    Values,
    average,
    holm,
)
from chestxray.evaluation.bundle_thresholds import seen_beside
from chestxray.evaluation.delong import compare_aurocs, compare_means
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.labels import Labels, Pairs, pair
from chestxray.evaluation.metrics import resampled
from chestxray.evaluation.predictions import Predictions
from chestxray.evaluation.result_details import ResampleSettings
from chestxray.evaluation.results import (
    ComparedFinding,
    ComparedMean,
    Comparison,
    DeLongTest,
    NonInferiority,
)
from chestxray.evaluation.seen_images import SeenImages, seen_images
from chestxray.evaluation.signed_numbers import signed
from chestxray.evaluation.significance import (
    ALPHA,
    FEWEST,
    Significance,
    degrees_of_mean,
    smaller_side,
    too_few,
)
from chestxray.evaluation.weighted_counts import Column
from chestxray.findings import Findings, key
from chestxray.progress import progress

_NO_MEAN: Final = f"no finding has at least {FEWEST} patients with it and {FEWEST} without it"


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
        seen_a, seen_b: which of the n images the model of each may have seen; empty where no bundle
            beside its table tells.
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
    seen_a: tuple[SeenImages, ...]
    seen_b: tuple[SeenImages, ...]

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
        if not len(np.intersect1d(first.images, second.images, assume_unique=True)):
            raise PredictionsError(
                f"{_named(a)} and {_named(b)} have no image in common: give predictions of the "
                f"same images"
            )
        if not first.findings.common(second.findings):
            raise PredictionsError(
                f"{_named(a)} and {_named(b)} have no labelled finding in common: give predictions "
                f"of the same findings"
            )
        return cls.of(first, second, truth, (a, b))

    @classmethod
    def of(
        cls,
        first: Pairs,
        second: Pairs,
        truth: Labels,
        tables: tuple[Predictions | Path | str, Predictions | Path | str],
    ) -> Paired:
        """Keep the images and the findings that two tables have in common, at least one of each."""
        both, rows, other_rows = np.intersect1d(
            first.images, second.images, assume_unique=True, return_indices=True
        )
        only_a, only_b = len(first.images) - len(both), len(second.images) - len(both)
        splits = truth.rows["split"]
        of_part = int((splits == splits[first.images[0]]).sum())
        common = first.findings.common(second.findings)
        ours, theirs = (list(places) for places in zip(*common, strict=True))
        findings = Findings(first.findings[place] for place in ours)
        images = truth.evaluated(both.tolist())
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
            seen_a=seen_images(seen_beside(tables[0], first.models), images),
            seen_b=seen_images(seen_beside(tables[1], second.models), images),
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


def compare(  # noqa: PLR0913 - the options of one command
    a: Predictions | Path | str,
    b: Predictions | Path | str,
    labels: Labels | Dataset | Path | str,
    *,
    split: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    margin: float | None = None,
    out: Path | str | None = None,
) -> Comparison:
    """Compare two models by their predictions of the same images.

    For each finding and for the mean over findings the result has the AUROC of both, the difference
    B - A with its interval and its bootstrap p-value, and DeLong's test. The p-values of findings
    are also given adjusted for their number (`p_holm`). `sentence` says which model is better, by
    the p-value of the mean's difference.

    Args:
        a: the first table of predictions, its file, or a run folder with one.
        b: the second.
        labels: a prepared dataset, a label table, or either opened.
        split: which split both must be of, `test` by default.
        resamples: of patients, at least 1.
        seed: of the resamples.
        margin: greatest loss of mean AUROC, between 0 and 1, with which B counts as not inferior to
            A; not tested by default.
        out: folder to write `comparison.json` to; nothing is written by default.

    Raises:
        PredictionsError: a table that cannot be evaluated, no image or finding in common, or a
            margin outside 0 to 1.
        SourceError: a label table that cannot be read.
        ArtifactError: a file that does not exist.
    """
    check_margin(margin)
    truth = Labels.of(labels)
    paired = Paired.read(a, b, truth, split)
    draws = Draws.of(paired.patients, resamples, seed)
    comparison = compared(paired, draws, truth, (_named(a), _named(b)), margin)
    if out is not None:
        comparison.write(Path(out))
    return comparison


def check_margin(margin: float | None) -> None:
    """Check the margin of a test of non-inferiority.

    Raises:
        PredictionsError: it is outside 0 to 1.
    """
    if margin is not None and not 0 < margin < 1:
        raise PredictionsError(
            f"the margin is a loss of mean AUROC between 0 and 1, not {margin:g}: give one such as "
            f"0.02"
        )


def compared(
    paired: Paired,
    draws: Draws,
    truth: Labels,
    names: tuple[str, str],
    margin: float | None,
) -> Comparison:
    """Compare two tables that are paired, on resamples of their patients; see `compare`."""
    aurocs = {}
    with progress("compare", len(paired.findings), "findings") as advance:
        for k, finding in enumerate(paired.findings):
            aurocs[finding] = _aurocs(paired, draws, k)
            advance()
    delong = compare_means(paired.labels, paired.a, paired.b, paired.patients)
    means = _Means.of(paired, list(aurocs.values()), draws)
    mean = means.compared(draws, delong)
    return Comparison(
        a=names[0],
        b=names[1],
        source=truth.source,
        split=paired.split,
        split_name=truth.split_name,
        images=len(paired.patients),
        patients=len(np.unique(paired.patients)),
        only_a=paired.only_a,
        only_b=paired.only_b,
        neither=paired.neither,
        seen_a=list(paired.seen_a),
        seen_b=list(paired.seen_b),
        left_out=paired.left_out,
        intervals=ResampleSettings(level=LEVEL, resamples=draws.resamples, seed=draws.seed),
        findings=_findings(paired, aurocs, draws),
        mean=mean,
        sentence=sentence(mean),
        noninferiority=None if margin is None else noninferiority(means.test(draws), margin),
    )


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
    tests = {}
    for k, (finding, (a, b)) in enumerate(aurocs.items()):
        y = paired.labels[:, k]
        fewest, group = smaller_side(y, paired.patients)
        tests[finding] = _difference(a, b, draws, fewest, group=group, undefined=one_sided(y))
    p = {finding: test.p for finding, test in tests.items() if test.p is not None}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    found = {}
    for k, (finding, (a, b)) in enumerate(aurocs.items()):
        y = paired.labels[:, k]
        why = one_sided(y)
        found[finding] = ComparedFinding(
            positives=int((y == 1).sum()),
            a=draws.interval(a, why),
            b=draws.interval(b, why),
            difference=tests[finding].interval,
            p=p.get(finding),
            delong=compare_aurocs(y, paired.a[:, k], paired.b[:, k], paired.patients),
            p_holm=adjusted.get(finding),
        )
    return found


@dataclass(frozen=True)
class _Means:
    """The mean AUROCs over the findings that have enough patients.

    Attributes:
        findings: how many these are.
        left_out: each other finding, with the reason.
        a, b: float64 [1 + R + G], NaN without such a finding.
        degrees: degrees of freedom of the difference's variance; None without such a finding.
    """

    findings: int
    left_out: dict[str, str]
    a: Values
    b: Values
    degrees: float | None

    @classmethod
    def of(cls, paired: Paired, aurocs: list[tuple[Values, Values]], draws: Draws) -> _Means:
        """Average over the findings with at least `FEWEST` patients with and without them."""
        counts = [smaller_side(y, paired.patients) for y in paired.labels.T]
        sides = [fewest for fewest, _ in counts]
        enough = {k: aurocs[k] for k, fewest in enumerate(sides) if fewest >= FEWEST}
        left_out = {
            finding: one_sided(y) or too_few(*count)
            for finding, y, count in zip(paired.findings, paired.labels.T, counts, strict=True)
            if count[0] < FEWEST
        }
        if not enough:
            none = np.full(len(draws), np.nan)
            return cls(0, left_out, none, none, None)
        a, b = (average(of) for of in zip(*enough.values(), strict=True))
        differences = [of_b - of_a for of_a, of_b in enough.values()]
        degrees = degrees_of_mean(draws, differences, [sides[k] for k in enough])
        return cls(len(enough), left_out, a, b, degrees)

    def test(self, draws: Draws) -> Significance:
        """Test the difference over all patients."""
        patients = draws.patients
        return _difference(
            self.a, self.b, draws, patients, degrees=self.degrees, undefined=_NO_MEAN
        )

    def compared(self, draws: Draws, delong: DeLongTest) -> ComparedMean:
        """Give them with their intervals and the test."""
        test = self.test(draws)
        return ComparedMean(
            findings=self.findings,
            left_out=self.left_out,
            a=draws.interval(self.a, _NO_MEAN),
            b=draws.interval(self.b, _NO_MEAN),
            difference=test.interval,
            p=test.p,
            delong=delong,
        )


def _difference(
    a: Values,
    b: Values,
    draws: Draws,
    patients: int,
    *,
    degrees: float | None = None,
    group: str = "",
    undefined: str = "",
) -> Significance:
    """Test b - a; for models that rank equally it is 0, whichever patients are drawn."""
    if not np.isnan(a[0]) and np.array_equal(a, b, equal_nan=True):
        return Significance.of_equals()
    return Significance.of(
        draws, b - a, patients, degrees=degrees, group=group, undefined=undefined
    )


def sentence(mean: ComparedMean, a: str = "A", b: str = "B") -> str:
    """Say in one sentence which model is better, by the p-value of the mean's difference.

    Args:
        mean: of both.
        a: name of the first model.
        b: of the second.
    """
    difference = mean.difference
    if difference.value is None:
        return f"It is not known which model is better: {difference.reason}."
    means = f"the mean AUROC is {mean.a.value:.3f} for {a} and {mean.b.value:.3f} for {b}"
    if difference.low is None or difference.high is None:
        return f"It is not known which model is better: {means}, and {difference.reason}."
    if mean.p is None:
        return f"{a} and {b} rank the images equally: both have a mean AUROC of {mean.a.value:.3f}."
    by = (
        f"difference {signed(difference.value)} (95 % interval {signed(difference.low)} to "
        f"{signed(difference.high)}, p {_p(mean.p)})"
    )
    if mean.p >= ALPHA:
        return f"No difference between {a} and {b} was shown: {means}, {by}."
    better = "better" if difference.value > 0 else "worse"
    return f"{b} is {better} than {a}: {means}, {by}."


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def noninferiority(test: Significance, margin: float) -> NonInferiority:
    """Say whether B is no worse than A by `margin` or more.

    Args:
        test: of the mean AUROC of B minus that of A.
        margin: greatest accepted loss, above 0.
    """
    p, low = test.p_above(-margin), test.interval.low
    if p is None or low is None:
        unknown = f"It is not known whether B is inferior to A: {test.reason}."
        return NonInferiority(margin=margin, p=None, shown=None, sentence=unknown)
    shown = p < ALPHA / 2
    which = "B is not inferior to A" if shown else "That B is not inferior to A was not shown"
    is_above = "above" if shown else "not above"
    told = (
        f"{which} with a margin of {margin:g} in mean AUROC: the lower limit of the difference, "
        f"{signed(low)}, is {is_above} −{margin:g} (one-sided p {_p(p)})."
    )
    return NonInferiority(margin=margin, p=p, shown=shown, sentence=told)
