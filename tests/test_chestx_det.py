"""The readers of ChestX-Det and ChestX-Det10, on small trees and on the authors' lists."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import small_trees
from chestxray import sources
from chestxray.dataset import prepare
from chestxray.errors import SourceError
from chestxray.findings import canonical
from chestxray.sources.regions import mask_of_runs, runs_of_mask, text_of_runs
from public_trees import Film, codes

LISTS = {
    "chestxdet": ("ChestX_Det_train.json", "ChestX_Det_test.json"),
    "chestxdet10": ("train.json", "test.json"),
}
both_sets = pytest.mark.parametrize("name", LISTS)


def edit(tree: Path, name: str, how: Callable[[list[dict[str, Any]]], object]) -> Path:
    """Change the entries of a set's list for train."""
    path = tree / LISTS[name][0]
    entries = json.loads(path.read_text())
    how(entries)
    path.write_text(json.dumps(entries))
    return tree


@both_sets
def test_lists_give_the_films_findings_and_the_authors_split(
    build: Callable[[str], Path], films: list[Film], name: str
) -> None:
    tree = build(name)
    assert sources.recognise(tree).name == name
    assert sources.recognise(tree / LISTS[name][0]).name == name
    read = sources.read(tree)
    assert len(read.findings) == {"chestxdet": 13, "chestxdet10": 10}[name]
    assert not read.problems
    for row in read.rows.to_dict("records"):
        film = films[int(row["image"][:-4]) - 36000]
        for finding in ("Effusion", "Mass", "Nodule", "Pneumothorax", "Consolidation"):
            assert row[finding] == float(finding in film.findings)
        assert (row["image"] in read.official["test"]) == (film.number >= 18)
    assert (read.rows["Fracture"] == 0).all(), "the readers looked for it"
    assert sorted(read.official) == ["test", "train_val"]


def test_a_diffuse_nodule_is_a_nodule_with_its_box_and_its_mask(
    build: Callable[[str], Path],
) -> None:
    read = sources.read(build("chestxdet"))
    rows = read.rows
    assert (rows["Nodule"] == rows["Diffuse Nodule"]).all()
    assert rows["Nodule"].sum() > 0
    for table in (read.boxes, read.masks):
        finer, broader = (
            table[table["finding"] == finding].drop(columns="finding").reset_index(drop=True)
            for finding in ("Diffuse Nodule", "Nodule")
        )
        assert len(finer) == rows["Nodule"].sum()
        pd.testing.assert_frame_equal(finer, broader)


@both_sets
def test_boxes_and_masks_lie_where_the_lists_say(
    build: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    tree = build(name)
    read = sources.read(tree)
    entries = [entry for path in LISTS[name] for entry in json.loads((tree / path).read_text())]
    count = 0
    for entry in entries:
        for place, title in enumerate(entry["syms"]):
            left, top, right, bottom = entry["boxes"][place]
            mine = read.boxes[
                (read.boxes["image"] == entry["file_name"])
                & (read.boxes["finding"] == canonical(title))
            ]
            expected = np.array([left, top, right - left, bottom - top]) / 1024
            assert np.isclose(mine[[*"xywh"]], expected).all(axis=1).any()
            count += 1
            if name == "chestxdet":
                drawn = read.masks[
                    (read.masks["image"] == entry["file_name"])
                    & (read.masks["finding"] == canonical(title))
                ]
                mask = mask_of_runs(drawn["runs"].iloc[0])
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                assert [columns[0], rows[0], columns[-1], rows[-1]] == [
                    left, top, min(right, 1023), min(bottom, 1023),
                ]  # fmt: skip
                area = (right - left) * (bottom - top)
                assert mask.sum() == pytest.approx(0.875 * area, rel=0.1)  # of an octagon
    assert count > 10
    assert len(read.masks) == (0 if name == "chestxdet10" else len(read.boxes))
    dataset = prepare(tree, tmp_path / "dataset", size=32, allow_empty=True)
    assert len(dataset.boxes) == len(read.boxes)
    if name == "chestxdet":
        packed = dataset.masks[np.arange(len(dataset.index))].any((2, 3))
        labels = dataset.index[list(dataset.manifest.findings)].to_numpy() == 1
        assert np.array_equal(packed, labels)


def test_overlapping_polygons_of_a_finding_are_one_mask_without_a_hole(
    build: Callable[[str], Path],
) -> None:
    square = [[100, 100], [300, 100], [300, 300], [100, 300]]
    shifted = [[x + 100, y] for x, y in square]

    def two(entries: list[dict[str, Any]]) -> None:
        boxes = [[100, 100, 300, 300], [200, 100, 400, 300]]
        entries[0] |= {"syms": ["Mass", "Mass"], "boxes": boxes, "polygons": [square, shifted]}

    read = sources.read(edit(build("chestxdet"), "chestxdet", two))
    masks = read.masks[(read.masks["image"] == "36000.png") & (read.masks["finding"] == "Mass")]
    mask = mask_of_runs(masks["runs"].item())
    assert mask[100:301, 100:401].all()
    assert mask.sum() == 201 * 301


def test_runs_of_a_mask_and_the_mask_of_runs_are_inverse() -> None:
    rng = np.random.default_rng(0)
    for share in (0, 0.1, 0.5, 0.9, 1):
        mask = rng.random((7, 5)) < share
        assert np.array_equal(mask_of_runs(text_of_runs(runs_of_mask(mask), 7, 5)), mask)


@both_sets
def test_a_byte_order_mark_and_repeated_entries_change_nothing(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    before = sources.read(tree)
    path = tree / LISTS[name][0]
    entries = json.loads(path.read_text())
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(entries * 2, indent=1).encode())
    after = sources.read(tree)
    assert codes(after) == {"repeated-row": 18}
    pd.testing.assert_frame_equal(before.rows, after.rows)
    pd.testing.assert_frame_equal(before.boxes, after.boxes)
    pd.testing.assert_frame_equal(before.masks, after.masks)


@both_sets
def test_images_without_an_entry_and_entries_without_an_image_are_counted(
    build: Callable[[str], Path], name: str
) -> None:
    tree = build(name)
    before = sources.read(tree)
    (tree / "train/36000.png").rename(tree / "train/99999.png")
    after = sources.read(tree)
    assert codes(after) == {"missing-image": 1, "missing-row": 1}
    assert after.rows["image"].tolist() == before.rows["image"].tolist()[1:]
    assert "36000.png" not in set(after.boxes["image"]) | set(after.masks["image"])


@both_sets
def test_an_unknown_class_leaves_open_what_its_image_does_not_name(
    build: Callable[[str], Path], name: str
) -> None:
    def strange(entries: list[dict[str, Any]]) -> None:
        entries[0] |= {"syms": ["Mass", "Ovni"], "boxes": [[1, 1, 9, 9]] * 2}
        if "polygons" in entries[0]:
            entries[0]["polygons"] = [[[1, 1], [9, 1], [9, 9]]] * 2

    read = sources.read(edit(build(name), name, strange))
    assert codes(read) == {"unknown-label": 1}
    assert read.rows["Mass"].iloc[0] == 1
    others = read.rows.iloc[0][[f for f in read.findings if f != "Mass"]]
    assert others.isna().all()
    assert set(read.boxes["finding"]) <= set(read.findings)


@pytest.mark.parametrize(
    "bad",
    [
        {"syms": ["Mass"], "boxes": []}, {"syms": "Mass", "boxes": [[1, 1, 2, 2]]},
        {"syms": [7], "boxes": [[1, 1, 2, 2]]}, {"boxes": []},
    ],
)  # fmt: skip
def test_an_entry_whose_lists_do_not_fit_is_unknown_and_counted(
    build: Callable[[str], Path], bad: dict[str, Any]
) -> None:
    def spoil(entries: list[dict[str, Any]]) -> None:
        entries[0] = {"file_name": entries[0]["file_name"], "polygons": [[]], **bad}
        entries.insert(0, entries.pop(1))

    read = sources.read(edit(build("chestxdet"), "chestxdet", spoil))
    assert codes(read) == {"unreadable-labels": 1}
    assert read.rows.iloc[0][list(read.findings)].isna().all()


@pytest.mark.parametrize(
    ("box", "polygon"),
    [
        ([1, 1, 2], [[1, 1], [2, 1], [2, 2]]), ([1, 1, 2, 1e400], [[1, 1], [2, 1], [2, 2]]),
        ([1, 1, "2", 2], [[1, 1], [2, 1], [2, 2]]), ([1, 1, 9, 9], [[1, 1], [2, 1]]),
        ([1, 1, 9, 9], [[1, 1], [2, 1], [2]]), ([1, 1, 9, 9], [[1, 1], [2, 1], [2, 99999]]),
        ([1, 1, 9, 9], [[1, 1], [2, 1], [2, float("nan")]]),
    ],
)  # fmt: skip
def test_a_region_outside_the_frame_is_left_out_and_its_label_stays(
    build: Callable[[str], Path], box: list[Any], polygon: list[Any]
) -> None:
    def spoil(entries: list[dict[str, Any]]) -> None:
        entries[0] |= {"syms": ["Mass"], "boxes": [box], "polygons": [polygon]}

    read = sources.read(edit(build("chestxdet"), "chestxdet", spoil))
    assert codes(read) == {"bad-region": 1}
    assert read.rows["Mass"].iloc[0] == 1
    mine = [table[table["image"] == "36000.png"] for table in (read.boxes, read.masks)]
    assert sum(map(len, mine)) == 1, "the other of box and mask is kept"


KEYS = '"file_name", "syms", "boxes", "polygons"'


@pytest.mark.parametrize(
    "text",
    [f"[{KEYS}", f"[{KEYS}]", f"[[{KEYS}]]", f"[{KEYS}, " + "[" * 10**5, f"{{{KEYS}: 1}}"],
    ids=["cut", "texts", "lists", "deep", "no JSON"],
)
def test_a_file_that_is_no_list_of_entries_is_refused_with_its_name(
    build: Callable[[str], Path], text: str
) -> None:
    tree = build("chestxdet")
    (tree / "ChestX_Det_train.json").write_text(text)
    with pytest.raises(SourceError, match=r"ChestX_Det_train\.json is not a list of entries with"):
        sources.read(tree)
    with pytest.raises(SourceError, match="holds no label list of ChestX-Det10"):
        sources.read(tree, "chestxdet10")


def test_another_tools_train_json_is_not_chestx_det10(tmp_path: Path) -> None:
    coco = {"images": [{"file_name": "1.png"}], "annotations": [], "categories": []}
    small_trees.placed(tmp_path / "train.json", json.dumps(coco).encode())
    with pytest.raises(SourceError, match="holds no image"):
        sources.read(tmp_path)


REAL = {
    "chestxdet": {
        "Atelectasis": 297, "Calcification": 202, "Cardiomegaly": 293, "Consolidation": 1642,
        "Diffuse Nodule": 169, "Effusion": 1441, "Emphysema": 176, "Fibrosis": 500,
        "Fracture": 389, "Mass": 148, "Nodule": 529, "Pleural_Thickening": 499,
        "Pneumothorax": 189,
    },
    "chestxdet10": {
        "Atelectasis": 297, "Calcification": 201, "Consolidation": 1629, "Effusion": 1428,
        "Emphysema": 176, "Fibrosis": 499, "Fracture": 389, "Mass": 142, "Nodule": 384,
        "Pneumothorax": 189,
    },
}  # fmt: skip
"""Images by finding, counted once on the authors' lists; Nodule holds Diffuse Nodule."""
IMAGES = {"chestxdet": (3025, 553), "chestxdet10": (3001, 542)}
BOXES = {"chestxdet": 9928, "chestxdet10": 8338}


@both_sets
def test_the_authors_lists_give_the_images_that_were_counted_in_them(name: str) -> None:
    folder = Path(os.environ.get("CHESTX_DET", "chestx-det-is-not-here"))
    lists = [path for title in LISTS[name] for path in sorted(folder.rglob(title))]
    if not lists:
        pytest.skip("CHESTX_DET names no folder with the lists of the authors' repositories")
    read = [sources.read(path) for path in lists]
    assert tuple(len(each.rows) for each in read) == IMAGES[name]
    rows = pd.concat([each.rows for each in read])
    assert rows["image"].is_unique
    found = {finding: int(rows[finding].sum()) for finding in read[0].findings}
    assert found == REAL[name]
    assert sum(len(each.boxes) for each in read) == BOXES[name]
    assert not [p for each in read for p in each.problems if p.code != "no-official-split"]
