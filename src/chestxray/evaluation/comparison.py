"""Is one model better than another: both on the same images, difference by difference.

Both are measured on the same resamples of patients, and the difference is taken within each, so
what makes the images hard for both cancels out (the paired bootstrap). DeLong's test, with
patients as clusters, stands beside it as a cross-check that draws nothing.

The mean over findings is the one question asked, and is not corrected. The findings are many
questions at once: their p-values are Holm's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.errors import PredictionsError
from chestxray.evaluation import delong as compare_delong
from chestxray.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Draws,
    Interval,
    Values,
    average,
    holm,
    p_value,
)
from chestxray.evaluation.labels import Labels, pair
from chestxray.evaluation.metrics import Column
from chestxray.evaluation.thresholds import one_sided
from chestxray.findings import Findings
from chestxray.progress import progress

COMPARISON: Final = "comparison.json"


@dataclass(frozen=True)
class Paired:
    """Two sets of predictions of the same n images.

    Attributes:
        findings: the K that both predict and the labels have, as the first names them.
        left_out: each other finding, with the reason.
        labels: float64 [n, K], 1, 0, NaN = unknown.
        a, b: float64 [n, K], the probabilities of each.
        patients: int64 [n].
        split: the part all images belong to.
        only_a, only_b: images that one alone gives probabilities for, left out here.
        neither: labelled images of the part that none of the two gives probabilities for.
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
    def read(cls, a: Path, b: Path, truth: Labels, split: str | None = None) -> Paired:
        """Read two tables of predictions and keep the images that both have.

        Args:
            a: the first table.
            b: the second.
            truth: the labels.
            split: the part that both must be of.

        Raises:
            PredictionsError: a table that cannot be evaluated, or no image in common.
        """
        first, second = pair(a, truth, split), pair(b, truth, split)
        both, rows, other_rows = np.intersect1d(
            first.images, second.images, assume_unique=True, return_indices=True
        )
        if not len(both):
            raise PredictionsError(
                f"{a} and {b} have no image in common: give predictions of the same images"
            )
        only_a, only_b = len(first.images) - len(both), len(second.images) - len(both)
        of_part = len(first.images) + first.failed + first.unpredicted
        common = first.findings.common(second.findings)
        if not common:
            raise PredictionsError(f"{a} and {b} have no finding in common that the labels have")
        ours, theirs = (list(places) for places in zip(*common, strict=True))
        findings = Findings(first.findings[place] for place in ours)
        return cls(
            findings=findings,
            left_out={
                **first.left_out,
                **second.left_out,
                **{
                    name: "only one of the two predicts it"
                    for name in (*first.findings, *second.findings)
                    if findings.place(name) is None
                },
            },
            labels=first.labels[rows][:, ours],
            a=first.probabilities[rows][:, ours],
            b=second.probabilities[other_rows][:, theirs],
            patients=first.patients[rows],
            split=first.split,
            only_a=only_a,
            only_b=only_b,
            neither=of_part - len(both) - only_a - only_b,
        )


def compare(
    a: Path,
    b: Path,
    truth: Labels,
    split: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two tables of predictions; gives what `comparison.json` holds.

    Args:
        a: the first table.
        b: the second.
        truth: the labels.
        split: the part that both must be of.
        resamples: of patients.
        seed: of the resamples.

    Returns:
        For each finding and for the mean over findings the AUROC of `a` and of `b`, the
        `difference` b - a with its interval, its `p` by the bootstrap, and `delong`; for a finding
        also `p_holm`, corrected for the number of findings. The `sentence` says which is better,
        by the interval of the mean's difference.

    Raises:
        PredictionsError: a table that cannot be evaluated, or no image in common.
    """
    paired = Paired.read(a, b, truth, split)
    draws = Draws.of(paired.patients, resamples, seed)
    aurocs = {}
    with progress("compare", len(paired.findings), "findings") as advance:
        for k, finding in enumerate(paired.findings):
            aurocs[finding] = _aurocs(paired, draws, k)
            advance()
    findings = {
        finding: _finding(paired, k, aurocs[finding], draws)
        for k, finding in enumerate(paired.findings)
    }
    _adjust(findings)
    mean = _mean(list(aurocs.values()), draws)
    mean["delong"] = compare_delong.of_mean(paired.labels, paired.a, paired.b, paired.patients)
    return {
        "a": str(a),
        "b": str(b),
        "source": truth.source,
        "split": paired.split,
        "split_name": truth.split_name,
        "images": len(paired.patients),
        "patients": len(np.unique(paired.patients)),
        "only_a": paired.only_a,
        "only_b": paired.only_b,
        "neither": paired.neither,
        "left_out": paired.left_out,
        "intervals": {"level": LEVEL, "resamples": resamples, "seed": seed, "by": "patient"},
        "findings": findings,
        "mean": mean,
        "sentence": sentence(mean),
    }


def _aurocs(paired: Paired, draws: Draws, k: int) -> tuple[Values, Values]:
    """Give the AUROCs of both for one finding, float64 [1 + R + G] each, on the same draws."""

    def of(probabilities: Values) -> Values:
        column = Column(paired.labels[:, k], probabilities[:, k])
        return draws.apply(column.ranking, column.rows)[:, 0]

    first = of(paired.a)
    same = np.array_equal(paired.a[:, k], paired.b[:, k])
    return first, first if same else of(paired.b)


def _finding(paired: Paired, k: int, aurocs: tuple[Values, Values], draws: Draws) -> dict[str, Any]:
    y, (a, b) = paired.labels[:, k], aurocs
    why = one_sided(y)
    patients = min(len(np.unique(paired.patients[y == side])) for side in (0, 1))
    return {
        "positives": int((y == 1).sum()),
        "a": draws.interval(a, why).entry(),
        "b": draws.interval(b, why).entry(),
        "difference": _difference(a, b, draws, why),
        "p": p_value(draws, b - a, patients),
        "delong": compare_delong.of_finding(y, paired.a[:, k], paired.b[:, k], paired.patients),
    }


def _adjust(findings: dict[str, dict[str, Any]]) -> None:
    """Add Holm's p-value to each finding that has one."""
    tested = [entry for entry in findings.values() if entry["p"] is not None]
    adjusted = iter(holm([entry["p"] for entry in tested]))
    for entry in findings.values():
        entry["p_holm"] = None if entry["p"] is None else next(adjusted)


def _mean(aurocs: list[tuple[Values, Values]], draws: Draws) -> dict[str, Any]:
    """Average over the findings that have an AUROC."""
    defined = [both for both in aurocs if not np.isnan(both[0][0])]
    if not defined:
        none = Interval(np.nan, reason="no finding has positives and negatives").entry()
        return {"findings": 0, "a": none, "b": none, "difference": none, "p": None}
    a, b = (average(of) for of in zip(*defined, strict=True))
    return {
        "findings": len(defined),
        "a": draws.interval(a).entry(),
        "b": draws.interval(b).entry(),
        "difference": _difference(a, b, draws),
        "p": p_value(draws, b - a, draws.counts.shape[1]),
    }


def _difference(a: Values, b: Values, draws: Draws, why: str = "") -> dict[str, Any]:
    """Give b - a; models that rank alike differ by nothing, whichever patients are drawn."""
    if not np.isnan(a[0]) and np.array_equal(a, b, equal_nan=True):
        return Interval(0.0, 0.0, 0.0, (0.0, 0.0)).entry()
    return draws.interval(b - a, why).entry()


def sentence(mean: dict[str, Any]) -> str:
    """Say in one sentence which model is better, by the interval of the mean's difference."""
    a, b, difference = (mean[key] for key in ("a", "b", "difference"))
    if difference["value"] is None:
        return f"Whether A or B is better can't be told: {difference['reason']}."
    means = f"mean AUROC of A {a['value']:.3f}, of B {b['value']:.3f}"
    if difference["low"] is None:
        return f"Whether A or B is better can't be told: {means}, and {difference['reason']}."
    low, high = difference["low"], difference["high"]
    if difference["value"] == low == high == 0:
        return f"A and B rank the images alike: both have a mean AUROC of {a['value']:.3f}."
    by = f"difference {difference['value']:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    if low > 0:
        return f"B is better than A: {means}, {by}."
    if high < 0:
        return f"B is worse than A: {means}, {by}."
    return f"A and B can't be told apart: {means}, {by}."
