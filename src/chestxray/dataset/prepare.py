"""The files of a dataset, made in a working folder, then moved to their places.

Every step may be cut off and done again: what is made is made from the plan, the rows and the
journal alone, and the manifest is the last to be written and the last to be moved.

A raw tree becomes a dataset: read, split by patient, decoded once, packed.

Everything is made in `OUT/.prepare` and moved to `OUT` when it is whole, the manifest last. A
prepare that was killed goes on where it was when it is called again with the same inputs, and ends
in the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import ValidationError

from chestxray import sources
from chestxray.artifacts import read_json, sha256, sync_folder, write_json, write_table, written
from chestxray.dataset import split as splits
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.dataset.shards import pack
from chestxray.dataset.split import PARTS
from chestxray.dataset.store import (
    BOXES,
    IMAGES,
    INDEX,
    MANIFEST,
    UNFINISHED,
    Dataset,
    Failure,
    Manifest,
    Plan,
    SourceProblem,
    SourceRecord,
    Split,
    index_columns,
    read_manifest,
)
from chestxray.errors import ArtifactError, SourceError
from chestxray.findings import NO_FINDING, Findings
from chestxray.sources.collection import Collection
from chestxray.version import __version__

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
    index = index.join(pd.DataFrame(sides, columns=["width", "height"]))[
        list(index_columns(plan.findings))
    ]
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
        counts={part: _counts(index[index["split"] == part], plan.findings) for part in PARTS},
        failures=tuple(
            Failure(image=image, split=split, reason=reason) for image, split, reason in failures
        ),
        problems=tuple(SourceProblem(**asdict(problem)) for problem in collection.problems),
        sha256={name: sha256(work / name) for name in (INDEX, BOXES)},
        bytes=_images(work).stat().st_size,
    )


def _counts(part: pd.DataFrame, findings: Findings) -> dict[str, int]:
    present = part[list(findings)] == 1
    absent = part[list(findings)] == 0  # an unknown label is neither
    return {
        "images": len(part),
        "patients": int(part["patient"].nunique()),
        NO_FINDING: int(absent.all(axis=1).sum()),
        **{finding: int(present[finding].sum()) for finding in findings},
    }


_PLAN: Final = "plan.json"
_LOCK: Final = "lock"


def prepare(
    raw: Path, out: Path, size: int = 224, split: str = "official", seed: int = 0
) -> Dataset:
    """Make a dataset of a raw tree, or go on making it.

    Images that cannot be read are left out and listed in the manifest with the reason.

    Args:
        raw: a tree that a source recognises.
        out: the dataset's folder: new, empty, or of a prepare with the same inputs.
        size: side of the packed images, pixels.
        split: `official`, `patient`, or the path of a CSV of `image,split` or `patient,split`.
        seed: of what the split draws.

    Returns:
        The dataset; where it was there already, as it is.

    Raises:
        SourceError: the tree or the split breaks a rule, or no image can be read.
        ArtifactError: `out` holds something else, or cannot be written.
        WorkerError: a worker process died; the same call goes on.
    """
    collection = sources.read(raw)
    rows = collection.rows.assign(source=collection.name, split=_split(collection, split, seed))
    plan = _plan(collection, rows, size, split, seed)
    work = out / UNFINISHED
    if (out / MANIFEST).exists():
        _check_same(plan, read_manifest(out), out, "made")
        shutil.rmtree(work, ignore_errors=True)
        _say(f"{out} is there already, made of the same inputs")
        return Dataset.open(out)
    with _working(work, plan):
        if not (work / MANIFEST).exists():
            make(collection, rows, plan, work)
        publish(work, out)
        shutil.rmtree(work)
    return Dataset.open(out)


def _split(collection: Collection, split: str, seed: int) -> pd.Series[str]:
    if split == "official":
        return splits.official(collection.rows, collection.findings, collection.official, seed)
    if split == "patient":
        return splits.patient(collection.rows, collection.findings, seed)
    return splits.from_file(collection.rows, Path(split))


def _plan(collection: Collection, rows: pd.DataFrame, size: int, split: str, seed: int) -> Plan:
    drawn = split in {"official", "patient"}
    sha = splits.split_sha256(rows["image"], rows["split"])
    labels = collection.rows.assign(bytes=rows["path"].map(_bytes)).drop(columns="path")
    inputs = hashlib.sha256((labels.to_csv() + collection.boxes.to_csv()).encode())
    return Plan(
        findings=collection.findings,
        sources=(_record(collection),),
        size=size,
        pixel_rule=PIXEL_RULE,
        split=Split(
            name=split if drawn else Path(split).name, seed=seed if drawn else None, sha256=sha
        ),
        listed=len(rows),
        inputs_sha256=inputs.hexdigest(),
        package_version=__version__,
    )


def _record(collection: Collection) -> SourceRecord:
    card = collection.card
    return SourceRecord(
        name=collection.name,
        title=card.title,
        release=collection.release,
        synthetic=card.synthetic,
        label_origin=card.label_origin,
        policies=collection.policies,
        facts=collection.facts,
        images=len(collection.rows),
    )


def _bytes(path: str) -> int:
    """Give a file's size, -1 where there is none, such as behind a broken link."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1


def _check_same(plan: Plan, there: Plan, out: Path, how: str) -> None:
    different = there.differences(plan)
    if different:
        raise ArtifactError(
            f"{out} was {how} with other inputs ({'; '.join(different)}): name another folder, "
            f"or remove this one"
        )


@contextmanager
def _working(work: Path, plan: Plan) -> Iterator[None]:
    """Hold the working folder of this plan alone: a new one, or the one of a killed prepare."""
    out = work.parent
    if out.exists() and not work.exists() and any(out.iterdir()):
        raise ArtifactError(f"{out} holds other files: name a new folder for the dataset")
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(f"another prepare is at work in {out}: let it end") from error
        if (work / _PLAN).exists():
            _check_same(plan, _read_plan(work / _PLAN), out, "begun")
            _say(f"going on with the unfinished {out}")
        else:
            write_json(work / _PLAN, plan.model_dump(mode="json"))
        yield


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate(read_json(path, "chestxray prepare"))
    except ValidationError as error:
        raise ArtifactError(
            f"{path.parent.parent} was begun by another version of chestxray: remove it, or name "
            f"another folder"
        ) from error


def _say(line: str) -> None:
    print(f"prepare: {line}", file=sys.stderr, flush=True)
