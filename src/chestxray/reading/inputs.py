"""Inputs of the command line: datasets, folders and files become a stream of films.

What a dataset gives are bare images, which no gate judges: its preparation chose them already, and
an evaluation must not lose images on the way.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Final
from unicodedata import category

import numpy as np
import numpy.typing as npt

from chestxray.dataset.store import MANIFEST, Dataset
from chestxray.errors import ArtifactError, ImageError, SourceError
from chestxray.model.model_card import ModelCard
from chestxray.parallel import cores
from chestxray.reading.decoding import SECONDS_A_FILE, Decoder
from chestxray.reading.judged_image import JudgedImage

Image = npt.NDArray[np.uint8]

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom"})
_DIRECTORY: Final = "DICOMDIR"  # a table of contents (PS3.10, 8.6)
_BARE: Final = frozenset({"Cc", "Cs"})  # Unicode: control characters, surrogates


@dataclass(frozen=True)
class DatasetFilms:
    """One split of a prepared dataset, in row order."""

    dataset: Dataset
    rows: npt.NDArray[np.int64]

    @property
    def names(self) -> Sequence[str]:
        """Image names."""
        names: list[str] = self.dataset.index["image"].iloc[self.rows].tolist()
        return names

    @property
    def fingerprint(self) -> str:
        """Tell these images from others."""
        manifest = self.dataset.manifest.model_dump_json()
        return sha256(manifest.encode() + self.rows.tobytes()).hexdigest()

    def batches(self, size: int, start: int = 0) -> Iterator[list[Image]]:
        """Give the packed images [S, S], `size` at a time, from the row `start` on."""
        for begin in range(start, len(self.rows), size):
            yield list(self.dataset.images[self.rows[begin : begin + size]])


@dataclass(frozen=True)
class FileFilms:
    """Files, decoded as they are asked for on all cores, in the order given.

    Attributes:
        paths: of the files.
        size: side of the canonical image, pixels.
        seconds: a file may take to decode.
    """

    paths: tuple[Path, ...]
    size: int
    seconds: float = SECONDS_A_FILE

    @property
    def names(self) -> Sequence[str]:
        """File names, as `one_line` gives them."""
        return [one_line(path.name) for path in self.paths]

    @property
    def fingerprint(self) -> str:
        """Tell these files, as they are now, from others."""
        digest = sha256()
        for path in self.paths:
            found = path.stat() if path.exists() else None
            state = (found.st_size, found.st_mtime_ns) if found else ()
            digest.update(repr((str(path.absolute()), state)).encode())
        return digest.hexdigest()

    def batches(self, size: int, start: int = 0) -> Iterator[list[JudgedImage | ImageError]]:
        """Give films, or what is wrong with the file, `size` at a time.

        A batch is decoded while the one before it is being read. A file that kills its decoder or
        takes too long is an error like any other.
        """
        left = len(self.paths) - start
        free: SimpleQueue[Decoder] = SimpleQueue()
        decoders = [Decoder(self.size, self.seconds) for _ in range(min(cores(), left))]
        for decoder in decoders:
            free.put(decoder)
        pool = ThreadPoolExecutor(max(1, len(decoders)))
        try:
            ahead: list[Future[JudgedImage | ImageError]] = []
            for begin in range(start, len(self.paths), size):
                paths = self.paths[begin : begin + size]
                now, ahead = ahead, [pool.submit(_load, free, path) for path in paths]
                if now:
                    yield [future.result() for future in now]
            if ahead:
                yield [future.result() for future in ahead]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for decoder in decoders:
                decoder.kill()  # nobody waits for a file that hangs
            pool.shutdown()
            for decoder in decoders:
                decoder.close()


def _load(free: SimpleQueue[Decoder], path: Path) -> JudgedImage | ImageError:
    decoder = free.get()
    try:
        return decoder.load(path)
    finally:
        free.put(decoder)


Films = DatasetFilms | FileFilms


def films(inputs: Sequence[Path], split: str | None, card: ModelCard) -> Films:
    """Find what the user named.

    Args:
        inputs: one dataset folder, or any folders (searched to the bottom) and files. In a folder,
            what is not named as one of `SUFFIXES` is looked into for DICOM.
        split: the part of a dataset; must be given for a dataset, and only for one.
        card: of the model that will read: its size and pixel rule must be the dataset's.

    Raises:
        SourceError: nothing there, a folder that may not be read, two files of one name, or a
            dataset beside other inputs.
        ArtifactError: the dataset does not fit the model, or has no such split.
    """
    datasets = [given for given in inputs if (given / MANIFEST).exists()]
    if datasets:
        if len(inputs) > 1:
            raise SourceError(f"{datasets[0]} is a dataset: give it alone")
        return dataset_films(datasets[0], split, card)
    if split is not None:
        raise SourceError("--split goes with one dataset folder as input")
    paths = tuple(_files(inputs))
    if not paths:
        raise SourceError(
            f"no radiographs in {', '.join(map(str, inputs))}: files must end in "
            f"{', '.join(sorted(SUFFIXES))}, or be DICOM files"
        )
    chosen = FileFilms(paths, card.size)
    twice = [name for name, count in Counter(chosen.names).items() if count > 1]
    if twice:
        raise SourceError(
            f"{len(twice)} file names stand more than once, such as {twice[0]}: rows are told "
            f"apart by file name, so give these folders one at a time"
        )
    return chosen


def leak(films: Films, card: ModelCard) -> str | None:
    """Say so when a part of a dataset may hold patients that the model was trained on."""
    if not isinstance(films, DatasetFilms):
        return None
    manifest, trained = films.dataset.manifest, card.trained_on
    if manifest.title != trained.source or manifest.split.sha256 == trained.split_sha256:
        return None
    return (
        f"the model was trained on {trained.source} by another split than that of "
        f"{films.dataset.folder}: patients of its training may be among those read, and figures "
        f"from them would flatter it; use the dataset it was trained on"
    )


def dataset_films(folder: Path, split: str | None, card: ModelCard) -> DatasetFilms:
    """Give one split of a prepared dataset.

    Raises:
        SourceError: the folder is no prepared dataset, or no split is named.
        ArtifactError: the dataset does not fit the model, or has no such split.
    """
    if not (folder / MANIFEST).exists():
        raise SourceError(f"{folder} is no prepared dataset: `chestxray prepare` makes one")
    dataset = Dataset.open(folder)
    found = (dataset.manifest.size, dataset.manifest.pixel_rule)
    if found != (card.size, card.pixel_rule):
        raise ArtifactError(
            f"{dataset.folder} holds images of {found[0]} px by rule {found[1]!r}, the model reads "
            f"{card.size} px by {card.pixel_rule!r}: prepare with --size {card.size}"
        )
    if split is None:
        raise SourceError(f"{dataset.folder} is a dataset: name its part with --split test")
    rows = dataset.rows(split)
    if not len(rows):
        raise ArtifactError(f"{dataset.folder} has no images in part {split!r}")
    return DatasetFilms(dataset, rows)


def _files(inputs: Iterable[Path]) -> Iterator[Path]:
    for given in inputs:
        if given.is_dir():
            yield from sorted(path for path in _below(given) if _is_film(path))
        elif given.exists():
            yield given
        else:
            raise SourceError(f"{given} does not exist")


def _below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder, onerror=_unreadable):
        yield from (Path(root, name) for name in names)


def _unreadable(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be searched: {error.strerror}") from error


def _is_film(path: Path) -> bool:
    """Go by the name, or by the content: archives name DICOM files as they like."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.name == _DIRECTORY or not path.is_file() or not os.access(path, os.R_OK):
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def one_line(text: str) -> str:
    """Escape control characters, which would break a table's rows, and bytes that are no UTF-8."""
    return "".join(
        character.encode("unicode_escape").decode() if category(character) in _BARE else character
        for character in text
    )
