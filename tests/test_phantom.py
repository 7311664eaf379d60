from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chestxray.sources.nih import FINDINGS
from chestxray.sources.phantom.anatomy import measures
from chestxray.sources.phantom.population import Exam, exams, patient
from chestxray.sources.phantom.render import Phantom, render

PIXELS = 192
SHAPE_CHANGES = {"Cardiomegaly", "Emphysema", "Atelectasis"}  # not only where the mask lies


def first_exams(view: str, count: int, start: int = 1) -> list[Exam]:
    found: list[Exam] = []
    number = start
    while len(found) < count:
        found += [exam for exam in exams(patient(0, number)) if exam.view == view][:1]
        number += 1
    return found


def with_findings(exam: Exam, *findings: str) -> Phantom:
    return render(replace(exam, findings=frozenset(findings)), PIXELS)


EXAMS = [*first_exams("PA", 4), *first_exams("AP", 3)]


@pytest.fixture(scope="module")
def healthy() -> list[Phantom]:
    return [with_findings(exam) for exam in EXAMS]


def test_the_same_exam_gives_the_same_bytes() -> None:
    exam = replace(EXAMS[0], findings=frozenset(FINDINGS))
    once, again = render(exam, PIXELS), render(exam, PIXELS)
    assert once.image.tobytes() == again.image.tobytes()
    for finding in FINDINGS:
        assert once.masks[finding].tobytes() == again.masks[finding].tobytes()


def test_an_image_is_grey_and_uses_the_scale(healthy: list[Phantom]) -> None:
    for phantom in healthy:
        assert phantom.image.shape == (PIXELS, PIXELS)
        assert phantom.image.dtype == np.uint8
        assert phantom.image.std() > 30
        assert not phantom.masks


@pytest.mark.parametrize("pixels", [64, 101, 512])
def test_any_size_can_be_drawn(pixels: int) -> None:
    phantom = render(replace(EXAMS[0], findings=frozenset({"Mass", "Effusion"})), pixels)
    assert phantom.image.shape == (pixels, pixels)
    assert phantom.masks["Mass"].shape == (pixels, pixels)


def test_the_same_exam_shows_the_same_chest_at_another_size() -> None:
    exam = replace(EXAMS[0], findings=frozenset({"Mass"}))
    small, large = render(exam, 128), render(exam, 256)
    shrunk = large.image.reshape(128, 2, 128, 2).mean((1, 3))
    assert np.corrcoef(shrunk.ravel(), small.image.ravel())[0, 1] > 0.97
    assert large.masks["Mass"].sum() == pytest.approx(4 * small.masks["Mass"].sum(), rel=0.1)


def test_the_lungs_are_darker_than_heart_and_abdomen(healthy: list[Phantom]) -> None:
    for phantom in healthy:
        lungs = phantom.image[phantom.thorax & ~phantom.heart]
        assert np.median(lungs) + 30 < np.median(phantom.image[phantom.heart])


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_image_where_its_mask_lies(
    finding: str, healthy: list[Phantom]
) -> None:
    inside, outside = [], []
    for exam, without in zip(EXAMS, healthy, strict=True):
        shown = with_findings(exam, finding)
        mask = shown.masks[finding]
        assert list(shown.masks) == [finding]
        assert 0.0005 < mask.mean() < 0.6
        change = np.abs(shown.image.astype(float) - without.image)
        inside.append(change[mask].mean())
        outside.append(change[~mask].mean())
    factor = 1.5 if finding in SHAPE_CHANGES else 5.0
    assert np.mean(inside) > factor * np.mean(outside)
    assert np.mean(inside) > 4


@pytest.mark.parametrize("finding", sorted(set(FINDINGS) - SHAPE_CHANGES))
def test_far_from_its_mask_a_finding_changes_nothing(finding: str, healthy: list[Phantom]) -> None:
    shown = with_findings(EXAMS[0], finding)
    rows = np.flatnonzero(shown.masks[finding].any(1))
    far = np.abs(np.arange(PIXELS) - rows.mean()) > np.ptp(rows) / 2 + 0.25 * PIXELS
    change = np.abs(shown.image.astype(float) - healthy[0].image)[far]
    assert change.size == 0 or change.mean() < 2


def ratio(phantom: Phantom) -> float:
    """Cardiothoracic ratio: greatest width of the heart over that of the inner chest."""
    widths = [np.ptp(np.flatnonzero(mask.any(0))) + 1 for mask in (phantom.heart, phantom.thorax)]
    return float(widths[0] / widths[1])


def test_the_heart_is_wider_than_half_of_the_chest_in_cardiomegaly_alone() -> None:
    others = [finding for finding in FINDINGS if finding != "Cardiomegaly"]
    upright = [replace(exam, tilt=0.0, shift=(0.0, 0.0)) for exam in
               [*first_exams("PA", 8, 20), *first_exams("AP", 8, 20)]]  # fmt: skip
    for exam in upright:
        assert ratio(with_findings(exam)) < 0.5
        assert ratio(with_findings(exam, *others)) < 0.5
        assert ratio(with_findings(exam, "Cardiomegaly")) > 0.5
        assert ratio(with_findings(exam, *FINDINGS)) > 0.5


def widest(mask: np.ndarray) -> float:
    """Greatest distance between two pixels' outer edges, in pixels."""
    points = np.argwhere(mask & ~np.roll(mask, 1, 0) | mask & ~np.roll(mask, -1, 0))
    return float(np.linalg.norm(points[:, None] - points[None], axis=2).max() + 1)


def test_a_nodule_is_at_most_3_cm_and_a_mass_more() -> None:
    from scipy.ndimage import label

    for exam in [*first_exams("PA", 12, 40), *first_exams("AP", 6, 40)]:
        phantom = render(replace(exam, findings=frozenset({"Nodule", "Mass"})), 256)
        nodules, count = label(phantom.masks["Nodule"])
        sizes = [widest(nodules == number) * phantom.centimetres for number in range(1, count + 1)]
        assert min(sizes) <= 3.0 + 2 * phantom.centimetres  # touching ones measure more
        assert widest(phantom.masks["Mass"]) * phantom.centimetres > 3.0


def test_beyond_the_pleural_line_the_image_is_darker_and_plainer(healthy: list[Phantom]) -> None:
    for exam, without in zip(EXAMS, healthy, strict=True):
        shown = with_findings(exam, "Pneumothorax")
        mask = shown.masks["Pneumothorax"]
        assert np.median(shown.image[mask]) < np.median(without.image[mask])


def test_emphysema_flattens_the_domes_and_makes_the_lungs_darker(healthy: list[Phantom]) -> None:
    for exam, without in zip(EXAMS, healthy, strict=True):
        shown = with_findings(exam, "Emphysema")
        lungs = shown.masks["Emphysema"] & without.thorax
        inflated = measures(replace(exam, findings=frozenset({"Emphysema"})))
        normal = measures(replace(exam, findings=frozenset()))
        assert inflated.height > normal.height
        assert inflated.sag < 0.5 * normal.sag
        assert np.median(shown.image[lungs]) < np.median(without.image[lungs])


def test_a_finding_stays_in_its_place_over_follow_ups() -> None:
    someone = next(who for number in range(1, 99) if (who := patient(0, number)).images > 3)
    first, second = (
        render(replace(exam, findings=frozenset({"Mass"}), view="PA", shift=(0, 0), tilt=0), PIXELS)
        for exam in exams(someone)[:2]
    )
    centres = [np.argwhere(p.masks["Mass"]).mean(0) * p.centimetres for p in (first, second)]
    assert np.linalg.norm(centres[0] - centres[1]) < 5
    assert (first.image != second.image).mean() > 0.5
