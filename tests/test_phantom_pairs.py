"""Pairs of phantoms: the same radiograph without and with one finding, exactly."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest

from chestxray.errors import SourceError
from chestxray.sources.nih import FINDINGS
from chestxray.sources.phantom import Pair, pairs
from chestxray.sources.phantom.anatomy import anatomy, measures
from chestxray.sources.phantom.intervention import MOVED, pairs_of
from chestxray.sources.phantom.population import exams, patient, population
from chestxray.sources.phantom.render import canvas_of, render
from chestxray.sources.phantom.signs import sign

PIXELS, PATIENTS = 160, 6
COMPACT = ("Cardiomegaly", "Effusion", "Mass", "Nodule", "Consolidation", "Pleural_Thickening",
           "Hernia")  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {finding: [] for finding in FINDINGS}
    for pair in pairs(PATIENTS, pixels=PIXELS):
        found[pair.finding].append(pair)
    return found


def changed(pair: Pair) -> np.ndarray:
    return pair.with_finding != pair.without


@pytest.mark.parametrize("finding", FINDINGS)
def test_outside_its_reach_a_finding_changes_no_pixel(
    drawn: dict[str, list[Pair]], finding: str
) -> None:
    for pair in drawn[finding]:
        assert np.array_equal(pair.without[~pair.reach], pair.with_finding[~pair.reach])
        assert changed(pair).any()


@pytest.mark.parametrize("finding", sorted(set(FINDINGS) - set(MOVED)))
def test_the_reach_of_a_finding_that_moves_nothing_is_where_its_sign_adds_or_takes_tissue(
    drawn: dict[str, list[Pair]], finding: str
) -> None:
    """Against the sign alone, drawn on an upright canvas: neither exposure nor pose take part."""
    for pair in drawn[finding]:
        upright = replace(pair.exam, findings=frozenset({finding}), tilt=0.0, shift=(0.0, 0.0))
        assert measures(upright) == measures(replace(upright, findings=frozenset()))
        shown = next(iter(pairs_of(upright, [finding], PIXELS)))
        scene = anatomy(upright, canvas_of(upright, PIXELS))
        alone = sign(scene, finding)
        touched = (np.abs(alone.water) > 0.01) | (np.abs(alone.vessels - 1.0) > 1e-3)
        margin = (len(touched) - PIXELS) // 2
        wide = cv2.dilate(touched.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
        inside = wide[margin : margin + PIXELS, margin : margin + PIXELS]
        assert not (changed(shown) & ~inside).any()


def test_cardiomegaly_changes_nothing_but_the_heart(drawn: dict[str, list[Pair]]) -> None:
    for pair in drawn["Cardiomegaly"]:
        wide = cv2.dilate(pair.mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        beside = changed(pair) & ~wide
        assert beside.sum() < 0.03 * changed(pair).sum()  # the heart's foot in the abdomen
        below = np.flatnonzero(pair.mask.any(1))[-1] - 0.12 * PIXELS
        assert not beside[: int(below)].any()


@pytest.mark.parametrize("finding", COMPACT)
def test_most_of_what_a_finding_changes_lies_in_its_mask(
    drawn: dict[str, list[Pair]], finding: str
) -> None:
    shares = []
    for pair in drawn[finding]:
        change = np.abs(pair.with_finding.astype(float) - pair.without)
        shares.append(change[pair.mask].sum() / change.sum())
    assert np.mean(shares) > 0.85


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_pair_is_what_render_draws_but_for_the_scatter(
    drawn: dict[str, list[Pair]], finding: str
) -> None:
    for pair in drawn[finding][:3]:
        assert not pair.exam.findings
        assert pair.without.tobytes() == render(pair.exam, PIXELS).image.tobytes()
        whole = render(replace(pair.exam, findings=frozenset({finding})), PIXELS)
        assert pair.mask.tobytes() == whole.masks[finding].tobytes()
        away = np.abs(pair.with_finding.astype(float) - whole.image)
        assert away.mean() < 3
        assert away.max() < 30


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (
        list(pairs(2, ["Mass", "Edema"], 64, seed)) for seed in (5, 5, 6)
    )  # fmt: skip
    assert [pair.finding for pair in first] == ["Mass", "Edema"] * 2
    assert [pair.exam.patient.number for pair in first] == [1, 1, 2, 2]
    for one, two, three in zip(first, again, other, strict=True):
        for field in ("without", "with_finding", "mask", "reach"):
            assert getattr(one, field).tobytes() == getattr(two, field).tobytes()
        assert one.with_finding.tobytes() != three.with_finding.tobytes()


def test_a_finding_is_drawn_the_same_whatever_is_drawn_beside_it() -> None:
    exam = exams(patient(3, 1))[0]
    (alone,) = pairs_of(exam, ["Effusion"], 64)
    beside = {pair.finding: pair for pair in pairs_of(exam, FINDINGS, 64)}["Effusion"]
    assert alone.with_finding.tobytes() == beside.with_finding.tobytes()


def test_the_default_pairs_show_no_patient_of_a_usual_tree() -> None:
    bodies = {patient(seed, number).width for seed in range(5) for number in range(1, 200)}
    assert not bodies & {pair.exam.patient.width for pair in pairs(20, ["Nodule"], 32)}


def test_a_finding_that_phantoms_cannot_show_is_refused() -> None:
    with pytest.raises(SourceError, match=r"cannot show Fracture: choose from Atelectasis"):
        pairs(1, ["Fracture"])
    with pytest.raises(SourceError, match="at least 1 and pixels at least 32, not 0 and 256"):
        pairs(0)


def test_phantoms_are_those_that_earlier_figures_were_measured_on() -> None:
    """Mean grey values of eight phantoms with findings, as they were before pairs were drawn."""
    means = [render(exam, 96).image.mean() for exam in islice(population(40, 3, True), 0, 40, 5)]
    assert means == pytest.approx(EARLIER, abs=0.02)


EARLIER = (134.943, 127.215, 120.608, 135.092, 135.063, 127.734, 131.971, 116.245)
