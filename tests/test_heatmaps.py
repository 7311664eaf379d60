"""Heatmaps: the scale of each finding, whether one points to a place, and how it is drawn."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chestxray.model.heatmaps import TYPICAL_PEAK, HeatScale, MapSummary, fit_heat_scales
from chestxray.reading.evidence import NO_PLACE, no_place
from chestxray.reading.overlay import LEVELS, blend
from chestxray.reading.reader import Reader

SIDE = 7
FINDINGS = ("rare", "common", "strong")
SIGNAL = (0.4, 1.0, 12.0)  # logits of a finding's hottest cell above the rest
LEVEL = (-5.0, 0.2, -1.0)  # logits of the whole map


def planted(rng: np.random.Generator, n: int = 800):
    """Class maps with one hot cell where a finding is, labels, and probabilities."""
    labels = (rng.random((n, 3)) < 0.2).astype(np.float32)
    maps = rng.normal(size=(n, 3, SIDE, SIDE)) * 0.1 * np.array(SIGNAL)[:, None, None]
    maps += np.array(LEVEL)[:, None, None]
    strength = rng.uniform(0.8, 1.2, (n, 3))
    row, column = rng.integers(0, SIDE, (2, n, 3))
    images, findings = np.nonzero(labels)
    at = images, findings, row[images, findings], column[images, findings]
    maps[at] += np.array(SIGNAL)[findings] * strength[images, findings]
    probabilities = np.where(
        labels == 1, 0.05 + 0.3 * rng.random((n, 3)), 0.04 * rng.random((n, 3))
    )
    return maps.astype(np.float32), labels, probabilities


def fitted(maps, labels, probabilities, thresholds) -> HeatScale:
    found = fit_heat_scales(MapSummary.of(maps), probabilities, labels, thresholds)
    columns = (*(list(of.values()) for of in found), [t or 1.0 for t in thresholds.values()])
    return HeatScale(*(np.array(column, np.float32) for column in columns))


def test_a_typical_true_call_peaks_at_the_same_heat_for_every_finding_of_another_sample() -> None:
    """However rare it is, and however negative its whole map."""
    rng = np.random.default_rng(0)
    thresholds: dict[str, float | None] = dict.fromkeys(FINDINGS, 0.05)
    scale = fitted(*planted(rng), thresholds)
    maps, labels, probabilities = planted(rng)
    heat = scale.heatmaps(maps, probabilities)
    for k in range(len(FINDINGS)):
        called = (labels[:, k] == 1) & (probabilities[:, k] >= 0.05)
        peaks = heat[called, k].max(axis=(1, 2))
        assert np.median(peaks) == pytest.approx(TYPICAL_PEAK, abs=0.1)
        assert np.mean(peaks < 0.25) < 0.05, "blank calls"
        assert np.mean(heat[called, k] >= 1) < 0.05, "saturated cells"


def test_the_scale_is_the_same_for_every_image() -> None:
    rng = np.random.default_rng(1)
    maps, labels, p = planted(rng)
    scale = fitted(maps, labels, p, dict.fromkeys(FINDINGS, 0.05))
    alone = np.concatenate([scale.heatmaps(maps[i : i + 1], p[i : i + 1]) for i in range(9)])
    assert np.array_equal(alone, scale.heatmaps(maps[:9], p[:9]))


@settings(max_examples=50)
@given(st.floats(0.001, 1), st.floats(0.001, 1), st.floats(0.1, 10))
def test_heat_fades_with_the_probability_below_the_threshold_and_not_above(p, threshold, scale):
    maps = np.full((1, 1, 2, 2), scale, np.float32)
    of = HeatScale(*(np.array([value], np.float32) for value in (0, scale, threshold)))
    heat = of.heatmaps(maps, np.array([[p]]))
    assert heat == pytest.approx(np.full((1, 1, 2, 2), min(1, p / threshold)), rel=1e-4)


def test_evidence_below_the_reference_is_no_heat_and_is_not_stretched() -> None:
    maps = -np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    of = HeatScale(np.zeros(3, np.float32), np.ones(3, np.float32), np.ones(3, np.float32))
    heat = of.heatmaps(maps, np.ones((2, 3)))
    assert heat.dtype == np.float32
    assert not heat.any()


def test_few_true_calls_take_the_scale_from_all_calls_then_from_the_most_probable_images() -> None:
    peaks = np.arange(100.0)[:, None]
    summary = MapSummary(np.zeros((100, 1)), peaks)
    p = np.arange(100.0)[:, None] / 100
    labels = np.zeros((100, 1), np.float32)
    labels[[96, 97, 98], 0] = 1

    def scale(threshold: float | None, labels=labels) -> float:
        return fit_heat_scales(summary, p, labels, {"rare": threshold})[1]["rare"]

    assert scale(0.5) == pytest.approx(74.5 / TYPICAL_PEAK)  # the median call of 50 to 99
    assert scale(None) == pytest.approx(97 / TYPICAL_PEAK)  # the median of 95 to 99
    assert scale(0.99) == pytest.approx(97 / TYPICAL_PEAK)  # one call is too few
    enough = np.where(peaks >= 90, 1, 0).astype(np.float32)
    assert scale(0.5, enough) == pytest.approx(94.5 / TYPICAL_PEAK)  # the median true call
    flat = MapSummary(np.zeros((100, 1)), np.zeros((100, 1)))
    assert fit_heat_scales(flat, p, labels, {"rare": 0.5})[1] == {"rare": 1.0}


def test_unknown_labels_are_neither_with_nor_without_the_finding() -> None:
    summary = MapSummary(np.array([[0.0], [2.0], [100.0]]), np.ones((3, 1)))
    labels = np.array([[0], [0], [np.nan]], np.float32)
    p = np.full((3, 1), 0.5)
    assert fit_heat_scales(summary, p, labels, {"rare": None})[0] == {"rare": 1.0}


def test_a_reader_gives_the_heat_that_its_card_defines(run, dataset) -> None:
    from chestxray.reading.reader import load

    reader: Reader = load(run / "bundle", "torch")
    card, images = reader.bundle.card, dataset.images[:6]
    maps = reader.engine.run(images).maps
    probabilities, heat = reader.read_batch(images)
    for k, finding in enumerate(card.findings):
        fade = np.minimum(1, probabilities[:, k] / (card.thresholds[finding] or 1))
        above = (maps[:, k] - card.heat_references[finding]).clip(0) / card.heat_scales[finding]
        assert np.allclose(heat[:, k], above * fade[:, None, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("heat", "said"),
    [
        (np.eye(7), None),
        (0.3 * np.eye(7), None),
        (0.2 * np.eye(7), "peaks at 0.20, below 0.25"),
        (np.zeros((7, 7)), "peaks at 0.00"),
        (np.full((7, 7), 0.8), "100% of the image"),
        (np.where(np.arange(49).reshape(7, 7) < 28, 0.9, 0.4), "57% of the image"),
    ],
)
def test_a_map_that_is_weak_or_nearly_uniform_has_no_localised_evidence(heat, said) -> None:
    found = no_place(heat.astype(np.float32))
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(NO_PLACE)
        assert re.search(said, found)


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=2)


def test_no_heat_leaves_the_radiograph_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    assert np.array_equal(blend(image, np.zeros((2, 2), np.float32)), grey(image))
    assert np.array_equal(blend(image, np.zeros((2, 2), np.float32), per_image=True), grey(image))


def test_equal_heat_looks_equal_in_every_image() -> None:
    """No map is stretched to its own maximum: half the heat is another colour, not the same."""
    image = np.full((64, 64), 90, np.uint8)
    full, half = (blend(image, np.full((2, 2), heat, np.float32)) for heat in (1.0, 0.5))
    lonely = np.zeros((2, 2), np.float32)
    lonely[0, 0] = 0.5
    assert np.abs(full.astype(int) - half).max() > 20
    assert np.abs(blend(image, lonely)[0, 0].astype(int) - half[0, 0]).max() <= 1


@pytest.mark.parametrize("heat", [0.1, 0.3, 0.5, 0.7, 1.0, 30.0])
def test_the_veil_takes_at_most_a_third_of_the_radiographs_contrast(heat: float) -> None:
    """15 % at most where the evidence is strong; a veil alone took 65 % there."""
    image = np.random.default_rng(0).integers(60, 180, (256, 256), dtype=np.uint8)
    shown = blend(image, np.full((4, 4), heat, np.float32)).mean(axis=2)
    kept = shown.std() / image.std()
    assert kept > (0.85 if heat >= 0.7 else 0.69)


def test_contours_lie_where_the_heat_crosses_their_levels() -> None:
    """On a ramp of heat from left to right, whose crossings are known."""
    side = 600
    ramp = np.tile(np.float32([0.0, 1.2]), (2, 1))
    image = np.full((side, side), 128, np.uint8)
    row = blend(image, ramp)[side // 2].astype(int)
    s = np.linspace(0, 1, 100_001)
    heat = 1.2 * s**2 * (3 - 2 * s)
    dark = np.flatnonzero(row.max(axis=1) < 90)  # the dark edges of a contour
    groups = np.split(dark, np.flatnonzero(np.diff(dark) > 15) + 1)
    for level, group in zip(LEVELS, groups, strict=True):
        crossing = (0.25 + 0.5 * s[np.argmax(heat >= level)]) * side
        assert (group[0] + group[-1] + 1) / 2 == pytest.approx(crossing, abs=2.5)


def test_a_map_without_a_slope_has_no_contours() -> None:
    image = np.full((64, 64), 128, np.uint8)
    for level in LEVELS:
        shown = blend(image, np.full((3, 3), level, np.float32))
        assert (shown == shown[0, 0]).all()


def test_drawing_leaves_the_other_cores_alone() -> None:
    """NumPy's threads wait for more work by burning their cores, which others need."""
    script = (
        "import time, numpy as np\n"
        "from chestxray.reading.overlay import blend\n"
        "image, heat = np.full((700, 700), 90, np.uint8), np.eye(28, dtype=np.float32)\n"
        "used = []\n"
        "for _ in range(5):\n"
        "    blend(image, heat)\n"
        "    before = time.process_time()\n"
        "    time.sleep(0.05)\n"
        "    used.append(time.process_time() - before)\n"
        "print(min(used))\n"
    )
    unlimited = {name: of for name, of in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=unlimited, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.01
