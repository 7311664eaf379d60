"""A prepared dataset on disk, and `Dataset`, which opens it.

Opening checks the hashes of the tables and the names, sizes and headers of the shards, and refuses
a dataset that does not match its manifest. The hashes of the shards are checked by
`dataset.verification`, and some of them, drawn at random, in each epoch of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyarrow import parquet

from chestxray.artifacts import require, sha256
from chestxray.dataset import masks, remote, shards
from chestxray.dataset.manifest import (
    BOXES,
    MADE_BY,
    Manifest,
    Split,
    index_columns,
    local_tables,
    read_manifest,
    remake,
    renew,
)
from chestxray.dataset.masks import Masks
from chestxray.dataset.shards import Shard, Shards
from chestxray.dataset.split import INDEX, PARTS, check, split_sha256
from chestxray.errors import ArtifactError
from chestxray.findings import NO_FINDING, Findings
from chestxray.storage import is_url, path_of
from chestxray.table_limits import read_parquet


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Attributes:
        folder: of its files.
        manifest: what it is.
        index: one row per image, with the columns that `index_columns` gives.
        images: uint8 [N, size, size], memory-mapped, read-only; row i belongs to index row i.
            Of a smaller side where they are `reduced`.
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
        of, side = self.manifest, self.images.shape[1]
        parts = ", ".join(f"{counts['images']:,} {part}" for part, counts in of.counts.items())
        return (
            f"Dataset({str(self.folder)!r}: {of.title}, {of.images:,} images of {of.patients:,} "
            f"patients at {side} px, {len(of.findings)} findings; split {of.split}: {parts})"
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
            require(tables / name, MADE_BY)
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

    def reduced(self, side: int) -> Self:
        """Give the same radiographs with smaller images, for the training of a network on these.

        No file is written: images are reduced when they are read. The manifest stays that of the
        dataset, and says its size. A finished model reads the dataset itself.

        Args:
            side: of the images, pixels; at that of the dataset they stay as they are.

        Raises:
            ArtifactError: the dataset's images are smaller.
        """
        size = self.images.shape[1]
        if side == size:
            return self
        if side > size:
            raise ArtifactError(
                f"{self.folder} holds images of {size} px, which cannot be reduced to {side}: "
                f"prepare with --size {side}"
            )
        return replace(self, images=shards.ReducedImages(self.images, side))

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
