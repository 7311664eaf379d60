"""A prepared dataset on disk: the manifest that describes it, and `Dataset`, which opens it.

`OUT/dataset.json` is written last: where it exists, the other files are complete. Opening checks
the hashes of the tables and the names, sizes and headers of the shards, and refuses a dataset that
does not match its manifest. The hashes of the shards are checked by `dataset.verification`, and
some of them, drawn at random, in each epoch of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import read_json, require, sha256
from chestxray.dataset import masks, remote, shards
from chestxray.dataset.masks import Masks
from chestxray.dataset.shards import Shard, Shards
from chestxray.dataset.split import INDEX, PARTS, check, split_sha256
from chestxray.errors import ArtifactError
from chestxray.findings import NO_FINDING, Findings
from chestxray.storage import is_url, path_of, shown
from chestxray.table_limits import read_parquet

MANIFEST: Final = remote.MANIFEST
BOXES: Final = "boxes.parquet"
UNFINISHED: Final = remote.UNFINISHED

_LEADING_COLUMNS: Final = (
    "image", "source", "patient", "study", "follow_up", "age", "sex", "view", "width", "height",
)  # fmt: skip

_MADE_BY: Final = "chestxray prepare RAW OUT"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(_Strict):
    """Which split; its hash identifies it.

    Attributes:
        name: `official`, `patient`, or the file name of the user's list.
        seed: of what was drawn; None where nothing was drawn.
        sha256: over the sorted lines `image<TAB>part` of every listed image, including those that
            could not be read.
    """

    name: str
    seed: int | None
    sha256: str

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name} with seed {self.seed}"


class SourceRecord(_Strict):
    """One raw tree that a dataset is made of; see `sources.collection.SourceCard`.

    Attributes:
        name: as in the index's column `source`; trees of one source share it.
        title: for people.
        release: of the data set; empty where there is only one.
        synthetic: its radiographs are drawn.
        label_origin: how its labels were made.
        policies: what was done with uncertain labels, with blanks, and with views.
        facts: what its reader reports in addition.
        images: listed, including those that could not be read.
        findings: that it labels, as it names them; empty in datasets of earlier versions.
        patients_of: the source whose patients these are, see `sources.collection.Collection`; empty
            where they are its own, and in datasets of earlier versions.
        rules: behind its labels beside the policies, by finding, and under "" for all findings.
    """

    name: str
    title: str
    release: str
    synthetic: bool
    label_origin: str
    policies: dict[str, str]
    facts: dict[str, str]
    images: int
    findings: tuple[str, ...] = ()
    patients_of: str = ""
    rules: dict[str, str] = {}


class Plan(_Strict):
    """What a dataset is made of and how: two equal plans give equal bytes.

    Attributes:
        findings: one column of the index each, in this order.
        sources: the raw trees, in the order given.
        size: side of the packed images, pixels.
        pixel_rule: of `dataset.pixels`.
        split: in a plan that of the lists or the draw; in a manifest the final one, in which
            patients who share a radiograph across sources are in one part.
        listed: number of images to pack.
        inputs_sha256: over labels, boxes, split and the sizes of the files, masks included.
        package_version: of chestxray.
    """

    findings: Findings
    sources: tuple[SourceRecord, ...]
    size: int
    pixel_rule: str
    split: Split
    listed: int
    inputs_sha256: str
    package_version: str

    @property
    def title(self) -> str:
        """Name the data sets, for people."""
        return " + ".join(dict.fromkeys(source.title for source in self.sources))

    @property
    def release(self) -> str:
        """Name the releases of the data sets that have one."""
        return " + ".join(dict.fromkeys(s.release for s in self.sources if s.release))

    @property
    def synthetic(self) -> bool:
        """Say whether any of the radiographs are drawn."""
        return any(source.synthetic for source in self.sources)

    def differences(self, other: Plan) -> list[str]:
        """List what differs in another plan, as `size was 256, now 224`; empty where equal."""
        pairs = [(key, getattr(self, key), getattr(other, key)) for key in Plan.model_fields]
        named = [(key, old, new) for key, old, new in pairs if key != "split" and old != new]
        if str(self.split) != str(other.split):  # its hash is final only after decoding
            named.append(("split", self.split, other.split))
        return [_difference(*each) for each in named]


class Failure(_Strict):
    """A listed image that could not be read, and is in no other file of the dataset."""

    image: str
    split: str
    reason: str


class SourceProblem(_Strict):
    """What is wrong with the raw trees; see `sources.collection.Problem`."""

    code: str
    sentence: str
    count: int
    examples: tuple[str, ...]
    loses: bool


class Manifest(Plan):
    """`dataset.json`.

    Attributes:
        format: of the dataset folder.
        images: packed, the rows of the index and of all shards together.
        patients: of the packed images.
        counts: per part `images`, `patients`, `No Finding`, and one count per finding.
        failures: images that could not be read; `images` and these together are `listed`.
        problems: of the raw trees.
        sha256: of the tables, by file name.
        shards: files of packed images, in row order.
        masks: files of their masks, one for each of `shards`; empty where no source has masks.
    """

    format: Literal[2] = 2
    images: int
    patients: int
    counts: dict[str, dict[str, int]]
    failures: tuple[Failure, ...]
    problems: tuple[SourceProblem, ...]
    sha256: dict[str, str]
    shards: tuple[Shard, ...]
    masks: tuple[Shard, ...] = ()

    def shard_files(self) -> Iterator[tuple[str, Shard, tuple[int, ...]]]:
        """Give the folder of each shard, the shard, and the shape of its rows."""
        row = masks.row_shape(self.findings, self.size)
        yield from ((shards.FOLDER, shard, (self.size, self.size)) for shard in self.shards)
        yield from ((masks.FOLDER, shard, row) for shard in self.masks)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Attributes:
        folder: of its files.
        manifest: what it is.
        index: one row per image, with the columns that `index_columns` gives.
        images: uint8 [N, size, size], memory-mapped, read-only; row i belongs to index row i.
        boxes: `image`, `finding`, `x`, `y`, `w`, `h` as fractions of the image's sides.
        masks: where findings are, on a coarse grid; None where no source has masks.
    """

    folder: Path
    manifest: Manifest
    index: pd.DataFrame
    images: Shards
    boxes: pd.DataFrame
    masks: Masks | None = None

    def __repr__(self) -> str:
        """Show the folder, the data sets, the sizes and the split."""
        of = self.manifest
        parts = ", ".join(f"{counts['images']:,} {part}" for part, counts in of.counts.items())
        return (
            f"Dataset({str(self.folder)!r}: {of.title}, {of.images:,} images of {of.patients:,} "
            f"patients at {of.size} px, {len(of.findings)} findings; split {of.split}: {parts})"
        )

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a dataset and check that its files match its manifest.

        Args:
            folder: path or URL. Of a dataset in a store, shards are fetched when they are read.

        Raises:
            ArtifactError: unfinished, missing, altered, or cut short.
            StorageError: the store does not answer, or has other bytes than the manifest says.
        """
        folder = path_of(folder)
        tables = local_tables(folder)
        manifest = read_manifest(tables)
        for name in manifest.sha256:
            require(tables / name, _MADE_BY)
            if problem := table_problem(tables, manifest, name):
                raise ArtifactError(f"{problem}: {remake(folder)}")
        for file, problem in _shard_problems(folder, manifest):
            raise ArtifactError(f"{problem}: {renew(folder, file)}")
        findings, size = manifest.findings, manifest.size
        there = Masks(folder / masks.FOLDER, manifest.masks, findings, size)
        return cls(
            folder,
            manifest,
            _table(tables / INDEX),
            Shards(folder / shards.FOLDER, manifest.shards, (size, size)),
            _table(tables / BOXES),
            there if manifest.masks else None,
        )

    def check_shards(self, some: Sequence[Shard]) -> None:
        """Read shards of images and their masks whole and compare them with the manifest.

        Raises:
            ArtifactError: one was altered, such as by images in another order.
        """
        names = {shard.name for shard in some}
        for place, shard, row in self.manifest.shard_files():
            if shard.name not in names:
                continue
            if problem := shards.alteration_of(self.folder / place, shard, row):
                raise ArtifactError(f"{problem}: {renew(self.folder, f'{place}/{shard.name}')}")

    @property
    def findings(self) -> Findings:
        """Give the findings, in the order of the label columns."""
        return self.manifest.findings

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Give the row numbers of a part, ascending."""
        return np.flatnonzero(self.index["split"].to_numpy() == split).astype(np.int64)

    def labels(self, rows: npt.NDArray[np.int64] | Sequence[int]) -> npt.NDArray[np.float32]:
        """Give the labels of rows as float32 [n, K]: 1, 0, NaN where unknown."""
        table = self.index[list(self.findings)].to_numpy(dtype=np.float32)
        return np.asarray(table[np.asarray(rows, dtype=np.int64)])

    def sources(self, rows: npt.NDArray[np.int64] | Sequence[int]) -> npt.NDArray[np.object_]:
        """Give the short names of the data sets that rows are of, [n]."""
        named = self.index["source"].to_numpy(dtype=object)
        return np.asarray(named[np.asarray(rows, dtype=np.int64)])

    def with_split(self, parts: pd.Series[str], name: str, seed: int | None = None) -> Self:
        """Give the same images and labels with other parts, such as those of a fold.

        No file is written or copied. The manifest of the result has the new split and its counts;
        its `failures` keep the parts that they were given when the dataset was prepared.

        Args:
            parts: `train`, `val` or `test` for each row, over the index of `index`.
            name: of the split.
            seed: of what was drawn, None where nothing was.

        Raises:
            SourceError: a patient is in two parts.
        """
        index = self.index.assign(split=parts)
        check(index, index["split"])
        sha = split_sha256(index["image"], index["split"])
        manifest = self.manifest.model_copy(
            update={
                "split": Split(name=name, seed=seed, sha256=sha),
                "counts": counts_by_part(index, self.findings),
            }
        )
        return replace(self, manifest=manifest, index=index)


def local_tables(folder: Path) -> Path:
    """Give the folder on this machine that holds the manifest and the tables of a dataset.

    Args:
        folder: path, which is given as it is, or URL.

    Raises:
        ArtifactError, StorageError: as `remote.fetched_tables` says.
    """
    return remote.fetched_tables(folder, (INDEX, BOXES), _MADE_BY)


def _shard_problems(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Give the shards of a dataset that are wrong by size or header, each with what is wrong."""
    if is_url(folder):
        files = [(place, shard) for place, shard, _ in manifest.shard_files()]
        for place, shard, problem in remote.lacking(folder, files):
            yield f"{place}/{shard.name}", problem
        return
    for place, shard, row in manifest.shard_files():
        if wrong := shards.problem_of(folder / place, shard, row):
            yield f"{place}/{shard.name}", wrong


def _table(path: Path) -> pd.DataFrame:
    try:
        table: pd.DataFrame = read_parquet(path).to_pandas()
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ArtifactError(
            f"{path} is not a table of a dataset ({error}): {remake(path.parent)}"
        ) from error
    return table


def no_finding(labels: pd.DataFrame) -> pd.Series[float]:
    """Tell where no finding is present: 1, 0, or NaN where an unknown one may be.

    Args:
        labels: a float column per finding.
    """
    none = (labels == 0).all(axis=1).astype(np.float64)
    return none.mask((none == 0) & ~(labels == 1).any(axis=1))


def counts_by_part(index: pd.DataFrame, findings: Findings) -> dict[str, dict[str, int]]:
    """Count images, patients, `No Finding` and each finding in every part of an index.

    `No Finding` is left out where it is unknown of every image without a finding, as in a union of
    sources that label different ones.
    """
    none = no_finding(index[list(findings)])
    said = bool((none == 1).any() or none.notna().all())
    return {
        part: _counts(index[here], findings, none[here] if said else None)
        for part in PARTS
        for here in [index["split"] == part]
    }


def _counts(
    part: pd.DataFrame, findings: Findings, none: pd.Series[float] | None
) -> dict[str, int]:
    return {
        "images": len(part),
        "patients": int(part["patient"].nunique()),
        **({} if none is None else {NO_FINDING: int((none == 1).sum())}),
        **{finding: int((part[finding] == 1).sum()) for finding in findings},
    }


def index_columns(findings: Findings) -> tuple[str, ...]:
    """Give the columns of the index, in order."""
    return (*_LEADING_COLUMNS, *findings, "split")


def read_manifest(folder: Path) -> Manifest:
    """Read `dataset.json`.

    Args:
        folder: path or URL of the dataset.

    Raises:
        ArtifactError: it does not exist, or is not a manifest of this version.
        StorageError: the store does not answer.
    """
    folder = local_tables(folder)
    path = folder / MANIFEST
    if not path.exists() and (folder / UNFINISHED).exists():
        raise ArtifactError(
            f"{folder} is unfinished: run `chestxray prepare` again with the same options; it "
            f"resumes"
        )
    content = read_json(path, _MADE_BY)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{path} is not a manifest of this version ({where}: {first['msg']}): {remake(folder)}"
        ) from error
    if set(manifest.sha256) != {INDEX, BOXES}:
        raise ArtifactError(
            f"{path} must hold the SHA-256 of exactly {INDEX} and {BOXES}, not of "
            f"{sorted(manifest.sha256)}: {remake(folder)}"
        )
    packed = sum(shard.images for shard in manifest.shards)
    if packed != manifest.images:
        raise ArtifactError(
            f"{path} names {manifest.images} images, but its shards hold {packed}: {remake(folder)}"
        )
    return manifest


def table_problem(folder: Path, manifest: Manifest, name: str) -> str | None:
    """Say what is wrong with the table of this file name; None where nothing is."""
    path = folder / name
    if not path.is_file():
        return f"{path} does not exist"
    if sha256(path) != manifest.sha256[name]:
        return f"{path} was altered"
    if name == INDEX:
        shape = parquet.read_metadata(path)
        columns = tuple(shape.schema.to_arrow_schema().names)
        if (shape.num_rows, columns) != (manifest.images, index_columns(manifest.findings)):
            return f"{path} does not match its manifest"
    return None


def remake(folder: Path) -> str:
    """Say how to make a dataset again."""
    return f"remove {shown(folder)} and run `chestxray prepare` again"


def renew(folder: Path, shard: str) -> str:
    """Say how to make one shard again, such as `images/00000.npy`."""
    return (
        f"remove {shown(folder / shard)} and run the `chestxray prepare` that made the "
        f"dataset again; it rebuilds only missing files"
    )


def _difference(key: str, old: object, new: object) -> str:
    if key == "inputs_sha256":
        return "labels, boxes, masks, split or files of the raw tree changed"
    if key == "sources":
        return "the sources or their policies changed"
    return f"{key} was {old}, now {new}"
