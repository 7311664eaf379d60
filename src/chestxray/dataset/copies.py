"""Copies of radiographs in two trees or datasets: exact, resized, recompressed, cropped, windowed.

Each image becomes a fingerprint of 4 KB (`dataset.fingerprints`), and its pixels a hash. Then

1. equal hashes are `exact` copies;
2. for each image of the smaller side, the 16 of the other side whose descriptors correlate best are
   candidates. All pairs are compared, in blocks, by matrix products;
3. a candidate whose aligned fine band correlates by `SCORE` or more is a `copy`.

So an image with more than 16 copies that are not exact shows 16 of them. Copies that are rotated,
mirrored, inverted, padded, or cropped by much more than 2 % of a side are not found; the padding of
a prepared dataset is known and taken off. What is found of planted copies: docs/log.md.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.artifacts import write_table
from chestxray.dataset.alignment import scores
from chestxray.dataset.decoding import DecoderPool
from chestxray.dataset.fingerprints import (
    SIDE,
    SMALLEST,
    Floats,
    Prints,
    descriptors,
    fingerprint,
    is_flat,
)
from chestxray.dataset.pixels import Canonical, placement
from chestxray.dataset.radiograph import Radiograph
from chestxray.dataset.remote import is_dataset
from chestxray.dataset.shards import Shards
from chestxray.dataset.store import Dataset
from chestxray.errors import ImageError, SourceError
from chestxray.parallel import check_main_module, process_count
from chestxray.progress import progress
from chestxray.sources.files import radiographs, scan
from chestxray.sources.overlaps import may_share

SCORE: Final = 0.83
"""From which a pair is a copy; chosen on planted copies, see docs/log.md."""
COLUMNS: Final = ("a", "b", "score", "kind")
EXACT: Final = "exact"
COPY: Final = "copy"
_CANDIDATES: Final = 16
_BLOCK: Final = 2048  # images whose products are made at a time
_CHUNK: Final = 16  # files that a worker takes at a time

Kind = Literal["exact", "copy"]
Names = tuple[str, str]
_Ints = npt.NDArray[np.int64]


class Pair(NamedTuple):
    """A radiograph of one side and its copy on the other, by position."""

    a: int
    b: int
    score: float
    kind: Kind


@dataclass(frozen=True)
class Images:
    """One side of a search.

    Attributes:
        names: n names.
        keys: of each image, hashes; two images with a common one are equal.
        prints: their fingerprints, uint8 [n, 64, 64].
        unreadable: names and reasons of files that could not be read, left out.
    """

    names: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    prints: Prints
    unreadable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def without(self, places: AbstractSet[int]) -> Images:
        """Give the same images but for those at some positions."""
        kept = [place for place in range(len(self)) if place not in places]
        return Images(
            tuple(self.names[place] for place in kept),
            tuple(self.keys[place] for place in kept),
            self.prints[kept],
        )


@dataclass(frozen=True)
class SharedImages:
    """What two trees or datasets have in common.

    Attributes:
        pairs: `a` and `b` (names), `score` (1 for equal pixels) and `kind` (`exact` or `copy`),
            sorted by name.
        images: compared on either side; twice the same number where one side was compared with
            itself.
        left_out: images that show nothing, such as all black ones, and images of fewer than 48
            pixels a side, of which only equal ones are found.
        unreadable: names and reasons of files that could not be read.
    """

    pairs: pd.DataFrame
    images: tuple[int, int]
    left_out: int
    unreadable: tuple[str, ...]

    def count(self, kind: Kind) -> int:
        """Count the pairs of a kind."""
        return int((self.pairs["kind"] == kind).sum())


def overlap(
    a: str | Path | Dataset,
    b: str | Path | Dataset | None = None,
    out: str | Path | None = None,
) -> SharedImages:
    """Find the radiographs that two sides share, or that one holds more than once.

    Args:
        a: a folder of images (PNG, JPEG, DICOM; in any folders), or a prepared dataset.
        b: the other side; `a` is compared with itself when None or the same folder.
        out: CSV or Parquet file to write the pairs to; nothing is written by default.

    Returns:
        The pairs. Of files the name is the path from the folder, of a dataset the image's key. With
        a dataset on one side, images are equal where they are as the dataset has packed them.

    Raises:
        SourceError: a folder does not exist or holds no image that can be read.
        ArtifactError: a dataset is damaged.
        WorkerError: a worker process died.
    """
    check_main_module()
    alone = b is None or _folder(a) == _folder(b)
    sides = [a] if alone or b is None else [a, b]
    opened = [side if isinstance(side, Dataset) else _opened(Path(side)) for side in sides]
    sizes = {side.manifest.size for side in opened if isinstance(side, Dataset)}
    read = [
        of_dataset(side) if isinstance(side, Dataset) else of_tree(side, sorted(sizes))
        for side in opened
    ]
    first, second = read[0], read[-1]
    table = _table(find(first, None if alone else second), first, second)
    if out is not None:
        write_table(Path(out), table)
    return SharedImages(
        pairs=table,
        images=(len(first), len(second)),
        left_out=sum(int(is_flat(side.prints).sum()) for side in read),
        unreadable=tuple(name for side in read for name in side.unreadable),
    )


def of_dataset(dataset: Dataset, rows: Sequence[int] | _Ints | None = None) -> Images:
    """Make the fingerprints of a prepared dataset's images, without their padding.

    Args:
        dataset: the dataset.
        rows: of the index; all when None.
    """
    places = np.arange(len(dataset.index)) if rows is None else np.asarray(rows, dtype=np.int64)
    index = dataset.index.iloc[places]
    return packed(
        index["image"].tolist(),
        (dataset.images[int(place)] for place in places),
        list(zip(index["width"], index["height"], strict=True)),
    )


def packed(
    names: Sequence[str], images: Iterator[Canonical], sides: Sequence[tuple[int, int]]
) -> Images:
    """Make the fingerprints of canonical images.

    Args:
        names: n names.
        images: n images, uint8 [size, size].
        sides: width and height of the original of each, pixels.
    """
    prints = np.empty((len(names), SIDE, SIDE), np.uint8)
    keys = []
    with progress("fingerprints", len(names)) as advance:
        for row, (image, (width, height)) in enumerate(zip(images, sides, strict=True)):
            keys.append((_packed_key(image),))
            prints[row] = fingerprint(_unpadded(image, width, height))
            advance()
    return Images(tuple(names), tuple(keys), prints)


def of_tree(tree: Path, sizes: Sequence[int] = ()) -> Images:
    """Decode all radiographs in a folder, on all cores.

    Args:
        tree: the folder.
        sizes: of the datasets that it is compared with, pixels.

    Raises:
        SourceError: it holds no image that can be read.
        WorkerError: a worker process died.
    """
    found = scan(tree)
    names = radiographs(found)
    prints = np.empty((len(names), SIDE, SIDE), np.uint8)
    kept: list[str] = []
    keys: list[tuple[str, ...]] = []
    unreadable: list[str] = []
    look = partial(_look, sizes=tuple(sizes))
    with (
        DecoderPool(look, process_count(len(names), _CHUNK)) as pool,
        progress("fingerprints", len(names)) as advance,
    ):
        paths = (str(found.root / name) for name in names)
        for name, seen in zip(names, pool.map(paths, chunk=_CHUNK), strict=True):
            if isinstance(seen, ImageError):
                unreadable.append(f"{name} ({seen.reason})")
            else:
                prints[len(kept)] = seen.print_
                kept.append(name)
                keys.append(seen.keys)
            advance()
    if not kept:
        such = f", such as {unreadable[0]}" if unreadable else ""
        raise SourceError(
            f"{tree} holds no radiograph that can be read{such}: give a folder with PNG, JPEG or "
            f"DICOM files, or a prepared dataset"
        )
    return Images(tuple(kept), tuple(keys), prints[: len(kept)], tuple(unreadable))


def find(a: Images, b: Images | None = None, least: float = SCORE) -> list[Pair]:
    """Find the images that two sides share, or the copies within one.

    Args:
        a: one side.
        b: the other; pairs of `a` with itself, each once, when None.
        least: score from which a candidate is a copy.

    Returns:
        Pairs by position, sorted.
    """
    other = a if b is None else b
    equal = set(_equal(a, other, alone=b is None))
    turned = b is not None and len(b) < len(a)  # each image of the smaller side gets candidates
    small, large = (other, a) if turned else (a, other)
    near = _candidates(small.prints, large.prints, alone=b is None)
    if turned:
        near = near[:, ::-1]
    left = [pair for pair in map(tuple, near.tolist()) if pair not in equal]
    near = np.array(left, np.int64).reshape(-1, 2)
    pairs = [Pair(*pair, 1.0, EXACT) for pair in equal]
    with progress("compare", len(near), "pairs") as advance:
        for start in range(0, len(near), _BLOCK):
            some = near[start : start + _BLOCK]
            found = scores(a.prints[some[:, 0]], other.prints[some[:, 1]])
            for (i, j), score in zip(some.tolist(), found.tolist(), strict=True):
                if score >= least:
                    pairs.append(Pair(i, j, score, COPY))
            advance(len(some))
    return sorted(pairs)


def between_sources(
    rows: pd.DataFrame, sides: Sequence[tuple[int, int]], images: Shards, pairs: Iterable[Names]
) -> list[Names]:
    """Find the copies of radiographs between some sources of a dataset.

    Args:
        rows: `image` and `source` of each packed image.
        sides: width and height of each original, pixels.
        images: uint8 [n, size, size], in the order of the rows.
        pairs: names of two sources each.

    Returns:
        Keys of two images each, equal ones too.
    """
    pairs = list(pairs)
    if images.shape[1] < SMALLEST or not pairs:
        return []
    names, sources = rows["image"].tolist(), rows["source"].to_numpy()
    seen = {}
    for source in sorted({source for pair in pairs for source in pair}):
        places = np.flatnonzero(sources == source)
        seen[source] = packed(
            [names[place] for place in places],
            (images[int(place)] for place in places),
            [sides[int(place)] for place in places],
        )
    return [pair for one, other in pairs for pair in _shared(seen[one], seen[other])]


def within_dataset(dataset: Dataset) -> list[Names]:
    """Find the copies between those sources of a dataset that are known to share radiographs."""
    titles = {source.name: source.title for source in dataset.manifest.sources}
    pairs = [
        (one, other)
        for one, other in combinations(titles, 2)
        if may_share(titles[one], titles[other])
    ]
    sides = list(dataset.index[["width", "height"]].itertuples(index=False, name=None))
    return between_sources(dataset.index, sides, dataset.images, pairs)


def _shared(a: Images, b: Images) -> Iterator[Names]:
    """Give the names of shared images; one with an equal image there is not searched again."""
    if len(b) < len(a):
        a, b = b, a
    equal = list(_equal(a, b, alone=False))
    yield from ((a.names[i], b.names[j]) for i, j in equal)
    left = a.without({i for i, _ in equal})
    yield from ((left.names[pair.a], b.names[pair.b]) for pair in find(left, b))


class _Look(NamedTuple):
    """What a worker gives of a file."""

    print_: Prints
    keys: tuple[str, ...]


def _look(path: str, sizes: tuple[int, ...]) -> _Look:
    radiograph = Radiograph.read(Path(path))
    packed_ = (_packed_key(radiograph.canonical(size)) for size in sizes)
    return _Look(fingerprint(radiograph.pixels), (radiograph.pixels_sha256, *packed_))


def _packed_key(image: Canonical) -> str:
    """Give a hash of a canonical image, with its size."""
    return f"{len(image)} {hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()}"


def _unpadded(image: Canonical, width: int, height: int) -> Canonical:
    size = len(image)
    left, top, w, h = (value * size for value in placement(width, height))
    rows = slice(round(top), max(round(top + h), round(top) + 1))
    return image[rows, round(left) : max(round(left + w), round(left) + 1)]


def _equal(a: Images, b: Images, *, alone: bool) -> Iterator[tuple[int, int]]:
    """Give the pairs of images with a common key; none of those with a single grey value."""
    places = defaultdict(list)
    for place, keys in enumerate(b.keys):
        for key in keys if b.prints[place].any() else ():
            places[key].append(place)
    for place, keys in enumerate(a.keys):
        for other in sorted({other for key in keys for other in places.get(key, ())}):
            if not alone or place < other:
                yield place, other


def _candidates(a: Prints, b: Prints, *, alone: bool) -> _Ints:
    """Give for each image of `a` those of `b` that look most alike.

    Returns:
        Positions, int64 [m, 2], sorted, each pair once; with `alone` the first is the smaller.
    """
    if not len(a) or not len(b):
        return np.empty((0, 2), np.int64)
    own = descriptors(a)
    best = np.full((len(a), 0), -1.0, np.float32)
    places = np.empty((len(a), 0), np.int64)
    with progress("search", len(b)) as advance:
        for start in range(0, len(b), _BLOCK):
            block = descriptors(b[start : start + _BLOCK])
            best, places = _nearest(own, block, start, (best, places), alone=alone)
            advance(len(block[0]))
    rows = np.repeat(np.arange(len(a)), best.shape[1])
    pairs = np.column_stack([rows, places.ravel()])[best.ravel() > 0]
    return np.unique(np.sort(pairs, axis=1) if alone else pairs, axis=0)


def _nearest(
    a: tuple[Floats, Floats],
    block: tuple[Floats, Floats],
    start: int,
    before: tuple[Floats, _Ints],
    *,
    alone: bool,
) -> tuple[Floats, _Ints]:
    """Keep the best candidates of each image after another block of the other side."""
    best, places = [], []
    columns = np.arange(start, start + len(block[0]))
    for first in range(0, len(a[0]), _BLOCK):
        some = slice(first, first + _BLOCK)
        found = a[0][some] @ block[0].T
        np.maximum(found, a[1][some] @ block[0].T, out=found)
        np.maximum(found, a[0][some] @ block[1].T, out=found)
        if alone:  # not itself
            found[np.arange(first, first + len(found))[:, None] == columns] = -1
        joined = np.concatenate([before[0][some], found], axis=1)
        those = np.broadcast_to(columns, found.shape)
        where = np.concatenate([before[1][some], those], axis=1)
        count = min(_CANDIDATES, joined.shape[1])
        top = np.argpartition(-joined, count - 1, axis=1)[:, :count]
        best.append(np.take_along_axis(joined, top, axis=1))
        places.append(np.take_along_axis(where, top, axis=1))
    return np.concatenate(best), np.concatenate(places)


def _table(pairs: Sequence[Pair], a: Images, b: Images) -> pd.DataFrame:
    rows = [(a.names[p.a], b.names[p.b], round(p.score, 4), p.kind) for p in pairs]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"score": "float64"})
    return table.sort_values(["a", "b"], ignore_index=True)


def _opened(path: Path) -> Path | Dataset:
    if is_dataset(path):
        return Dataset.open(path)
    if not path.is_dir():
        raise SourceError(
            f"{path} is not a folder: give a folder of radiographs, or a prepared dataset"
        )
    return path


def _folder(side: str | Path | Dataset) -> Path:
    return (side.folder if isinstance(side, Dataset) else Path(side)).resolve()
