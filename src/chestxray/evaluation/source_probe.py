"""Can the source of a radiograph be told from a model's features, and would that pay as a shortcut?

A model that is trained on several data sets may learn where a radiograph comes from, by its
processing, markings or collimation, and call a finding because it is frequent there (Zech 2018,
doi:10.1371/journal.pmed.1002683). It pays where both hold:

- the source can be told from the pooled features: ridge regression of each source on them, whose
  scores come from the folds without the image's patient, has an AUROC whose interval is above 0.5;
- the prevalence of a finding differs between two sources that label it, beyond its interval.

Neither proves that the model uses the source. Figures within each source are not affected by the
shortcut; those over all sources together are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Draws, Floats, Interval, Values
from chestxray.evaluation.metrics import interval_of, measure
from chestxray.evaluation.result_details import Model
from chestxray.evaluation.ridge import Ridge
from chestxray.evaluation.weighted_counts import Column

FEWEST: Final = 10
"""Patients of a source, and of all others, below which it is not probed."""


class SourceProbe(Model):
    """How well the source can be told, and where prevalences differ.

    Attributes:
        auroc: source → how well the probe ranks its images above those of all other sources.
        too_few: source → why it is not probed.
        prevalences: finding → source → share of positives; of the sources that label it.
        differing: findings whose prevalence differs between two sources.
        sentence: what follows, for people.
        warning: whether source and prevalence together are a shortcut.
    """

    auroc: dict[str, Interval]
    too_few: dict[str, str]
    prevalences: dict[str, dict[str, float]]
    differing: list[str]
    sentence: str
    warning: bool


def source_probe(
    features: Floats,
    sources: npt.NDArray[np.object_],
    patients: npt.NDArray[Any],
    labels: Floats,
    findings: Sequence[str],
    seed: int = 0,
) -> SourceProbe | None:
    """Probe features for the source; None where all images are of one source.

    Args:
        features: float [n, C], pooled, of images that the features were not trained on.
        sources: [n], the short name of each image's data set.
        patients: [n], of any kind that sorts.
        labels: float [n, K], 1, 0, NaN = unknown.
        findings: the K names.
        seed: of the folds and the resamples.
    """
    names = sorted(set(sources.tolist()))
    if len(names) < 2:
        return None
    draws = Draws.of(patients, seed=seed)
    counts = {name: len(np.unique(patients[sources == name])) for name in names}
    too_few = {
        name: f"{least} patients on the smaller side, {FEWEST} are needed"
        for name in names
        if (least := min(counts[name], sum(counts.values()) - counts[name])) < FEWEST
    }
    probed = [name for name in names if name not in too_few]
    auroc = {}
    if probed:
        is_of = (sources[:, None] == np.array(probed, dtype=object)).astype(np.float64)
        scores = Ridge.fit(features, is_of, patients, seed).held_out
        auroc = {
            name: _auroc(y, x, draws) for name, y, x in zip(probed, is_of.T, scores.T, strict=True)
        }
    shares, differing = _prevalences(sources, labels, findings, draws)
    return _concluded(auroc, too_few, shares, differing)


def _auroc(y: Floats, score: Floats, draws: Draws) -> Interval:
    column = Column(y, score)
    values = draws.apply(lambda w: measure(column, w, ("auroc",))[:, 0], column.rows)
    return interval_of("auroc", values, draws)


def _prevalences(
    sources: npt.NDArray[np.object_], labels: Floats, findings: Sequence[str], draws: Draws
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Give the share of positives per finding and source, and the findings where two differ.

    Compared are the sources with the highest and the lowest share, which favours a difference; the
    warning is meant to err on that side.
    """
    shares: dict[str, dict[str, float]] = {}
    differing = []
    for finding, y in zip(findings, labels.T, strict=True):
        values = {}
        for name in sorted(set(sources.tolist())):
            rows = np.flatnonzero((sources == name) & ~np.isnan(y))
            if len(rows):
                values[name] = draws.apply(_share_of(y[rows] == 1), rows)
        shares[finding] = {name: float(of[0]) for name, of in values.items()}
        ranked = sorted(values.values(), key=lambda of: of[0])
        if len(ranked) > 1:
            gap = draws.interval(ranked[-1] - ranked[0])
            if gap.low is not None and gap.low > 0:
                differing.append(finding)
    return shares, differing


def _share_of(present: npt.NDArray[np.bool_]) -> Callable[[Values], Values]:
    """Give the statistic of `Draws.apply` that is the share of positives."""

    def share(w: Values) -> Values:
        whole: Values = w.sum(axis=1)
        shares = np.full(len(w), np.nan)
        np.divide(w @ present, whole, out=shares, where=whole > 0)
        return shares

    return share


def _concluded(
    auroc: dict[str, Interval],
    too_few: dict[str, str],
    shares: dict[str, dict[str, float]],
    differing: list[str],
) -> SourceProbe:
    told = {name: of for name, of in auroc.items() if of.low is not None and of.low > 0.5}
    best = max(told, key=lambda name: told[name].value or 0) if told else None
    if not auroc:
        sentence = "Whether the source can be told from the features is not known: too few patients"
    elif best is None:
        sentence = "There is no evidence that the source can be told from the model's features"
    else:
        sentence = (
            f"The source of a radiograph can be told from the model's features (AUROC "
            f"{told[best]} for {best})"
        )
    if best and differing:
        sentence += (
            f", and the prevalence of {', '.join(differing)} differs between sources: the model "
            f"may call a finding because of where the radiograph comes from. Judge it by the "
            f"figures within each source, and train with `sampling: sources` or on one source to "
            f"compare"
        )
    elif best:
        sentence += (
            "; no prevalence differs between sources, so that this is of no use to the model"
        )
    return SourceProbe(
        auroc=auroc,
        too_few=too_few,
        prevalences=shares,
        differing=differing,
        sentence=f"{sentence}.",
        warning=bool(best and differing),
    )
