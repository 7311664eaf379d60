"""Inputs of the command line: datasets, folders and files become a stream of canonical images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.dataset import pixels
from chestxray.dataset.store import MANIFEST, Dataset
from chestxray.errors import ArtifactError, ImageError, SourceError
from chestxray.model.bundle import Card

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom"})

Image = npt.NDArray[np.uint8]


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

    def batches(self, size: int) -> Iterator[list[Image]]:
        """Give the packed images [S, S], `size` at a time."""
        for start in range(0, len(self.rows), size):
            yield list(self.dataset.images[self.rows[start : start + size]])


@dataclass(frozen=True)
class FileFilms:
    """Files, decoded as they are asked for on all cores, in the order given."""

    paths: tuple[Path, ...]
    size: int

    @property
    def names(self) -> Sequence[str]:
        """File names."""
        return [path.name for path in self.paths]

    def batches(self, size: int) -> Iterator[list[Image | ImageError]]:
        """Give canonical images [S, S], or what is wrong with the file, `size` at a time.

        A batch is decoded while the one before it is being read.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            groups = (self.paths[i : i + size] for i in range(0, len(self.paths), size))
            ahead: list[Future[Image | ImageError]] = []
            for paths in groups:
                now, ahead = ahead, [pool.submit(self._load, path) for path in paths]
                if now:
                    yield [future.result() for future in now]
            yield [future.result() for future in ahead]

    def _load(self, path: Path) -> Image | ImageError:
        try:
            return pixels.load(path, self.size)
        except ImageError as error:
            return error


Films = DatasetFilms | FileFilms


def films(inputs: Sequence[Path], split: str | None, card: Card) -> Films:
    """Find what the user named.

    Args:
        inputs: one dataset folder, or any folders (searched to the bottom) and files.
        split: the part of a dataset; must be given for a dataset, and only for one.
        card: of the model that will read: its size and pixel rule must be the dataset's.

    Raises:
        SourceError: nothing there, or two files of one name.
        ArtifactError: the dataset does not fit the model, or has no such split.
    """
    if len(inputs) == 1 and (inputs[0] / MANIFEST).exists():
        return _of_dataset(Dataset.open(inputs[0]), split, card)
    if split is not None:
        raise SourceError("--split goes with one dataset folder as input")
    paths = tuple(_files(inputs))
    if not paths:
        raise SourceError(
            f"no radiographs in {', '.join(map(str, inputs))}: files must end in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    twice = [name for name, count in Counter(p.name for p in paths).items() if count > 1]
    if twice:
        raise SourceError(
            f"{len(twice)} file names stand more than once, such as {twice[0]}: rows are told "
            f"apart by file name, so give these folders one at a time"
        )
    return FileFilms(paths, card.size)


def leak(films: Films, card: Card) -> str | None:
    """Say so when a part of a dataset may hold patients that the model was trained on."""
    if not isinstance(films, DatasetFilms):
        return None
    manifest, trained = films.dataset.manifest, card.trained_on
    if manifest.source != trained.source or manifest.split.sha256 == trained.split_sha256:
        return None
    return (
        f"the model was trained on {trained.source} by another split than that of "
        f"{films.dataset.folder}: patients of its training may be among those read, and figures "
        f"from them would flatter it; use the dataset it was trained on"
    )


def _of_dataset(dataset: Dataset, split: str | None, card: Card) -> DatasetFilms:
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
            yield from sorted(p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif given.exists():
            yield given
        else:
            raise SourceError(f"{given} does not exist")
