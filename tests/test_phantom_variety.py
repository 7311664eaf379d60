"""Phantoms of the two varieties, and the measure of their distance from radiographs."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from chestxray.sources.nih import FINDINGS
from chestxray.sources.phantom.anatomy import anatomy
from chestxray.sources.phantom.mimics import mimics
from chestxray.sources.phantom.population import Exam, exams, patient, population
from chestxray.sources.phantom.render import canvas_of, render
from chestxray.sources.phantom.tree import synth


@pytest.fixture(scope="module")
def wide() -> list[Exam]:
    return list(population(300, seed=5, balanced=True, variety="wide"))


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    pytest.importorskip("timm")
    path = Path(__file__).parents[1] / "benchmarks" / "phantoms.py"
    spec = importlib.util.spec_from_file_location("phantom_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mimics_of(exam: Exam) -> np.ndarray:
    return mimics(anatomy(exam, canvas_of(exam, 64)))


def test_both_varieties_show_the_same_patients_with_the_same_findings(wide: list[Exam]) -> None:
    plain = list(population(300, seed=5, balanced=True))
    assert [exam.patient for exam in plain] == [exam.patient for exam in wide]
    assert [exam.findings for exam in plain] == [exam.findings for exam in wide]


def test_findings_are_fainter_in_wide_and_posing_and_exposure_vary_more(wide: list[Exam]) -> None:
    plain = list(population(300, seed=5, balanced=True))
    assert min(exam.severity for exam in plain) > 1.0
    assert min(exam.severity for exam in wide) < 0.3
    for measure in ("rotation", "tilt", "inspiration", "brightness", "contrast"):
        spreads = [np.std([getattr(exam, measure) for exam in some]) for some in (plain, wide)]
        assert spreads[1] > 1.1 * spreads[0], measure


def test_only_wide_phantoms_have_mimics_and_most_have_some(wide: list[Exam]) -> None:
    drawn = [bool(mimics_of(exam).any()) for exam in wide[:40]]
    assert 0.5 < np.mean(drawn) < 1
    assert not any(mimics_of(replace(exam, variety="plain")).any() for exam in wide[:40])


def test_mimics_belong_to_no_finding_and_do_not_move_its_mask(wide: list[Exam]) -> None:
    exam = next(exam for exam in wide if mimics_of(exam).max() > 0.5)
    shown = replace(exam, findings=frozenset({"Mass", "Effusion"}))
    with_mimics = render(shown, 96)
    without = render(replace(shown, variety="plain"), 96)
    assert list(with_mimics.masks) == ["Effusion", "Mass"]
    assert (with_mimics.image != without.image).any()
    for finding in ("Effusion", "Mass"):
        assert (with_mimics.masks[finding] != without.masks[finding]).mean() < 0.01


def test_a_faint_finding_still_has_its_mask(wide: list[Exam]) -> None:
    """At the least severity; but for those that a wide heart or the field's edge hides."""
    for finding in FINDINGS:
        shares = [
            render(replace(exam, findings=frozenset({finding}), severity=0.25), 96)
            .masks[finding].mean() for exam in wide[:8]
        ]  # fmt: skip
        assert np.median(shares) > 0.0005, finding


def test_a_wide_phantom_is_the_same_whatever_is_drawn_before_it() -> None:
    few = list(population(3, 9, variety="wide"))
    many = list(population(12, 9, variety="wide"))
    assert many[:3] == few
    for exam in many[3:6]:
        render(exam, 64)
    assert render(few[2], 64).image.tobytes() == render(many[2], 64).image.tobytes()
    alone = exams(patient(9, few[2].patient.number), variety="wide")[few[2].follow_up]
    assert render(alone, 64).image.tobytes() == render(few[2], 64).image.tobytes()


def test_a_tree_tells_its_variety(tmp_path: Path) -> None:
    synth(tmp_path / "wide", 2, 64, workers=1, variety="wide")
    assert '"variety": "wide"' in (tmp_path / "wide" / "phantom.json").read_text()


def test_the_kernel_distance_is_the_mean_over_pairs(benchmark: ModuleType) -> None:
    """Against its definition, pair by pair (Gretton et al. 2012, equation 3)."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (7, 5)), rng.normal(0.4, 1, (6, 5))

    def mean(a: np.ndarray, b: np.ndarray, same: bool) -> float:
        pairs = [(i, j) for i, j in product(range(len(a)), range(len(b))) if not (same and i == j)]
        return float(np.mean([(a[i] @ b[j] / 5 + 1) ** 3 for i, j in pairs]))

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert benchmark.kernel_distance(x, y) == pytest.approx(expected)


def test_the_kernel_distance_of_two_draws_of_one_population_is_about_zero(
    benchmark: ModuleType,
) -> None:
    rng = np.random.default_rng(1)
    found = [
        benchmark.kernel_distance(rng.normal(0, 1, (60, 8)), rng.normal(0, 1, (60, 8)))
        for _ in range(40)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(40)
    far = benchmark.kernel_distance(rng.normal(0, 1, (60, 8)), rng.normal(1, 1, (60, 8)))
    assert far > 10 * np.std(found)
