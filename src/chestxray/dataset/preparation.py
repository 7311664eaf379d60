"""Raw trees become a dataset: read, split by patient, decoded once, packed.

Everything is written in `OUT/.prepare` and moved to `OUT` when it is complete, the manifest last.
Each file is made from the plan, the rows and the notes of the shards alone, so a prepare that was
killed resumes when it is called again with the same inputs, and ends in the same bytes. In a
finished dataset it makes the shards that are missing.

A dataset in a store is made in a folder of the cache, from which each shard goes to the store when
it is finished, see `remote`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from chestxray import sources
from chestxray.artifacts import sha256, write_json, write_table
from chestxray.dataset import masks, shards
from chestxray.dataset.combine import Combined, combine, duplicates, sharing_sources
from chestxray.dataset.copies import between_sources
from chestxray.dataset.manifest import (
    BOXES,
    MANIFEST,
    Failure,
    Manifest,
    Plan,
    SourceProblem,
    index_columns,
    local_tables,
    read_manifest,
)
from chestxray.dataset.masks import PackedMasks, pack_masks
from chestxray.dataset.packing import File, Packed, Packing, Unreadable, pack
from chestxray.dataset.planning import Job, check_same, planned, split_problems
from chestxray.dataset.remote import ShardStore, is_dataset, is_finished
from chestxray.dataset.renewal import make_missing
from chestxray.dataset.split import AUTO, INDEX, one_sided, resolved, split_sha256
from chestxray.dataset.store import Dataset, counts_by_part
from chestxray.dataset.working_folder import besides_shards, publish, working
from chestxray.errors import ArtifactError, SourceError
from chestxray.file_names import is_text, one_line
from chestxray.findings import Findings
from chestxray.parallel import check_main_module
from chestxray.progress import say
from chestxray.sources.collection import MISSING_IMAGE, OTHER_VIEW, Problem, ReadOptions, problem
from chestxray.storage import fetched, is_url, mirrored, path_of, staging_of


def prepare(  # noqa: PLR0913 - the options of one command
    raws: str | Path | Sequence[str | Path],
    out: str | Path,
    size: int = 224,
    split: str = AUTO,
    seed: int = 0,
    source: str | None = None,
    options: ReadOptions | None = None,
    *,
    allow_missing: bool = False,
    allow_empty: bool = False,
    cluster: str | None = None,
) -> Dataset:
    """Make a dataset from raw trees, or resume making it.

    Images that cannot be read are left out and listed in the manifest with the reason. Several
    trees make one dataset, see `dataset.combine`.

    Args:
        raws: one tree or several, paths or URLs, each recognised by a source.
        out: path or URL of the dataset: new, empty, or of a prepare with the same inputs.
        size: side of the packed images, pixels.
        split: `official`, `patient`, the folder of a dataset whose split is kept, or the path of a
            CSV file with the columns `image,split` or `patient,split`. With `official`, a source
            without official lists gets its patients drawn. `auto` is `official` where a source has
            lists, else `patient`.
        seed: of what the split draws.
        source: name of the source of all trees; recognised by their content when None.
        options: what is asked of the sources: columns of a table, policies for labels and views.
        allow_missing: accept that more than half of the rows of a tree have no image file.
        allow_empty: accept that train, val or test gets no image.
        cluster: address of a Ray cluster whose workers decode and pack, see
            `chestxray.cluster.joined`; this machine alone when None. The dataset is the same, and
            `execution.json` beside it says what ran where.

    Returns:
        The dataset; if it is complete already, as it is.

    Raises:
        SourceError: a tree or the split breaks a rule, most rows have no file, a part of the split
            is empty, or no image can be read.
        ArtifactError: `out` holds something else, cannot be written, or has a name that is not
            UTF-8.
        StorageError: a URL is refused, or a store does not answer; the same call resumes.
        WorkerError: a worker process died, or one of the cluster reports an error; the same call
            resumes.
        MissingExtraError: a cluster is named, and Ray is not installed.
    """
    check_main_module()
    out = path_of(out)
    if not is_text(str(out)):
        raise ArtifactError(f"the name {one_line(str(out))} is not valid UTF-8: choose another one")
    trees = [mirrored(raw) for raw in ([raws] if isinstance(raws, str | Path) else raws)]
    split = _split_on_this_machine(split)
    if not trees:
        raise SourceError("no raw tree was given: give at least one folder")
    each = sources.options_of_each(trees, source, options)
    combined = combine(
        [sources.read(tree, source, own) for tree, own in zip(trees, each, strict=True)]
    )
    if combined.rows.empty:
        raise SourceError(_nothing_left(trees[0], combined))
    if not allow_missing:
        _check_files(combined)
    if (combined.rows["path"] == "").all():
        raise SourceError(
            f"{trees[0]} is a label table without images: give the folder that holds the images"
        )
    job = Job(combined, resolved(split, combined.official), seed, allow_empty)
    plan = planned(job, size)
    if is_finished(out):
        manifest = read_manifest(out)
        check_same(plan, manifest, out, "made")
        make_missing(job, manifest, out)
        return Dataset.open(out)
    for name in combined.official if (split, job.how) == (AUTO, "patient") else job.drawn_sources:
        say(
            "prepare",
            f"{name} has no official list: its patients are split at random (70 / 10 / 20 %)",
        )
    with working(out, plan) as (work, store):
        if not (work / MANIFEST).exists():
            _make(job, plan, work, out, store, cluster)
        if store is None:
            publish(work, out)
        else:
            store.finish(work, besides_shards(work))
        shutil.rmtree(work if store is None else staging_of(out).parent)
    return Dataset.open(out)


def _split_on_this_machine(split: str) -> str:
    """Give a split whose dataset or list is in a store by the path of its copy here."""
    if not is_url(split):
        return split
    path = path_of(split)
    return str(local_tables(path) if is_dataset(path) else fetched(path))


def _check_files(combined: Combined) -> None:
    """Refuse a tree of which most rows have no file: mostly a wrong column or folder.

    Raises:
        SourceError: more than half of its rows have none.
    """
    for collection in combined.collections:
        counts = {found.code: found.count for found in collection.problems}
        missing = counts.get(MISSING_IMAGE, 0)
        listed = missing + counts.get(OTHER_VIEW, 0) + len(collection.rows)
        if 2 * missing > listed:
            raise SourceError(
                f"{collection.card.title}: {missing} of {listed} rows of the label table have no "
                f"image file: check the folder and the column of images (`chestxray verify` lists "
                f"the rows), or accept it with --allow-missing"
            )


def _nothing_left(tree: Path, combined: Combined) -> str:
    reasons = "; ".join(f"{each.sentence} ({each.count})" for each in combined.problems)
    return (
        f"{tree}: no image is left to prepare{f' ({reasons})' if reasons else ''}: give the folder "
        f"that holds both the images and the rows of the label table that name them"
    )


def _make(
    job: Job, plan: Plan, work: Path, out: Path, store: ShardStore | None, cluster: str | None
) -> None:
    """Make shards, index, boxes and then the manifest in the working folder.

    The shards of images go to the store, where there is one.

    Raises:
        SourceError: no image can be read.
        ArtifactError: the folder cannot be written.
        StorageError: the store does not answer.
    """
    rows = job.combined.rows
    paths = rows["path"].tolist()
    images = work / shards.FOLDER
    packing = pack(paths, plan.size, images, work, cluster=cluster, store=store)
    if not packing.shards:
        first = packing.files[0]
        reason = first.reason if isinstance(first, Unreadable) else ""
        raise SourceError(f"no image can be read, such as {rows['path'].iloc[0]}: {reason}")
    found = duplicates(
        rows,
        [_sha256(file) for file in packing.files],
        job.drawn,
        _copies(job.combined, packing, plan.size, work if store is None else out),
    )
    rows = rows.assign(split=job.split(found.groups))
    problems = [
        *job.combined.problems,
        *split_problems(job, rows),
        *found.problems(dict(zip(rows["image"], rows["split"], strict=True))),
    ]
    readable = [isinstance(file, Packed) for file in packing.files]
    job.check_parts(rows["split"][readable])
    index = _index(rows[readable], packing, plan.findings)
    problems += one_sided(index, plan.findings)
    boxes = job.combined.boxes
    write_table(work / INDEX, index)
    write_table(work / BOXES, boxes[boxes["image"].isin(index["image"])].reset_index(drop=True))
    packed = pack_masks(
        job.combined.masks,
        index["image"].tolist(),
        packing.shards,
        plan.findings,
        plan.size,
        work / masks.FOLDER,
    )
    problems += _unreadable_masks(packed)
    manifest = _manifest(plan, rows, index, packing, problems, work)
    manifest = manifest.model_copy(update={"masks": tuple(each.shard for each in packed)})
    write_json(work / MANIFEST, manifest.model_dump(mode="json"))


def _copies(combined: Combined, packing: Packing, size: int, folder: Path) -> list[tuple[str, str]]:
    """Find the copies between the sources that are known to share radiographs.

    `folder`, a path or a URL, has the folder of the shards.
    """
    pairs = sharing_sources(combined.collections)
    if not pairs:
        return []
    read = [isinstance(file, Packed) for file in packing.files]
    sides = [(file.width, file.height) for file in packing.files if isinstance(file, Packed)]
    images = shards.Shards(folder / shards.FOLDER, packing.shards, (size, size))
    return between_sources(combined.rows[read], sides, images, pairs)


def _unreadable_masks(packed: Sequence[PackedMasks]) -> list[Problem]:
    return problem(
        "unreadable-mask",
        (each for of in packed for each in of.unreadable),
        "the mask cannot be read: the finding has none there",
        loses=True,
    )


def _sha256(file: File) -> str:
    return file.sha256 if isinstance(file, Packed) else ""


def _index(rows: pd.DataFrame, packing: Packing, findings: Findings) -> pd.DataFrame:
    sides = [(file.width, file.height) for file in packing.files if isinstance(file, Packed)]
    rows = rows.reset_index(drop=True).join(pd.DataFrame(sides, columns=["width", "height"]))
    return rows[list(index_columns(findings))]


def _manifest(
    plan: Plan,
    rows: pd.DataFrame,
    index: pd.DataFrame,
    packing: Packing,
    problems: Sequence[Problem],
    work: Path,
) -> Manifest:
    split = plan.split.model_copy(update={"sha256": split_sha256(rows["image"], rows["split"])})
    files = zip(rows["image"], rows["split"], packing.files, strict=True)
    return Manifest(
        **plan.model_dump(exclude={"split"}),
        split=split,
        images=len(index),
        patients=int(index["patient"].nunique()),
        counts=counts_by_part(index, plan.findings),
        failures=tuple(
            Failure(image=image, split=part, reason=file.reason)
            for image, part, file in files
            if isinstance(file, Unreadable)
        ),
        problems=tuple(SourceProblem(**asdict(each)) for each in problems),
        sha256={name: sha256(work / name) for name in (INDEX, BOXES)},
        shards=packing.shards,
    )
