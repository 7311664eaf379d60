"""What `prepare` has done so far: a line a chunk, appended and synced, a torn last line cut off.

Files into one array on disk, on all cores, to be stopped and resumed at any moment.

The array has a row for every file. Worker processes decode a chunk of files and write it straight
to its place; this process only counts. Every few seconds it syncs the array and then notes the
chunks that were finished by then in the journal, so what the journal names is on the disk. A later
call does the chunks that the journal does not name; done once or twice, a chunk has the same bytes.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from chestxray.dataset.pixels import canonical, decode
from chestxray.errors import ArtifactError, ImageError
from chestxray.parallel import on_all_cores
from chestxray.progress import Advance, progress

Packed = tuple[int, int] | str
"""What became of a file: its width and height in pixels, or why it could not be read."""

Chunks = dict[int, list[Packed]]
"""Chunks by their first row."""


def read(path: Path) -> Chunks:
    """Read the journal, and cut off what a kill left half-written; empty where there is none."""
    chunks: Chunks = {}
    whole = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        chunks[entry["row"]] = [
            file if isinstance(file, str) else (file[0], file[1]) for file in entry["files"]
        ]
        whole += len(line)
    if path.exists():
        os.truncate(path, whole)
    return chunks


def append(path: Path, chunks: Chunks) -> None:
    """Note chunks durably; what they say must be on the disk already."""
    with path.open("a", encoding="utf-8") as file:
        for row, files in chunks.items():
            file.write(json.dumps({"row": row, "files": files}) + "\n")
        file.flush()
        os.fsync(file.fileno())


CHUNK: Final = 16
_SECONDS_BETWEEN_SYNCS: Final = 2.0


def pack(paths: Sequence[str], size: int, array: Path, notes: Path) -> list[Packed]:
    """Decode files into an array on disk, going on where an earlier call was stopped.

    Args:
        paths: files, a row each; the same in every call.
        size: side of the canonical image, pixels; the same in every call.
        array: uint8 [N, size, size] as NPY; the row of a file that can't be read stays zero.
        notes: the journal.

    Returns:
        What became of each file.

    Raises:
        ArtifactError: the disk is full or gone; a later call goes on.
        WorkerError: a worker process died; a later call goes on.
    """
    try:
        offset = _allocate(array, (len(paths), size, size), notes)
        done = read(notes)
        before = sum(map(len, done.values()))
        left = [
            (row, paths[row : row + CHUNK])
            for row in range(0, len(paths), CHUNK)
            if row not in done
        ]
        work = partial(_pack_chunk, size=size, array=array, offset=offset)
        with (
            on_all_cores(work, left, chunk=1) as chunks,
            progress("prepare", len(paths), done=before) as advance,
        ):
            rows = [row for row, _ in left]
            done |= _collect(zip(rows, chunks, strict=True), array, notes, advance)
    except OSError as error:
        raise ArtifactError(
            f"{array} cannot be written ({error}): run it again to go on"
        ) from error
    return [file for row in sorted(done) for file in done[row]]


def _allocate(array: Path, shape: tuple[int, int, int], notes: Path) -> int:
    """Make the array, of zeros, unless it is there; give the bytes before its first row."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    offset = len(header.getvalue())
    total = offset + math.prod(shape)
    if not array.exists() or array.stat().st_size != total:
        notes.unlink(missing_ok=True)
        with array.open("wb") as file:
            file.write(header.getvalue())
            file.truncate(total)
    return offset


def _collect(
    chunks: Iterable[tuple[int, list[Packed]]], array: Path, notes: Path, advance: Advance
) -> Chunks:
    """Await chunks; note them a few at a time, each time after their pixels are on the disk."""
    done: Chunks = {}
    fresh: Chunks = {}
    synced = time.monotonic()
    for row, files in chunks:
        fresh[row] = files
        advance(len(files))
        if time.monotonic() - synced > _SECONDS_BETWEEN_SYNCS:
            done |= _noted(fresh, array, notes)
            fresh, synced = {}, time.monotonic()
    return done | _noted(fresh, array, notes)


def _noted(fresh: Chunks, array: Path, notes: Path) -> Chunks:
    """Sync the array, then note what is in it for sure now."""
    with array.open("rb") as file:
        os.fsync(file.fileno())
    append(notes, fresh)
    return fresh


def _pack_chunk(
    placed: tuple[int, Sequence[str]], size: int, array: Path, offset: int
) -> list[Packed]:
    """Decode a chunk of files and write it to the array from its row on."""
    row, paths = placed
    block = np.zeros((len(paths), size, size), dtype=np.uint8)
    files: list[Packed] = []
    for place, path in enumerate(paths):
        try:
            image = decode(Path(path))
        except ImageError as error:
            files.append(error.reason)
            continue
        block[place] = canonical(image, size)
        height, width = image.shape
        files.append((width, height))
    with array.open("r+b") as file:
        file.seek(offset + row * size**2)
        file.write(block.data)
    return files
