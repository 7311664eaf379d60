"""A finding is called only where validation shows that the model ranks it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from chestxray.evaluation.delong import delong
from chestxray.evaluation.evidence import FEWEST_PATIENTS, no_evidence


def clustered(rng, patients, sick, shift, correlation=0.5):
    """Images of some sick among all patients, with scores correlated within a patient."""
    patient = np.repeat(np.arange(patients), rng.choice([1, 1, 1, 2, 3, 5], patients))
    ill = np.isin(patient, rng.choice(patients, sick, replace=False))
    y = (ill & (rng.random(len(patient)) < 0.7)).astype(float)
    first = np.append(True, np.diff(patient) > 0)
    y[ill & first] = 1
    own = rng.normal(size=patients)[patient], rng.normal(size=len(patient))
    score = math.sqrt(correlation) * own[0] + math.sqrt(1 - correlation) * own[1] + shift * y
    return y, score, patient


@pytest.mark.parametrize("sick", [5, 10, 25])
def test_chance_is_taken_for_evidence_in_no_more_than_one_study_in_forty(sick):
    rng = np.random.default_rng(sick)
    studies = [clustered(rng, 90, sick, shift=0) for _ in range(600)]
    wrong = np.mean([not no_evidence(*study) for study in studies])
    assert wrong <= 0.025 + 2.5 * math.sqrt(0.025 * 0.975 / 600)


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "sick"), [(90, 5), (90, 10), (90, 30), (400, 8), (400, 60)])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_chance_is_rarely_taken_for_evidence_at_any_size(patients, sick, correlation):
    rng = np.random.default_rng(patients + sick)
    studies = [clustered(rng, patients, sick, 0, correlation) for _ in range(4000)]
    assert np.mean([not no_evidence(*study) for study in studies]) <= 0.032


def test_a_good_ranking_is_evidence_once_there_are_patients_enough():
    rng = np.random.default_rng(0)
    found = [not no_evidence(*clustered(rng, 90, 25, shift=1.19)) for _ in range(100)]
    assert np.mean(found) > 0.97  # AUROC 0.80


def test_a_ranking_of_few_patients_is_no_evidence_however_good():
    y, score, patient = clustered(np.random.default_rng(1), 40, FEWEST_PATIENTS - 1, shift=9)
    assert no_evidence(y, score, patient) == (
        "the positives in validation are of 4 patients, at least 5 are needed"
    )
    assert "the negatives in validation are of 4 patients" in no_evidence(1 - y, -score, patient)


def test_separated_classes_are_evidence_and_equal_scores_are_none():
    y = np.repeat([1.0, 0.0], 5)
    assert no_evidence(y, y, np.arange(10)) == ""
    assert "AUROC 0.50" in no_evidence(y, np.zeros(10), np.arange(10))
    assert "AUROC 0.00" in no_evidence(y, -y, np.arange(10))


def test_the_interval_is_delongs_by_patient_with_students_quantile():
    y, score, patient = clustered(np.random.default_rng(5), 60, 8, shift=0.1)
    found = delong(y, score, patient)
    odds = math.log(found.auroc / (1 - found.auroc))
    error = math.sqrt(found.variance) / (found.auroc * (1 - found.auroc))
    ends = [1 / (1 + math.exp(-odds + side * student.ppf(0.975, 7) * error)) for side in (1, -1)]
    assert f"{ends[0]:.2f}–{ends[1]:.2f}" in no_evidence(y, score, patient)


def test_unknown_labels_are_left_out():
    y, score, patient = clustered(np.random.default_rng(6), 60, 12, shift=3)
    padded = np.append(y, np.full(50, math.nan)), np.append(score, np.zeros(50))
    assert no_evidence(*padded, np.append(patient, np.arange(50))) == no_evidence(y, score, patient)
