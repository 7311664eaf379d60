"""Which images belong to which group: the axes that NIH's label table can tell patients apart by.

An image whose table says nothing on an axis belongs to no group of it.

Does it work as well for everyone: AUROC and missed findings by group, gaps, and the view alone.

Groups are those of `groups`: sex, age, view, first image against follow-up, and a finding alone
against one with others beside it. In each: AUROC, and the share of the sick who are not called at
the threshold, which for one finding is the under-diagnosis of Seyyed-Kalantari 2021
(doi:10.1038/s41591-021-01595-0). A group below `SMALLEST` is told as too small and gets no figure.

Gaps are between groups named beforehand (`CONTRASTS`): the largest minus the smallest would be a
gap even where there is none. All use the same resamples of patients, so a patient with images in
both groups counts in both at once. All tests of the file are adjusted together.

The shortcut: radiographs of the very sick are taken AP, in bed, so a model could learn the view in
place of the lungs. How well the view alone ranks the images of each finding is what it would reach.
The view that the finding is seen in more often here is the score, whichever it is: a model can
learn either. As it is picked on the evaluated images, the view is given the benefit of the doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Draws, Interval, Values, all_alike, holm, p_value
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.metrics import CALLING, RANKING, Column

RULES: Final = {
    "sex": "as the label table says",
    "age": "years at the radiograph; each band against 40–59, which has the most images of NIH",
    "view": "PA standing, AP mostly in bed",
    "visit": "first: Follow-up # is 0; counted in the whole data set, not in the part evaluated",
    "company": "images with this finding alone, or with others; the images without it "
    "are the same in both groups",
}
CONTRASTS: Final = {
    "sex": (("female", "male"),),
    "age": tuple((band, "40–59") for band in ("0–17", "18–39", "60–79", "80+")),
    "view": (("AP", "PA"),),
    "visit": (("follow-up", "first"),),
    "company": (("alone", "with others"),),
}

_BANDS: Final = {"0–17": (0, 18), "18–39": (18, 40), "40–59": (40, 60), "60–79": (60, 80),
                 "80+": (80, np.inf)}  # fmt: skip

Mask = npt.NDArray[np.bool_]


def members(axis: str, pairs: Pairs, finding: str) -> dict[str, Mask]:
    """Tell which images belong to each group of an axis, for one finding: bool [n] each."""
    about = pairs.about
    if axis == "company":
        place = pairs.findings.index(finding)
        present = pairs.labels[:, place] == 1
        others = np.delete(pairs.labels, place, axis=1)
        alone, accompanied = (others == 0).all(axis=1), (others == 1).any(axis=1)
        return {"alone": ~present | alone, "with others": ~present | accompanied}
    if axis == "age":
        age = about["age"].to_numpy(dtype=np.float64)
        return {name: (low <= age) & (age < high) for name, (low, high) in _BANDS.items()}
    if axis == "visit":
        follow_up = about["follow_up"].to_numpy(dtype=np.float64)
        return {"first": follow_up == 0, "follow-up": follow_up > 0}
    codes = {"female": "F", "male": "M"} if axis == "sex" else {"PA": "PA", "AP": "AP"}
    told = about[axis].to_numpy(dtype=object)
    return {name: told == code for name, code in codes.items()}


# With 5 patients a normal test would call a gap that is not there in 12 of 100 tables, not in 5.
SMALLEST: Final = {"positives": 10, "negatives": 10, "patients": 10}
METRICS: Final = ("auroc", "missed")
NO_THRESHOLD: Final = "no threshold was chosen on validation"


@dataclass(frozen=True)
class Group:
    """A group, measured for one finding.

    Attributes:
        entry: it in `subgroups.json`.
        values: metric → float64 [1 + R + G]; empty where the group is too small.
        least_patients: that its positives, or its negatives, come from.
    """

    entry: dict[str, Any]
    values: dict[str, Values]
    least_patients: int


def subgroups(pairs: Pairs, draws: Draws, thresholds: Mapping[str, float | None]) -> dict[str, Any]:
    """Measure every group, the gaps between groups, and the view as a shortcut.

    Args:
        pairs: what is evaluated.
        draws: of the patients of `pairs`.
        thresholds: finding → from which probability on it is called, None where none was chosen.

    Returns:
        What `subgroups.json` holds.
    """
    axes = {axis: _axis(axis, pairs, draws, thresholds) for axis in CONTRASTS}
    return {
        "axes": axes,
        "rules": RULES,
        "multiplicity": _adjust(axes),
        "smallest": SMALLEST,
        "shortcut": {finding: _shortcut(pairs, draws, finding) for finding in pairs.findings},
    }


def _axis(
    axis: str, pairs: Pairs, draws: Draws, thresholds: Mapping[str, float | None]
) -> dict[str, Any]:
    findings: dict[str, dict[str, Group]] = {}
    unknown = np.zeros(len(pairs.images), dtype=np.bool_)
    for place, finding in enumerate(pairs.findings):
        masks = members(axis, pairs, finding)
        known = ~np.isnan(pairs.labels[:, place])
        unknown |= known & ~np.any(list(masks.values()), axis=0)
        findings[finding] = {
            name: _measure(pairs, draws, place, mask & known, thresholds.get(finding))
            for name, mask in masks.items()
        }
    return {
        "groups": list(next(iter(findings.values()))),
        "unknown": int(unknown.sum()),
        "findings": {
            finding: {name: group.entry for name, group in groups.items()}
            for finding, groups in findings.items()
        },
        "gaps": [_contrast(findings, draws, *between) for between in CONTRASTS[axis]],
        "mean": _means(findings, draws),
    }


def _measure(pairs: Pairs, draws: Draws, place: int, mask: Mask, threshold: float | None) -> Group:
    """Count a group, and measure it where it is large enough."""
    rows = np.flatnonzero(mask)
    y, patients = pairs.labels[rows, place], pairs.patients[rows]
    small = _too_small(y, patients)
    entry: dict[str, Any] = {
        "images": len(rows),
        "patients": len(np.unique(patients)),
        "positives": int((y == 1).sum()),
        "too_small": bool(small),
    }
    if small:
        nothing = Interval(np.nan, reason=small).entry()
        return Group(entry | {"reason": small, "auroc": nothing, "missed": nothing}, {}, 0)
    column = Column(y, pairs.probabilities[rows, place], rows)
    values = _values(column, draws, threshold)
    figures = {metric: draws.interval(of, NO_THRESHOLD).entry() for metric, of in values.items()}
    if values["missed"][0] in {0, 1} and draws.resamples:
        sick = len(np.unique(patients[y == 1]))
        figures["missed"] = all_alike(values["missed"][0], sick).entry()
    least = min(len(np.unique(patients[y == label])) for label in (0, 1))
    return Group(entry | figures, values, least)


def _too_small(y: npt.NDArray[np.float64], patients: npt.NDArray[np.int64]) -> str:
    """Say of what a group has too little, or nothing."""
    for label, word in ((1, "positives"), (0, "negatives")):
        images, of = int((y == label).sum()), len(np.unique(patients[y == label]))
        if images < SMALLEST[word] or of < SMALLEST["patients"]:
            return (
                f"too small: {images} {word} of {of} patients; {SMALLEST[word]} are needed, of "
                f"{SMALLEST['patients']} patients"
            )
    return ""


def _values(column: Column, draws: Draws, threshold: float | None) -> dict[str, Values]:
    auroc, recall = RANKING.index("auroc"), CALLING.index("recall")

    def statistic(w: Values) -> Values:
        ranked = column.ranking(w)[:, auroc]
        if threshold is None:
            return np.stack([ranked, np.full_like(ranked, np.nan)], axis=1)
        return np.stack([ranked, 1 - column.calling(w, threshold)[:, recall]], axis=1)

    return dict(zip(METRICS, draws.apply(statistic, column.rows).T, strict=True))


def _contrast(
    findings: dict[str, dict[str, Group]], draws: Draws, one: str, other: str
) -> dict[str, Any]:
    """Give the first group minus the second, for every finding."""
    return {
        "between": [one, other],
        "findings": {
            finding: {metric: _gap(groups[one], groups[other], draws, metric) for metric in METRICS}
            for finding, groups in findings.items()
        },
    }


def _gap(one: Group, other: Group, draws: Draws, metric: str) -> dict[str, Any]:
    for group in (one, other):
        if not group.values:
            return Interval(np.nan, reason=group.entry["reason"]).entry() | {"p": None}
    first, second = one.values[metric], other.values[metric]
    gap = draws.interval(first - second, NO_THRESHOLD).entry()
    if {first[0], second[0]} & {0.0, 1.0}:
        # In a group that is all right or all wrong every resample is the same.
        return gap | {"p": None, "reason": "not tested: one group shows no spread"}
    patients = min(one.least_patients, other.least_patients)
    return gap | {"p": p_value(draws, first - second, patients)}


def _means(findings: dict[str, dict[str, Group]], draws: Draws) -> dict[str, dict[str, Any]]:
    """Average AUROC over the same findings in every group, else the averages can't be compared.

    These are the findings that are large enough in all groups, leaving out the groups that are too
    small for every finding.
    """
    names = list(next(iter(findings.values())))
    used = [name for name in names if any(groups[name].values for groups in findings.values())]
    shared = [groups for groups in findings.values() if all(groups[name].values for name in used)]
    means = {}
    for name in names:
        if shared and name in used:
            values = np.mean([groups[name].values["auroc"] for groups in shared], axis=0)
            means[name] = draws.interval(values).entry() | {"findings": len(shared)}
        else:
            reason = "too small" if name not in used else "no finding is large enough in all groups"
            means[name] = Interval(np.nan, reason=reason).entry() | {"findings": 0}
    return means


def _adjust(axes: dict[str, dict[str, Any]]) -> str:
    """Adjust the p-values of all gaps together, in place, and say how many they are."""
    gaps = [
        gap
        for axis in axes.values()
        for contrast in axis["gaps"]
        for metrics in contrast["findings"].values()
        for gap in metrics.values()
    ]
    tested = [gap for gap in gaps if gap["p"] is not None]
    for gap in gaps:
        gap["p_holm"] = None
    for gap, adjusted in zip(tested, holm([gap["p"] for gap in tested]), strict=True):
        gap["p_holm"] = adjusted
    return (
        f"{len(tested)} of {len(gaps)} gaps could be tested, the others are of groups too "
        f"small, without a threshold or without spread. "
        f"Without any true gap about {0.05 * len(tested):.0f} of them would have p below 0.05; "
        f"the Holm p is adjusted for all {len(tested)} (Holm 1979), the intervals are not."
    )


def _shortcut(pairs: Pairs, draws: Draws, finding: str) -> dict[str, Any]:
    """Hold the model's AUROC against that of the view, on the images whose view is known.

    `toward` is the view that the finding is seen in more often, and so the one that scores higher.
    """
    place = pairs.findings.index(finding)
    view = pairs.about["view"].to_numpy(dtype=object)
    rows = np.flatnonzero(np.isin(view, ["PA", "AP"]) & ~np.isnan(pairs.labels[:, place]))
    y = pairs.labels[rows, place]
    reason = _too_small(y, pairs.patients[rows])
    if len(set(view[rows])) < 2:
        reason = "the images with a known view are all of one view, or none"
    if reason:
        nothing = Interval(np.nan, reason=reason).entry()
        return {"toward": None, "view_auroc": nothing, "auroc": nothing, "difference": nothing}
    by_view = Column(y, (view[rows] == "AP").astype(np.float64), rows)
    by_model = Column(y, pairs.probabilities[rows, place], rows)
    of_view, of_model = (_values(column, draws, None)["auroc"] for column in (by_view, by_model))
    in_bed = of_view[0] >= 0.5
    if not in_bed:
        of_view = 1 - of_view
    return {
        "toward": "AP" if in_bed else "PA",
        "view_auroc": draws.interval(of_view).entry(),
        "auroc": draws.interval(of_model).entry(),
        "difference": draws.interval(of_model - of_view).entry(),
    }
