"""A raw tree looked at file by file: what is there, and what a dataset made of it would lose.

Nothing is written. What the tables say is the reader's work (`sources`), what becomes of a file the
decoder's (`dataset.pixels`); here both are brought together and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import Image

from chestxray import sources
from chestxray.dataset.pixels import decode
from chestxray.errors import ImageError
from chestxray.findings import NO_FINDING
from chestxray.parallel import on_all_cores
from chestxray.progress import progress
from chestxray.sources.collection import Collection, Problem, problem


class Kind(NamedTuple):
    """What a readable file is: its format with Pillow's mode (L is 8-bit grey), and its size."""

    format: str
    pixels: str


@dataclass(frozen=True)
class Verdict:
    """What there is in a raw tree.

    Attributes:
        collection: as the tables tell it.
        kinds: files by kind, the most frequent first.
        problems: of tables and files, those first that leave something out.
    """

    collection: Collection
    kinds: tuple[tuple[Kind, int], ...]
    problems: tuple[Problem, ...]

    @property
    def losing(self) -> int:
        """How many of the problems leave an image, a label or a box out."""
        return sum(problem.loses for problem in self.problems)


def verify(raw: Path) -> Verdict:
    """Read a tree's tables and decode every image once, on all cores.

    Raises:
        SourceError: the tree is none that can be read at all.
        WorkerError: a worker process died.
    """
    collection = sources.read(raw)
    paths = collection.rows["path"].tolist()
    looks = []
    with (
        on_all_cores(_look, paths) as seen,
        progress("verify", len(paths)) as advance,
    ):
        for look in seen:
            looks.append(look)
            advance()
    problems = [*collection.problems, *_unreadable(looks)]
    kinds = Counter(look.kind for look in looks if look.kind)
    return Verdict(
        collection,
        tuple(kinds.most_common()),
        tuple(sorted(problems, key=lambda problem: not problem.loses)),
    )


class _Look(NamedTuple):
    """What one file is, or what is wrong with it."""

    name: str
    kind: Kind | None
    wrong: str


def _look(path: str) -> _Look:
    name = Path(path).name
    try:
        height, width = decode(Path(path)).shape
    except ImageError as error:
        return _Look(name, None, error.reason)
    with Image.open(path) as image:  # the header alone
        return _Look(name, Kind(f"{image.format} {image.mode}", f"{width} × {height}"), "")


def _unreadable(looks: Iterable[_Look]) -> list[Problem]:
    wrong: dict[str, list[str]] = defaultdict(list)
    for look in looks:
        if look.wrong:
            wrong[look.wrong.partition(":")[0]].append(f"{look.name} ({look.wrong})")
    return [
        found
        for reason, names in sorted(wrong.items())
        for found in problem("unreadable-image", names, f"{reason}: left out", loses=True)
    ]


def facts(collection: Collection) -> dict[str, str]:
    """Say what a collection is, in a few lines: `{"images with labels": "5 of 5 patients", …}`."""
    rows = collection.rows
    lists = (
        f"{part}: {rows['image'].isin(names).sum()} of its {len(names)} images are here"
        for part, names in sorted(collection.official.items(), reverse=True)
    )
    return {
        **collection.facts,
        "release": collection.release or "unknown",
        "images with labels": f"{len(rows)} of {rows['patient'].nunique()} patients",
        "views": _counts(rows["view"]),
        "sexes": _counts(rows["sex"]),
        "ages": _ages(rows["age"]),
        "boxes": f"{len(collection.boxes)} on {collection.boxes['image'].nunique()} images",
        "official lists": ", ".join(lists) or "none",
    }


def _counts(column: Iterable[str]) -> str:
    return ", ".join(f"{value or 'unknown'}: {n}" for value, n in Counter(column).most_common())


def _ages(ages: pd.Series) -> str:
    unknown = int(ages.isna().sum())
    if unknown == len(ages):
        return "unknown"
    return f"{ages.min():.0f} to {ages.max():.0f} years" + (f", unknown: {unknown}" * bool(unknown))


class Count(NamedTuple):
    """How often a finding occurs: images, their share of all, unknown labels, boxes."""

    images: int
    share: float
    unknown: int
    boxes: int


def findings(collection: Collection) -> dict[str, Count]:
    """Count each finding, and No Finding."""
    labels = collection.rows[list(collection.findings)]
    labels = labels.assign(**{NO_FINDING: (labels == 0).all(axis=1).astype(float)})
    boxes = Counter(collection.boxes["finding"])
    return {
        str(name): Count(
            images=int((column == 1).sum()),
            share=float((column == 1).mean()),
            unknown=int(column.isna().sum()),
            boxes=boxes[str(name)],
        )
        for name, column in labels.items()
    }
