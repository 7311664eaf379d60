"""A run beside published results: compared only with those of the same test images."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from chestxray.evaluation import benchmarks as published
from chestxray.evaluation.benchmarks import NOT_COMPARABLE
from chestxray.evaluation.result_details import Localization
from chestxray.evaluation.results import Results
from chestxray.sources.nih import FINDINGS
from evaluation_parts import dumped

NOTHING: dict[str, Any] = {
    "positives": 1, "negatives": 1, "unknown": 0, "prevalence": 0.5, "confusion": None,
    "threshold": {"value": None, "reason": "none"}, "operating_points": {},
}  # fmt: skip
SCORED = NOTHING | {"auroc": {"value": 0.8}}
OFFICIAL: dict[str, Any] = {
    "split": "test",
    "split_name": "official",
    "split_sha256": None,
    "source": "NIH ChestX-ray14",
    "synthetic": False,
    "release": "v2020",
    "images": 25_596,
    "patients": 2_797,
    "failed": 0,
    "unpredicted": 0,
    "matched_by_file_name": 0,
    "left_out": {},
    "fit_on": None,
    "intervals": {"level": 0.95, "resamples": 1000, "seed": 0},
    "findings": dict.fromkeys(FINDINGS, SCORED),
    "mean": {"auroc": {"value": 0.811, "low": 0.805, "high": 0.817, "findings": 14}},
    "micro": {},
    "package_version": "0",
}
NO_CASES = {
    "hit": {"value": 0.5},
    "centre": None,
    "mean_box": None,
    "random": None,
    "iou": {},
    "iobb": {},
}
SEEN = {
    "through": "training", "certain": True, "same_source": True, "trained_on": "NIH",
    "evaluated_on": "NIH", "images": 17_920, "public_list": "a list", "sentence": "It has.",
}  # fmt: skip
FEWER = dict.fromkeys(FINDINGS[1:], SCORED)
OTHERS = FEWER | {"Rib fracture": SCORED}


def located(cases: int) -> Localization:
    return Localization.model_validate(
        {"split": "test", "heat_threshold": {}, "detection": "", "findings": {},
         "intervals": OFFICIAL["intervals"], "all": NO_CASES | {"cases": cases}}
    )  # fmt: skip


def standing(metrics: dict[str, Any], localization: Localization | None) -> dict[str, Any]:
    found: dict[str, Any] = dumped(
        published.benchmarks(Results.model_validate(metrics), localization)
    )
    return found


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
        (OFFICIAL | {"synthetic": True}, "synthetic"),
        (OFFICIAL | {"source": "St Elsewhere"}, "radiographs are of St Elsewhere"),
        (OFFICIAL | {"source": "NIH ChestX-ray14 + St Elsewhere"}, "+ St Elsewhere"),
        (OFFICIAL | {"split_name": "patient"}, "'patient'"),
        (OFFICIAL | {"split_name": None}, "'unknown'"),
        (OFFICIAL | {"split": "val"}, "'val'"),
        (OFFICIAL | {"images": 25_595}, "25,595 images"),
        (OFFICIAL | {"seen_images": [SEEN]}, "has seen images that are evaluated"),
        (OFFICIAL | {"findings": FEWER}, "lacks Atelectasis"),
        (OFFICIAL | {"findings": OTHERS}, "lacks Atelectasis"),
        (mean(findings=15), "15 findings"),
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
    found = standing(OFFICIAL, located(984))
    (wang,) = (row for row in found["localization"] if row["row"] == "Wang 2017 T(IoU) 0.1")
    assert (wang["Cardiomegaly"], wang["Nodule"]) == (0.938, 0.139)
    assert "Hernia" not in wang
    assert "stricter" in found["localization_note"]
    assert "984 boxes" not in found["localization_note"]
    assert "12 cases" in standing(OFFICIAL, located(12))["localization_note"]
    assert standing(OFFICIAL, None)["localization"] == []


@pytest.mark.parametrize("other", [{"synthetic": True}, {"source": "St Elsewhere"}])
def test_wang_does_not_stand_beside_phantoms_or_another_hospital(other: dict[str, Any]) -> None:
    found = standing(OFFICIAL | other, located(984))
    assert (found["localization"], found["localization_note"]) == ([], None)


def test_what_is_found_is_strict_json() -> None:
    found = standing(OFFICIAL, located(984))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_run_with_other_spellings_of_the_findings_is_compared() -> None:
    spelled = {
        name.replace("Pleural_Thickening", "pleural thickening"): SCORED for name in FINDINGS
    }
    assert standing(OFFICIAL | {"findings": spelled}, None)["note"] is None
