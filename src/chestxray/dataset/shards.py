"""Shards: the packed images of a dataset as a few whole files, read as if they were one array.

Shard k of a dataset is `images/0000k.npy`, uint8 [n, size, size]: those of the listed images
`SHARD * k` to `SHARD * (k + 1) - 1` that could be read, in their order. All shards one after the
other are therefore the rows of the index. Each shard can be written, checked and renewed alone.
Decoding files into shards is the task of `dataset.packing`. `masks/0000k.npy` holds the masks of
the same rows, see `dataset.masks`.

The shards of a dataset in a store are fetched whole when they are first read, checked against their
hash, and kept in the cache of this machine.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from chestxray.artifacts import sha256
from chestxray.errors import ArtifactError
from chestxray.storage import ObjectFolder, cache, is_url, shown

FOLDER: Final = "images"  # of the shards, inside the dataset
SHARD: Final = 1024  # listed images per shard: 51 MB at 224 pixels
HEADER_BYTES: Final = 128  # before the first pixel; NumPy pads its header to a multiple of 64
_SHARE: Final = 8  # of the cache that one array of shards holds at a time

_Images = npt.NDArray[np.uint8]


class Shard(BaseModel):
    """One file of packed images.

    Attributes:
        name: of the file in `images/`, such as `00000.npy`.
        images: in the file, at least one.
        bytes: size of the file.
        sha256: of the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[0-9]{5,}\.npy$")
    images: int = Field(ge=1)
    bytes: int
    sha256: str


def shard_name(number: int) -> str:
    """Give the file name of the shard with this number, counted from 0."""
    return f"{number:05d}.npy"


def header(images: int, row: tuple[int, ...]) -> bytes:
    """Give the NPY header (format 1.0) of a shard of rows of this shape, `HEADER_BYTES` long."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (images, *row)}
    )
    if buffer.tell() != HEADER_BYTES:
        raise ArtifactError(
            f"NumPy {np.__version__} writes an NPY header of {buffer.tell()} bytes, "
            f"{HEADER_BYTES} are expected: install another version of NumPy"
        )
    return buffer.getvalue()


def problem_of(folder: Path, shard: Shard, row: tuple[int, ...]) -> str | None:
    """Say what is wrong with a shard's file by its size and header; None where nothing is.

    Args:
        folder: of the shards.
        shard: what the manifest says of it.
        row: shape of a row: side × side pixels, or that of masks.
    """
    path = folder / shard.name
    if not path.is_file():
        return f"{path} does not exist"
    found = path.stat().st_size
    if found != shard.bytes:
        return f"{path} has {found} bytes instead of {shard.bytes}"
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        return f"{path} is not an NPY array ({error})"
    wanted = (shard.images, *row)
    if images.shape != wanted or images.dtype != np.uint8:
        return f"{path} holds {images.dtype} {list(images.shape)} instead of uint8 {list(wanted)}"
    return None


def alteration_of(folder: Path, shard: Shard, row: tuple[int, ...]) -> str | None:
    """Say what is wrong with a shard's file, its content included; None where nothing is.

    It reads the whole file; of a store, the one in the cache. Arguments as of `problem_of`.
    """
    with _on_this_machine(folder / shard.name, shard) as path:
        wrong = problem_of(path.parent, shard.model_copy(update={"name": path.name}), row)
        if wrong is None and sha256(path) != shard.sha256:
            return f"{folder / shard.name} was altered"
        return wrong


@contextmanager
def _on_this_machine(path: Path, shard: Shard) -> Iterator[Path]:
    """Give the file of a shard, from the cache where the path is that of a URL."""
    if not is_url(path):
        yield path
        return
    kept = _kept(path, shard)
    try:
        yield kept
    finally:
        cache.release(kept)


def _kept(path: Path, shard: Shard) -> Path:
    """Give a shard of a store from the cache, held till it is released; fetched where it lacks.

    Raises:
        ArtifactError: the store has no such shard.
        StorageError: it is not what the manifest says, or the store does not answer.
    """

    def fetch(target: Path) -> None:
        store = ObjectFolder(path.parent)
        try:
            store.download(path.name, target, shard.bytes, shard.sha256)
        except FileNotFoundError:
            raise ArtifactError(
                f"{shown(path)} does not exist: run the `chestxray prepare` that made the dataset "
                f"again; it makes what is missing"
            ) from None

    return cache.keep(f"{shard.sha256}.npy", shard.bytes, fetch)


class Shards:
    """The images of a dataset, read-only; row i belongs to row i of the index.

    Indexing with a number gives one image uint8 [S, S]; with a slice, a list or array of row
    numbers, or a mask, uint8 [n, S, S] in the order asked for. Both are copies. A shard is mapped
    into memory when it is first read.

    Args:
        folder: of the shards.
        shards: in row order.
        row: shape of a row, S × S pixels for images.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], row: tuple[int, ...]) -> None:
        ends = np.cumsum([shard.images for shard in shards], dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        self._starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        self._paths = [folder / shard.name for shard in shards]
        self._shards = tuple(shards) if is_url(folder) else ()
        self._kept: dict[int, Path] = {}  # the least recently used first
        self._rows = np.arange(total, dtype=np.int64)
        self._mapped: dict[int, _Images] = {}
        self.shape: tuple[int, ...] = (total, *row)

    @property
    def nbytes(self) -> int:
        """Give the bytes of all images."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> _Images:  # noqa: ANN401 - whatever NumPy takes for one axis
        rows = self._rows[key]
        if rows.ndim == 0:
            image: _Images = self._gathered(rows[None])[0]
            return image
        return self._gathered(rows)

    def shard_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Give the place of the shard that each row is in, counted from 0: int64 [n]."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def __iter__(self) -> Iterator[_Images]:
        for row in range(len(self)):
            yield self[row]

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Give all images as one array; they must fit in memory."""
        if copy is False:
            raise ValueError("the images of a dataset cannot become an array without a copy")
        return self[:].astype(dtype or np.uint8, copy=False)

    def _gathered(self, rows: npt.NDArray[np.int64]) -> _Images:
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        places = self.shard_of(rows)
        within = rows - self._starts[places]
        # Rows that follow each other in one shard are copied together.
        breaks = np.flatnonzero((np.diff(places) != 0) | (np.diff(within) != 1)) + 1
        begins = np.concatenate([[0], breaks]).tolist()
        for begin, end in zip(begins, [*breaks.tolist(), len(rows)], strict=True):
            if end > begin:
                first = int(within[begin])
                shard = self._map(int(places[begin]))
                images[begin:end] = shard[first : first + end - begin]
        return images

    def _map(self, place: int) -> _Images:
        if self._shards:
            self._fetch(place)
        if place not in self._mapped:
            path = self._kept.get(place, self._paths[place])
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            # Indexing a memmap itself costs some microseconds more.
            self._mapped[place] = mapped.view(np.ndarray)
        return self._mapped[place]

    def _fetch(self, place: int) -> None:
        """Hold a shard of a store in the cache; lets go of others, so that it has room."""
        if place in self._kept:
            self._kept[place] = self._kept.pop(place)
            return
        needed = self._shards[place].bytes
        room = cache.limit() // _SHARE - needed
        while self._kept and sum(self._shards[held].bytes for held in self._kept) > room:
            self._let_go(next(iter(self._kept)))
        self._kept[place] = _kept(self._paths[place], self._shards[place])

    def _let_go(self, place: int) -> None:
        self._mapped.pop(place, None)
        cache.release(self._kept.pop(place))

    def __del__(self) -> None:
        for place in tuple(vars(self).get("_kept", ())):
            self._let_go(place)


class ReducedImages(Shards):
    """The images of a dataset with fewer pixels, each the mean of those that it covers.

    Args:
        images: of the dataset.
        side: of the reduced ones, pixels.
    """

    def __init__(self, images: Shards, side: int) -> None:
        self._images = images
        self._rows = np.arange(len(images), dtype=np.int64)
        self.shape = (len(images), side, side)

    def shard_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """See `Shards.shard_of`."""
        return self._images.shard_of(rows)

    def _gathered(self, rows: npt.NDArray[np.int64]) -> _Images:
        reduced = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        for place, image in enumerate(self._images[rows]):
            cv2.resize(image, reduced.shape[1:], reduced[place], interpolation=cv2.INTER_AREA)
        return reduced
