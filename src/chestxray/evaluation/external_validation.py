"""External validation: how a bundle does on other data sets, and where it may not be used.

For each data set there are the figures of `evaluate` at the bundle's own thresholds, and its
calibration three times: as the bundle states its probabilities, corrected for the prevalence there
(`prior_shift`), and recalibrated. The recalibration is an intercept and a slope per finding
(Cox 1958), fitted on one half of the patients and measured on the other, and the reverse, so that
no patient is judged by a line that was fitted to them.

The verdict on a finding compares with what the bundle's own validation said. Both are samples, so
the question is whether the interval of the difference lies below 0. It follows from the two
intervals alone (Zou and Donner 2008, doi:10.1002/sim.3095):

    upper end of a - b  =  a - b + √[(upper of a - a)² + (b - lower of b)²]

and likewise the lower end of sensitivity + specificity - 1, which is above 0 where calls say more
than chance.

The limits of the rules are in `validation_results.RULES`, which the results carry with them. They
follow TRIPOD+AI (Collins 2024, doi:10.1136/bmj-2023-078378) in what is reported: discrimination,
calibration and groups, with intervals. No rule replaces the judgement whether the patients are
those that the model is meant for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.bootstrap import Interval, Values
from chestxray.evaluation.bundle_thresholds import BundleThresholds
from chestxray.evaluation.calibration import stated_log_odds
from chestxray.evaluation.calibrators import offset, platt, smoothed
from chestxray.evaluation.curves import diagram
from chestxray.evaluation.evaluation import Evaluation
from chestxray.evaluation.joint_threshold import SHARE
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.result_details import (
    FindingReliability,
    ReliabilityDiagram,
    Subgroups,
    ValidationAuroc,
)
from chestxray.evaluation.results import Results
from chestxray.evaluation.signed_numbers import number
from chestxray.evaluation.thresholds import MAIN
from chestxray.evaluation.validation_results import (
    ALPHA,
    FEWEST,
    GAP,
    INTERCEPT,
    MISSED,
    RULES,
    SLOPES,
    UNCALIBRATED,
    Relation,
    Status,
    ValidatedFinding,
)

_HALF: Final = 10  # patients with and without a finding in each half of a recalibration
_GROUPS: Final = ("source", "sex", "age", "view")


def measured(evaluation: Evaluation) -> tuple[Results, dict[str, FindingReliability]]:
    """Measure predictions at a bundle's thresholds, with the recalibration by halves.

    Args:
        evaluation: of a bundle.

    Returns:
        All results, and the reliability of each finding, which is among them too.
    """
    results = evaluation.results()
    pairs, draws = evaluation.pairs, evaluation.draws
    lines, reasons = by_halves(pairs, evaluation.seed)
    found = {}
    for place, (finding, entry) in enumerate((results.reliability or {}).items()):
        y, after = pairs.labels[:, place], lines[:, place]
        found[finding] = entry.model_copy(
            update={
                "recalibrated": None if finding in reasons else diagram(y, after, draws),
                "method": None if finding in reasons else "platt",
                "reason": reasons.get(
                    finding,
                    "intercept and slope fitted on one half of the patients, measured on the "
                    "other, and the reverse",
                ),
            }
        )
    return results.with_parts(reliability=found), found


def by_halves(pairs: Pairs, seed: int = 0) -> tuple[Values, dict[str, str]]:
    """Recalibrate each half of the patients by an intercept and a slope fitted on the other half.

    Args:
        pairs: n images, K findings.
        seed: of the halves.

    Returns:
        Probabilities, float64 [n, K], as given where nothing could be fitted; and finding → why.
    """
    log_odds, after = stated_log_odds(pairs.probabilities), pairs.probabilities.copy()
    reasons: dict[str, str] = {}
    for place, finding in enumerate(pairs.findings):
        x, y = log_odds[:, place], pairs.labels[:, place]
        known = ~np.isnan(y)
        half = _halves(pairs.patients, y == 1, seed)
        counts = [
            len(np.unique(pairs.patients[(half == which) & (y == label)]))
            for which in (0, 1)
            for label in (0, 1)
        ]
        if min(counts) < _HALF:
            reasons[finding] = (
                f"a half has {min(counts)} patients with or without the finding, {_HALF} are needed"
            )
            continue
        for which in (0, 1):
            fit, out = known & (half != which), half == which
            target = smoothed(y[fit] == 1)
            line = platt(x[fit], target) or offset(x[fit], target)
            after[out, place] = line.apply(x[out])
    return after, reasons


def _halves(
    patients: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], seed: int
) -> npt.NDArray[np.int64]:
    """Give each image the half, 0 or 1, of its patient; patients with the finding are halved too.

    Args:
        patients: of each image, [n].
        present: whether it shows the finding, [n].
        seed: of the order.
    """
    names, patient = np.unique(patients, return_inverse=True)
    has = np.bincount(patient, present) > 0
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(has[order], kind="stable")]
    half = np.empty(len(names), dtype=np.int64)
    half[order] = np.arange(len(names)) % 2
    return half[patient]


def judged(
    evaluation: Evaluation, results: Results, bundle: BundleThresholds, relation: Relation
) -> dict[str, ValidatedFinding]:
    """Judge every finding that bundle and data set have in common.

    Args:
        evaluation: of the bundle on the data set.
        results: of it, with the reliability that `measured` gives.
        bundle: its thresholds and what its own validation said.
        relation: of the data set to the training images.
    """
    pairs, reliability = evaluation.pairs, results.reliability or {}
    found = {}
    for place, (finding, result) in enumerate(results.findings.items()):
        y = pairs.labels[:, place]
        patients = min(len(np.unique(pairs.patients[y == label])) for label in (0, 1))
        objections = list(
            _objections(finding, results, reliability[finding], bundle, patients, results.subgroups)
        )
        status: Status = "no objection" if relation != "unknown" else "not independent"
        if objections:
            status = min((of for of, _ in objections), key=list(RULES).index)
        found[finding] = ValidatedFinding(
            positives=result.positives,
            negatives=result.negatives,
            unknown=result.unknown,
            patients=patients,
            auroc=result.auroc,
            own=bundle.validated(finding),
            recall=result.recall,
            specificity=result.specificity,
            precision=result.precision,
            reliability=reliability[finding],
            status=status,
            reasons=[why for _, why in objections],
        )
    return found


def _objections(
    finding: str,
    results: Results,
    reliability: FindingReliability,
    bundle: BundleThresholds,
    patients: int,
    groups: Subgroups | None,
) -> Iterator[tuple[Status, str]]:
    """Give what speaks against a finding, each with the status that follows from it.

    Where it is not ranked or never called, its probabilities and groups say nothing more.
    """
    result = results.findings[finding]
    if finding in results.not_assessed:
        yield "not assessed", results.not_assessed[finding]
        return
    if patients < FEWEST:
        counts = f"{patients}; {result.positives} images with and {result.negatives} without it"
        yield "too few", f"fewer than {FEWEST} patients with or without the finding: {counts}"
        return
    useless = [
        *_of_ranking(result.auroc, bundle.validated(finding)),
        *_of_calls(result.recall, result.specificity),
    ]
    if useless:
        yield from (("do not use", why) for why in useless)
        return
    if finding in bundle.calibration.uncalibrated:
        yield "recalibrate", f"{UNCALIBRATED}: {bundle.calibration.uncalibrated[finding]}"
    else:
        yield from (("recalibrate", why) for why in _of_calibration(reliability))
    if groups is not None:
        yield from (("restricted", why) for why in _of_groups(finding, groups))


def _of_ranking(auroc: Interval, own: ValidationAuroc | None) -> Iterator[str]:
    if auroc.value is None or auroc.low is None or auroc.low <= 0.5:
        yield f"no evidence that it ranks better than chance here: AUROC {auroc}"
    if auroc.value is None or auroc.high is None or own is None:
        return
    difference = auroc.value - own.auroc
    upper = difference + math.hypot(auroc.high - auroc.value, own.auroc - own.low)
    if upper < 0:
        yield (
            f"ranks worse than in the bundle's own validation: AUROC {auroc} here, "
            f"{own.auroc:.3f} ({own.low:.3f}–{own.high:.3f}) there"
        )


def _of_calls(recall: Interval, specificity: Interval) -> Iterator[str]:
    """Say where calls carry no information: the interval of Youden's J is not above 0."""
    ends = recall.value, recall.low, specificity.value, specificity.low
    if any(end is None for end in ends):
        return
    found, low, right, right_low = (float(end or 0) for end in ends)
    if found + right - 1 - math.hypot(found - low, right - right_low) <= 0:
        yield (
            f"no evidence that its calls are better than chance here: sensitivity {recall}, "
            f"specificity {specificity}"
        )


def _of_calibration(reliability: FindingReliability) -> Iterator[str]:
    given, after = reliability.as_given, reliability.recalibrated
    slope, intercept = given.slope, given.intercept
    if _off(slope, 1, *SLOPES):
        how = "too extreme" if (slope.value or 0) < 1 else "too cautious"
        yield f"probabilities are {how}: slope {_shown(slope)}{_then(after, 'slope')}"
    if _off(intercept, 0, -INTERCEPT, INTERCEPT):
        how = "too high" if (intercept.value or 0) < 0 else "too low"
        yield f"probabilities are {how}: intercept {_shown(intercept)}{_then(after, 'intercept')}"


def _off(of: Interval, ideal: float, low: float, high: float) -> bool:
    """Tell whether a figure lies outside a range and its interval excludes the ideal."""
    if of.value is None or of.low is None or of.high is None:
        return False
    return not low <= of.value <= high and not of.low <= ideal <= of.high


def _then(after: ReliabilityDiagram | None, name: str) -> str:
    return "" if after is None else f", {_shown(getattr(after, name))} after recalibration"


def _shown(of: Interval) -> str:
    """Write a figure that may be negative."""
    if of.value is None or of.low is None or of.high is None:
        return "not defined" if of.value is None else f"{of.value:.2f}"
    value, low, high = (number(end, 2) for end in (of.value, of.low, of.high))
    return f"{value} ({low} to {high})"


def _of_groups(finding: str, groups: Subgroups) -> Iterator[str]:
    for axis, entry in groups.axes.items():
        for contrast in entry.gaps if axis in _GROUPS else ():
            one, other = contrast.between
            gaps = contrast.findings[finding]
            for name, least, words in (
                ("auroc", GAP, "ranks worse in {} than in {}: AUROC lower by {:.3f}"),
                ("missed", MISSED, "misses more in {} than in {}: {:.0%} of the positives more"),
            ):
                gap = gaps[name]
                if gap.value is None or gap.p_holm is None or gap.p_holm >= ALPHA:
                    continue
                worse = gap.value < 0 if name == "auroc" else gap.value > 0
                pair = (one, other) if worse else (other, one)
                if abs(gap.value) >= least:
                    yield words.format(*pair, abs(gap.value))


def warnings_of(
    results: Results, relation: Relation, doubts: Sequence[str], *, synthetic: bool
) -> list[str]:
    """Say what speaks against the figures of a data set, or against the model there, as a whole.

    Args:
        results: of the data set.
        relation: of it to the training images.
        doubts: which of the images the model may have seen, in words, as of `SeenImages`; of a
            relation `listed` with what was left out.
        synthetic: whether any radiograph that it was trained on is drawn.
    """
    found = []
    if synthetic and not results.synthetic:
        found.append(
            "The model was trained on radiographs that are drawn by a program: it is not meant for "
            "those of patients."
        )
    if relation == "unknown":
        found += [f"{doubt} This is no external validation." for doubt in doubts]
    if relation == "listed":
        found += doubts
    if relation == "held out":
        found.append(
            "These images are of a data set that the model was trained or calibrated on, kept out "
            "of that: this is an internal validation, not an external one."
        )
    if results.synthetic:
        found.append("Radiographs are drawn by a program: the figures say nothing about patients.")
    flagged = flagged_of(results)
    if results.operating_point == MAIN and flagged is not None and (flagged.low or 0) > SHARE:
        found.append(
            f"More false alarms than the operating point allows: {flagged} of the finding-free "
            f"images have a call, at most {SHARE:g} was aimed at in validation."
        )
    return found


def flagged_of(results: Results) -> Interval | None:
    """Give the share of finding-free images with any call, at the main operating point."""
    point = results.workload.get(results.operating_point)
    return None if point is None else point.evaluated.flagged


def described(pairs: Pairs) -> dict[str, Any]:
    """Give `about` and `age` of a `ValidatedSet`."""
    about: dict[str, dict[str, int]] = {}
    for name in ("source", "sex", "view"):
        counts = pairs.about[name].replace("", "unknown").value_counts()
        about[name] = {str(value): int(count) for value, count in counts.items()}
    age = pairs.about["age"].dropna()
    quartiles = tuple(float(of) for of in age.quantile([0.25, 0.5, 0.75])) if len(age) else None
    return {"about": about, "age": quartiles}
