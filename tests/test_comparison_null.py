"""How often equal models are called different, and unequal ones not: counted on simulated studies.

A study has patients with one to three images. The labels of a patient's images resemble each other,
and so do the errors of each model. Between images of different patients the score of a positive
exceeds that of a negative by a normal variable of known mean and variance, so both AUROCs are
known: Φ(shift / √(2 variance)).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, ndtr, ndtri

from chestxray.evaluation import predictions
from chestxray.evaluation.comparison import compare
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.results import ComparedFinding, ComparedMean, Comparison
from chestxray.findings import Findings

PREVALENCES = (0.3, 0.15, 0.08, 0.05, 0.04, 0.03)
SHARED, OWN, IMAGE = 0.6, 0.6, 0.5  # spread of what both get wrong, one, and one in one image
SPREAD = math.sqrt(SHARED**2 + OWN**2 + IMAGE**2)
NAMES = Findings([f"Finding {letter}" for letter in "ABCDEF"])


def auroc_of(shift: float) -> float:
    return float(ndtr(shift / (math.sqrt(2) * SPREAD)))


def study(
    rng: np.random.Generator, patients: int, shifts: Sequence[float]
) -> tuple[Labels, list[predictions.Predictions]]:
    """Draw labels, and for each shift the predictions of a model of that skill."""
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    n, k = len(patient), len(PREVALENCES)

    def normal(by_patient: float, by_image: float) -> np.ndarray:
        level = rng.normal(size=(patients, k))[patient]
        return by_patient * level + by_image * rng.normal(size=(n, k))

    y = (normal(0.9, math.sqrt(1 - 0.9**2)) > ndtri(1 - np.array(PREVALENCES))).astype(float)
    names = [f"{row}.png" for row in range(n)]
    rows = pd.DataFrame(y, columns=list(NAMES), index=pd.Index(names, name="image"))
    rows = rows.assign(patient=patient.astype(str), split="test")
    truth = Labels("simulated", True, "", NAMES, rows, None, split_name="official")
    shared = normal(SHARED, 0)
    scores = [expit(shift * y + shared + normal(OWN, IMAGE)) for shift in shifts]
    return truth, [predictions.table(names, score, NAMES) for score in scores]


def compared(
    studies: int, patients: int, shifts: Sequence[float], resamples: int, margin: float = 0.05
) -> list[Comparison]:
    rng = np.random.default_rng([patients, 7])
    found = []
    for seed in range(studies):
        truth, (a, b) = study(rng, patients, shifts)
        found.append(compare(a, b, truth, resamples=resamples, seed=seed, margin=margin))
    return found


def agree(entry: ComparedFinding | ComparedMean) -> bool:
    """Whether the interval excludes 0 where p < 0.05 and nowhere else."""
    low, high = entry.difference.low, entry.difference.high
    if low is None or high is None:
        return entry.p is None
    if entry.p is None:  # both rank the images alike
        return low == high == 0
    return (low > 0 or high < 0) == (entry.p < 0.05)


def rejected(entries: Sequence[ComparedFinding | ComparedMean]) -> dict[str, float]:
    """Give the share of studies in which each test rejects equality, of those with a test."""
    p = {
        "bootstrap": [entry.p for entry in entries],
        "delong": [entry.delong.p for entry in entries],
    }
    tested = {name: [value for value in of if value is not None] for name, of in p.items()}
    return {name: float(np.mean(np.array(of) < 0.05)) for name, of in tested.items()}


def verdicts(comparisons: Sequence[Comparison]) -> Counter[str]:
    return Counter(
        "different" if of.sentence.startswith(("B is better", "B is worse")) else "none shown"
        for of in comparisons
    )


def test_equal_models_are_called_different_in_5_percent_and_sentence_interval_and_p_agree() -> None:
    studies = compared(80, 60, (1.0, 1.0), resamples=150)
    means = [of.mean for of in studies]
    entries = [entry for of in studies for entry in of.findings.values()]
    assert [entry for entry in [*means, *entries] if not agree(entry)] == []
    found = rejected(means)
    assert verdicts(studies)["different"] == round(80 * found["bootstrap"])
    assert max(found.values()) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 80)
    few = rejected([entry for entry in entries if entry.positives < 12 and entry.p is not None])
    assert max(few.values()) < 0.08


def test_a_better_model_is_found_in_most_studies_and_a_worse_one_is_no_non_inferior_one() -> None:
    studies = compared(25, 60, (0.4, 1.3), resamples=150)
    assert verdicts(studies)["different"] >= 20
    reverse = compared(25, 60, (1.3, 0.4), resamples=150)
    assert not any(of.noninferiority and of.noninferiority.shown for of in reverse)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("patients", [40, 60, 200])
def test_equal_models_are_called_different_in_5_percent_of_600_studies(patients: int) -> None:
    studies = compared(600, patients, (1.0, 1.0), resamples=200)
    found = rejected([of.mean for of in studies])
    entries = [entry for of in studies for entry in of.findings.values()]
    few = rejected([entry for entry in entries if entry.positives < 12])
    print(patients, "mean", found, "findings", rejected(entries), "few positives", few)
    assert 0.025 <= found["bootstrap"] <= 0.075
    assert 0.025 <= found["delong"] <= 0.075
    assert max(rejected(entries).values()) <= 0.06
    assert max(few.values()) <= 0.06


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_loss_of_the_margin_passes_as_non_inferior_in_2_and_a_half_percent_of_studies() -> None:
    margin = 0.05
    worse = float(math.sqrt(2) * SPREAD * ndtri(auroc_of(1.0) - margin))
    studies = compared(600, 60, (1.0, worse), resamples=200, margin=margin)
    passed = np.mean([bool(of.noninferiority and of.noninferiority.shown) for of in studies])
    print("non-inferior at the margin", passed)
    assert 0.007 <= passed <= 0.045
