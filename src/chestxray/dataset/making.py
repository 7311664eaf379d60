"""The files of a dataset, made in a working folder, then moved to their places.

Every step may be cut off and done again: what is made is made from the plan, the rows and the
journal alone, and the manifest is the last to be written and the last to be moved.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.artifacts import sha256, sync_folder, write_json, write_table, written
from chestxray.dataset.packing import pack
from chestxray.dataset.split import PARTS
from chestxray.dataset.store import (
    BOXES,
    IMAGES,
    INDEX,
    INDEX_COLUMNS,
    MANIFEST,
    Failure,
    Manifest,
    Plan,
    SourceProblem,
)
from chestxray.errors import SourceError
from chestxray.findings import FINDINGS, NO_FINDING
from chestxray.sources.collection import Collection

_JOURNAL: Final = "journal.jsonl"
_LISTED: Final = "listed.npy"  # a row for every image listed, those included that can't be read
_ROWS_AT_A_TIME: Final = 1024


def make(collection: Collection, rows: pd.DataFrame, plan: Plan, work: Path) -> None:
    """Make images, index, boxes and then the manifest in the working folder.

    Args:
        collection: the raw tree.
        rows: the collection's, with `split`.
        plan: what is to be made of them.
        work: the folder, which may hold what an earlier call made.

    Raises:
        SourceError: no image can be read.
        ArtifactError: the folder cannot be written.
    """
    files = pack(rows["path"].tolist(), plan.size, work / _LISTED, work / _JOURNAL)
    rows = rows.assign(reason=[file if isinstance(file, str) else "" for file in files])
    readable = (rows["reason"] == "").to_numpy()
    if not readable.any():
        raise SourceError(f"no image can be read, such as {rows['path'].iloc[0]}: {files[0]}")
    if not readable.all():
        _keep(work / _LISTED, np.flatnonzero(readable), work / IMAGES)
    sides = [file for file in files if not isinstance(file, str)]
    index = rows[readable].reset_index(drop=True)
    index = index.join(pd.DataFrame(sides, columns=["width", "height"]))[list(INDEX_COLUMNS)]
    boxes = collection.boxes[collection.boxes["image"].isin(index["image"])]
    write_table(work / INDEX, index)
    write_table(work / BOXES, boxes.reset_index(drop=True))
    manifest = _manifest(plan, index, rows[~readable], collection, work)
    write_json(work / MANIFEST, manifest.model_dump(mode="json"))


def publish(work: Path, out: Path) -> None:
    """Move what was made to its place, the manifest last; what is moved already stays."""
    for name in (INDEX, BOXES, IMAGES, MANIFEST):
        made = _images(work) if name == IMAGES else work / name
        if made.exists() and not (out / name).exists():
            made.replace(out / name)
            sync_folder(out)


def _images(work: Path) -> Path:
    """Name the file of images: what was kept of the listed ones, or all of them."""
    kept = work / IMAGES
    return kept if kept.exists() else work / _LISTED


def _keep(array: Path, readable: npt.NDArray[np.int64], target: Path) -> None:
    """Copy the rows of images that could be read."""
    listed = np.load(array, mmap_mode="r")
    with written(target) as temporary:
        kept = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.uint8, shape=(len(readable), *listed.shape[1:])
        )
        for start in range(0, len(readable), _ROWS_AT_A_TIME):
            rows = readable[start : start + _ROWS_AT_A_TIME]
            kept[start : start + len(rows)] = listed[rows]
        kept.flush()


def _manifest(
    plan: Plan, index: pd.DataFrame, failed: pd.DataFrame, collection: Collection, work: Path
) -> Manifest:
    failures = zip(failed["image"], failed["split"], failed["reason"], strict=True)
    return Manifest(
        **plan.model_dump(),
        images=len(index),
        patients=int(index["patient"].nunique()),
        counts={part: _counts(index[index["split"] == part]) for part in PARTS},
        failures=tuple(
            Failure(image=image, split=split, reason=reason) for image, split, reason in failures
        ),
        problems=tuple(SourceProblem(**asdict(problem)) for problem in collection.problems),
        sha256={name: sha256(work / name) for name in (INDEX, BOXES)},
        bytes=_images(work).stat().st_size,
    )


def _counts(part: pd.DataFrame) -> dict[str, int]:
    present = part[list(FINDINGS)] == 1
    absent = part[list(FINDINGS)] == 0  # an unknown label is neither
    return {
        "images": len(part),
        "patients": int(part["patient"].nunique()),
        NO_FINDING: int(absent.all(axis=1).sum()),
        **{finding: int(present[finding].sum()) for finding in FINDINGS},
    }
