"""What the page of an external validation says first: a sentence, what to do, each reason once."""

from __future__ import annotations

from typing import Any

import pytest

from chestxray.reporting.validation_page import _forests
from chestxray.reporting.validation_summary import (
    ACTIONS,
    actions,
    calibrated,
    opening,
    reasons,
    same_findings,
    titles,
    uncalibrated,
)

CHANCE = "no evidence that it ranks better than chance here: AUROC 0.5{}0 (0.400–0.600)"


def a_set(statuses: dict[str, str], **more: Any) -> dict[str, Any]:
    figure = {"value": 0.7, "low": 0.6, "high": 0.8}
    findings = {
        finding: {
            "status": status,
            "reasons": [CHANCE.format(n)] if status == "do not use" else [],
            "auroc": figure,
            "own": None,
            "positives": 20,
        }
        for n, (finding, status) in enumerate(statuses.items())
    }
    mean = {**figure, "findings": len(statuses)}
    told = {"name": "a", "source": "RSNA", "synthetic": False, "relation": "independent"}
    return told | {"findings": findings, "mean": mean} | more


@pytest.mark.parametrize(
    ("statuses", "more", "wanted"),
    [
        (["do not use"] * 3, {}, "Do not use the model here: it fails for all 3 findings"),
        (["do not use", "do not use", "no objection", "too few"], {}, "fails for 2 of 3 findings"),
        (["do not use", "no objection", "no objection"], {}, "Do not use the model here for Edema"),
        (["recalibrate", "no objection"], {}, "Probabilities of Edema are wrong until"),
        (["restricted", "no objection"], {}, "Groups of patients differ in Edema."),
        (["no objection"] * 2, {}, "These rules find no objection to all 2 findings"),
        (["no objection"], {"relation": "held out"}, "In an internal validation, these rules"),
        (["not independent"], {"relation": "unknown"}, "This is no validation: the model may"),
        (["too few", "not assessed"], {}, "no finding has 10 patients with and 10 without it"),
        (["not assessed"], {}, "The model never calls a finding that is labelled here."),
        (["no objection"], {"synthetic": True}, "This says nothing about patients"),
    ],
)
def test_the_first_sentence_says_whether_the_model_may_be_used(
    statuses: list[str], more: dict[str, Any], wanted: str
) -> None:
    findings = ["Edema", "Mass", "Nodule", "Hernia"]
    said = opening(a_set(dict(zip(findings, statuses, strict=False)), **more))
    assert wanted in said
    assert said.endswith(".")
    assert said[0].isupper()


def test_every_verdict_is_named_once_and_every_reason_stands_once_with_its_findings() -> None:
    of = a_set({"Edema": "do not use", "Mass": "no objection", "Pleural_Thickening": "do not use"})
    assert [(status, names) for status, names, _ in actions(of)] == [
        ("do not use", "Edema and Pleural thickening"),
        ("no objection", "Mass"),
    ]
    ((status, what, cases),) = reasons(of)
    assert (status, what) == ("do not use", "no evidence that it ranks better than chance here")
    assert cases == [
        ("Edema", "AUROC 0.500 (0.400–0.600)"),
        ("Pleural thickening", "AUROC 0.520 (0.400–0.600)"),
    ]


def test_calibration_is_shown_of_findings_that_are_called_and_ranked_alone() -> None:
    of = a_set(dict(zip("abcdefg", ACTIONS, strict=True)))
    shown = {entry["status"] for entry in calibrated(of).values()}
    assert shown == {"recalibrate", "restricted", "not independent", "no objection"}
    assert len(uncalibrated(of)) == len(ACTIONS) - len(shown)


def test_data_sets_have_their_titles_and_folders_only_where_titles_are_shared() -> None:
    one, two, three = a_set({}), a_set({}, name="b"), a_set({}, name="c", source="SIIM")
    assert titles([one, three]) == {"a": "RSNA", "c": "SIIM"}
    assert titles([one, two, three]) == {"a": "RSNA (a)", "b": "RSNA (b)", "c": "SIIM"}


@pytest.mark.parametrize("same", [True, False])
def test_no_mean_over_findings_stands_beside_one_over_others(same: bool) -> None:
    judged = {"Edema": "no objection", "Mass": "no objection"}
    sets = [a_set(judged), a_set(judged if same else {"Edema": "no objection"}, name="b")]
    assert same_findings(sets) is same
    drawn = [name for name, _ in _forests({"sets": sets})]
    assert ("Mean over findings" in drawn) is same
    assert {"Edema", "Mass"} <= set(drawn)
