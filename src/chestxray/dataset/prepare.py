"""A raw tree becomes a dataset: read, split by patient, decoded once, packed.

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
from pathlib import Path
from typing import Final

import pandas as pd
from pydantic import ValidationError

from chestxray import __version__
from chestxray.artifacts import read_json, write_json
from chestxray.dataset import split as splits
from chestxray.dataset.making import make, publish
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.dataset.store import MANIFEST, UNFINISHED, Dataset, Plan, Split, read_manifest
from chestxray.errors import ArtifactError
from chestxray.sources import nih
from chestxray.sources.collection import Collection

_PLAN: Final = "plan.json"
_LOCK: Final = "lock"


def prepare(
    raw: Path, out: Path, size: int = 224, split: str = "official", seed: int = 0
) -> Dataset:
    """Make a dataset of a raw tree, or go on making it.

    Images that cannot be read are left out and listed in the manifest with the reason.

    Args:
        raw: a tree that `sources.nih.read` understands.
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
    collection = nih.read(raw)
    rows = collection.rows.assign(split=_split(collection, split, seed))
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
        return splits.official(collection.rows, collection.official, seed)
    if split == "patient":
        return splits.patient(collection.rows, seed)
    return splits.from_file(collection.rows, Path(split))


def _plan(collection: Collection, rows: pd.DataFrame, size: int, split: str, seed: int) -> Plan:
    drawn = split in {"official", "patient"}
    sha = splits.split_sha256(rows["image"], rows["split"])
    labels = collection.rows.assign(bytes=rows["path"].map(_bytes)).drop(columns="path")
    inputs = hashlib.sha256((labels.to_csv() + collection.boxes.to_csv()).encode())
    return Plan(
        source=collection.source,
        generation=collection.generation,
        size=size,
        pixel_rule=PIXEL_RULE,
        split=Split(
            name=split if drawn else Path(split).name, seed=seed if drawn else None, sha256=sha
        ),
        listed=len(rows),
        inputs_sha256=inputs.hexdigest(),
        package_version=__version__,
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
