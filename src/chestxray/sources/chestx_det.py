"""The sources `chestxdet` and `chestxdet10`: images of NIH with boxes and outlines by radiologists.

ChestX-Det: `ChestX_Det_train.json` and `ChestX_Det_test.json`, lists of an entry per image:
`file_name`, and of the same length `syms` (classes), `boxes` (left, top, right, bottom) and
`polygons` (lists of points). ChestX-Det10: `train.json` and `test.json`, 10 of the 13 classes on
nearly the same images, without polygons. All places are in the frame of NIH's 1024 × 1024 pixels.

Polygons become masks. The regions of Diffuse Nodule are also regions of Nodule, which it implies.
The files were renamed, so that neither NIH's names nor its patients are known.

Sources: Liu et al., arXiv 2006.10550 (ChestX-Det10); Lian et al., IEEE Transactions on Medical
Imaging 40(8), 2021 (ChestX-Det).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import Findings, canonical, implied
from chestxray.sources.assembly import Stated, assemble, completeness
from chestxray.sources.collection import (
    MASK_COLUMNS,
    Collection,
    Problem,
    ReadOptions,
    SourceCard,
    problem,
)
from chestxray.sources.files import scan
from chestxray.sources.json_files import json_value
from chestxray.sources.regions import Runs, fractions, runs_of_mask, text_of_runs
from chestxray.sources.table_labels import TableLabels

CLASSES: Final = (
    "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "Diffuse Nodule", "Effusion",
    "Emphysema", "Fibrosis", "Fracture", "Mass", "Nodule", "Pleural Thickening", "Pneumothorax",
)  # fmt: skip
"""The classes of ChestX-Det."""

CLASSES_10: Final = tuple(
    name for name in CLASSES if name not in {"Cardiomegaly", "Diffuse Nodule", "Pleural Thickening"}
)
"""The classes of ChestX-Det10."""

_SIDE: Final = 1024  # pixels, of the frame of all regions
_MOST_REGIONS: Final = 200_000  # of a list; that of ChestX-Det's train has 7,905
_HEAD: Final = 4096  # bytes in which a list shows what it is


class _Region(NamedTuple):
    """One place of a class, in pixels of the frame.

    Attributes:
        box: left, top, right, bottom; None where it is not readable.
        outline: int32 [n, 2], x and y; None where it is not readable, empty where there is none.
    """

    name: str
    box: tuple[float, ...] | None
    outline: npt.NDArray[np.int32] | None


class _Entry(NamedTuple):
    """What a list says of an image.

    Attributes:
        image: its file name.
        part: `train` or `test`.
        regions: one for each class that is named; None where the entry cannot be read.
    """

    image: str
    part: str
    regions: tuple[_Region, ...] | None


@dataclass(frozen=True)
class _ChestXDet:
    """One of the two sets.

    Attributes:
        name: of the source.
        lists: the part that each file states, by its name in lower case.
        outlined: whether the entries have polygons.
        classes: that the readers looked for.
        images: in each part.
        card: of the source.
    """

    name: str
    lists: dict[str, str]
    outlined: bool
    classes: tuple[str, ...]
    images: dict[str, int]
    card: SourceCard

    def recognises(self, tree: Path) -> bool:
        return bool(self._found(tree))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        lists = self._found(tree)
        if not lists:
            raise SourceError(
                f"{tree} holds no label list of {self.card.title} (entries with file_name, syms, "
                f"boxes{' and polygons' * self.outlined}): put {' and '.join(self.lists)} into it"
            )
        entries = [entry for path in lists for entry in _entries(path, self._part(path))]
        entries = [entry for entry in entries if entry.image]
        rows, labels = _rows(entries), _labels(entries, self.classes)
        parts = pd.Series([entry.part for entry in entries], dtype="str")
        stated = Stated(
            rows=rows,
            labels=labels,
            parts=parts,
            facts={
                **completeness(parts, self.images),
                "label table": ", ".join(path.name for path in lists),
                "patients": "not published: each image counts as its own patient",
            },
        )
        collection = assemble(self, tree, lists[0], stated, options)
        kept = frozenset(collection.rows["image"])
        here = [entry for entry in entries if entry.image in kept]
        regions, found = _regions(here, collection.findings)
        boxes, bad = fractions(_boxes(regions))
        return replace(
            collection,
            boxes=boxes,
            masks=_masks(regions),
            problems=(*collection.problems, *found, *bad),
        )

    def _part(self, path: Path) -> str:
        return self.lists.get(path.name.casefold(), "")

    def _found(self, tree: Path) -> list[Path]:
        """Give the first list of each part, train before test: in a folder, or a list alone."""
        if tree.is_file():
            paths = [tree] if tree.suffix.casefold() == ".json" else []
        else:
            paths = scan(tree).json if tree.is_dir() else []
        found: dict[str, Path] = {}
        for path in paths:
            if self._part(path) and self._looks_right(path):
                found.setdefault(self._part(path), path)
        return [found[part] for part in ("train", "test") if part in found]

    def _looks_right(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except OSError:
            return False
        keys = (b'"file_name"', b'"syms"', b'"boxes"')
        return all(key in head for key in keys) and (b'"polygons"' in head) == self.outlined


_LICENCE: Final = "Apache-2.0 by the licence of its repository; the images are NIH's."
_SPLIT: Final = (
    "The authors' train and test; val is drawn from train. No patient is published, so images of "
    "one patient may be in train and test."
)
_DIFFERS: Final = ("not read by torchxrayvision",)

CHESTX_DET: Final = _ChestXDet(
    "chestxdet",
    {"chestx_det_train.json": "train", "chestx_det_test.json": "test"},
    True,
    CLASSES,
    {"train": 3025, "test": 553},
    SourceCard(
        title="ChestX-Det",
        citation="Lian et al., IEEE Transactions on Medical Imaging 40(8), 2021 (arXiv 2104.10326)",
        licence=_LICENCE,
        access="Download http://resource.deepwise.com/ChestX-Det/train_data.zip and test_data.zip, "
        "unpack them, and put ChestX_Det_train.json and ChestX_Det_test.json of "
        "https://github.com/Deepwise-AILab/ChestX-Det-Dataset beside them.",
        label_origin="Named, boxed and outlined by three radiologists in 13 classes.",
        reasons="Nothing is uncertain: the readers looked for every class in every image, so one "
        "that is not named is absent.",
        split=_SPLIT,
        differs=_DIFFERS,
    ),
)
CHESTX_DET10: Final = _ChestXDet(
    "chestxdet10",
    {"train.json": "train", "test.json": "test"},
    False,
    CLASSES_10,
    {"train": 3001, "test": 542},
    SourceCard(
        title="ChestX-Det10",
        citation="Liu et al., ChestX-Det10, 2020 (arXiv 2006.10550)",
        licence="No licence is stated in its repository; the images are NIH's.",
        access="Download http://resource.deepwise.com/xraychallenge/train_data.zip and "
        "test_data.zip, unpack them, and put train.json and test.json of "
        "https://github.com/Deepwise-AILab/ChestX-Det10-Dataset beside them.",
        label_origin="Named and boxed by three radiologists in 10 classes.",
        reasons="Nothing is uncertain: the readers looked for every class in every image, so one "
        "that is not named is absent.",
        split=_SPLIT,
        differs=_DIFFERS,
    ),
)


def _entries(path: Path, part: str) -> list[_Entry]:
    """Read a list.

    Raises:
        SourceError: it is not a list of entries with a file name, or has too many regions.
    """
    what = "a list of entries with file_name, syms and boxes"
    listed = json_value(path, what)
    try:
        entries = [_Entry(str(each["file_name"]), part, _named(each)) for each in listed]
    except (TypeError, KeyError, AttributeError) as error:
        raise SourceError(f"{path} is not {what} ({error}): download it again") from error
    if sum(len(entry.regions or ()) for entry in entries) > _MOST_REGIONS:
        raise SourceError(f"{path} has more than {_MOST_REGIONS} regions, the most that are read")
    return entries


def _named(entry: dict[str, Any]) -> tuple[_Region, ...] | None:
    """Give the regions of an entry; None where its lists do not fit each other."""
    names, boxes = entry.get("syms"), entry.get("boxes")
    if not isinstance(names, list) or not isinstance(boxes, list):
        return None
    outlines = entry.get("polygons", [[]] * len(names))
    if not isinstance(outlines, list) or not len(names) == len(boxes) == len(outlines):
        return None
    if not all(isinstance(name, str) for name in names):
        return None
    return tuple(
        _Region(canonical(name), _box(box), _outline(outline))
        for name, box, outline in zip(names, boxes, outlines, strict=True)
    )


def _box(written: object) -> tuple[float, ...] | None:
    if not isinstance(written, list) or len(written) != 4 or not all(map(_is_place, written)):
        return None
    return tuple(map(float, written))


def _outline(written: object) -> npt.NDArray[np.int32] | None:
    if written == []:
        return np.empty((0, 2), np.int32)
    if not isinstance(written, list) or len(written) < 3:
        return None
    if not all(isinstance(at, list) and len(at) == 2 and all(map(_is_place, at)) for at in written):
        return None
    places = np.array(written, dtype=np.float64).round().astype(np.int32)
    return np.minimum(places, _SIDE - 1)


def _is_place(value: object) -> bool:
    """Tell whether a coordinate lies in the frame."""
    return type(value) in {int, float} and 0 <= value <= _SIDE  # type: ignore[operator]


def _rows(entries: Sequence[_Entry]) -> pd.DataFrame:
    images = pd.Series([entry.image for entry in entries], dtype="str")
    rows = pd.DataFrame({"image": images, "file": images, "patient": images})
    return rows.assign(study="", follow_up=0, age=np.nan, sex="", view="")


def _labels(entries: Sequence[_Entry], classes: Sequence[str]) -> TableLabels:
    """Give 1 for each class that an entry names; unreadable entries and classes are unknown."""
    findings = Findings([canonical(name) for name in classes])
    values = np.full((len(entries), len(findings)), np.nan)
    strange, unreadable = [], []
    open_ = np.zeros(len(entries), dtype=bool)
    for row, entry in enumerate(entries):
        names = {region.name for region in entry.regions or ()}
        values[row, [place for place, name in enumerate(findings) if name in names]] = 1
        odd = sorted(names.difference(findings))
        strange += [f"{entry.image} ({name})" for name in odd]
        unreadable += [entry.image] * (entry.regions is None)
        open_[row] = bool(odd) or entry.regions is None
    return TableLabels(
        findings=findings,
        values=values,
        unknown=open_[:, None] & np.isnan(values),
        empty=np.zeros(len(entries), dtype=bool),
        blank="negative",
        reason="since the readers looked for every class",
        problems=[
            *problem(
                "unknown-label",
                strange,
                "a class is not one of the set: what the image's entry does not name is unknown",
                loses=True,
            ),
            *problem(
                "unreadable-labels",
                unreadable,
                "syms, boxes and polygons are not lists of equal length: all findings of the image "
                "are unknown",
                loses=True,
            ),
        ],
    )


def _regions(
    entries: Sequence[_Entry], findings: Findings
) -> tuple[list[tuple[str, _Region]], list[Problem]]:
    """Give the regions of the findings and of what they imply, and count unreadable places."""
    found, bad = [], []
    for entry in entries:
        for region in entry.regions or ():
            if region.box is None or region.outline is None:
                bad.append(entry.image)
            names = [name for name in (region.name, *implied(region.name)) if name in findings]
            found += [(entry.image, region._replace(name=name)) for name in names]
    return found, problem(
        "bad-region",
        bad,
        f"a box or polygon is not inside {_SIDE} × {_SIDE} pixels: left out; the label stays",
        loses=True,
    )


def _boxes(regions: Sequence[tuple[str, _Region]]) -> pd.DataFrame:
    found = [
        (image, region.name, left, top, right - left, bottom - top, _SIDE, _SIDE)
        for image, region in regions
        if region.box is not None
        for left, top, right, bottom in [region.box]
    ]
    return pd.DataFrame(found, columns=["image", "finding", *"xywh", "width", "height"])


def _masks(regions: Sequence[tuple[str, _Region]]) -> pd.DataFrame:
    """Draw the polygons of each image and finding into one mask."""
    drawn: dict[tuple[str, str], list[npt.NDArray[np.int32]]] = {}
    for image, region in regions:
        if region.outline is not None and len(region.outline):
            drawn.setdefault((image, region.name), []).append(region.outline)
    found = [
        (image, name, "", text_of_runs(_filled(outlines), _SIDE, _SIDE))
        for (image, name), outlines in drawn.items()
    ]
    return pd.DataFrame(found, columns=[*MASK_COLUMNS, "runs"], dtype=object)


def _filled(outlines: Sequence[npt.NDArray[np.int32]]) -> Runs:
    """Give the runs of the union of polygons; only the columns between them are drawn."""
    columns = np.concatenate(outlines)[:, 0]
    left = int(columns.min())
    turned = np.zeros((int(columns.max()) - left + 1, _SIDE), np.uint8)  # runs go down the columns
    for outline in outlines:  # one by one: where two overlap in one call, neither is filled
        cv2.fillPoly(turned, [np.ascontiguousarray((outline - (left, 0))[:, ::-1])], 1)
    runs = runs_of_mask(turned.T > 0)
    runs[:, 0] += left * _SIDE
    return runs
