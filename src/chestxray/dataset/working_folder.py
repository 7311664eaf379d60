"""Where an unfinished dataset is made: `OUT/.prepare`, or a folder of the cache for a store.

It holds the plan, the notes of finished shards and a lock, so that a prepare that was killed is
resumed by the next one of the same plan, and two never work at the same place.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from pydantic import ValidationError

from chestxray.artifacts import lock, read_json, sync_folder, write_json, write_text
from chestxray.dataset import masks, shards
from chestxray.dataset.manifest import BOXES, MANIFEST, UNFINISHED, Plan
from chestxray.dataset.planning import check_same
from chestxray.dataset.remote import PLAN, ShardStore
from chestxray.dataset.split import INDEX
from chestxray.errors import ArtifactError
from chestxray.execution import EXECUTION
from chestxray.progress import say
from chestxray.storage import claim_staging, is_url, shown, staging_of

_LOCK: Final = "lock"


@contextmanager
def working(out: Path, plan: Plan) -> Iterator[tuple[Path, ShardStore | None]]:
    """Hold the working folder of this plan alone: a new one, or that of a killed prepare.

    Gives the folder, and the store that takes the shards where `out` is a URL.

    Raises:
        ArtifactError: `out` holds something else, or the start of another plan, or another prepare
            is running there.
        StorageError: the store does not answer.
    """
    claim_staging(out, "prepare")
    store = ShardStore(out) if is_url(out) else None
    work = staging_of(out) / UNFINISHED
    if store is None:
        foreign = not work.exists() and out.exists() and any(out.iterdir())
    else:
        foreign = not store.empty and store.plan() is None
    if foreign:
        raise ArtifactError(f"{shown(out)} holds other files: name a new folder for the dataset")
    work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        if store is not None:
            _take_over(store, work)
        if (work / PLAN).exists():
            check_same(plan, _read_plan(work / PLAN), out, "started")
            say("prepare", f"resuming the unfinished {shown(out)}")
        else:
            write_json(work / PLAN, plan.model_dump(mode="json"))
        if store is not None:
            store.begin(work / PLAN)
            store.restore_notes(work)
        yield work, store


def _take_over(store: ShardStore, work: Path) -> None:
    """Begin where the store is: another machine may have gone on, or begun with another plan."""
    there, own = store.plan(), work / PLAN
    if own.exists() and there != own.read_bytes():
        for path in work.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if there is not None:
        write_text(own, there.decode(errors="replace"))


def locked(work: Path) -> IO[bytes]:
    """Hold a working folder alone; raises ArtifactError where another prepare holds it."""
    refusal = f"another prepare is running in {shown(work.parent)}: wait until it ends"
    return lock(work / _LOCK, ArtifactError(refusal))


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate(read_json(path, "chestxray prepare"))
    except ValidationError as error:
        raise ArtifactError(
            f"{shown(path.parent.parent)} was started by another version of chestxray: remove it, "
            f"or name another folder"
        ) from error


def publish(work: Path, out: Path) -> None:
    """Move what was made to its place, the manifest last; a later call moves the rest."""
    for name in (EXECUTION, INDEX, BOXES, shards.FOLDER, masks.FOLDER, MANIFEST):
        if (work / name).exists() and not (out / name).exists():
            (work / name).replace(out / name)
            sync_folder(out)


def besides_shards(work: Path) -> list[str]:
    """Name the files of a dataset besides its manifest and shards, those of masks included."""
    there = sorted(path.name for path in (work / masks.FOLDER).glob("*"))
    execution = [EXECUTION] if (work / EXECUTION).exists() else []
    return [*(f"{masks.FOLDER}/{name}" for name in there), *execution, INDEX, BOXES]
