"""Shards that a finished dataset lacks are made again, to the same bytes, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from chestxray.dataset import masks, shards
from chestxray.dataset.manifest import UNFINISHED, Manifest, local_tables, remake
from chestxray.dataset.masks import pack_masks
from chestxray.dataset.packing import renew
from chestxray.dataset.planning import Job
from chestxray.dataset.remote import ShardStore, lacking
from chestxray.dataset.shards import Shard
from chestxray.dataset.split import INDEX
from chestxray.dataset.working_folder import locked
from chestxray.errors import ArtifactError
from chestxray.progress import say
from chestxray.storage import ObjectFolder, is_url, shown, staging_of


def make_missing(job: Job, manifest: Manifest, out: Path) -> None:
    """Make the shards that a finished dataset lacks.

    Args:
        job: what the dataset was made of.
        manifest: of the dataset.
        out: its path or URL.

    Raises:
        ArtifactError: a file of a shard changed since, or the folder cannot be written.
        StorageError: the store does not answer.
        WorkerError: a worker process died.
    """
    missing = _missing(manifest, out)
    here = staging_of(out)  # where they are made; the folder itself, of a path
    if missing:
        count = len(manifest.shards) + len(manifest.masks)
        say("prepare", f"{shown(out)} lacks {len(missing)} of {count} shards: making them again")
        (here / UNFINISHED).mkdir(parents=True, exist_ok=True)
        with locked(here / UNFINISHED):
            images = pd.read_parquet(local_tables(out) / INDEX)["image"].tolist()
            _renew_images([s for p, s in missing if p == shards.FOLDER], job, manifest, here)
            _renew_masks([s for p, s in missing if p == masks.FOLDER], job, manifest, images, here)
            if is_url(out):
                for place, shard in missing:
                    ObjectFolder(out).upload(here / place / shard.name, f"{place}/{shard.name}")
    else:
        say("prepare", f"{shown(out)} is complete, made from the same inputs")
    if is_url(out):
        ShardStore(out).delete_notes()  # of a prepare that was killed at its end
    shutil.rmtree(here.parent if is_url(out) else out / UNFINISHED, ignore_errors=True)


def _missing(manifest: Manifest, out: Path) -> list[tuple[str, Shard]]:
    """List the shards that a dataset lacks, with their folders."""
    files = [(place, shard) for place, shard, _ in manifest.shard_files()]
    if is_url(out):
        return [(place, shard) for place, shard, _ in lacking(out, files)]
    return [(place, shard) for place, shard in files if not (out / place / shard.name).exists()]


def _renew_images(wanted: Sequence[Shard], job: Job, manifest: Manifest, out: Path) -> None:
    images = out / shards.FOLDER
    if not wanted:
        return
    images.mkdir(exist_ok=True)
    paths = job.combined.rows["path"].tolist()
    for shard, made in renew(paths, manifest.size, images, wanted):
        _check_renewed(images, shard, made, out)


def _renew_masks(
    wanted: Sequence[Shard], job: Job, manifest: Manifest, images: Sequence[str], out: Path
) -> None:
    """Make masks again; `images`, those of the index, say which are in a shard."""
    start = 0
    for part, shard in zip(manifest.shards, manifest.masks, strict=False):
        if shard in wanted:
            rows = images[start : start + part.images]
            table, folder = job.combined.masks, out / masks.FOLDER
            (made,) = pack_masks(table, rows, [part], manifest.findings, manifest.size, folder)
            _check_renewed(folder, shard, made.shard, out)
        start += part.images


def _check_renewed(folder: Path, wanted: Shard, made: Shard | None, out: Path) -> None:
    if made != wanted:
        (folder / wanted.name).unlink(missing_ok=True)
        raise ArtifactError(
            f"the files of {folder / wanted.name} changed since the dataset was made: {remake(out)}"
        )
