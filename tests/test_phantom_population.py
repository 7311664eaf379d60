from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from chestxray.sources.nih import FINDINGS
from chestxray.sources.phantom.population import (
    BALANCED_PREVALENCE,
    PREVALENCE,
    Exam,
    exams,
    patient,
    population,
)

# Counted on NIH's v2020 table, all 112,120 images.
NIH = dict(zip(FINDINGS, (
    0.1031, 0.0248, 0.1188, 0.1774, 0.0516, 0.0565, 0.0128,
    0.0473, 0.0416, 0.0205, 0.0224, 0.0150, 0.0302, 0.0020), strict=True))  # fmt: skip


@pytest.fixture(scope="module")
def people() -> list[Exam]:
    return list(population(12000, seed=7))


def shown(exams: list[Exam]) -> np.ndarray:
    return np.array([[finding in exam.findings for finding in FINDINGS] for exam in exams])


def sampling_error(exams: list[Exam], finding: str) -> float:
    """Standard error of a prevalence whose units are patients, not images."""
    by_patient: dict[int, list[bool]] = defaultdict(list)
    for exam in exams:
        by_patient[exam.patient.number].append(finding in exam.findings)
    share = np.mean([finding in exam.findings for exam in exams])
    excess = [sum(values) - share * len(values) for values in by_patient.values()]
    return float(np.sqrt(np.sum(np.square(excess))) / len(exams))


@pytest.mark.parametrize("finding", FINDINGS)
def test_prevalences_are_near_nihs(people: list[Exam], finding: str) -> None:
    share = np.mean([finding in exam.findings for exam in people])
    assert abs(share - NIH[finding]) < 4 * sampling_error(people, finding) + 0.1 * NIH[finding]


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_prevalences_differ_between_views_as_at_nih(people: list[Exam], view: str) -> None:
    some = [exam for exam in people if exam.view == view]
    for finding in ("Infiltration", "Edema", "Consolidation", "Fibrosis"):
        share = np.mean([finding in exam.findings for exam in some])
        expected = PREVALENCE[view][finding]
        assert abs(share - expected) < 4 * sampling_error(some, finding) + 0.1 * expected


def test_balanced_makes_every_finding_as_frequent() -> None:
    shares = shown(list(population(4000, seed=1, balanced=True))).mean(0)
    assert np.abs(shares - BALANCED_PREVALENCE).max() < 0.05


def test_findings_occur_together_as_at_nih(people: list[Exam]) -> None:
    found = shown(people)
    share = found.mean(0)

    def lift(first: str, second: str) -> float:
        one, other = FINDINGS.index(first), FINDINGS.index(second)
        both = (found[:, one] & found[:, other]).mean()
        return float(both / share[one] / share[other])

    assert lift("Emphysema", "Pneumothorax") > 2.5  # 6.3 at NIH
    assert lift("Cardiomegaly", "Effusion") > 1.8  # 3.2
    assert lift("Atelectasis", "Effusion") > 1.6  # 2.4
    assert lift("Pneumothorax", "Edema") < 0.9  # 0.3


def test_findings_persist_over_follow_ups_in_part(people: list[Exam]) -> None:
    pairs = [
        (now.findings, later.findings)
        for now, later in pairwise(people)
        if now.patient.number == later.patient.number
    ]
    kept = np.mean(["Effusion" in later for now, later in pairs if "Effusion" in now])
    new = np.mean(["Effusion" in later for now, later in pairs if "Effusion" not in now])
    assert new < 0.2 < kept < 0.8


def test_a_patient_stays_the_same_while_pose_and_exposure_vary() -> None:
    someone = next(person for number in range(1, 100) if (person := patient(3, number)).images > 4)
    series = exams(someone)
    assert {exam.patient for exam in series} == {someone}
    assert [exam.follow_up for exam in series] == list(range(someone.images))
    assert len({exam.inspiration for exam in series}) == someone.images
    assert [exam.age for exam in series] == sorted(exam.age for exam in series)


def test_a_larger_population_begins_with_the_smaller_one() -> None:
    assert list(population(60, seed=2))[:20] == list(population(20, seed=2))


def test_another_seed_gives_other_patients() -> None:
    assert patient(0, 1).width != patient(1, 1).width
