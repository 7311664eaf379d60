"""The files of a raw tree: radiographs, tables and official lists, found by name in any folder.

A folder called `masks` holds masks of findings, not radiographs, and hidden files and folders
belong to other programs: both are skipped. Links are followed; each real folder is visited once.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd
from PIL import Image

from chestxray.errors import SourceError
from chestxray.file_names import is_text, one_line
from chestxray.progress import progress
from chestxray.sources.collection import Problem, problem
from chestxray.sources.table_files import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    is_table,
    radiograph_stem,
    stem,
)
from chestxray.storage import opened

LISTS: Final = {"train_val_list.txt": "train_val", "test_list.txt": "test"}
_EDGE: Final = 65_536  # bytes read at either end of a file to compare it
_IMAGE_HEAD: Final = 2**22  # bytes in which an image's header must state its size
_COLUMNS_FILES: Final = ("columns.yaml", "columns.yml")
_MOST_HEADERS: Final = 200_000  # DICOM headers to read in search of images: some minutes
_NOT_ALONE: Final = ""  # stands for a name that several files have


@dataclass
class Tree:
    """The files of a raw tree.

    Attributes:
        root: the tree's folder, absolute.
        images: paths (absolute, str) by name without suffix; several where the name is not unique.
        dicom: paths (absolute, str) of files that may be DICOM: by their suffix, or without one.
        tables: CSV files, the shallowest first, then by path.
        other_tables: TSV and Parquet files, in the same order.
        settings: YAML files that describe the columns of a table, in the same order.
        json: JSON files, in the same order.
        xml: XML files, in the same order.
        texts: text files that are no official list, in the same order.
        lists: the official lists by part (`train_val`, `test`), in the same order.
        packed: archives of images that are not unpacked.
        titles: column titles of tables, as far as a source has read them.
        unnamed: paths from the root, escaped, of files whose names are not UTF-8: no table can name
            them, so they are left out.
    """

    root: Path
    images: dict[str, list[str]] = field(default_factory=dict)
    dicom: list[str] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    other_tables: list[Path] = field(default_factory=list)
    settings: list[Path] = field(default_factory=list)
    json: list[Path] = field(default_factory=list)
    xml: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    lists: dict[str, list[Path]] = field(default_factory=dict)
    packed: list[Path] = field(default_factory=list)
    titles: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)


_scanned: ContextVar[dict[Path, Tree] | None] = ContextVar("scanned", default=None)


@contextmanager
def scanned_once() -> Iterator[None]:
    """Let `scan` walk each tree only once inside this block, for all sources that ask."""
    if _scanned.get() is not None:
        yield
        return
    token = _scanned.set({})
    try:
        yield
    finally:
        _scanned.reset(token)


def scan(raw: Path) -> Tree:
    """Walk a tree once; 112,120 files take about a second. The caller must not change the result.

    Raises:
        SourceError: one of its folders cannot be read, or its path is not UTF-8.
    """
    scanned = _scanned.get()
    if scanned is None:
        return _scan(raw)
    if raw not in scanned:
        scanned[raw] = _scan(raw)
    return scanned[raw]


def has_dicom(raw: Path) -> bool:
    """Tell whether a folder has files that are called DICOM."""
    return raw.is_dir() and any(
        path.casefold().endswith(DICOM_SUFFIXES) for path in scan(raw).dicom
    )


def unnamed_files() -> list[Problem]:
    """Report the files whose names are not UTF-8 in the trees scanned inside `scanned_once`."""
    trees = (_scanned.get() or {}).values()
    return problem(
        "name-not-utf8",
        sorted({name for tree in trees for name in tree.unnamed}),
        "the name of a file is not valid UTF-8, so that no table can name it: left out; rename the "
        "file",
        loses=True,
    )


def _scan(raw: Path) -> Tree:
    tree = Tree(Path(os.path.abspath(raw)))  # noqa: PTH100 - not resolved: links keep their names
    if not is_text(str(tree.root)):
        raise SourceError(
            f"the path {one_line(str(tree.root))} is not valid UTF-8, so that no table can hold "
            f"it: rename the folder, or link to it under another name"
        )
    try:
        _sort_in(tree)
    except OSError as error:
        raise SourceError(
            f"{raw} cannot be read completely ({error}): correct its permissions"
        ) from error
    texts = (tree.tables, tree.other_tables, tree.settings, tree.json, tree.xml, tree.texts)
    for paths in (*texts, *tree.lists.values()):
        paths.sort(key=lambda path: (len(path.parts), path))
    return tree


def _sort_in(tree: Tree) -> None:
    for entry in _walk(str(tree.root), set()):
        if not is_text(entry.path):
            tree.unnamed.append(one_line(os.path.relpath(entry.path, tree.root)))
            continue
        name = entry.name.casefold()
        plain = name.removesuffix(".gz")
        if name.endswith(IMAGE_SUFFIXES):
            tree.images.setdefault(stem(entry.name), []).append(entry.path)
        elif plain.endswith(".csv"):
            tree.tables.append(Path(entry.path))
        elif is_table(name):
            tree.other_tables.append(Path(entry.path))
        elif plain in LISTS:
            tree.lists.setdefault(LISTS[plain], []).append(Path(entry.path))
        elif name.startswith("images") and name.endswith((".tar.gz", ".zip")):
            tree.packed.append(Path(entry.path))
        elif name.endswith((".json", ".xml", ".txt", *_COLUMNS_FILES)):
            texts = {".json": tree.json, ".xml": tree.xml, ".txt": tree.texts}.get(
                name[name.rfind(".") :]
            )
            (tree.settings if texts is None else texts).append(Path(entry.path))
        elif name.endswith(DICOM_SUFFIXES) or _has_no_suffix(name):
            tree.dicom.append(entry.path)


def _has_no_suffix(name: str) -> bool:
    """Tell whether a name is one that archives and CDs give DICOM files: `IM000001`, a UID."""
    return name != "dicomdir" and ("." not in name or name.rpartition(".")[2].isdigit())


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


def radiographs(tree: Tree) -> list[str]:
    """Give the paths of all files that may be radiographs, relative to the root, sorted."""
    paths = [path for paths in tree.images.values() for path in paths] + tree.dicom
    return sorted(Path(path).relative_to(tree.root).as_posix() for path in paths)


def find_named(written: pd.Series, tree: Tree, folder: Path) -> tuple[pd.Series, pd.Series, str]:
    """Find the radiographs that a table names.

    A file is found by its path from the table's folder or from the root; else by the end of its
    path, at the shortest by its name, where no other file ends in the same way; else, for DICOM, by
    its SOP Instance UID. A suffix may be missing or another one. Where no row is found so, leading
    folders that all rows share, such as the name of the release, are dropped from all of them.

    Args:
        written: a path, a file name or a UID for each row; text.
        tree: where to look.
        folder: of the table.

    Returns:
        For each row the path from the root, empty where there is none; and whether there is none
        because several files match; and the leading folders that were dropped, with a final `/`.

    Raises:
        SourceError: too many DICOM headers would have to be read.
    """
    files = radiographs(tree)
    inside = folder.relative_to(tree.root).as_posix() if folder.is_relative_to(tree.root) else "."
    names = cleaned_paths(written, tree.root)
    dropped = ""
    found = _by_path(names, files, inside)
    for prefix in _shared_prefixes(names):
        if found.notna().any():
            break
        shorter = _by_path(names.str.removeprefix(prefix), files, inside)
        if shorter.notna().any():
            found, dropped = shorter, prefix
    lost = found.isna() & names.str.fullmatch(r"\d+(?:\.\d+)+(?:\.[dD][cC][mM])?")
    if lost.any():
        found = found.where(~lost, names.map(radiograph_stem).map(_by_uid(tree, set(found))))
    several = found == _NOT_ALONE
    return found.fillna("").astype("str"), several, dropped


def _shared_prefixes(names: pd.Series) -> list[str]:
    """Give the leading folders that all names share, the shortest first, each with a final `/`."""
    if names.empty:
        return []
    folders = names.iloc[0].split("/")[:-1]
    prefixes = ["/".join(folders[:count]) + "/" for count in range(1, len(folders) + 1)]
    return [prefix for prefix in prefixes if names.str.startswith(prefix).all()]


def cleaned_paths(written: pd.Series, root: Path | None = None) -> pd.Series:
    """Write paths with `/`, without `./`, and relative to the root where they begin with it."""
    names = written.str.replace("\\", "/", regex=False).str.replace(r"^(?:\./)+", "", regex=True)
    if root is not None:
        names = names.str.removeprefix(f"{root.as_posix()}/")
    return names.str.replace(r"/{2,}", "/", regex=True).str.removeprefix("/")


def _by_path(names: pd.Series, files: list[str], inside: str) -> pd.Series:
    """Find files by path, else by the end of the path; NaN for none, `_NOT_ALONE` for several."""
    exact = {path: path for path in files}
    found = names.map(exact).astype(object)
    if inside != ".":
        found = (f"{inside}/" + names).map(exact).astype(object).fillna(found)
    for parts in sorted((names[found.isna()].str.count("/") + 1).unique()):
        rows = found.isna() & (names.str.count("/") + 1 == parts)
        for reduce in (str.casefold, _folded_stem):
            ends = _ends_of(files, int(parts), reduce)
            rows = rows & found.isna()
            found = found.where(~rows, names.map(lambda name, r=reduce, e=ends: e.get(r(name))))
    return found


def _folded_stem(path: str) -> str:
    return radiograph_stem(path).casefold()


def _ends_of(files: list[str], parts: int, reduce: Callable[[str], str]) -> dict[str, str]:
    """Map the last `parts` components of each path to the path, or to `_NOT_ALONE`."""
    found: dict[str, str] = {}
    for path in files:
        end = reduce("/".join(path.split("/")[-parts:]))
        found[end] = path if end not in found else _NOT_ALONE
    return found


def _by_uid(tree: Tree, taken: set[str]) -> dict[str, str]:
    """Map the SOP Instance UIDs of DICOM files to their paths from the root."""
    paths = {Path(path).relative_to(tree.root).as_posix(): path for path in tree.dicom}
    rest = sorted(set(paths) - taken)
    if len(rest) > _MOST_HEADERS:
        raise SourceError(
            f"the table names images by SOP Instance UID, but {len(rest)} DICOM files are too many "
            f"to search (at most {_MOST_HEADERS}): name the images by path"
        )
    found: dict[str, str] = {}
    with progress("read DICOM headers", len(rest)) as advance:
        for path in rest:
            uid = _sop_instance_uid(paths[path])
            if uid:
                found[uid] = path if uid not in found else _NOT_ALONE
            advance()
    return found


def _sop_instance_uid(path: str) -> str:
    """Read a file's SOP Instance UID; empty where it is not DICOM."""
    # Loads pydicom's dictionary in 0.2 s, for DICOM alone.
    from chestxray.dicom_elements import MalformedError, read_header  # noqa: PLC0415

    try:
        return read_header(Path(path)).text("SOPInstanceUID")
    except (MalformedError, OSError):
        return ""


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
        "an image is in several folders, in equal copies: read once",
        loses=False,
    )
    problems += problem(
        "several-sizes",
        larger,
        "an image is in the tree in several sizes: the one with the most pixels is used",
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
    """Count the pixels that a file's header states; 0 where it is not an image.

    Metadata before them may have 4 MB.
    """
    try:
        with opened(path) as file:
            head = io.BytesIO(file.read(_IMAGE_HEAD))
        with Image.open(head, formats=["PNG", "JPEG"]) as image:
            return image.width * image.height
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0


def _look_equal(one: str, other: str) -> bool:
    """Compare size and both ends; a PNG ends with checksums of all that came before."""
    first, second = Path(one), Path(other)
    size = first.stat().st_size
    return size == second.stat().st_size and _ends(first, size) == _ends(second, size)


def _ends(path: Path, size: int) -> tuple[bytes, bytes]:
    with opened(path) as file:
        head = file.read(_EDGE)
        file.seek(max(size - _EDGE, 0))
        return head, file.read(_EDGE)
