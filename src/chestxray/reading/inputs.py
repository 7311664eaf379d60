"""What `predict` and `explain` read: a split of a dataset, or folders and files of radiographs.

Images of a prepared dataset are not judged by the gate: its preparation chose them already, and an
evaluation must not lose images.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, Self, TypeVar

import numpy as np
import numpy.typing as npt

from chestxray.dataset.decoding import SECONDS_PER_FILE, DecoderPool
from chestxray.dataset.manifest import read_manifest
from chestxray.dataset.pixels import Canonical
from chestxray.dataset.remote import is_finished
from chestxray.dataset.shards import FOLDER, Shards
from chestxray.dataset.store import Dataset
from chestxray.dicom_elements import is_dicom
from chestxray.errors import ArtifactError, ImageError, SourceError
from chestxray.evaluation.seen_images import Evaluated, seen_images
from chestxray.file_names import one_line
from chestxray.model.model_card import ModelCard
from chestxray.parallel import cores
from chestxray.reading.judged_image import JudgedImage, load
from chestxray.storage import contents, mirrored, opened, origin_of, path_of
from chestxray.training.leakage import found_seen

_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".img"})
_DIRECTORY: Final = "DICOMDIR"  # a table of contents (PS3.10, 8.6)
_FIRST_BATCH: Final = 4

_T = TypeVar("_T")


@dataclass(frozen=True)
class DatasetImages:
    """One split of a prepared dataset, in row order."""

    dataset: Dataset
    rows: npt.NDArray[np.int64]

    @property
    def names(self) -> Sequence[str]:
        """The dataset's keys of the images."""
        names: list[str] = self.dataset.index["image"].iloc[self.rows].tolist()
        return names

    @property
    def fingerprint(self) -> str:
        """A hash that differs for other images."""
        manifest = self.dataset.manifest.model_dump_json()
        return sha256(manifest.encode() + self.rows.tobytes()).hexdigest()

    def decoding(self) -> AbstractContextManager[Self]:
        """Give these images, which are decoded already."""
        return nullcontext(self)

    def batches(self, size: int, start: int = 0) -> Iterator[list[Canonical]]:
        """Give the packed images [S, S], `size` at a time, from the row `start` on."""
        for begin in range(start, len(self.rows), size):
            yield list(self.dataset.images[self.rows[begin : begin + size]])

    def part(self, start: int, stop: int) -> PackedRows:
        """Give the images `start` to `stop` - 1, to be read by any process."""
        names = self.dataset.index["image"].iloc[self.rows[start:stop]].tolist()
        return PackedRows(_anywhere(self.dataset.folder), tuple(names), self.rows[start:stop])

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class PackedRows:
    """Some images of a prepared dataset, read without its tables.

    Attributes:
        folder: of the dataset.
        names: keys of the images.
        rows: of the index.
    """

    folder: Path
    names: Sequence[str]
    rows: npt.NDArray[np.int64]

    def batches(self, size: int, start: int = 0) -> Iterator[list[Canonical]]:
        """Give the packed images [S, S], `size` at a time, from the row `start` on."""
        images = _packed(self.folder)
        for begin in range(start, len(self.rows), size):
            yield list(images[self.rows[begin : begin + size]])


@dataclass(frozen=True)
class RadiographFiles:
    """Files, decoded in isolated processes on all cores, in the order given.

    Attributes:
        paths: of the files.
        names: unique key of each, its `Image Index`.
        size: side of the canonical image, pixels.
        seconds: time limit for decoding one file.
        pool: processes that decode and judge, see `decoding`.
    """

    paths: tuple[Path, ...]
    names: Sequence[str]
    size: int
    seconds: float = SECONDS_PER_FILE
    pool: DecoderPool[JudgedImage] | None = field(default=None, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """A hash that differs for other files, and when a file was changed."""
        digest = sha256()
        for path, name in zip(self.paths, self.names, strict=True):
            found = path.stat() if path.exists() else None
            state = (found.st_size, found.st_mtime_ns) if found else ()
            where = origin_of(path) or str(path.absolute())
            digest.update(repr((where, name, state)).encode())
        return digest.hexdigest()

    @contextmanager
    def decoding(self) -> Iterator[Self]:
        """Give these files with processes that decode and judge, and end with the context.

        They start in the background, which takes about a second: while a model is loaded.
        """
        with self._pool(partial(load, size=self.size)) as pool:
            pool.begin()
            yield replace(self, pool=pool)

    def decoded(
        self, decode: Callable[[Path], _T], ahead: int, start: int = 0
    ) -> Generator[_T | ImageError, None, None]:
        """Give what `decode` makes of each file, or what is wrong with the file.

        Args:
            decode: a function of a module, or a partial of one, which runs in the processes.
            ahead: files that are decoded in advance.
            start: first file.
        """
        with self._pool(decode, start) as pool:
            yield from pool.map(contents(self.paths[start:]), ahead)

    def batches(self, size: int, start: int = 0) -> Iterator[list[JudgedImage | ImageError]]:
        """Give radiographs, or what is wrong with the file, `size` at a time.

        A batch is decoded while the one before it is read. The first ones are smaller, so that the
        first answers come early. A file that kills its decoder or exceeds the time limit is an
        error like any other.
        """
        if self.pool is None:
            with self.decoding() as ready:
                yield from ready.batches(size, start)
            return
        stream = self.pool.map(contents(self.paths[start:]), size)
        for begin, end in pairwise((start, *_ends(start, len(self.paths), size))):
            yield list(islice(stream, end - begin))

    def part(self, start: int, stop: int) -> RadiographFiles:
        """Give the files `start` to `stop` - 1, to be read by any process."""
        paths = tuple(map(_anywhere, self.paths[start:stop]))
        return replace(self, paths=paths, names=tuple(self.names[start:stop]), pool=None)

    def __len__(self) -> int:
        return len(self.paths)

    def _pool(self, decode: Callable[[Path], _T], start: int = 0) -> DecoderPool[_T]:
        return DecoderPool(decode, min(cores(), len(self.paths) - start), self.seconds)


def _ends(start: int, count: int, size: int) -> Iterator[int]:
    """Give the rows at which batches end: 4, 8 and so on up to `size` rows more than the last.

    They do not depend on where a call starts, so a resumed call computes the same batches.
    """
    end, step = 0, min(_FIRST_BATCH, size)
    while end < count:
        end, step = min(end + step, count), min(2 * step, size)
        if end > start:
            yield end


Inputs = DatasetImages | RadiographFiles
Part = PackedRows | RadiographFiles
Given = str | Path | Sequence[str | Path] | Dataset


def find(given: Given, split: str | None, card: ModelCard) -> Inputs:
    """Find the radiographs to read.

    Args:
        given: one dataset or its folder; or folders, which are searched with all their subfolders,
            and files; paths or URLs. In a folder, files named .png, .jpg, .jpeg, .dcm or .dicom
            are read, and DICOM files of any name.
        split: of a dataset; required for a dataset, and not possible for files.
        card: of the model: a dataset must have its size and pixel rule.

    Raises:
        SourceError: nothing found, a folder that cannot be searched, a dataset beside other inputs,
            or a split that is missing or not possible.
        ArtifactError: the dataset does not fit the model, or has no such split.
        StorageError: a URL is refused, nothing is there, or the store does not answer.
    """
    if isinstance(given, Dataset):
        return _split_of(given, split, card)
    paths = list(map(path_of, [given] if isinstance(given, str | Path) else given))
    datasets = [path for path in paths if is_finished(path)]
    if datasets:
        if len(paths) > 1:
            raise SourceError(f"{datasets[0]} is a dataset: give it as the only input")
        return dataset_split(datasets[0], split, card)
    if split is not None:
        raise SourceError("a split (--split) is only possible with one dataset as the input")
    found = list(_files(map(mirrored, paths)))
    if not found:
        raise SourceError(
            f"there are no radiographs in {', '.join(map(str, paths))}: files must end in "
            f"{', '.join(sorted(_SUFFIXES))}, or be DICOM files"
        )
    return RadiographFiles(tuple(path for path, _ in found), _keys(found), card.size)


def dataset_split(folder: Path, split: str | None, card: ModelCard) -> DatasetImages:
    """Open one split of a prepared dataset.

    Raises:
        SourceError: the folder is not a prepared dataset, or no split is named.
        ArtifactError: the dataset does not fit the model, or has no such split.
    """
    if not is_finished(folder):
        raise SourceError(f"{folder} is not a prepared dataset: make one with `chestxray prepare`")
    return _split_of(Dataset.open(folder), split, card)


def leakage(inputs: Inputs, card: ModelCard) -> str | None:
    """Say so where images may be among those that the model has seen.

    Of a split of a dataset, all that is certain where anything is; else the worst of what may be,
    see `training.leakage.found_seen`. Of files, whose data set is not known, what published lists
    of training images say of their names.
    """
    if not isinstance(inputs, DatasetImages):
        images = Evaluated(parts={}, measured={"": [path.name for path in inputs.paths]})
        listed = (of for of in seen_images(card.seen, images) if of.public_list)
        return " ".join(of.sentence for of in listed) or None
    parts = frozenset(inputs.dataset.index["split"].iloc[inputs.rows])
    found = found_seen(card, inputs.dataset, parts, calibration=True)
    certain = [of.sentence for of in found if of.certain]
    doubts = sorted(found, key=lambda of: (of.images is None, not of.same_source))
    return " ".join(certain or [of.sentence for of in doubts[:1]]) or None


def _split_of(dataset: Dataset, split: str | None, card: ModelCard) -> DatasetImages:
    if dataset.images.shape[1] != dataset.manifest.size:  # other processes read the files
        raise ArtifactError(
            f"its images are reduced to {dataset.images.shape[1]} px, which only training takes: "
            f"give the dataset as it is in {dataset.folder}"
        )
    found = (dataset.manifest.size, dataset.manifest.pixel_rule)
    if found != (card.size, card.pixel_rule):
        raise ArtifactError(
            f"{dataset.folder} holds images of {found[0]} px by rule {found[1]!r}, but the model "
            f"reads {card.size} px by {card.pixel_rule!r}: prepare with --size {card.size}"
        )
    if split is None:
        raise SourceError(f"{dataset.folder} is a dataset: name its split, such as --split test")
    rows = dataset.rows(split)
    if not len(rows):
        raise ArtifactError(f"{dataset.folder} has no images in the split {split!r}")
    return DatasetImages(dataset, rows)


def _anywhere(path: Path) -> Path:
    """Give a path by which any process, of any folder and machine, finds the same file."""
    url = origin_of(path)
    return path.absolute() if url is None else path_of(url)


@lru_cache(maxsize=1)
def _packed(folder: Path) -> Shards:
    """Map the images of a dataset, once in a process."""
    manifest = read_manifest(folder)
    return Shards(folder / FOLDER, manifest.shards, (manifest.size, manifest.size))


def _files(inputs: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Give each file once, with the folder that it was found in."""
    seen = set[Path]()
    for given in inputs:
        if given.is_dir():
            folder, paths = given, sorted(path for path in _below(given) if _is_radiograph(path))
        elif given.exists():
            folder, paths = given.parent, [given]
        else:
            raise SourceError(f"{given} does not exist")
        for path in paths:
            same = Path(os.path.abspath(path))  # noqa: PTH100 - does not follow links
            if same not in seen:
                seen.add(same)
                yield path, folder


def _below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder, onerror=_unreadable):
        yield from (Path(root, name) for name in names)


def _unreadable(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be searched: {error.strerror}") from error


def _is_radiograph(path: Path) -> bool:
    """Go by the name, or by the content: archives name DICOM files as they like."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    if path.name == _DIRECTORY or not path.is_file() or not os.access(path, os.R_OK):
        return False
    with opened(path) as file:
        return is_dicom(file.read(132))


def _keys(found: Sequence[tuple[Path, Path]]) -> list[str]:
    """Give each file a unique key: the shortest form of its path by which all files differ.

    Its name; else its path within the input folder; else the same with the folder's name before it;
    else its full path; else the same with backslashes doubled, since a name may look like the
    escaped form of another one.
    """
    forms: tuple[Callable[[Path, Path], str], ...] = (
        lambda path, _: path.name,
        lambda path, folder: path.relative_to(folder).as_posix(),
        lambda path, folder: f"{folder.absolute().name}/{path.relative_to(folder).as_posix()}",
        lambda path, _: os.path.abspath(path),  # noqa: PTH100 - does not follow links
        lambda path, _: os.path.abspath(path).replace("\\", "\\\\"),  # noqa: PTH100
    )
    keys: list[str] = []
    for form in forms:
        keys = [one_line(form(path, folder)) for path, folder in found]
        if max(Counter(keys).values()) == 1:
            break
    return keys
