"""Boxes out of heatmaps, held against pixels, planted truths and places that need no heatmap."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import binomtest

from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.localization import (
    CENTRE,
    CUT,
    IOBB,
    IOU,
    Boxes,
    Case,
    Mask,
    detect,
    locate,
    mean_box,
    overlap,
)
from chestxray.sources.nih import FINDINGS
from evaluation_parts import dumped
from evaluation_parts import pairs_of as pairs

MASS, NODULE = FINDINGS.index("Mass"), FINDINGS.index("Nodule")
SQUARE = (1024, 1024)

edges = st.tuples(*(st.integers(0, 23) for _ in range(4))).map(
    lambda e: (min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]) + 1, max(e[1], e[3]) + 1)
)


def pixels(box: tuple[int, int, int, int]) -> np.ndarray:
    raster = np.zeros((24, 24), dtype=bool)
    left, top, right, bottom = box
    raster[top:bottom, left:right] = True
    return raster


def pairs_of(patients: np.ndarray) -> Pairs:
    """Evaluated images of these patients; localization uses nothing else of them."""
    nothing = np.zeros((len(patients), len(FINDINGS)))
    return pairs(nothing, nothing, patients)


def cases_of(boxes: np.ndarray, finding: str = "Mass") -> list[Case]:
    return [Case(row, finding, Boxes(box[None]), SQUARE) for row, box in enumerate(boxes)]


def score(
    heat: np.ndarray, cases: list[Case], folder: Path, patients: np.ndarray | None = None
) -> dict[str, Any]:
    """Locate with the heatmaps [n, h, w] of Mass; each image its own patient by default."""
    maps = np.zeros((len(heat), len(FINDINGS), *heat.shape[1:]), dtype=np.float16)
    maps[:, MASS] = heat
    np.save(folder / "h.npy", maps)
    of = pairs_of(np.arange(len(heat)) if patients is None else patients)
    found: dict[str, Any] = dumped(locate(folder / "h.npy", cases, of, resamples=200))
    return found


def shares(entry: dict[str, Any], of: str = "hit") -> dict[str, float]:
    """The pointing game and every T as one flat table."""
    entries = {"point": entry} | {
        f"{k} {t}": e for k in ("iou", "iobb") for t, e in entry[k].items()
    }
    return {name: e[of]["value"] if of == "hit" else e[of] for name, e in entries.items()}


def random_boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    corner, size = rng.uniform(0, 0.6, (count, 2)), rng.uniform(0.1, 0.4, (count, 2))
    return np.concatenate([corner, corner + size], axis=1)


@given(edges, st.lists(edges, min_size=1, max_size=3))
def test_iou_and_iobb_are_those_of_the_pixels(
    box: tuple[int, int, int, int], true: list[tuple[int, int, int, int]]
) -> None:
    found = pixels(box)
    both = [found & pixels(other) for other in true]
    union = [found | pixels(other) for other in true]
    iou, iobb = overlap(np.array(box) / 24, np.array(true) / 24)
    assert iou == pytest.approx(max(b.sum() / u.sum() for b, u in zip(both, union, strict=True)))
    assert iobb == pytest.approx(max(b.sum() for b in both) / found.sum())


@given(edges, st.integers(0, 2))
def test_a_block_of_hot_cells_gives_its_own_box(box: tuple[int, int, int, int], floor: int) -> None:
    heat = pixels(box) * 4.0 + floor / 2
    place = detect(heat.astype(np.float16), SQUARE)
    assert place.box == pytest.approx(np.array(box) / 24, abs=0 if floor == 0 else 0.02)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(7, 7), (12, 16), (32, 32)]))
def test_the_box_is_that_of_the_region_with_the_peak(seed: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    heat = ndimage.gaussian_filter(rng.random(shape), 1.0) ** 4
    box = detect(heat, SQUARE).box
    times = 2 * math.ceil(128 / max(shape))  # the same grid: whether a thin neck joins hangs on it
    rows, columns = ((np.arange(n * times) + 0.5) / times - 0.5 for n in shape)
    fine = ndimage.map_coordinates(
        heat, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest"
    )
    regions, _ = ndimage.label(fine >= CUT * heat.max(), structure=np.ones((3, 3)))
    row, column = np.unravel_index(heat.argmax(), shape)
    mine = regions == regions[row * times + times // 2, column * times + times // 2]
    down, across = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
    high, wide = mine.shape
    expected = [across[0] / wide, down[0] / high, (across[-1] + 1) / wide, (down[-1] + 1) / high]
    assert box == pytest.approx(expected, abs=1.01 / (times * min(shape)))


def test_a_second_weaker_region_is_not_in_the_box() -> None:
    heat = np.zeros((8, 8))
    heat[1:3, 1:3], heat[5:7, 5:7] = 1.0, 0.9
    assert detect(heat, SQUARE).box == pytest.approx([0.125, 0.125, 0.375, 0.375])


def test_without_heat_there_is_no_box() -> None:
    assert detect(np.zeros((7, 7)), SQUARE) == (None, None)
    assert detect(np.full((7, 7), -1.0), SQUARE) == (None, None)


def test_a_box_in_the_padding_is_nowhere_and_one_across_its_edge_is_cut() -> None:
    heat = np.zeros((8, 8))
    heat[0:2] = 1
    assert detect(heat, (200, 100)) == (None, None)
    heat[0:4] = 1
    place = detect(heat, (200, 100))
    assert place.box == pytest.approx([0, 0, 1, 0.5])


def test_heat_that_is_the_box_scores_1_at_every_threshold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 10, (60, 2))
    cells = np.concatenate([corner, corner + rng.integers(2, 6, (60, 2))], axis=1)
    heat = np.zeros((60, 16, 16))
    for map_, (left, top, right, bottom) in zip(heat, cells, strict=True):
        map_[top:bottom, left:right] = rng.random() + 0.1
    result = score(heat, cases_of(cells / 16), tmp_path)["findings"]["Mass"]
    assert set(shares(result).values()) == {1.0}
    assert list(result["iou"]) == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"]
    assert list(result["iobb"]) == ["0.1", "0.25", "0.5", "0.75", "0.9"]


def test_heat_in_the_middle_scores_what_the_centre_does(tmp_path: Path) -> None:
    heat = np.zeros((300, 12, 12))
    heat[:, 3:9, 3:9] = 1
    heat[:, 5:7, 5:7] += 0.01  # the peak: one of the four cells around the centre
    boxes = random_boxes(300, np.random.default_rng(0))
    result = score(heat, cases_of(boxes), tmp_path)["all"]
    found, centre = shares(result), shares(result, "centre")
    assert found.pop("point") == pytest.approx(centre.pop("point"), abs=0.05)
    assert found == centre
    assert 0.1 < centre["iou 0.1"] < 0.9


def test_random_heat_scores_what_a_random_point_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    heat, boxes = rng.random((2000, 16, 16)), random_boxes(2000, rng)
    result = score(heat, cases_of(boxes), tmp_path)["all"]
    assert result["hit"]["value"] == pytest.approx(result["random"], abs=0.02)
    assert result["hit"]["low"] < result["random"] < result["hit"]["high"]


def test_no_heat_scores_0_with_an_interval_that_is_no_point(tmp_path: Path) -> None:
    boxes = random_boxes(20, np.random.default_rng(0))
    entry = score(np.zeros((20, 4, 4)), cases_of(boxes), tmp_path)["all"]
    assert set(shares(entry).values()) == {0.0}
    exact = binomtest(0, 20).proportion_ci(method="exact")
    assert entry["hit"]["high"] == pytest.approx(exact.high, abs=1e-9)
    assert "exact binomial" in entry["hit"]["reason"]


def test_the_interval_counts_patients_and_not_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 10)
    right = np.repeat(rng.random(40) < 0.5, 10)  # a patient is always right or always wrong
    heat = np.zeros((400, 4, 4))
    heat[right, 0, 0], heat[~right, 3, 3] = 1, 1
    cases = cases_of(np.tile([0, 0, 0.25, 0.25], (400, 1)))
    by_patient = score(heat, cases, tmp_path, patients)["all"]["hit"]
    by_image = score(heat, cases, tmp_path)["all"]["hit"]
    assert by_patient["value"] == by_image["value"]
    width = by_patient["high"] - by_patient["low"]
    assert width == pytest.approx(2 * 1.96 * (0.25 / 40) ** 0.5, rel=0.2)
    assert width > 2.5 * (by_image["high"] - by_image["low"])


def test_the_mean_box_never_sees_the_patient_it_is_held_against(tmp_path: Path) -> None:
    boxes = np.tile([0.1, 0.1, 0.3, 0.3], (6, 1))
    boxes[4:] = [0.6, 0.6, 0.9, 0.9]  # both of patient 2
    patients = np.array([0, 0, 1, 1, 2, 2])
    assert mean_box(boxes, patients, 2) == pytest.approx([0.1, 0.1, 0.3, 0.3])
    result = score(np.zeros((6, 4, 4)), cases_of(boxes), tmp_path, patients)["all"]
    # The others' mean lies half way to patient 2's boxes; patient 2 gets the others' own box.
    assert result["mean_box"] == 0
    # Moving a patient's own boxes cannot help: it changes the others' figures alone.
    boxes[4:] = boxes[0]
    assert score(np.zeros((6, 4, 4)), cases_of(boxes), tmp_path, patients)["all"]["mean_box"] == 1


def test_the_mean_box_is_that_of_its_own_finding_alone(tmp_path: Path) -> None:
    left, right = [0.1, 0.1, 0.3, 0.3], [0.7, 0.7, 0.9, 0.9]
    cases = cases_of(np.array([left] * 4))
    cases += [Case(row, "Nodule", Boxes(np.array([right])), SQUARE) for row in range(4)]
    result = score(np.zeros((4, 4, 4)), cases, tmp_path)
    assert set(shares(result["all"], "mean_box").values()) == {1.0}


def test_a_finding_of_one_patient_has_no_mean_box(tmp_path: Path) -> None:
    boxes = random_boxes(3, np.random.default_rng(0))
    entry = score(np.zeros((3, 4, 4)), cases_of(boxes), tmp_path, np.zeros(3, int))["all"]
    assert entry["mean_box"] is None
    assert entry["iou"]["0.1"]["mean_box"] is None


def test_what_is_marked_nowhere_has_all_keys_and_null(tmp_path: Path) -> None:
    result = score(np.zeros((2, 4, 4)), [], tmp_path)
    for entry in (result["all"], result["findings"]["Edema"]):
        assert entry["iou"]["0.7"]["hit"]["reason"] == "no box or mask"
        assert {*shares(entry).values(), *shares(entry, "centre").values()} == {None}
        assert entry["random"] is None
    assert result["heat_threshold"]["value"] == CUT
    assert "fitted to no box" in result["heat_threshold"]["chosen_by"]


def test_of_several_boxes_the_one_that_is_met_counts(tmp_path: Path) -> None:
    heat = np.zeros((1, 8, 8))
    heat[0, 4:6, 4:6] = 1
    two = Boxes(np.array([[0, 0, 0.25, 0.25], [0.5, 0.5, 0.75, 0.75]]))
    result = score(heat, [Case(0, "Mass", two, SQUARE)], tmp_path)["all"]
    assert set(shares(result).values()) == {1.0}


@given(edges)
def test_a_mask_counts_as_the_box_around_it(box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    inside = np.zeros((24, 24), dtype=bool)
    inside[[top, bottom - 1], [left, right - 1]] = True
    assert Mask(inside).corners == pytest.approx(np.array([box]) / 24)


def test_the_centre_box_is_hit_by_its_own_point() -> None:
    assert CENTRE.point is not None
    assert Boxes(CENTRE.box[None]).holds(*CENTRE.point)
    assert Boxes(CENTRE.box[None]).area == 0.25
    assert sorted(IOU) == list(IOU)
    assert sorted(IOBB) == list(IOBB)


def test_all_984_boxes_take_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    heat, boxes = rng.random((984, 7, 7)), random_boxes(984, rng)
    maps = np.zeros((984, len(FINDINGS), 7, 7), dtype=np.float16)
    maps[:, MASS] = heat
    np.save(tmp_path / "h.npy", maps)
    of = pairs_of(rng.integers(0, 700, 984))
    start = time.process_time()
    locate(tmp_path / "h.npy", cases_of(boxes), of)
    assert time.process_time() - start < 5
