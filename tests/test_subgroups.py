"""Subgroups: a planted gap is found with its size, none is not, and what is too small is told."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.stats import norm

from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.metrics import value
from chestxray.evaluation.subgroups import CONTRASTS, NO_THRESHOLD, SMALLEST, members, subgroups
from chestxray.sources.nih import FINDINGS
from evaluation_parts import dumped, pairs_of
from metric_oracles import recall

EFFUSION = FINDINGS.index("Effusion")
MASS = FINDINGS.index("Mass")
CUT = 0.5  # logit from which on a finding is called
THRESHOLDS = dict.fromkeys(FINDINGS, 1 / (1 + np.exp(-CUT)))


def made(patients: int, seed: int = 0, female: float = 1.5, male: float = 1.5) -> Pairs:
    """Two images a patient, the first PA, then AP; Effusion moves the logit by its sex's shift."""
    rng = np.random.default_rng(seed)
    n = 2 * patients
    patient = np.arange(n) // 2
    sex = np.where(patient % 2 == 0, "F", "M")
    labels = np.zeros((n, len(FINDINGS)))
    labels[:, EFFUSION] = rng.random(n) < 0.3
    shared = np.repeat(rng.normal(size=patients), 2)  # what a patient's images have in common
    noise = 0.6 * shared + 0.8 * rng.normal(size=n)
    logits = rng.normal(size=labels.shape)
    logits[:, EFFUSION] = noise + labels[:, EFFUSION] * np.where(sex == "F", female, male)
    about = pd.DataFrame({"age": rng.uniform(18, 80, n), "follow_up": np.arange(n) % 2 * 1.0})
    about["sex"], about["view"] = sex, np.where(np.arange(n) % 2 == 0, "PA", "AP")
    return pairs_of(labels, 1 / (1 + np.exp(-logits)), patient, about=about)


def with_labels(pairs: Pairs, labels: npt.NDArray[np.float64]) -> Pairs:
    return dataclasses.replace(pairs, labels=labels)


def measured(pairs: Pairs, resamples: int = 300) -> dict[str, Any]:
    found: dict[str, Any] = dumped(
        subgroups(pairs, Draws.of(pairs.patients, resamples), THRESHOLDS)
    )
    return found


def gap(result: dict[str, Any], axis: str, finding: str = "Effusion") -> dict[str, Any]:
    found: dict[str, Any] = result["axes"][axis]["gaps"][0]["findings"][finding]
    return found


def test_a_planted_gap_is_found_with_its_size_and_no_other() -> None:
    result = measured(made(1500, female=2.0, male=1.0))
    found = gap(result, "sex")
    auroc = norm.cdf(2 / 2**0.5) - norm.cdf(1 / 2**0.5)
    missed = norm.cdf(CUT - 2) - norm.cdf(CUT - 1)
    assert result["axes"]["sex"]["gaps"][0]["between"] == ["female", "male"]
    for metric, truth in (("auroc", auroc), ("missed", missed)):
        entry = found[metric]
        assert entry["low"] < truth < entry["high"]
        assert entry["high"] - entry["low"] < 0.12
        assert entry["p_holm"] < 0.001
    for axis in ("view", "visit"):
        assert all(entry["p_holm"] > 0.05 for entry in gap(result, axis).values())


def test_a_gap_s_interval_excludes_0_exactly_where_its_p_is_below_5_percent() -> None:
    decided = []
    for seed in range(8):
        result = measured(made(150, seed, female=1.5, male=1.0), resamples=100)
        for axis in CONTRASTS:
            for contrast in result["axes"][axis]["gaps"]:
                for entry in contrast["findings"]["Effusion"].values():
                    if entry["p"] is not None:
                        outside = entry["low"] > 0 or entry["high"] < 0
                        assert outside == (entry["p"] < 0.05)
                        decided.append(outside)
    assert 0 < sum(decided) < len(decided)


def test_where_there_is_no_gap_alarms_stay_near_one_in_twenty() -> None:
    p, holm = [], []
    for seed in range(40):
        pairs = made(150, seed)
        pairs.about[["age", "follow_up"]] = np.nan
        result = measured(pairs, resamples=100)
        entries = [entry for axis in ("sex", "view") for entry in gap(result, axis).values()]
        p += [entry["p"] for entry in entries]
        holm.append(min(entry["p_holm"] for entry in entries))
    assert 0.015 < np.mean(np.array(p) < 0.05) < 0.095
    assert np.mean(np.array(holm) < 0.05) < 0.1


def test_a_group_has_the_figures_of_its_images_alone() -> None:
    pairs = made(200)
    result = measured(pairs)
    y, p = pairs.labels[:, EFFUSION], pairs.probabilities[:, EFFUSION]
    for axis in CONTRASTS:
        for name, mask in members(axis, pairs, "Effusion").items():
            entry = result["axes"][axis]["findings"]["Effusion"][name]
            assert entry["images"] == mask.sum()
            assert entry["positives"] == (y[mask] == 1).sum()
            assert entry["patients"] == len(np.unique(pairs.patients[mask]))
            if entry["too_small"]:
                continue
            assert entry["auroc"]["value"] == pytest.approx(value("auroc", y[mask], p[mask]))
            found = recall(y[mask], p[mask], THRESHOLDS["Effusion"])
            assert entry["missed"]["value"] == pytest.approx(1 - found)
            assert entry["auroc"]["low"] < entry["auroc"]["value"] < entry["auroc"]["high"]


def test_a_group_too_small_is_told_and_gets_no_figure() -> None:
    pairs = made(200)
    labels = pairs.labels.copy()
    women = np.flatnonzero(pairs.about["sex"] == "F")
    labels[women, EFFUSION] = np.arange(len(women)) < SMALLEST["positives"] - 1
    result = measured(with_labels(pairs, labels))
    entry = result["axes"]["sex"]["findings"]["Effusion"]["female"]
    assert entry["too_small"]
    assert (entry["images"], entry["positives"]) == (200, 9)
    assert entry["reason"] == (
        "too small: 9 positives of 5 patients; 10 positives of 10 patients are needed"
    )
    assert entry["auroc"]["value"] is None
    found = gap(result, "sex")["auroc"]
    assert (found["value"], found["p"], found["p_holm"]) == (None, None, None)
    assert found["reason"] == entry["reason"]
    assert not result["axes"]["sex"]["findings"]["Effusion"]["male"]["too_small"]


def test_many_images_of_few_patients_are_too_small() -> None:
    pairs = made(200)
    few = dataclasses.replace(pairs, patients=pairs.patients // 50)
    entry = measured(few)["axes"]["visit"]["findings"]["Effusion"]["first"]
    assert entry["too_small"]
    assert "of 4 patients" in entry["reason"]


def test_alone_and_with_others_differ_in_positives_and_share_the_negatives() -> None:
    pairs = made(100)
    labels = pairs.labels.copy()
    sick = np.flatnonzero(labels[:, EFFUSION] == 1)
    labels[sick[::2], MASS] = 1
    labels[sick[1], MASS] = np.nan
    pairs = with_labels(pairs, labels)
    groups = members("co_occurrence", pairs, "Effusion")
    healthy = labels[:, EFFUSION] == 0
    assert healthy[groups["alone"] & groups["with others"]].all()
    assert (groups["alone"] & groups["with others"]).sum() == healthy.sum()
    assert np.flatnonzero(groups["with others"] & ~healthy).tolist() == sick[::2].tolist()
    assert np.flatnonzero(groups["alone"] & ~healthy).tolist() == sick[3::2].tolist()
    assert measured(pairs)["axes"]["co_occurrence"]["unknown"] == 1


def test_who_is_unknown_on_an_axis_is_in_none_of_its_groups_and_counted() -> None:
    pairs = made(100)
    pairs.about.loc[:4, ["age", "follow_up"]] = np.nan
    pairs.about.loc[:4, ["sex", "view"]] = ""
    axes = measured(pairs)["axes"]
    assert [axes[axis]["unknown"] for axis in ("sex", "age", "view", "visit")] == [5] * 4
    for axis in ("sex", "age", "view", "visit"):
        groups = axes[axis]["findings"]["Effusion"].values()
        assert sum(group["images"] for group in groups) == 195


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, "0–17"), (17.9, "0–17"), (18, "18–39"), (40, "40–59"), (60, "60–79"), (80, "80+")],
)
def test_an_age_belongs_to_one_band(age: float, band: str) -> None:
    pairs = made(1)
    pairs.about["age"] = age
    assert [name for name, mask in members("age", pairs, "Mass").items() if mask.all()] == [band]


def test_a_follow_up_without_its_first_image_is_no_first_visit() -> None:
    pairs = made(2)
    pairs.about["follow_up"] = [1.0, 2.0, 0.0, np.nan]
    groups = members("visit", pairs, "Mass")
    assert groups["first"].tolist() == [False, False, True, False]
    assert groups["follow-up"].tolist() == [True, True, False, False]


def test_groups_of_the_same_patients_are_compared_in_pairs() -> None:
    pairs = made(300)
    twins = np.arange(600) // 2 * 2  # a patient's second image is the first again
    pairs = dataclasses.replace(
        pairs, labels=pairs.labels[twins], probabilities=pairs.probabilities[twins]
    )
    result = measured(pairs)
    found = gap(result, "view")["auroc"]
    assert (found["value"], found["low"], found["p"]) == (0, None, None)
    view = result["axes"]["view"]["findings"]["Effusion"]["AP"]["auroc"]
    assert view["high"] - view["low"] > 0.03


def test_a_group_without_a_single_miss_is_not_tested() -> None:
    pairs = made(200)
    women = (pairs.about["sex"] == "F").to_numpy() & (pairs.labels[:, EFFUSION] == 1)
    pairs.probabilities[women, EFFUSION] = 0.99
    found = gap(measured(pairs), "sex")["missed"]
    assert found["value"] < 0
    assert (found["p"], found["p_holm"]) == (None, None)
    assert (found["low"], found["high"]) == (None, None)
    assert found["reason"].startswith("not tested")


def test_without_a_threshold_nothing_is_said_of_missed_findings() -> None:
    pairs = made(200)
    draws = Draws.of(pairs.patients, 100)
    result = dumped(subgroups(pairs, draws, dict.fromkeys(FINDINGS)))
    entry = result["axes"]["sex"]["findings"]["Effusion"]["female"]
    assert entry["auroc"]["value"] is not None
    assert (entry["missed"]["value"], entry["missed"]["reason"]) == (None, NO_THRESHOLD)
    assert gap(result, "sex")["missed"]["p"] is None


def test_means_are_over_the_same_findings_in_every_group() -> None:
    pairs = made(300)
    labels = pairs.labels.copy()
    labels[:, MASS] = np.arange(600) % 7 == 0
    men = (pairs.about["sex"] == "M").to_numpy()
    labels[:, FINDINGS.index("Edema")] = men & (np.arange(600) % 5 == 0)
    axis = measured(with_labels(pairs, labels))["axes"]["sex"]
    for group in ("female", "male"):
        of = [
            axis["findings"][finding][group]["auroc"]["value"] for finding in ("Mass", "Effusion")
        ]
        assert axis["mean"][group]["value"] == pytest.approx(np.mean(of))
        assert axis["mean"][group]["findings"] == 2


def test_the_number_of_tests_is_said_and_the_whole_is_strict_json() -> None:
    result = measured(made(200), resamples=50)
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text) == result
    tested = [
        entry
        for axis in result["axes"].values()
        for contrast in axis["gaps"]
        for entries in contrast["findings"].values()
        for entry in entries.values()
        if entry["p"] is not None
    ]
    assert result["multiplicity"].startswith(f"{len(tested)} of 224 gaps were tested")
    assert all(entry["p"] <= entry["p_holm"] <= 1 for entry in tested)


def test_a_model_that_only_sees_the_view_is_no_better_than_the_view() -> None:
    pairs = made(600)
    rng = np.random.default_rng(1)
    in_bed = (pairs.about["view"] == "AP").to_numpy()
    labels = pairs.labels.copy()
    labels[:, EFFUSION] = labels[:, MASS] = rng.random(1200) < np.where(in_bed, 0.5, 0.1)
    p = pairs.probabilities.copy()
    p[:, EFFUSION] = np.where(in_bed, 0.7, 0.2)
    p[:, MASS] = 1 / (1 + np.exp(-2 * labels[:, MASS] - rng.normal(size=1200)))
    shortcut = measured(dataclasses.replace(pairs, labels=labels, probabilities=p))["shortcut"]
    by_view = value("auroc", labels[:, EFFUSION], in_bed.astype(float))
    assert by_view > 0.7
    assert shortcut["Effusion"]["view_auroc"]["value"] == pytest.approx(by_view, abs=1e-12)
    assert shortcut["Effusion"]["difference"]["value"] == 0
    assert shortcut["Mass"]["view_auroc"]["value"] == pytest.approx(by_view, abs=1e-12)
    assert shortcut["Mass"]["difference"]["low"] > 0
    assert shortcut["Hernia"]["auroc"]["reason"].startswith("too small: 0 positives")


def test_a_view_that_speaks_against_a_finding_is_as_good_a_shortcut() -> None:
    pairs = made(300)
    rng = np.random.default_rng(2)
    in_bed = (pairs.about["view"] == "AP").to_numpy()
    labels = pairs.labels.copy()
    labels[:, EFFUSION] = rng.random(600) < np.where(in_bed, 0.1, 0.5)
    labels[:, MASS] = rng.random(600) < np.where(in_bed, 0.5, 0.1)
    shortcut = measured(dataclasses.replace(pairs, labels=labels))["shortcut"]
    assert (shortcut["Effusion"]["toward"], shortcut["Mass"]["toward"]) == ("PA", "AP")
    standing = value("auroc", labels[:, EFFUSION], (~in_bed).astype(float))
    assert shortcut["Effusion"]["view_auroc"]["value"] == pytest.approx(standing, abs=1e-12)
    assert shortcut["Effusion"]["view_auroc"]["low"] > 0.6


def test_in_a_group_where_nothing_is_missed_the_share_has_a_width() -> None:
    pairs = made(300)
    thresholds = dict.fromkeys(FINDINGS, 0.0)
    draws = Draws.of(pairs.patients, 50)
    result = dumped(subgroups(pairs, draws, thresholds))
    entry = result["axes"]["sex"]["findings"]["Effusion"]["female"]
    assert (entry["missed"]["value"], entry["missed"]["low"]) == (0, 0)
    assert 0 < entry["missed"]["high"] < 0.2


def test_one_view_alone_is_no_shortcut() -> None:
    pairs = made(100)
    pairs.about["view"] = "AP"
    entry = measured(pairs)["shortcut"]["Effusion"]
    assert entry["view_auroc"]["value"] is None
    assert "have the same view" in entry["view_auroc"]["reason"]
