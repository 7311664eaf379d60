"""A planned number of patients gives the wanted interval: in simulated studies and by formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import multivariate_normal

from chestxray.errors import ConfigError
from chestxray.evaluation import plan
from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.delong import delong, difference
from chestxray.evaluation.metrics import resampled
from chestxray.evaluation.sample_size import standard_error
from chestxray.evaluation.weighted_counts import Column
from command_line import run_command


def scores(
    rng: np.random.Generator, y: np.ndarray, patient: np.ndarray, correlation: float, auroc: float
) -> np.ndarray:
    """Binormal scores of this AUROC, of which a patient's images share a part."""
    level = rng.normal(size=patient.max() + 1)[patient]
    noise = math.sqrt(correlation) * level + math.sqrt(1 - correlation) * rng.normal(size=len(y))
    shift: float = math.sqrt(2) * ndtri(auroc)
    return shift * y + noise


def widths(
    patients: int, each: int, prevalence: float, correlation: float, auroc: float, studies: int
) -> tuple[float, float]:
    """Give the mean width of DeLong's interval, and four standard deviations of the AUROC / 2."""
    rng = np.random.default_rng(0)
    aurocs, found = [], []
    for _ in range(studies):
        patient = np.repeat(np.arange(patients), each)
        y = (rng.random(patients) < prevalence).astype(float)[patient]
        of = delong(y, scores(rng, y, patient, correlation, auroc), patient)
        aurocs.append(of.auroc)
        found.append(of.interval[1] - of.interval[0])
    return float(np.mean(found)), float(2 * 1.96 * np.std(aurocs))


@pytest.mark.parametrize(
    ("auroc", "prevalence", "width", "each", "correlation"),
    [
        (0.80, 0.30, 0.10, 1, 0.0),
        (0.70, 0.10, 0.12, 1, 0.0),
        (0.90, 0.05, 0.10, 1, 0.0),
        (0.80, 0.10, 0.12, 3, 0.5),
        (0.75, 0.20, 0.15, 4, 0.8),
    ],
)
def test_the_planned_patients_give_the_wanted_width(
    auroc: float, prevalence: float, width: float, each: int, correlation: float
) -> None:
    size = plan(auroc, prevalence, width, images_per_patient=each, correlation=correlation)
    assert size.images == each * size.patients
    shown, spread = widths(size.patients, each, prevalence, correlation, auroc, studies=150)
    assert shown == pytest.approx(width, rel=0.12)
    assert spread == pytest.approx(width, rel=0.25)


def test_the_bootstrap_interval_has_the_planned_width() -> None:
    size = plan(0.8, 0.3, 0.1)
    rng = np.random.default_rng(1)
    found = []
    for seed in range(8):
        y = (rng.random(size.patients) < 0.3).astype(float)
        patient = np.arange(size.patients)
        column = Column(y, scores(rng, y, patient, 0, 0.8))
        draws = Draws.of(patient, 300, seed)
        interval = draws.interval(resampled(column, draws, ("auroc",))["auroc"])
        found.append((interval.high or 0) - (interval.low or 0))
    assert np.mean(found) == pytest.approx(0.1, rel=0.1)


def test_the_planned_patients_give_the_wanted_width_of_a_difference() -> None:
    rng = np.random.default_rng(2)
    shared = 0.6
    drawn = []
    for _ in range(300):  # the correlation of two AUROCs whose scores share this part
        y, common = (rng.random(400) < 0.2).astype(float), rng.normal(size=400)
        pair = [
            math.sqrt(2) * float(ndtri(auroc)) * y
            + math.sqrt(shared) * common
            + math.sqrt(1 - shared) * rng.normal(size=400)
            for auroc in (0.75, 0.8)
        ]
        drawn.append([delong(y, of).auroc for of in pair])
    correlation = float(np.corrcoef(np.array(drawn).T)[0, 1])
    size = plan(0.75, 0.2, 0.08, second_auroc=0.8, model_correlation=correlation)
    found = []
    for _ in range(100):
        n = size.patients
        y, common = (rng.random(n) < 0.2).astype(float), rng.normal(size=n)
        a, b = (
            math.sqrt(2) * float(ndtri(auroc)) * y
            + math.sqrt(shared) * common
            + math.sqrt(1 - shared) * rng.normal(size=n)
            for auroc in (0.75, 0.8)
        )
        low, high = difference(y, b, a).interval
        found.append(high - low)
    assert np.mean(found) == pytest.approx(0.08, rel=0.1)
    assert size.detectable == pytest.approx(0.08 / 2 / 1.96 * (1.96 + 0.8416), rel=0.01)


def test_the_standard_error_is_that_of_hanley_and_mcneil_with_a_bivariate_normal() -> None:
    auroc, positives, negatives = 0.8, 40, 160
    z = ndtri(auroc)
    q = float(multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]]).cdf([z, z]))
    tops = auroc * (1 - auroc) + (positives - 1 + negatives - 1) * (q - auroc**2)
    found = standard_error([auroc], positives, negatives, 0)
    assert found == pytest.approx(math.sqrt(tops / (positives * negatives)), rel=1e-6)
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    exponential = math.sqrt(
        (
            auroc * (1 - auroc)
            + (positives - 1) * (q1 - auroc**2)
            + (negatives - 1) * (q2 - auroc**2)
        )
        / (positives * negatives)
    )
    assert found < exponential < 1.25 * found


def test_one_patient_fewer_would_be_too_few_and_the_sentence_names_the_number() -> None:
    size = plan(0.8, 0.1, 0.1)
    n = size.patients
    assert 2 * 1.95996 * standard_error([0.8], 0.1 * n, 0.9 * n, 0) <= 0.1
    assert 2 * 1.95996 * standard_error([0.8], 0.1 * (n - 1), 0.9 * (n - 1), 0) > 0.1
    assert size.width == pytest.approx(size.high - size.low) == pytest.approx(0.1, rel=0.01)
    assert size.sentence.startswith(f"{n:,} patients with {n:,} images, {size.positives} of them")


def test_a_difference_that_may_be_a_loss_is_told_with_a_minus_sign() -> None:
    size = plan(0.8, 0.1, 0.1, second_auroc=0.79)
    assert size.low < size.high
    assert f"−{-size.low:.3f} to +{size.high:.3f} around a difference of −0.010" in size.sentence


def test_what_makes_a_study_harder_asks_for_more_patients() -> None:
    base = plan(0.8, 0.1, 0.1).patients
    assert plan(0.8, 0.1, 0.05).patients == pytest.approx(4 * base, rel=0.02)
    assert plan(0.8, 0.02, 0.1).patients > 4 * base
    assert plan(0.7, 0.1, 0.1).patients > base
    assert plan(0.8, 0.1, 0.1, level=0.99).patients > base
    several = plan(0.8, 0.1, 0.1, images_per_patient=4, correlation=0.5)
    assert several.design_effect == 2.5
    assert several.patients == pytest.approx(base * 2.5 / 4, rel=0.01)
    alike = plan(0.8, 0.1, 0.1, images_per_patient=4, correlation=1.0)
    assert alike.patients == base
    uneven = plan(0.8, 0.1, 0.1, images_per_patient=4, images_sd=4, correlation=0.5)
    assert uneven.design_effect == 4.5


def test_a_wide_interval_still_asks_for_10_positives() -> None:
    assert plan(0.8, 0.01, 0.9).positives == 10


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"auroc": 1.0}, "the AUROC cannot be 1"),
        ({"auroc": 0.4}, "from 0.5 to below 1"),
        ({"second_auroc": float("nan")}, "the AUROC cannot be nan"),
        ({"prevalence": 0.0}, "the prevalence cannot be 0"),
        ({"width": 1.5}, "the width cannot be 1.5: give a number between 0 and 1"),
        ({"level": 95}, "the level cannot be 95"),
        ({"images_per_patient": 0.5}, "at least 1"),
        ({"images_sd": -1}, "at least 0"),
        ({"correlation": 2}, "from 0 to 1"),
        ({"second_auroc": 0.8, "model_correlation": 1}, "correlation of the models cannot be 1"),
    ],
)
def test_a_value_outside_its_range_is_refused(change: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        plan(**({"auroc": 0.8, "prevalence": 0.1, "width": 0.1} | change))


def test_the_command_prints_the_number_of_patients() -> None:
    words = "plan --auroc 0.8 --prevalence 0.05 --width 0.1 --images-per-patient 3"
    told = run_command(*words.split())
    assert told.returncode == 0, told.stderr
    size = plan(0.8, 0.05, 0.1, images_per_patient=3)
    assert told.stdout.startswith(size.sentence)
    assert "Design effect 2.00" in told.stdout
