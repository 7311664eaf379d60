"""Masks of findings, packed beside the images of a dataset on a coarse grid.

Shard k in `masks/` has the rows of shard k in `images/`: uint8 [n, P, g, g] with a cell for every
`CELL` × `CELL` pixels. Each of the P planes holds a bit for each of 8 findings, the first in the
highest bit (`numpy.packbits`). A bit is set where the mask covers the cell at least half as much as
the cell that it covers most, so that a mask smaller than a cell is not lost.

A finding without a set bit has no mask there, whether it is absent or was not drawn: the label
tells. Only datasets of a source with masks have this folder. A shard takes a tenth of its images'
space for 14 findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.artifacts import sha256, written
from chestxray.dataset import shards
from chestxray.dataset.decoding import SECONDS_PER_FILE, DecoderPool
from chestxray.dataset.pixels import canonical, decode
from chestxray.dataset.shards import Shard, Shards
from chestxray.errors import ArtifactError, ImageError
from chestxray.findings import Findings
from chestxray.parallel import process_count
from chestxray.progress import progress
from chestxray.sources.regions import mask_of_runs
from chestxray.storage import Content, contents

FOLDER: Final = "masks"  # of the shards, inside the dataset
CELL: Final = 4  # pixels
_CHUNK: Final = 16  # files that a process takes at a time
_AHEAD: Final = 1024  # files that are read while a shard is written

Grid = npt.NDArray[np.bool_]


class Masks:
    """The masks of a dataset, read-only; row i belongs to row i of the index.

    Indexing with a slice, a list or array of row numbers gives bool [n, K, g, g].

    Args:
        folder: of the shards.
        parts: the shards, in row order.
        findings: K names.
        size: side of the images, pixels.
    """

    def __init__(self, folder: Path, parts: Sequence[Shard], findings: Findings, size: int) -> None:
        self._shards = Shards(folder, parts, row_shape(findings, size))
        self._count = len(findings)

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, rows: slice | Sequence[int] | npt.NDArray[np.int64]) -> Grid:
        return np.unpackbits(self._shards[rows], axis=1, count=self._count).astype(bool)


class MaskFile(NamedTuple):
    """A file that shows where a finding is.

    Attributes:
        row: of its image within the shard.
        finding: its position.
        path: of the file, or its bytes; above 0 is inside. Empty where there are `runs`.
        runs: of pixels, as `sources.regions.text_of_runs` writes them.
    """

    row: int
    finding: int
    path: str | Path | Content
    runs: str = ""

    def __str__(self) -> str:
        return str(self.path) or f"runs {self.runs[:40]}"


@dataclass(frozen=True)
class _Work:
    """One shard to pack."""

    name: str
    images: int
    files: tuple[MaskFile, ...]


class PackedMasks(NamedTuple):
    """A shard of masks, and what is wrong with the files that could not be read."""

    shard: Shard
    unreadable: tuple[str, ...]


def row_shape(findings: Findings, size: int) -> tuple[int, int, int]:
    """Give the shape of a row: planes, and twice the side of the grid."""
    side = -(-size // CELL)
    return -(-len(findings) // 8), side, side


def pack_masks(
    table: pd.DataFrame,
    images: Sequence[str],
    parts: Sequence[Shard],
    findings: Findings,
    size: int,
    folder: Path,
) -> list[PackedMasks]:
    """Write the masks of shards of images; the files are read on all cores.

    A file that exceeds the limits of time or memory is one that cannot be read.

    Args:
        table: as `Collection.masks`; nothing is written for an empty one.
        images: keys of the packed images, those of all `parts`, in row order.
        parts: shards of images whose masks to write.
        findings: of the dataset.
        size: side of the images, pixels.
        folder: to write into; a shard that is there is replaced.

    Raises:
        ArtifactError: the folder cannot be written.
        WorkerError: a worker process died.
    """
    if table.empty:
        return []
    of_image = {str(name): group for name, group in table.groupby("image", sort=False)}
    work = list(_work(of_image, images, parts, findings))
    files = [file for each in work for file in each.files]
    row = row_shape(findings, size)
    processes = process_count(len(files), _CHUNK)
    try:
        with (
            DecoderPool(partial(_grid, side=row[1]), processes, SECONDS_PER_FILE) as pool,
            progress("masks", len(images)) as advance,
        ):
            read = zip(files, contents(file.path for file in files), strict=True)
            given = (file._replace(path=path) for file, path in read)
            grids = pool.map(given, _AHEAD, _CHUNK)
            packed = []
            for each in work:
                packed.append(_pack(each, grids, folder, row, len(findings)))
                advance(each.images)
            return packed
    except OSError as error:
        raise ArtifactError(
            f"{folder} cannot be written ({error}): free some disk space, then run the same "
            f"command again; it resumes"
        ) from error


def _work(
    of_image: Mapping[str, pd.DataFrame],
    images: Sequence[str],
    parts: Sequence[Shard],
    findings: Findings,
) -> Iterator[_Work]:
    start = 0
    for part in parts:
        files = []
        for row, image in enumerate(images[start : start + part.images]):
            if image in of_image:
                group = of_image[image]
                runs = group["runs"] if "runs" in group else [""] * len(group)
                for finding, path, run in zip(group["finding"], group["path"], runs, strict=True):
                    place = findings.place(finding)
                    if place is not None:
                        files.append(MaskFile(row, place, path, run))
        start += part.images
        yield _Work(part.name, part.images, tuple(files))


def _grid(file: MaskFile, side: int) -> Grid:
    """Read a file, or its runs."""
    if file.path:
        return on_grid(decode(file.path) > 0, side)
    try:
        return on_grid(mask_of_runs(file.runs), side)
    except ValueError as error:
        raise ImageError(Path(str(file)), str(error)) from error


def _pack(
    work: _Work,
    read: Iterator[Grid | ImageError],
    folder: Path,
    row: tuple[int, int, int],
    count: int,
) -> PackedMasks:
    """Write a shard; takes the grids of its files."""
    grids = np.zeros((work.images, count, *row[1:]), dtype=bool)
    unreadable = []
    for file in work.files:
        grid = next(read)
        if isinstance(grid, ImageError):
            unreadable.append(str(grid))
        else:
            grids[file.row, file.finding] = grid
    target = folder / work.name
    with written(target) as temporary:
        packed = np.packbits(grids, axis=1)
        temporary.write_bytes(shards.header(work.images, row) + packed.tobytes())
    shard = Shard(
        name=work.name, images=work.images, bytes=target.stat().st_size, sha256=sha256(target)
    )
    return PackedMasks(shard, tuple(unreadable))


def on_grid(inside: Grid, side: int) -> Grid:
    """Give the cells that a mask covers at least half as much as the cell that it covers most.

    Args:
        inside: bool [h, w], over the original image.
        side: of the grid over the canonical square, cells.

    Returns:
        bool [side, side].
    """
    covered = canonical(inside.astype(np.uint8) * np.uint8(255), side)
    return np.asarray((covered > 0) & (2 * covered.astype(np.int64) >= int(covered.max())), bool)
