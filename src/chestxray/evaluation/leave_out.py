"""Images that a user leaves out of an evaluation: those that a file names, with their patients.

The file is one that `chestxray overlap` wrote (columns `a` and `b`), or a table with a column
`image`, such as a list of training images. Of pairs, the side whose names are images of the
evaluated data set counts, whichever it is. A name is that of an image where both are equal, or
where one is the end of the other's path, with any suffix: a file `train/1.2.3.dcm` of a tree is the
image `1.2.3` of the dataset that was prepared from it.

Whether a file names all images that a model has seen is for the user to know; it is not checked.
What shows that a file is not about a data set, or not about all of it, is: see `Named.lacking`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.csv_cells import restored
from chestxray.errors import SourceError
from chestxray.evaluation.labels import Labels, match_names
from chestxray.evaluation.predictions import counted
from chestxray.evaluation.result_details import LeftOut
from chestxray.sources.table_files import lines, radiograph_stem, text_table, titles
from chestxray.storage import fetched, shown
from chestxray.table_limits import parquet_rows

_IMAGE: Final = "image"
_PAIR: Final = ("a", "b")


class _Match(NamedTuple):
    """Which images of a data set some names are.

    Attributes:
        rows: positions of the images, sorted.
        unmatched: names of no image, without suffix.
        ambiguous: names that may be of several.
    """

    rows: npt.NDArray[np.int64]
    unmatched: pd.Index[str]
    ambiguous: tuple[str, ...]


@dataclass(frozen=True)
class ImageList:
    """A file that names images.

    Attributes:
        path: of the file.
        names: unique names by column: `image`, or `a` and `b` of pairs.
    """

    path: Path
    names: Mapping[str, pd.Index[str]]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a CSV or Parquet file; a URL's comes from the cache.

        Raises:
            SourceError: not such a file.
            StorageError: nothing is at the URL, or the store does not answer.
        """
        path = fetched(path)
        if not path.is_file():
            raise SourceError(f"{path} is not a file: give one that `chestxray overlap` wrote")
        there = titles(path)
        columns = [_IMAGE] if _IMAGE in there else list(_PAIR)
        if not {*columns} <= {*there}:
            raise SourceError(
                f"{path} has the columns {', '.join(there) or '(none)'}: give a file that "
                f"`chestxray overlap` wrote (columns a, b, score, kind), or a table with a column "
                f"image"
            )
        if _without_rows(path):
            return cls(path, {column: pd.Index([], dtype="str") for column in columns})
        table = text_table(path, columns)
        return cls(path, {column: _unique(table[column].map(restored)) for column in columns})

    @property
    def name(self) -> str:
        """Its path or URL, for people."""
        return shown(self.path)

    @property
    def empty(self) -> bool:
        """Whether it names nothing, as where no radiographs are shared."""
        return not any(map(len, self.names.values()))

    def matches(self, truth: Labels) -> dict[str, _Match]:
        """Find the images that the names of each column are of."""
        return {column: _match(names, truth) for column, names in self.names.items()}

    def side(self, found: Mapping[str, _Match], truth: Labels) -> str | None:
        """Give the column that names images of a data set; None where there is none.

        Args:
            found: what `matches` gives of it.
            truth: its labels.

        Raises:
            SourceError: a name that may be of several images, or pairs both sides of which name
                images of this data set, and not the same ones.
        """
        named = {name: of for name, of in found.items() if len(of.rows) or of.ambiguous}
        if not named:
            return None
        first, *others = named.values()
        for column, of in named.items():
            if of.ambiguous:
                raise SourceError(
                    f"{self.path}: {counted(len(of.ambiguous), 'name')} in the column {column}, "
                    f"such as {of.ambiguous[0]}, may be of several images of {truth.source}: write "
                    f"the names as the data set has them, like {truth.rows.index[0]}"
                )
        if any(not np.array_equal(first.rows, of.rows) for of in others):
            raise SourceError(
                f"{self.path}: both columns name images of {truth.source} ({len(first.rows)} in a, "
                f"{len(others[0].rows)} in b), so that it cannot be told which to leave out: give "
                f"a table with these names in one column, image"
            )
        return next(iter(named))


class _Found(NamedTuple):
    """What a file says of one of several data sets.

    Attributes:
        file: its path or URL.
        rows: positions of the images that it names.
        unmatched: names beside these that are of no image of any of the data sets.
    """

    file: str
    rows: npt.NDArray[np.int64]
    unmatched: pd.Index[str]


@dataclass(frozen=True)
class Named:
    """The patients of whom files name an image.

    Attributes:
        rows: for each row of the labels, whether it is of such a patient.
        files: those that say something of this data set: they name an image of it, or
            nothing at all.
        unmatched: how many names in these files no image has, of this data set or another that
            was given with it.
        example: one of these names.
        lacking: why these files do not lift a doubt about the data set, in words; empty where each
            of them names images of it, or nothing, one at least names some, no name is unmatched,
            and the data set has one source.
    """

    rows: npt.NDArray[np.bool_]
    files: tuple[str, ...] = ()
    unmatched: int = 0
    example: str = ""
    lacking: str = ""

    @classmethod
    def of(cls, lists: Iterable[ImageList], truth: Labels) -> Self:
        """Find them among labels; see `ImageList.side` for the errors."""
        return cls.of_each(lists, [truth])[0]

    @classmethod
    def of_each(cls, lists: Iterable[ImageList], truths: Sequence[Labels]) -> list[Self]:
        """Find them among the labels of several data sets; see `ImageList.side` for the errors."""
        by_file = [_found(of, truths) for of in lists]
        return [
            cls._of([each[place] for each in by_file], truth) for place, truth in enumerate(truths)
        ]

    @classmethod
    def _of(cls, files: Sequence[_Found | None], truth: Labels) -> Self:
        found = [of for of in files if of is not None]
        at = np.concatenate([np.empty(0, np.int64), *(of.rows for of in found)])
        unmatched = [name for of in found for name in of.unmatched]
        patient = truth.rows["patient"]
        return cls(
            patient.isin(patient.iloc[at]).to_numpy(dtype=bool),
            tuple(of.file for of in found),
            len(unmatched),
            unmatched[0] if unmatched else "",
            _lacking(len(at), unmatched, truth),
        )

    def among(self, images: npt.NDArray[np.object_], truth: Labels) -> npt.NDArray[np.bool_]:
        """Tell which of some images are of these patients.

        Args:
            images: n names of the labels.
            truth: the labels.
        """
        return self.rows[truth.rows.index.get_indexer(pd.Index(images))]

    def left_out(self, patients: Iterable[object]) -> LeftOut | None:
        """Count what is left out; None where no file says anything of this data set.

        Args:
            patients: of each image that is left out.
        """
        of = list(patients)
        if not self.files:
            return None
        return LeftOut(
            files=list(self.files), images=len(of), patients=len({*of}), unmatched=self.unmatched,
            example=self.example,
        )  # fmt: skip


def read_lists(paths: str | Path | Sequence[str | Path]) -> tuple[ImageList, ...]:
    """Read files that name images; see `ImageList.read` for the errors."""
    given = [paths] if isinstance(paths, str | Path) else paths
    return tuple(map(ImageList.read, given))


def check_used(lists: Iterable[ImageList], found: Sequence[tuple[Named, Labels]]) -> None:
    """Refuse a file that names images, but none of those that are evaluated.

    Args:
        lists: all files.
        found: what they name of each data set.

    Raises:
        SourceError: there is such a file.
    """
    used = {file for named, _ in found for file in named.files}
    for of in lists:
        if of.name not in used:
            theirs = ", ".join(f"{name} such as {of.names[name][0]}" for name in of.names)
            ours = ", ".join(f"{truth.rows.index[0]} of {truth.source}" for _, truth in found)
            raise SourceError(
                f"{of.path} names no image that is evaluated (its names: {theirs}; evaluated: "
                f"{ours}): compare the prepared dataset itself, `chestxray overlap A DATASET --out "
                f"pairs.csv`, or write its names into a column image"
            )


def _found(of: ImageList, truths: Sequence[Labels]) -> list[_Found | None]:
    """Tell what a file says of each of some data sets; None where it names no image of it."""
    matches = [of.matches(truth) for truth in truths]
    unmatched = {
        column: reduce(pd.Index.intersection, (each[column].unmatched for each in matches))
        for column in of.names
    }
    found: list[_Found | None] = []
    for each, truth in zip(matches, truths, strict=True):
        side = of.side(each, truth)
        if side is not None:
            found.append(_Found(of.name, each[side].rows, unmatched[side]))
        else:
            nothing = _Found(of.name, np.empty(0, np.int64), pd.Index([], dtype="str"))
            found.append(nothing if of.empty else None)
    return found


def _lacking(named: int, unmatched: Sequence[str], truth: Labels) -> str:
    """Say why files do not lift a doubt about a data set; empty where they do."""
    if not named:
        return "no file names an image of this data set"
    if unmatched:
        are = "is" if len(unmatched) == 1 else "are"
        return (
            f"{counted(len(unmatched), 'name')}, such as {unmatched[0]}, {are} of no image, so "
            f"that others that were seen may be missed"
        )
    if len(truth.sources) != 1:
        return (
            f"the data set has several sources ({', '.join(truth.sources)}), and a file may be "
            f"about one of them alone"
        )
    return ""


def _without_rows(path: Path) -> bool:
    if path.suffix.casefold() == ".parquet":
        return parquet_rows(path) == 0
    return len(lines(path)) < 2


def _unique(column: pd.Series[str]) -> pd.Index[str]:
    named: pd.Index[str] = pd.Index(column[column != ""].unique())
    return named


def _match(names: pd.Index[str], truth: Labels) -> _Match:
    """Match names, equal ones first, then by the ends of paths in each source."""
    places = truth.rows.index.get_indexer(names)
    rest = names[places < 0]
    stems = pd.Index(rest.map(radiograph_stem).unique()) if len(rest) else rest
    rows, known = [places[places >= 0]], np.zeros(len(stems), bool)
    ambiguous: list[str] = []
    for at, keys in _by_source(truth) if len(rest) else ():
        found, unclear = match_names(stems, keys)
        rows.append(at[found[found >= 0]])
        known |= (found >= 0) | unclear
        ambiguous += stems[unclear].tolist()
    return _Match(np.unique(np.concatenate(rows)), stems[~known], tuple(ambiguous))


def _by_source(truth: Labels) -> Iterator[tuple[npt.NDArray[np.int64], pd.Index[str]]]:
    """Give the positions and the unique names of each source's images, without its prefix."""
    keys = truth.rows.index.to_series().reset_index(drop=True)
    several = len(truth.sources) > 1
    for source in truth.sources if several else [""]:
        of = keys[(truth.rows["source"] == source).to_numpy()] if several else keys
        stems = of.str.removeprefix(f"{source}/" if several else "").map(radiograph_stem)
        unique = stems.mask(stems.duplicated(keep=False), of)
        yield of.index.to_numpy(dtype=np.int64), pd.Index(unique)
