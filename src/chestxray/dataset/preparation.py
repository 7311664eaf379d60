"""Raw trees become a dataset: read, split by patient, decoded once, packed.

Everything is written in `OUT/.prepare` and moved to `OUT` when it is complete, the manifest last.
Each file is made from the plan, the rows and the notes of the shards alone, so a prepare that was
killed resumes when it is called again with the same inputs, and ends in the same bytes. In a
finished dataset it makes the shards that are missing.

A dataset in a store is made in a folder of the cache, from which each shard goes to the store when
it is finished, see `remote`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
import pandas as pd
from pydantic import ValidationError

from chestxray import sources
from chestxray.artifacts import (
    lock,
    read_json,
    sha256,
    sync_folder,
    write_json,
    write_table,
    write_text,
)
from chestxray.dataset import masks, shards
from chestxray.dataset.combine import Combined, combine, duplicates, sharing_sources
from chestxray.dataset.copies import between_sources
from chestxray.dataset.masks import PackedMasks, pack_masks
from chestxray.dataset.packing import File, Packed, Packing, Unreadable, pack, renew
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.dataset.remote import PLAN, ShardStore, is_dataset, is_finished, lacking
from chestxray.dataset.shards import Shard
from chestxray.dataset.split import (
    AUTO,
    INDEX,
    assign,
    empty_parts,
    in_dataset,
    one_sided,
    resolved,
    split_sha256,
    stated,
    without_lists,
)
from chestxray.dataset.store import (
    BOXES,
    MANIFEST,
    UNFINISHED,
    Dataset,
    Failure,
    Manifest,
    Plan,
    SourceProblem,
    SourceRecord,
    Split,
    counts_by_part,
    index_columns,
    local_tables,
    read_manifest,
    remake,
)
from chestxray.errors import ArtifactError, SourceError
from chestxray.execution import EXECUTION
from chestxray.file_names import is_text, one_line
from chestxray.findings import Findings
from chestxray.parallel import check_main_module
from chestxray.progress import say
from chestxray.sources.collection import (
    MISSING_IMAGE,
    OTHER_VIEW,
    Collection,
    Problem,
    ReadOptions,
    problem,
)
from chestxray.storage import (
    ObjectFolder,
    claim_staging,
    fetched,
    is_url,
    mirrored,
    path_of,
    shown,
    staging_of,
)
from chestxray.version import __version__

_LOCK: Final = "lock"
_UNKNOWN: Final = -9.0  # stands for NaN, which has several bit patterns, where labels are hashed


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
    job = _Job(combined, resolved(split, combined.official), seed, allow_empty)
    plan = _plan(job, size)
    if is_finished(out):
        manifest = read_manifest(out)
        _check_same(plan, manifest, out, "made")
        _make_missing(job, manifest, out)
        return Dataset.open(out)
    for name in combined.official if (split, job.how) == (AUTO, "patient") else job.drawn_sources:
        say(
            "prepare",
            f"{name} has no official list: its patients are split at random (70 / 10 / 20 %)",
        )
    with _working(out, plan) as (work, store):
        if not (work / MANIFEST).exists():
            _make(job, plan, work, out, store, cluster)
        if store is None:
            _publish(work, out)
        else:
            store.finish(work, _besides_shards(work))
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


@dataclass(frozen=True)
class _Job:
    """What is to be split, and how: see `split.assign`."""

    combined: Combined
    how: str
    seed: int
    allow_empty: bool

    @property
    def drawn_sources(self) -> list[str]:
        """Name the sources that the official split has no list for."""
        return without_lists(self.combined.official) if self.how == "official" else []

    @property
    def drawn(self) -> list[str]:
        """Name the sources whose parts are drawn, not stated by a list."""
        return list(self.combined.official) if self.how == "patient" else self.drawn_sources

    def split(self, groups: pd.Series[str] | None = None) -> pd.Series[str]:
        """Give each row its part, linked patients together."""
        of = self.combined
        return assign(of.rows, of.findings, self.how, self.seed, of.official, groups)

    def check_parts(self, split: pd.Series[str]) -> None:
        """Refuse a split that leaves a part without images, unless that is allowed.

        Raises:
            SourceError: it does.
        """
        empty = empty_parts(split)
        if empty and not self.allow_empty:
            raise SourceError(
                f"the split {self.how!r} of {len(split)} images of "
                f"{self.combined.rows['patient'][split.index].nunique()} patients leaves no image "
                f"for {' and '.join(empty)}: use more images or another --split, or accept it with "
                f"--allow-empty (to evaluate only, for example)"
            )


def _plan(job: _Job, size: int) -> Plan:
    """Plan the dataset; an impossible split fails here, before an image is decoded."""
    combined, split = job.combined, job.split()
    job.check_parts(split)
    drawn = job.how in {"official", "patient"}
    return Plan(
        findings=combined.findings,
        sources=tuple(map(_record, combined.collections)),
        size=size,
        pixel_rule=PIXEL_RULE,
        split=Split(
            name=job.how if drawn else Path(job.how).name,
            seed=job.seed if drawn else None,
            sha256=split_sha256(combined.rows["image"], split),
        ),
        listed=len(combined.rows),
        inputs_sha256=_inputs_sha256(combined, split),
        package_version=__version__,
    )


def _inputs_sha256(combined: Combined, split: pd.Series[str]) -> str:
    """Hash all that the images and labels of a dataset depend on, beside its plan.

    Labels are hashed as numbers: as text, those of many findings take as long as reading them.
    """
    findings = list(combined.findings)
    described = combined.rows.drop(columns=["path", *findings]).assign(
        bytes=combined.rows["path"].map(_bytes), split=split
    )
    regions = combined.boxes.to_csv() + _mask_list(combined)
    digest = hashlib.sha256((described.to_csv() + regions + repr(findings)).encode())
    labels = np.nan_to_num(combined.rows[findings].to_numpy(np.float64), nan=_UNKNOWN)
    digest.update(np.ascontiguousarray(labels, dtype="<f8").tobytes())
    return digest.hexdigest()


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
        findings=tuple(collection.findings),
        patients_of=collection.patients_of,
        rules=collection.rules,
    )


def _mask_list(combined: Combined) -> str:
    """List the masks with the sizes of their files; empty where there are none."""
    of = combined.masks
    return of.assign(path=of["path"].map(_bytes)).to_csv() if len(of) else ""


def _bytes(path: str) -> int:
    """Give a file's size, -1 where there is none, such as behind a broken link."""
    if not path:
        return -1
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1


def _make(
    job: _Job, plan: Plan, work: Path, out: Path, store: ShardStore | None, cluster: str | None
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
        *_drawn_problem(job),
        *_new_problem(job),
        *found.problems(dict(zip(rows["image"], rows["split"], strict=True))),
        *_moved_problem(job, rows),
    ]
    readable = [isinstance(file, Packed) for file in packing.files]
    job.check_parts(rows["split"][readable])
    index = _index(rows[readable], packing, plan.findings)
    problems += one_sided(index, plan.findings)
    boxes = job.combined.boxes
    write_table(work / INDEX, index)
    write_table(work / BOXES, boxes[boxes["image"].isin(index["image"])].reset_index(drop=True))
    packed = _pack_masks(job, index["image"].tolist(), packing.shards, plan, work)
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


def _pack_masks(
    job: _Job, images: Sequence[str], parts: Sequence[Shard], plan: Plan, out: Path
) -> list[PackedMasks]:
    table = job.combined.masks
    if table.empty:
        return []
    return pack_masks(table, images, parts, plan.findings, plan.size, out / masks.FOLDER)


def _unreadable_masks(packed: Sequence[PackedMasks]) -> list[Problem]:
    return problem(
        "unreadable-mask",
        (each for of in packed for each in of.unreadable),
        "the mask cannot be read: the finding has none there",
        loses=True,
    )


def _sha256(file: File) -> str:
    return file.sha256 if isinstance(file, Packed) else ""


def _drawn_problem(job: _Job) -> list[Problem]:
    return problem(
        "no-official-list",
        job.drawn_sources,
        "the source has no official list: its patients are split at random (70 % train, 10 % val, "
        "20 % test)",
        loses=False,
    )


def _new_problem(job: _Job) -> list[Problem]:
    """Report the images that the dataset whose split is kept does not have."""
    if not Path(job.how).is_dir():
        return []
    rows = job.combined.rows
    return problem(
        "not-in-kept-split",
        rows["image"][in_dataset(rows, Path(job.how)).isna()],
        f"neither the image nor its patient is in {Path(job.how).name}, whose split is kept: train",
        loses=False,
    )


def _moved_problem(job: _Job, rows: pd.DataFrame) -> list[Problem]:
    """Report images that left the part of their list with a linked patient."""
    before = job.split()
    moved = rows[(rows["split"] != before) & stated(rows, job.how, job.combined.official)]
    return problem(
        "split-lists-disagree",
        moved["image"] + " (" + before[moved.index] + " → " + moved["split"] + ")",
        "lists put patients who share a radiograph across sources into different splits: all "
        "images of these patients are in test if one of them is, otherwise in val",
        loses=False,
    )


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


def _publish(work: Path, out: Path) -> None:
    """Move what was made to its place, the manifest last; a later call moves the rest."""
    for name in (EXECUTION, INDEX, BOXES, shards.FOLDER, masks.FOLDER, MANIFEST):
        if (work / name).exists() and not (out / name).exists():
            (work / name).replace(out / name)
            sync_folder(out)


def _besides_shards(work: Path) -> list[str]:
    """Name the files of a dataset besides its manifest and shards, those of masks included."""
    there = sorted(path.name for path in (work / masks.FOLDER).glob("*"))
    execution = [EXECUTION] if (work / EXECUTION).exists() else []
    return [*(f"{masks.FOLDER}/{name}" for name in there), *execution, INDEX, BOXES]


def _make_missing(job: _Job, manifest: Manifest, out: Path) -> None:
    """Make the shards that a finished dataset lacks."""
    missing = _missing(manifest, out)
    here = staging_of(out)  # where they are made; the folder itself, of a path
    if missing:
        count = len(manifest.shards) + len(manifest.masks)
        say("prepare", f"{shown(out)} lacks {len(missing)} of {count} shards: making them again")
        (here / UNFINISHED).mkdir(parents=True, exist_ok=True)
        with _locked(here / UNFINISHED):
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


def _renew_images(wanted: Sequence[Shard], job: _Job, manifest: Manifest, out: Path) -> None:
    images = out / shards.FOLDER
    if not wanted:
        return
    images.mkdir(exist_ok=True)
    paths = job.combined.rows["path"].tolist()
    for shard, made in renew(paths, manifest.size, images, wanted):
        _check_renewed(images, shard, made, out)


def _renew_masks(
    wanted: Sequence[Shard], job: _Job, manifest: Manifest, images: Sequence[str], out: Path
) -> None:
    """Make masks again; `images`, those of the index, say which are in a shard."""
    start = 0
    for part, shard in zip(manifest.shards, manifest.masks, strict=False):
        if shard in wanted:
            rows = images[start : start + part.images]
            (made,) = _pack_masks(job, rows, [part], manifest, out)
            _check_renewed(out / masks.FOLDER, shard, made.shard, out)
        start += part.images


def _check_renewed(folder: Path, wanted: Shard, made: Shard | None, out: Path) -> None:
    if made != wanted:
        (folder / wanted.name).unlink(missing_ok=True)
        raise ArtifactError(
            f"the files of {folder / wanted.name} changed since the dataset was made: {remake(out)}"
        )


def _check_same(plan: Plan, there: Plan, out: Path, how: str) -> None:
    different = there.differences(plan)
    if different:
        raise ArtifactError(
            f"{shown(out)} was {how} from other inputs ({'; '.join(different)}): name another "
            f"folder, "
            f"or remove this one"
        )


@contextmanager
def _working(out: Path, plan: Plan) -> Iterator[tuple[Path, ShardStore | None]]:
    """Hold the working folder of this plan alone: a new one, or that of a killed prepare.

    Gives the folder, and the store that takes the shards where `out` is a URL.
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
    with _locked(work):
        if store is not None:
            _take_over(store, work)
        if (work / PLAN).exists():
            _check_same(plan, _read_plan(work / PLAN), out, "started")
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


def _locked(work: Path) -> IO[bytes]:
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
