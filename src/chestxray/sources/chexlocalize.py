"""Regions of CheXlocalize: where radiologists saw ten findings in CheXpert's valid and test.

`gt_segmentations_val.json` and `gt_segmentations_test.json` hold a mask (COCO run lengths) for an
image, named as `patient64622_study1_view1_frontal`, and a finding; `gt_annotations_…` hold the
contours that the masks were made from. Masks come from the former, else from the contours; boxes
from the contours, one for each, else from the parts of the mask that hang together. Airspace
Opacity is their word for Lung Opacity. A region of a finding that the image's label calls absent is
left out.

Source: Saporta et al., Nature Machine Intelligence 4, 2022 (doi:10.1038/s42256-022-00536-x).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import cv2
import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import canonical
from chestxray.sources.collection import (
    MASK_COLUMNS,
    Collection,
    Problem,
    problem,
)
from chestxray.sources.files import scan
from chestxray.sources.json_files import json_value
from chestxray.sources.regions import (
    MOST_PIXELS,
    SLACK,
    Runs,
    fractions,
    mask_of_runs,
    runs_from_coco,
    runs_of_mask,
    text_of_runs,
)

_SEGMENTATIONS: Final = ("gt_segmentations_val.json", "gt_segmentations_test.json")
_ANNOTATIONS: Final = ("gt_annotations_val.json", "gt_annotations_test.json")
_WHAT: Final = "a file of regions of CheXlocalize"

_Contour = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Region:
    """Where a finding is in an image.

    Attributes:
        size: height and width of the image, pixels.
        runs: of its mask; None where it is not given.
        contours: points x, y in pixels; empty where they are not given.
    """

    size: tuple[int, int]
    runs: Runs | None = None
    contours: tuple[_Contour, ...] = ()


_Regions = dict[tuple[str, str], _Region]


def with_regions(collection: Collection, tree: Path) -> Collection:
    """Give a collection the boxes and masks of CheXlocalize, and what of them cannot be used.

    Args:
        collection: whose images are named as CheXpert's, `valid/patient64622/study1/view1_….jpg`.
        tree: where the files of CheXlocalize are looked for, by their names.

    Raises:
        SourceError: a file is not what its name says.
    """
    found, bad, outside = _drawn(tree)
    kept, problems = _of_images(found, collection)
    problems += problem(
        "bad-mask",
        bad,
        "the run lengths of a region do not fill its image: the region is left out",
        loses=True,
    )
    problems += problem(
        "bad-contour",
        outside,
        "a contour is not inside its image: left out",
        loses=True,
    )
    if not kept:
        return replace(collection, problems=(*collection.problems, *problems))
    sides = ["image", "finding", *"xywh", "width", "height"]
    boxes, wrong = fractions(
        pd.DataFrame(
            [
                (image, finding, *box, region.size[1], region.size[0])
                for (image, finding), region in kept.items()
                for box in _boxes(region)
            ],
            columns=sides,
        )
    )
    masks = pd.DataFrame(
        [
            (image, finding, "", text_of_runs(_runs(region), *region.size))
            for (image, finding), region in kept.items()
        ],
        columns=[*MASK_COLUMNS, "runs"],
        dtype=object,
    )
    return replace(
        collection, boxes=boxes, masks=masks, problems=(*collection.problems, *problems, *wrong)
    )


def _drawn(tree: Path) -> tuple[_Regions, list[str], list[str]]:
    """Read all files; a region by CheXlocalize's name of the image and the finding.

    Returns:
        The regions, and those whose mask, and those of which a contour is not usable.
    """
    regions: _Regions = {}
    bad: list[str] = []
    outside: list[str] = []
    for path in _named(tree, _SEGMENTATIONS):
        with _checked(path):
            bad += _add_masks(regions, path)
    for path in _named(tree, _ANNOTATIONS):
        with _checked(path):
            outside += _add_contours(regions, path)
    return regions, bad, outside


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
        raise SourceError(f"{path} is not {_WHAT} ({error!r}): download it again") from error


def _add_masks(regions: _Regions, path: Path) -> list[str]:
    """Add the masks of a file; gives those that are not usable. An empty mask is no region."""
    bad = []
    for image, of_image in json_value(path, _WHAT).items():
        for finding, mask in of_image.items():
            size = _size(mask["size"])
            runs = runs_from_coco(mask["counts"], *size)
            if runs is None:
                bad.append(f"{image} ({finding})")
            elif len(runs):
                regions[image, canonical(finding)] = _Region(size, runs)
    return bad


def _add_contours(regions: _Regions, path: Path) -> list[str]:
    """Add the contours of a file to the masks that are known; gives those that are not usable."""
    bad = []
    for image, of_image in json_value(path, _WHAT).items():
        size = _size(of_image["img_size"])
        for finding, drawn in of_image.items():
            if finding == "img_size":
                continue
            points = [[(x, y) for x, y in each] for each in drawn if each]
            inside = [each for each in points if _is_inside(each, size)]
            bad += [f"{image} ({finding})"] * (len(points) - len(inside))
            if inside:
                known = regions.get((image, canonical(finding)), _Region(size))
                contours = tuple(tuple((float(x), float(y)) for x, y in each) for each in inside)
                regions[image, canonical(finding)] = replace(known, contours=contours)
    return bad


def _is_inside(contour: Sequence[tuple[object, object]], size: tuple[int, int]) -> bool:
    """Tell whether all points are numbers in the image, or out of it by rounding alone."""
    return all(
        type(at) in {int, float} and -SLACK <= at <= side - 1 + SLACK  # type: ignore[operator]
        for point in contour
        for at, side in zip(point, reversed(size), strict=True)
    )


def _size(size: list[int]) -> tuple[int, int]:
    """Check height and width; a size that is none raises ValueError."""
    height, width = (int(side) for side in size)
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise ValueError(f"the size of an image is {size}")
    return height, width


def _named(tree: Path, names: tuple[str, ...]) -> list[Path]:
    """Find the shallowest file of each name."""
    files = {path.name: path for path in reversed(scan(tree).json)} if tree.is_dir() else {}
    return [files[name] for name in names if name in files]


def _of_images(regions: _Regions, collection: Collection) -> tuple[_Regions, list[Problem]]:
    """Keep the regions of findings that an image of the collection does not lack."""
    rows = collection.rows
    short = ["_".join(PurePosixPath(image).with_suffix("").parts[1:]) for image in rows["image"]]
    place = dict(zip(short, range(len(rows)), strict=True))
    labels = {finding: rows[finding].to_numpy() for finding in collection.findings}
    kept: _Regions = {}
    left: dict[str, list[str]] = {"image": [], "finding": [], "absent": []}
    for (image, finding), region in regions.items():
        name = f"{image} ({finding})"
        if image not in place:
            left["image"].append(image)
        elif finding not in labels:
            left["finding"].append(name)
        elif labels[finding][place[image]] == 0:
            left["absent"].append(name)
        else:
            kept[rows["image"].iloc[place[image]], finding] = region
    return kept, [
        *problem(
            "region-without-image",
            Counter(left["image"]),
            "CheXlocalize has regions of an image that is not read: not used",
            loses=False,
        ),
        *problem(
            "unknown-region-finding",
            left["finding"],
            "a region names none of the findings: left out",
            loses=True,
        ),
        *problem(
            "region-of-absent-finding",
            left["absent"],
            "a region is drawn of a finding that the image's label calls absent: left out",
            loses=True,
        ),
    ]


def _boxes(region: _Region) -> list[tuple[float, float, float, float]]:
    """Give x, y, w, h in pixels of each contour, or of each part of the mask."""
    if region.contours:
        points = [np.array(each) for each in region.contours]
        corners = [(each.min(axis=0), each.max(axis=0)) for each in points]
        return [(*low, *(high - low + 1)) for low, high in corners]
    mask = mask_of_runs(text_of_runs(_runs(region), *region.size)).astype(np.uint8)
    _, _, parts, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return [(float(x), float(y), float(w), float(h)) for x, y, w, h, _ in parts[1:]]


def _runs(region: _Region) -> Runs:
    if region.runs is not None:
        return region.runs
    mask = np.zeros(region.size, dtype=np.uint8)
    cv2.fillPoly(mask, [np.rint(each).astype(np.int32) for each in region.contours], 1)
    return runs_of_mask(mask > 0)
