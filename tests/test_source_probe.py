"""The source probe warns where the source is planted in the features and prevalences differ."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from chestxray.evaluation.source_probe import FEWEST, source_probe

N = 400
PATIENTS = np.arange(N) // 2
SOURCES = np.where(PATIENTS % 2, "here", "there").astype(object)


def probed(planted: float, rates: tuple[float, float], seed: int = 0):
    """Features of 8 channels, one of which is shifted for a source; two findings."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(N, 8))
    features[:, 3] += planted * (SOURCES == "here")
    rate = np.where(SOURCES == "here", *rates)
    labels = np.column_stack([rng.random(N) < rate, rng.random(N) < 0.3]).astype(float)
    labels[SOURCES == "there", 1] = np.nan
    return source_probe(features, SOURCES, PATIENTS, labels, ["Effusion", "Mass"]), features


def test_a_planted_source_with_another_prevalence_is_warned_of():
    found, features = probed(2.0, (0.5, 0.1))
    assert found.warning
    assert found.differing == ["Effusion"]  # Mass is labelled by one source alone
    assert "may call a finding because of where" in found.sentence
    expected = roc_auc_score(SOURCES == "here", features[:, 3])
    assert found.auroc["here"].value == pytest.approx(expected, abs=0.02)
    assert found.auroc["here"].value == pytest.approx(found.auroc["there"].value, abs=1e-6)
    assert found.prevalences["Mass"].keys() == {"here"}


@pytest.mark.parametrize(
    ("planted", "rates", "says"),
    [
        (0.0, (0.5, 0.1), "no evidence that the source can be told"),
        (2.0, (0.3, 0.3), "no prevalence differs"),
    ],
)
def test_one_of_both_alone_is_no_warning(planted, rates, says):
    found, _ = probed(planted, rates)
    assert not found.warning
    assert says in found.sentence


def test_noise_is_told_from_noise_no_better_than_chance_by_patients_held_out():
    """Each patient's images share their features, so that folds by image would tell them apart."""
    rng = np.random.default_rng(1)
    features = np.repeat(rng.normal(size=(N // 2, 60)), 2, axis=0)
    labels = np.zeros((N, 1))
    found = source_probe(features, SOURCES, PATIENTS, labels, ["Effusion"])
    assert abs(found.auroc["here"].value - 0.5) < 0.12


def test_one_source_is_not_probed_and_a_small_one_is_said_to_be_small():
    one = np.full(N, "here", dtype=object)
    features, labels = np.zeros((N, 2)), np.zeros((N, 1))
    assert source_probe(features, one, PATIENTS, labels, ["Effusion"]) is None
    few = np.where(PATIENTS < FEWEST - 1, "small", "large").astype(object)
    found = source_probe(features, few, PATIENTS, labels, ["Effusion"])
    assert not found.auroc
    assert f"{FEWEST - 1} patients" in found.too_few["small"]
