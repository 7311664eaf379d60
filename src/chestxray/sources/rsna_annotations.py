"""The annotations of RSNA Pneumonia as RSNA itself releases them: a project export of MD.ai, JSON.

`pneumonia-challenge-annotations-adjudicated-kaggle_2018.json` has groups of labels, one for each
team of readers and `Calculated` for the adjudicated result, and annotations: an image by its SOP
Instance UID, a label, and a box in `data` for Lung Opacity, in the frame that the annotation
states. Of 30,000 images 29,684 have an adjudicated label; the others are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.collection import Problem, problem
from chestxray.sources.files import scan
from chestxray.sources.json_files import json_value

GROUP: Final = "Calculated"
"""The group of labels that were adjudicated."""

IMAGES: Final = 29_684
"""Images with an adjudicated label."""

_NAME: Final = "pneumonia-challenge-annotations"
_WHAT: Final = "RSNA's export of MD.ai with labelGroups and datasets"
_LARGEST: Final = 1e9  # pixels; no place in an image is as far
_BOX: Final = {"x": "x", "y": "y", "w": "width", "h": "height"}


def annotation_files(tree: Path) -> list[Path]:
    """Find the annotation files by their name, the shallowest first: in a folder, or a file."""
    files = [tree] if tree.is_file() else scan(tree).json if tree.is_dir() else []
    return [
        path for path in files if path.name.startswith(_NAME) and path.suffix.casefold() == ".json"
    ]


def read_annotations(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read the adjudicated annotations.

    Returns:
        A row an annotation: `image` (SOP Instance UID), `kind` (Normal, Lung Opacity or No Lung
        Opacity / Not Normal), `x`, `y`, `w`, `h` in pixels and `width`, `height` of their frame,
        NaN where there is no box; and what could not be used.

    Raises:
        SourceError: the file is another, or has no adjudicated group.
    """
    project = json_value(path, _WHAT)
    try:
        labels = _labels_of_group(project)
        rows = list(_adjudicated(project, labels))
    except (TypeError, KeyError, AttributeError) as error:
        raise SourceError(f"{path} is not {_WHAT} ({error!r}): download it again") from error
    if not rows:
        known = ", ".join(str(each.get("name")) for each in project.get("labelGroups", []))
        raise SourceError(
            f"{path} has no annotation of the group {GROUP}, which is the adjudicated one (groups: "
            f"{known or 'none'}): download RSNA's adjudicated annotations"
        )
    columns = ["image", "kind", *_BOX, "width", "height"]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[2:], "float64"))
    nameless = table["image"] == ""
    return table[~nameless].drop_duplicates(ignore_index=True), problem(
        "no-image",
        table["kind"][nameless],
        "an adjudicated annotation names no image by its SOP Instance UID: left out",
        loses=True,
    )


def _labels_of_group(project: Mapping[str, Any]) -> dict[str, str]:
    """Give the names of the labels of the adjudicated group, by their ids."""
    return {
        str(label["id"]): str(label["name"])
        for group in project["labelGroups"]
        if group["name"] == GROUP
        for label in group["labels"]
    }


def _adjudicated(
    project: Mapping[str, Any], labels: Mapping[str, str]
) -> Iterator[tuple[object, ...]]:
    for dataset in project["datasets"]:
        for each in dataset["annotations"]:
            if each["labelId"] in labels:
                box = each.get("data") or {}
                sides = [_number(box.get(theirs)) for theirs in _BOX.values()]
                frame = [_number(each.get(side)) for side in ("width", "height")]
                image = str(each.get("SOPInstanceUID") or "")
                yield image, labels[each["labelId"]], *sides, *frame


def _number(value: object) -> float:
    """Give a number; NaN for all else, and for what no double holds."""
    if not isinstance(value, int | float) or not abs(value) < _LARGEST:
        return math.nan
    return float(value)
