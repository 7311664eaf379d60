"""The pointing game with planted peaks, and the files it is played with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chestxray.errors import ArtifactError, ImageError, PredictionsError
from chestxray.evaluation import localization, predictions
from chestxray.evaluation.labels import Labels, Pairs, pair
from chestxray.evaluation.localization import Boxes, Case, Mask, from_boxes, from_masks
from chestxray.sources.nih import FINDINGS
from evaluation_parts import PROBABILITIES, dumped, write
from fake_run import predicted, truth

if TYPE_CHECKING:
    from chestxray.dataset.store import Dataset

LABELS = truth()
MASS = FINDINGS.index("Mass")


def locate(heatmaps: Path, cases: Sequence[Case], pairs: Pairs) -> dict[str, Any]:
    found: dict[str, Any] = dumped(localization.locate(heatmaps, cases, pairs))
    return found


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    write(tmp_path / "p.csv", predicted(LABELS, "test"))
    return pair(tmp_path / "p.csv", LABELS)


def write_heat(path: Path, pairs: Pairs, cell: tuple[int, int] | None, side: int = 10) -> Path:
    heat = np.zeros((len(pairs.images) + pairs.failed, len(FINDINGS), side, side), np.float16)
    if cell is not None:
        heat[:, :, *cell] = 0.5
    np.save(path, heat)
    return path


def test_a_peak_in_the_box_hits_and_one_beside_it_misses(pairs: Pairs, tmp_path: Path) -> None:
    cases = list(from_boxes(LABELS, pairs))
    assert len(cases) == int((pairs.labels[:, MASS] == 1).sum())
    inside = locate(write_heat(tmp_path / "h.npy", pairs, (5, 4)), cases, pairs)
    assert inside["findings"]["Mass"]["hit"]["value"] == 1
    assert inside["findings"]["Mass"]["random"] == pytest.approx(0.04)
    assert inside["findings"]["Mass"]["centre"] == 1
    beside = locate(write_heat(tmp_path / "h.npy", pairs, (5, 6)), cases, pairs)
    assert beside["all"]["hit"]["value"] == 0


def test_a_heatmap_without_heat_is_a_miss(pairs: Pairs, tmp_path: Path) -> None:
    cases = [Case(0, "Mass", Boxes(np.array([[0.0, 0, 1, 1]])), (64, 64))]
    assert (
        locate(write_heat(tmp_path / "h.npy", pairs, None), cases, pairs)["all"]["hit"]["value"]
        == 0
    )


def test_a_finding_that_is_marked_nowhere_is_null_with_the_reason(
    pairs: Pairs, tmp_path: Path
) -> None:
    result = locate(write_heat(tmp_path / "h.npy", pairs, (5, 5)), [], pairs)
    assert result["all"]["cases"] == 0
    assert result["findings"]["Edema"]["hit"]["value"] is None
    assert result["findings"]["Edema"]["hit"]["reason"] == "no box or mask"


@pytest.mark.parametrize(
    ("size", "cell", "hit"),
    [
        ((100, 50), (3, 0), True),  # the image lies in rows 2.5 to 7.5 of ten
        ((100, 50), (1, 0), False),  # above it, in the padding
        ((50, 100), (0, 3), True),
        ((50, 100), (0, 1), False),
    ],
)
def test_padding_of_images_that_are_not_square_is_taken_into_account(
    pairs: Pairs, tmp_path: Path, size: tuple[int, int], cell: tuple[int, int], hit: bool
) -> None:
    top_left = Boxes(np.array([[0.0, 0.0, 0.25, 0.25]]))
    heat = write_heat(tmp_path / "h.npy", pairs, cell)
    result = locate(heat, [Case(0, "Mass", top_left, size)], pairs)
    assert result["all"]["hit"]["value"] == hit


@given(
    st.lists(
        st.tuples(*(st.integers(0, 20) for _ in range(4))).map(
            lambda e: (min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]), max(e[1], e[3]))
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_area_of_boxes_together_is_that_of_their_raster(
    edges: list[tuple[int, int, int, int]],
) -> None:
    raster = np.zeros((20, 20), dtype=bool)
    for left, top, right, bottom in edges:
        raster[top:bottom, left:right] = True
    assert Boxes(np.array(edges) / 20).area == pytest.approx(raster.mean(), abs=1e-12)


def test_masks_are_found_by_name_and_hold_their_pixels(pairs: Pairs, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    stem = Path(str(pairs.images[3])).stem
    drawn = np.zeros((40, 40), dtype=np.uint8)
    drawn[0:10, 30:40] = 255
    Image.fromarray(drawn).save(folder / f"{stem}_Pleural_Thickening.png")
    Image.fromarray(drawn > 0).save(folder / f"{stem}_Mass.png")  # one bit a pixel
    Image.fromarray(drawn * 0).save(folder / f"{stem}_Edema.png")
    cases, unmatched = from_masks(folder, pairs)
    assert unmatched == 0
    assert [(case.row, case.finding, case.size) for case in cases] == [
        (3, "Mass", (40, 40)),
        (3, "Pleural_Thickening", (40, 40)),
    ]
    heat = write_heat(tmp_path / "h.npy", pairs, (1, 8))
    result = locate(heat, cases, pairs)
    found = result["all"]
    assert (found["cases"], found["hit"]["value"], found["centre"]) == (2, 1, 0)
    assert found["random"] == 0.0625


def save_masks(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 255, np.uint8)).save(folder / name)
    return folder


def test_masks_are_matched_by_path_and_by_meaning(pairs: Pairs, tmp_path: Path) -> None:
    names = ["P0/IM_1.png", "P1/IM_1.png", "P1/IM2.png", *pairs.images[3:]]
    pairs = dataclasses.replace(pairs, images=np.array(names, dtype=object))
    folder = save_masks(
        tmp_path / "masks", "P1/IM_1_pleural thickening.png", "IM2_Mass.png", "IM_1_Mass.png",
        "P0/IM_1_Pacemaker.png", "P9/IM2_Mass.png",
    )  # fmt: skip
    cases, unmatched = from_masks(folder, pairs)
    assert [(case.row, case.finding) for case in cases] == [(1, "Pleural_Thickening"), (2, "Mass")]
    assert unmatched == 3


def test_masks_of_which_none_matches_are_refused(pairs: Pairs, tmp_path: Path) -> None:
    folder = save_masks(tmp_path / "masks", "other_Mass.png")
    with pytest.raises(PredictionsError, match=r"none of 1 mask \(other_Mass.png\) belongs"):
        from_masks(folder, pairs)


def test_the_last_pixel_of_a_mask_can_be_hit() -> None:
    mask = Mask(np.eye(4, dtype=bool))
    assert mask.holds(1.0, 1.0)
    assert not mask.holds(1.0, 0.0)


def test_rows_that_failed_do_not_shift_the_heatmaps(tmp_path: Path) -> None:
    table = predicted(LABELS, "test")
    table.loc[0, list(PROBABILITIES)] = np.nan
    table.loc[0, "status"] = "error"
    write(tmp_path / "p.csv", table)
    pairs = pair(tmp_path / "p.csv", LABELS)
    heat = np.full((len(table), len(FINDINGS), 4, 4), np.nan, np.float16)
    heat[1:] = 0
    heat[1, MASS, 0, 3] = 1  # of the first image that was read
    np.save(tmp_path / "h.npy", heat)
    corner = Case(0, "Mass", Boxes(np.array([[0.75, 0, 1, 0.25]])), (64, 64))
    assert locate(tmp_path / "h.npy", [corner], pairs)["all"]["hit"]["value"] == 1


def test_heatmaps_of_other_predictions_are_refused(pairs: Pairs, tmp_path: Path) -> None:
    np.save(tmp_path / "h.npy", np.zeros((3, len(FINDINGS), 4, 4), np.float16))
    with pytest.raises(PredictionsError, match=r"shape \(3, 14, 4, 4\).*needs \(400, 14, h, w\)"):
        locate(tmp_path / "h.npy", [], pairs)
    (tmp_path / "h.npy").write_bytes(b"not an array")
    with pytest.raises(PredictionsError, match="not a NumPy array"):
        locate(tmp_path / "h.npy", [], pairs)
    with pytest.raises(ArtifactError, match="predict --heatmaps"):
        locate(tmp_path / "none.npy", [], pairs)


def test_a_heatmap_that_is_not_finite_is_refused(pairs: Pairs, tmp_path: Path) -> None:
    np.save(tmp_path / "h.npy", np.full((400, len(FINDINGS), 2, 2), np.nan, np.float16))
    with pytest.raises(PredictionsError, match="NaN or infinity"):
        locate(tmp_path / "h.npy", list(from_boxes(LABELS, pairs)), pairs)


def test_a_bare_table_has_no_boxes(pairs: Pairs) -> None:
    bare: Labels = dataclasses.replace(LABELS, boxes=None)
    with pytest.raises(PredictionsError, match="--masks"):
        list(from_boxes(bare, pairs))


def test_a_mask_that_is_no_image_is_refused(pairs: Pairs, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / f"{Path(str(pairs.images[0])).stem}_Mass.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="not a mask"):
        from_masks(folder, pairs)


def test_phantoms_drawn_findings_lie_where_their_masks_and_boxes_say(
    dataset: Dataset, phantoms: Path, tmp_path: Path
) -> None:
    names = dataset.index["image"].to_numpy()[dataset.rows("test")]
    half = np.full((len(names), len(FINDINGS)), 0.5)
    predictions.write(tmp_path / "p.csv", predictions.table(names, half, FINDINGS))
    labels = Labels.read(dataset.folder)
    pairs = pair(tmp_path / "p.csv", labels)
    masks, unmatched = from_masks(phantoms / "masks", pairs)
    assert unmatched > 0
    heat = np.zeros((len(names), len(FINDINGS), 64, 64), np.float16)
    for case in masks:
        assert isinstance(case.region, Mask)
        heat[case.row, FINDINGS.index(case.finding)] = case.region.inside
    np.save(tmp_path / "h.npy", heat)
    on_masks = locate(tmp_path / "h.npy", masks, pairs)["all"]
    assert on_masks["hit"]["value"] == 1
    assert on_masks["cases"] > 20
    assert on_masks["random"] < 0.4
    boxes = list(from_boxes(labels, pairs))
    assert boxes
    assert locate(tmp_path / "h.npy", boxes, pairs)["all"]["hit"]["value"] == 1
