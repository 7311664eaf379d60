"""The files of a raw tree: radiographs, tables and official lists, found by name in any folder.

A folder called `masks` holds masks of findings, not radiographs, and hidden files and folders
belong to other programs: both are skipped. Links are followed; each real folder is visited once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from chestxray.errors import SourceError
from chestxray.sources.collection import Problem, problem
from chestxray.sources.table_files import IMAGE_SUFFIXES, stem

LISTS: Final = {"train_val_list.txt": "train_val", "test_list.txt": "test"}
_EDGE: Final = 65_536  # bytes read at either end of a file to compare it


@dataclass
class Tree:
    """The files of a raw tree.

    Attributes:
        root: the tree's folder, absolute.
        images: paths (absolute, str) by name without suffix; several where the name is not unique.
        tables: CSV files, the shallowest first, then by path.
        lists: the official lists by part (`train_val`, `test`), in the same order.
        packed: archives of images that are not unpacked.
    """

    root: Path
    images: dict[str, list[str]] = field(default_factory=dict)
    tables: list[Path] = field(default_factory=list)
    lists: dict[str, list[Path]] = field(default_factory=dict)
    packed: list[Path] = field(default_factory=list)


def scan(raw: Path) -> Tree:
    """Walk a tree once; 112,120 files take about a second.

    Raises:
        SourceError: one of its folders cannot be read.
    """
    tree = Tree(Path(os.path.abspath(raw)))  # noqa: PTH100 - not resolved: links keep their names
    try:
        _sort_in(tree)
    except OSError as error:
        raise SourceError(
            f"{raw} cannot be read completely ({error}): correct its permissions"
        ) from error
    for paths in (tree.tables, *tree.lists.values()):
        paths.sort(key=lambda path: (len(path.parts), path))
    return tree


def _sort_in(tree: Tree) -> None:
    for entry in _walk(str(tree.root), set()):
        name = entry.name.casefold()
        plain = name.removesuffix(".gz")
        if name.endswith(IMAGE_SUFFIXES):
            tree.images.setdefault(stem(entry.name), []).append(entry.path)
        elif plain.endswith(".csv"):
            tree.tables.append(Path(entry.path))
        elif plain in LISTS:
            tree.lists.setdefault(LISTS[plain], []).append(Path(entry.path))
        elif name.startswith("images") and name.endswith((".tar.gz", ".zip")):
            tree.packed.append(Path(entry.path))


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[os.DirEntry[str]]:
    status = os.stat(folder)  # noqa: PTH116 - `os` is several times faster here
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if entry.name.casefold() != "masks":
                    yield from _walk(entry.path, seen)
            elif entry.is_file():
                yield entry


def one_file_per_image(images: dict[str, list[str]]) -> tuple[dict[str, str], list[Problem]]:
    """Choose among files of the same name the one with the most pixels, PNG before JPEG.

    Returns:
        One path per name, and what was chosen among, by name and count.
    """
    chosen: dict[str, str] = {}
    equal: list[str] = []
    larger: list[str] = []
    unclear: list[str] = []
    for name, paths in images.items():
        chosen[name] = paths[0]
        if len(paths) == 1:
            continue
        if all(_look_equal(paths[0], path) for path in paths[1:]):
            equal.append(name)
            continue
        ranked = sorted(paths, key=lambda path: (-_pixels(path), not path.endswith(".png"), path))
        chosen[name] = ranked[0]
        tie = _pixels(ranked[0]) == _pixels(ranked[1]) and not _look_equal(ranked[0], ranked[1])
        (unclear if tie else larger).append(f"{name} ({len(paths)} files)")
    problems = problem(
        "same-image-twice",
        equal,
        "an image lies in several folders, in equal copies: read once",
        loses=False,
    )
    problems += problem(
        "several-sizes",
        larger,
        "an image lies in the tree in several sizes: the one with the most pixels is used",
        loses=False,
    )
    problems += problem(
        "different-images",
        unclear,
        "different files of equal size have the same name: the first is used; remove the wrong one",
        loses=True,
    )
    return chosen, problems


def _pixels(path: str) -> int:
    """Count the pixels that a file's header states; 0 where it is not an image."""
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return 0


def _look_equal(one: str, other: str) -> bool:
    """Compare size and both ends; a PNG ends with checksums of all that came before."""
    first, second = Path(one), Path(other)
    size = first.stat().st_size
    return size == second.stat().st_size and _ends(first, size) == _ends(second, size)


def _ends(path: Path, size: int) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        head = file.read(_EDGE)
        file.seek(max(size - _EDGE, 0))
        return head, file.read(_EDGE)
