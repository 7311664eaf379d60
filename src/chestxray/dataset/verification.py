"""Checks of a raw tree and of a prepared dataset, file by file; nothing is written.

Of a raw tree: what it holds, and what a dataset made from it would lose. The tables are read by
its source, every image is decoded once. Of a dataset: which files differ from the manifest, by
their SHA-256, and how to make them again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd
from PIL import Image

from chestxray import sources
from chestxray.dataset import shards
from chestxray.dataset.decoding import DecoderPool
from chestxray.dataset.manifest import Manifest, local_tables, read_manifest, remake, renew
from chestxray.dataset.radiograph import Radiograph
from chestxray.dataset.remote import is_dataset
from chestxray.dataset.shards import Shard
from chestxray.dataset.store import no_finding, table_problem
from chestxray.errors import ImageError
from chestxray.findings import NO_FINDING
from chestxray.parallel import on_all_cores, process_count
from chestxray.progress import progress
from chestxray.sources.collection import Collection, Problem, ReadOptions, problem
from chestxray.storage import Content, contents, mirrored, origin_of, path_of

_CHUNK: Final = 16  # files that a process takes at a time
_AHEAD: Final = 128  # files of a store that are read in advance


class Kind(NamedTuple):
    """What a readable file is: its format with Pillow's mode (L is 8-bit grey), and its size."""

    format: str
    pixels: str


@dataclass(frozen=True)
class Verdict:
    """What a raw tree holds.

    Attributes:
        collection: as the tables describe it.
        kinds: files by kind, the most frequent first.
        problems: of tables and files, those first that leave something out.
    """

    collection: Collection
    kinds: tuple[tuple[Kind, int], ...]
    problems: tuple[Problem, ...]

    @property
    def losing(self) -> int:
        """Count the problems that leave an image, a label or a box out."""
        return sum(problem.loses for problem in self.problems)

    @property
    def passed(self) -> bool:
        """Say whether nothing would be left out."""
        return not self.losing

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON holds it."""
        return {
            "what": "raw tree",
            "title": self.collection.card.title,
            "source": self.collection.name,
            "passed": self.passed,
            "facts": facts(self.collection),
            "findings": {name: n._asdict() for name, n in findings(self.collection).items()},
            "files": [kind._asdict() | {"images": count} for kind, count in self.kinds],
            "problems": [asdict(problem) for problem in self.problems],
        }


@dataclass(frozen=True)
class Damage:
    """A file of a dataset that is missing or was altered.

    Attributes:
        file: its name inside the dataset.
        reason: what is wrong with it.
        renew: how to make it again.
    """

    file: str
    reason: str
    renew: str


@dataclass(frozen=True)
class DatasetVerdict:
    """What of a prepared dataset is damaged.

    Attributes:
        folder: of the dataset.
        manifest: what the dataset should hold.
        damages: files that differ from it; empty where all are whole.
    """

    folder: Path
    manifest: Manifest
    damages: tuple[Damage, ...]

    @property
    def passed(self) -> bool:
        """Say whether every file is whole."""
        return not self.damages

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON holds it."""
        return {
            "what": "dataset",
            "title": self.manifest.title,
            "folder": str(self.folder),
            "passed": self.passed,
            "images": self.manifest.images,
            "files": len(self.manifest.sha256) + len(list(self.manifest.shard_files())),
            "damages": [asdict(damage) for damage in self.damages],
        }


def verify(
    path: str | Path, source: str | None = None, options: ReadOptions | None = None
) -> Verdict | DatasetVerdict:
    """Check a raw tree or a prepared dataset, on all cores.

    Args:
        path: path or URL of a raw tree or of a dataset.
        source: name of a raw tree's source; recognised by its content when None.
        options: what is asked of the source.

    Raises:
        SourceError: a raw tree that cannot be read at all.
        ArtifactError: an unfinished dataset, or one whose manifest cannot be read.
        StorageError: a URL is refused, or the store does not answer.
        WorkerError: a worker process died.
    """
    path = path_of(path)
    if is_dataset(path):
        return _verify_dataset(path)
    return _verify_tree(mirrored(path), source, options)


def _verify_dataset(folder: Path) -> DatasetVerdict:
    """Compare every file of a dataset with the manifest, by its SHA-256."""
    tables = local_tables(folder)
    manifest = read_manifest(tables)
    files = list(manifest.shard_files())
    damages = [
        Damage(name, wrong, remake(folder))
        for name in manifest.sha256
        if (wrong := table_problem(tables, manifest, name))
    ]
    with (
        on_all_cores(partial(_shard_problem, folder=folder), files, chunk=1) as reasons,
        progress("verify", manifest.images) as advance,
    ):
        for (place, shard, _), wrong in zip(files, reasons, strict=True):
            if wrong:
                name = f"{place}/{shard.name}"
                damages.append(Damage(name, wrong, renew(folder, name)))
            advance(shard.images if place == shards.FOLDER else 0)
    return DatasetVerdict(folder, manifest, tuple(damages))


def _verify_tree(
    raw: Path, source: str | None = None, options: ReadOptions | None = None
) -> Verdict:
    """Read a tree's tables and decode every image once."""
    collection = sources.read(raw, source, options)
    rows = collection.rows[collection.rows["path"] != ""]
    looks: list[Kind | str] = []
    with (
        DecoderPool(_look, process_count(len(rows), _CHUNK)) as pool,
        progress("verify", len(rows)) as advance,
    ):
        ahead = _AHEAD if any(map(origin_of, rows["path"][:1])) else None
        for look in pool.map(contents(rows["path"]), ahead, _CHUNK):
            looks.append(look.reason if isinstance(look, ImageError) else look)
            advance()
    problems = [
        *collection.problems,
        *_without_file(collection.rows),
        *_unreadable(rows["image"], looks),
    ]
    kinds = Counter(look for look in looks if isinstance(look, Kind))
    return Verdict(
        collection,
        tuple(kinds.most_common()),
        tuple(sorted(problems, key=lambda problem: not problem.loses)),
    )


def _shard_problem(file: tuple[str, Shard, tuple[int, ...]], folder: Path) -> str | None:
    place, shard, row = file
    return shards.alteration_of(folder / place, shard, row)


def _look(file: str | Path | Content) -> Kind:
    """Decode a file; gives its kind."""
    radiograph = Radiograph.read(file)
    height, width = radiograph.pixels.shape
    return Kind(_format(radiograph), f"{width} × {height}")


def _format(radiograph: Radiograph) -> str:
    if radiograph.kind in {"DICOM", "JSRT"}:
        return f"{radiograph.kind} {8 * radiograph.pixels.itemsize}-bit"
    with Image.open(BytesIO(radiograph.data)) as image:  # parses the header alone
        return f"{image.format} {image.mode}"


def _without_file(rows: pd.DataFrame) -> list[Problem]:
    return problem(
        "no-file",
        rows["image"][rows["path"] == ""],
        "the label table was read without images: no file was checked",
        loses=False,
    )


def _unreadable(names: Iterable[str], looks: Iterable[Kind | str]) -> list[Problem]:
    wrong: dict[str, list[str]] = defaultdict(list)
    for name, look in zip(names, looks, strict=True):
        if isinstance(look, str):
            wrong[look.partition(":")[0]].append(f"{name} ({look})")
    return [
        found
        for reason, examples in sorted(wrong.items())
        for found in problem("unreadable-image", examples, f"{reason}: left out", loses=True)
    ]


def facts(collection: Collection) -> dict[str, str]:
    """Describe a collection in a few lines: `{"images with labels": "5 of 5 patients", …}`."""
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
        **({"masks": _masks(collection)} if len(collection.masks) else {}),
        "official lists": ", ".join(lists) or "none",
    }


def _masks(collection: Collection) -> str:
    return f"{len(collection.masks)} on {collection.masks['image'].nunique()} images"


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
    labels = labels.assign(**{NO_FINDING: no_finding(labels)})
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
