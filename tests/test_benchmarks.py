"""A run beside published figures: compared only with what is of the same test images."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from chestxray.evaluation import benchmarks as published
from chestxray.evaluation.benchmarks import NOT_COMPARABLE, standing
from chestxray.sources.collection import SYNTHETIC
from chestxray.sources.nih import FINDINGS

OFFICIAL: dict[str, Any] = {
    "split": "test",
    "split_name": "official",
    "source": "NIH ChestX-ray14",
    "images": 25_596,
    "mean": {"auroc": {"value": 0.811, "low": 0.805, "high": 0.817, "findings": 14}},
}
LOCATED = {"all": {"cases": 984}}


def mean(**changes: Any) -> dict[str, Any]:
    return OFFICIAL | {"mean": {"auroc": OFFICIAL["mean"]["auroc"] | changes}}


def verdicts(metrics: dict[str, Any]) -> dict[str, str]:
    rows = standing(metrics, None)["rows"]
    return {row["system"]: row["verdict"] for row in rows}


def row(metrics: dict[str, Any], system: str) -> dict[str, Any]:
    (found,) = (row for row in standing(metrics, None)["rows"] if row["system"] == system)
    return found


def test_a_run_matches_only_what_its_interval_holds() -> None:
    found = verdicts(OFFICIAL)
    assert found["Wang 2017, ResNet-50"] == "above"
    assert found["SwinCheX"] == "matches"
    assert found["XProtoNet (DenseNet-121)"] == "below"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.790, 0.802, "below"),
        (0.790, 0.803, "matches"),
        (0.805, 0.806, "matches"),  # within the range 0.803–0.812
        (0.812, 0.820, "matches"),
        (0.813, 0.820, "above"),
    ],
)
def test_a_range_is_matched_where_the_interval_meets_it(
    low: float, high: float, verdict: str
) -> None:
    found = verdicts(mean(low=low, high=high))
    assert found["DenseNet-121, several reproductions"] == verdict


def test_figures_of_other_splits_are_never_compared() -> None:
    chexnet = row(OFFICIAL, "CheXNet (DenseNet-121)")
    assert (chexnet["comparable"], chexnet["verdict"]) == (False, NOT_COMPARABLE)
    assert "own split" in chexnet["why"]
    assert chexnet["findings"]["Hernia"] == 0.9164
    assert sum(row["comparable"] for row in standing(OFFICIAL, None)["rows"]) == 13


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        (OFFICIAL | {"source": SYNTHETIC}, "phantoms"),
        (OFFICIAL | {"split_name": "patient"}, "'patient'"),
        (OFFICIAL | {"split_name": None}, "'unknown'"),
        (OFFICIAL | {"split": "val"}, "'val'"),
        (OFFICIAL | {"images": 25_595}, "25,595 images"),
        (mean(findings=13), "13 findings"),
        (mean(low=None, high=None), "no interval"),
    ],
)
def test_a_run_that_is_not_of_the_official_test_set_is_compared_with_nothing(
    metrics: dict[str, Any], why: str
) -> None:
    found = standing(metrics, None)
    assert why in found["note"]
    assert {row["verdict"] for row in found["rows"]} == {NOT_COMPARABLE}
    assert not any(row["comparable"] for row in found["rows"])


def test_what_was_selected_on_test_is_flagged() -> None:
    flagged = [row["system"] for row in standing(OFFICIAL, None)["rows"] if row["selected_on_test"]]
    assert flagged == ["Xiao 2023, DenseNet-121", "EVA-X Ti", "EVA-X S", "EVA-X B"]


def test_the_published_means_are_those_of_their_findings() -> None:
    told = [entry for entry in published.published_classification() if entry.findings]
    assert len(told) == 4
    for entry in told:
        assert entry.findings is not None
        assert list(entry.findings) == list(FINDINGS)
        average = np.mean(list(entry.findings.values()))
        assert entry.low - 0.001 <= average <= entry.high + 0.001


def test_the_published_table_is_well_formed() -> None:
    assert len({entry.system for entry in published.published_classification()}) == 16
    for entry in published.published_classification():
        assert entry.system
        assert entry.split in {"official", "own"}
        assert 0.7 < entry.low <= entry.high < 0.9
    easier = [
        [e.low for e in published.published_classification() if e.split == s]
        for s in ("own", "official")
    ]
    assert min(easier[0]) > np.median(easier[1])


def test_wang_stands_beside_a_localisation_and_the_difference_in_rule_is_said() -> None:
    found = standing(OFFICIAL, LOCATED)
    (wang,) = (row for row in found["localisation"] if row["row"] == "Wang 2017 T(IoU) 0.1")
    assert (wang["Cardiomegaly"], wang["Nodule"]) == (0.938, 0.139)
    assert "Hernia" not in wang
    assert "stricter" in found["localisation_note"]
    assert "984 boxes" not in found["localisation_note"]
    assert "12 cases" in standing(OFFICIAL, {"all": {"cases": 12}})["localisation_note"]
    assert standing(OFFICIAL, None)["localisation"] == []


def test_what_is_found_is_strict_json() -> None:
    found = standing(OFFICIAL, LOCATED)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
