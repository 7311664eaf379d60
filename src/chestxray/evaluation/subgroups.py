"""Subgroups: AUROC and missed findings by group, the gaps, and the view as a shortcut.

Groups are by source where there are several, by sex, age, view, first image against follow-up, and
whether a finding occurs alone or with others. An image whose labels do not say belongs to no group
of that axis. Each group has its AUROC, and the share of positives that are not called at the
threshold, which for one finding is the under-diagnosis rate of Seyyed-Kalantari 2021
(doi:10.1038/s41591-021-01595-0). A group below `SMALLEST` is reported as too small and gets no
figure.

Gaps are between groups named in advance (`CONTRASTS`), and between each source and the one with the
most images: the largest minus the smallest would show a gap even where there is none. All use the
same resamples of patients, so a patient with images in both groups counts in both. Interval and
p-value of a gap are those of one test (see `significance`). The p-values of all gaps are adjusted
together.

The shortcut: severely ill patients are radiographed AP, in bed, so a model could learn the view
instead of the lungs. The AUROC of the view alone shows what it would reach. The view in which the
finding is more frequent is the score, whichever it is: a model can learn either. It is picked on
the evaluated images, which favours the view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Draws, Interval, Values, exact_share, holm
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.metrics import rates, resampled, resampled_calls
from chestxray.evaluation.result_details import (
    Axis,
    Contrast,
    Gap,
    MeanInterval,
    Shortcut,
    Subgroups,
)
from chestxray.evaluation.result_details import Group as GroupResult
from chestxray.evaluation.significance import Significance
from chestxray.evaluation.weighted_counts import Column

_SOURCE: Final = "source"
_RULES: Final = {
    _SOURCE: "data set or site; each is compared with the one that has the most images",
    "sex": "as labelled",
    "age": "years at the time of the radiograph; each band is compared with 40–59, the band of "
    "reference",
    "view": "PA standing, AP mostly in bed",
    "visit": "first: follow-up number 0; counted in the whole data set, not in the evaluated split",
    "co_occurrence": "images with this finding alone, or with others; the images without it are "
    "the same in both groups",
}
CONTRASTS: Final = {
    "sex": (("female", "male"),),
    "age": tuple((band, "40–59") for band in ("0–17", "18–39", "60–79", "80+")),
    "view": (("AP", "PA"),),
    "visit": (("follow-up", "first"),),
    "co_occurrence": (("alone", "with others"),),
}

_BANDS: Final = {"0–17": (0, 18), "18–39": (18, 40), "40–59": (40, 60), "60–79": (60, 80),
                 "80+": (80, np.inf)}  # fmt: skip

_Mask = npt.NDArray[np.bool_]


def members(axis: str, pairs: Pairs, finding: str) -> dict[str, _Mask]:
    """Give the images of each group of an axis, for one finding: bool [n] each."""
    about = pairs.about
    if axis == _SOURCE:
        named = about[_SOURCE].to_numpy(dtype=object)
        return {name: named == name for name in _sources(pairs)}
    if axis == "co_occurrence":
        place = pairs.findings.index(finding)
        present = pairs.labels[:, place] == 1
        alone, together = np.ones_like(present), np.zeros_like(present)
        for other in (pairs.labels[:, k] for k in range(len(pairs.findings)) if k != place):
            alone &= other == 0  # column by column: together, they may not fit into memory
            together |= other == 1
        return {"alone": ~present | alone, "with others": ~present | together}
    if axis == "age":
        age = about["age"].to_numpy(dtype=np.float64)
        return {name: (low <= age) & (age < high) for name, (low, high) in _BANDS.items()}
    if axis == "visit":
        follow_up = about["follow_up"].to_numpy(dtype=np.float64)
        return {"first": follow_up == 0, "follow-up": follow_up > 0}
    codes = {"female": "F", "male": "M"} if axis == "sex" else {"PA": "PA", "AP": "AP"}
    labelled = about[axis].to_numpy(dtype=object)
    return {name: labelled == code for name, code in codes.items()}


def _sources(pairs: Pairs) -> list[str]:
    """Name the sources of the images, the one with the most images first."""
    named = pairs.about.get(_SOURCE)
    if named is None:
        return []
    counts = named[named != ""].value_counts()
    return sorted(counts.index, key=lambda name: (-counts[name], name))


# With 5 patients, a normal test would find a gap that is not there in 12 of 100 tables, not in 5.
SMALLEST: Final = {"positives": 10, "negatives": 10, "patients": 10}
_FIGURES: Final = ("auroc", "missed")
_NO_VARIATION: Final = "not tested: one group has no variation"
NO_THRESHOLD: Final = "no threshold was chosen on validation"


@dataclass(frozen=True)
class _Group:
    """A group, measured for one finding.

    Attributes:
        result: the group in `subgroups.json`.
        values: figure → float64 [1 + R + G]; empty where the group is too small.
        least_patients: the smaller number of patients with positives and with negatives.
    """

    result: GroupResult
    values: dict[str, Values]
    least_patients: int


def subgroups(pairs: Pairs, draws: Draws, thresholds: Mapping[str, float | None]) -> Subgroups:
    """Measure every group, the gaps between groups, and the view as a shortcut.

    Args:
        pairs: the evaluated predictions and labels.
        draws: of the patients of `pairs`.
        thresholds: finding → probability from which it is called, None where none was chosen.
    """
    largest, *others = _sources(pairs) or [""]
    by_source = {_SOURCE: tuple((name, largest) for name in others)} if others else {}
    axes = {
        axis: _axis(axis, pairs, draws, thresholds, between)
        for axis, between in (by_source | CONTRASTS).items()
    }
    axes, multiplicity = _adjusted(axes)
    return Subgroups(
        axes=axes,
        rules=_RULES,
        multiplicity=multiplicity,
        smallest=SMALLEST,
        shortcut={finding: _shortcut(pairs, draws, finding) for finding in pairs.findings},
    )


def _axis(
    axis: str,
    pairs: Pairs,
    draws: Draws,
    thresholds: Mapping[str, float | None],
    contrasts: Sequence[tuple[str, str]],
) -> Axis:
    findings: dict[str, dict[str, _Group]] = {}
    unknown = np.zeros(len(pairs.images), dtype=np.bool_)
    for place, finding in enumerate(pairs.findings):
        masks = members(axis, pairs, finding)
        known = ~np.isnan(pairs.labels[:, place])
        unknown |= known & ~np.any(list(masks.values()), axis=0)
        findings[finding] = {
            name: _measure(pairs, draws, place, mask & known, thresholds.get(finding))
            for name, mask in masks.items()
        }
    return Axis(
        groups=list(next(iter(findings.values()))),
        unknown=int(unknown.sum()),
        findings={
            finding: {name: group.result for name, group in groups.items()}
            for finding, groups in findings.items()
        },
        gaps=[_contrast(findings, draws, *between) for between in contrasts],
        mean=_means(findings, draws),
    )


def _measure(
    pairs: Pairs, draws: Draws, place: int, mask: _Mask, threshold: float | None
) -> _Group:
    """Count a group, and measure it where it is large enough."""
    rows = np.flatnonzero(mask)
    y, patients = pairs.labels[rows, place], pairs.patients[rows]
    small = _too_small(y, patients)
    values: dict[str, Values] = {}
    if small:
        figures = dict.fromkeys(_FIGURES, Interval(value=None, reason=small))
    else:
        column = Column(y, pairs.probabilities[rows, place], rows)
        values = _values(column, draws, threshold)
        figures = {name: draws.interval(of, NO_THRESHOLD) for name, of in values.items()}
        if values["missed"][0] in {0, 1} and draws.resamples:
            patients_with = len(np.unique(patients[y == 1]))
            figures["missed"] = exact_share(values["missed"][0], patients_with)
    result = GroupResult(
        images=len(rows),
        patients=len(np.unique(patients)),
        positives=int((y == 1).sum()),
        too_small=bool(small),
        reason=small or None,
        **figures,
    )
    least = min(len(np.unique(patients[y == label])) for label in (0, 1))
    return _Group(result, values, least)


def _too_small(y: npt.NDArray[np.float64], patients: npt.NDArray[np.int64]) -> str:
    """Say why a group is too small; empty where it is not."""
    for label, word in ((1, "positives"), (0, "negatives")):
        images, of = int((y == label).sum()), len(np.unique(patients[y == label]))
        if images < SMALLEST[word] or of < SMALLEST["patients"]:
            return (
                f"too small: {images} {word} of {of} patients; {SMALLEST[word]} {word} of "
                f"{SMALLEST['patients']} patients are needed"
            )
    return ""


def _values(column: Column, draws: Draws, threshold: float | None) -> dict[str, Values]:
    """Compute both figures in every row of `draws`; no share is missed without a threshold."""
    auroc = resampled(column, draws, ("auroc",))["auroc"]
    missed = np.full_like(auroc, np.nan)
    if threshold is not None:
        missed = 1 - rates(resampled_calls(column, draws, threshold))["recall"]
    return {"auroc": auroc, "missed": missed}


def _contrast(
    findings: dict[str, dict[str, _Group]], draws: Draws, one: str, other: str
) -> Contrast:
    """Give the first group minus the second, for every finding."""
    return Contrast(
        between=(one, other),
        findings={
            finding: {name: _gap(groups[one], groups[other], draws, name) for name in _FIGURES}
            for finding, groups in findings.items()
        },
    )


def _gap(one: _Group, other: _Group, draws: Draws, figure: str) -> Gap:
    for group in (one, other):
        if not group.values:
            return Gap(value=None, reason=group.result.reason)
    first, second = one.values[figure], other.values[figure]
    if {first[0], second[0]} & {0.0, 1.0}:
        # In a group that is all right or all wrong, every resample is the same.
        return Gap(value=float(first[0] - second[0]), reason=_NO_VARIATION)
    patients = min(one.least_patients, other.least_patients)
    test = Significance.of(draws, first - second, patients, undefined=NO_THRESHOLD)
    return Gap(**vars(test.interval), p=test.p)


def _means(findings: dict[str, dict[str, _Group]], draws: Draws) -> dict[str, MeanInterval]:
    """Average AUROC over the same findings in every group, so that the averages are comparable.

    These are the findings that are large enough in all groups, apart from groups that are too small
    for every finding.
    """
    names = list(next(iter(findings.values())))
    used = [name for name in names if any(groups[name].values for groups in findings.values())]
    shared = [groups for groups in findings.values() if all(groups[name].values for name in used)]
    means = {}
    for name in names:
        if shared and name in used:
            values = np.mean([groups[name].values["auroc"] for groups in shared], axis=0)
            means[name] = MeanInterval(**vars(draws.interval(values)), findings=len(shared))
        else:
            reason = "too small" if name not in used else "no finding is large enough in all groups"
            means[name] = MeanInterval(value=None, reason=reason, findings=0)
    return means


def _adjusted(axes: dict[str, Axis]) -> tuple[dict[str, Axis], str]:
    """Add Holm's p-values over the gaps of all axes, and say how many were tested."""
    gaps = [gap for axis in axes.values() for gap in _gaps(axis)]
    tested = [gap.p for gap in gaps if gap.p is not None]
    adjusted = iter(holm(tested))
    result = {
        name: axis.model_copy(
            update={"gaps": [_with_holm(contrast, adjusted) for contrast in axis.gaps]}
        )
        for name, axis in axes.items()
    }
    return result, (
        f"{len(tested)} of {len(gaps)} gaps were tested; the others are between groups that are "
        f"too small, have no threshold or have no variation. Without any true gap, about "
        f"{0.05 * len(tested):.0f} of them would have p below 0.05. Holm's p is adjusted for all "
        f"{len(tested)} (Holm 1979), the intervals are not."
    )


def _gaps(axis: Axis) -> Iterator[Gap]:
    for contrast in axis.gaps:
        for figures in contrast.findings.values():
            yield from figures.values()


def _with_holm(contrast: Contrast, adjusted: Iterator[float]) -> Contrast:
    """Take the next adjusted p-value for each gap that was tested."""
    findings = {
        finding: {
            name: gap if gap.p is None else gap.model_copy(update={"p_holm": next(adjusted)})
            for name, gap in figures.items()
        }
        for finding, figures in contrast.findings.items()
    }
    return contrast.model_copy(update={"findings": findings})


def _shortcut(pairs: Pairs, draws: Draws, finding: str) -> Shortcut:
    """Compare the model's AUROC with that of the view, on the images whose view is known.

    `toward` is the view in which the finding is more frequent, and so the one that scores higher.
    """
    place = pairs.findings.index(finding)
    view = pairs.about["view"].to_numpy(dtype=object)
    rows = np.flatnonzero(np.isin(view, ["PA", "AP"]) & ~np.isnan(pairs.labels[:, place]))
    y = pairs.labels[rows, place]
    reason = _too_small(y, pairs.patients[rows])
    if len(set(view[rows])) < 2:
        reason = "all images with a known view have the same view, or there are none"
    if reason:
        none = Interval(value=None, reason=reason)
        return Shortcut(toward=None, view_auroc=none, auroc=none, difference=none)
    by_view = Column(y, (view[rows] == "AP").astype(np.float64), rows)
    by_model = Column(y, pairs.probabilities[rows, place], rows)
    of_view, of_model = (_values(column, draws, None)["auroc"] for column in (by_view, by_model))
    toward_ap = of_view[0] >= 0.5
    if not toward_ap:
        of_view = 1 - of_view
    return Shortcut(
        toward="AP" if toward_ap else "PA",
        view_auroc=draws.interval(of_view),
        auroc=draws.interval(of_model),
        difference=draws.interval(of_model - of_view),
    )
