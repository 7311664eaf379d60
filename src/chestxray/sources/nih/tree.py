"""A whole NIH tree, or a label table alone → one `Collection`.

Files, labels, boxes and lists are brought together by name.

Names are compared without their suffix, so that a JPEG copy belongs to the row, the boxes and the
list entry of the PNG that it was made from; `image` stays the name that the label table gives.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.collection import (
    Collection,
    Problem,
    ReadOptions,
    SourceCard,
    no_boxes,
    only_views,
    policies,
    problem,
)
from chestxray.sources.files import LISTS, Tree, one_file_an_image, scan
from chestxray.sources.nih.boxes import is_box_table, read_boxes
from chestxray.sources.nih.labels import (
    FINDINGS,
    ROW_COLUMNS,
    LabelTable,
    is_label_table,
    read_labels,
)
from chestxray.sources.tables import lines, stem

_GENERATIONS: Final = ("v2020", "unknown", "2017")  # the corrected table first


def read(raw: Path, options: ReadOptions, name: str, card: SourceCard) -> Collection:
    """Understand a tree of radiographs with NIH's tables, without decoding an image.

    Args:
        raw: a folder, in which images, tables and lists may lie anywhere; or a label table, beside
            which the official lists may lie.
        options: what is asked of the source.
        name: of the data set.
        card: of the data set.

    Raises:
        SourceError: nothing there, no image, no label table, or no image that the table knows.
    """
    collection = _read_table(raw) if raw.is_file() else _read_tree(raw)
    applied = policies(card, options)
    rows, other = only_views(collection.rows, applied["views"])
    return replace(
        collection,
        name=name,
        card=card,
        rows=rows,
        policies=applied,
        problems=(*collection.problems, *other),
    )


def label_tables(tree: Path) -> list[Path]:
    """Find the tables with NIH's columns, the shallowest first: in a folder, or a file itself."""
    paths = [tree] if tree.is_file() else scan(tree).tables if tree.is_dir() else []
    return [path for path in paths if is_label_table(path)]


def _read_tree(raw: Path) -> Collection:
    if not raw.is_dir():
        raise SourceError(f"{raw} is no folder: give the folder that holds images and label table")
    tree = scan(raw)
    if not tree.images:
        raise SourceError(f"{raw} holds no .png or .jpg image{_what_it_holds(tree)}")
    path, labels, problems = _label_table(tree)
    files, found = one_file_an_image(tree.images)
    problems += [*labels.problems, *found]
    rows, found = _with_files(path, labels.rows, files)
    problems += found
    boxes, found = _boxes(tree, rows)
    problems += found
    official, found = _official(tree.lists, rows)
    problems += found
    facts = {"label table": str(path.relative_to(tree.root))}
    return Collection(
        "",
        SourceCard(""),
        FINDINGS,
        rows,
        boxes,
        official,
        tuple(problems),
        {},
        labels.generation,
        facts,
    )


def _read_table(path: Path) -> Collection:
    labels = read_labels(path)
    rows = labels.rows.assign(path="")[list(ROW_COLUMNS)]
    beside = {
        part: [found]
        for name, part in LISTS.items()
        for found in (path.with_name(name), path.with_name(f"{name}.gz"))
        if found.exists()
    }
    official, problems = _official(beside, rows)
    return Collection(
        "",
        SourceCard(""),
        FINDINGS,
        rows,
        no_boxes(),
        official,
        (*labels.problems, *problems),
        {},
        labels.generation,
        {"label table": path.name},
    )


def _what_it_holds(tree: Tree) -> str:
    """Say what there is in place of images, and what to do."""
    if tree.packed:
        return f" but {len(tree.packed)} packed archives such as {tree.packed[0].name}: unpack them"
    lists = [path for paths in tree.lists.values() for path in paths]
    tables = ", ".join(str(path.relative_to(tree.root)) for path in (*tree.tables, *lists))
    if tables:
        return f", only tables and lists ({tables}): put the images beside them"
    return ": get the data set with `chestxray download`"


def _label_table(tree: Tree) -> tuple[Path, LabelTable, list[Problem]]:
    """Choose and read the label table.

    Among several, the shallowest in the tree wins; there NIH's own name (`Data_Entry…`); there
    the corrected generation; there the first by name.
    """
    paths = [path for path in tree.tables if is_label_table(path)]
    if not paths:
        raise SourceError(
            f"{tree.root} holds no label table: put NIH's Data_Entry_2017_v2020.csv into it"
        )
    places = {path: (len(path.parts), not path.name.startswith("Data_Entry")) for path in paths}
    best = min(places.values())
    first = [(path, read_labels(path)) for path, place in places.items() if place == best]
    first.sort(key=lambda pair: (_GENERATIONS.index(pair[1].generation), pair[0]))
    path, labels = first[0]
    unused = problem(
        "unused-label-table",
        (other.relative_to(tree.root) for other in paths if other != path),
        f"{path.name} is read ({labels.generation}); other label tables are not: the shallowest "
        "in the tree is taken, then Data_Entry…, then the corrected generation, then by name",
        loses=False,
    )
    return path, labels, unused


def _with_files(
    table: Path, rows: pd.DataFrame, files: dict[str, str]
) -> tuple[pd.DataFrame, list[Problem]]:
    """Keep the rows that have a file; report files without a row and rows without a file."""
    names = rows["image"].map(stem)
    if names.duplicated().any():
        raise SourceError(
            f"{table.name} has rows that differ in the suffix alone, such as "
            f"{rows['image'][names.duplicated()].iloc[0]}: keep one row an image"
        )
    paths = names.map(files)
    without = paths.isna()
    if without.all():
        raise SourceError(
            f"no row of {table.name} has its image in the tree: the table begins with "
            f"{rows['image'].iloc[0]}, the images with {min(files)}; these belong to two data sets"
        )
    problems = problem(
        "missing-image",
        rows["image"][without],
        "the label table has a row, the tree no image: left out; fetch the rest of the images",
        loses=True,
    )
    problems += problem(
        "missing-row",
        sorted(Path(files[name]).name for name in set(files) - set(names)),
        "the tree has an image, the label table no row: left out",
        loses=True,
    )
    kept = rows.assign(path=paths)[~without]
    return kept[list(ROW_COLUMNS)].reset_index(drop=True), problems


def _boxes(tree: Tree, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Read the shallowest box table, and keep the boxes of images that are there."""
    paths = [path for path in tree.tables if is_box_table(path)]
    if not paths:
        return no_boxes(), []
    table = read_boxes(paths[0])
    problems = problem(
        "unused-box-table",
        paths[1:],
        f"{paths[0]} is read, the shallowest in the tree; others are not",
        loses=False,
    )
    image = table.rows["image"].map(stem).map(_by_stem(rows))
    problems += [*table.problems]
    problems += problem(
        "box-without-image",
        table.rows["image"][image.isna()].unique(),
        "there are boxes of images that are not in the tree or have no row: left out",
        loses=False,
    )
    return table.rows.assign(image=image)[image.notna()].reset_index(drop=True), problems


def _official(
    lists: dict[str, list[Path]], rows: pd.DataFrame
) -> tuple[dict[str, frozenset[str]], list[Problem]]:
    """Read the official lists, shallowest first, in the names of the label table."""
    if len(lists) < 2:
        return {}, problem(
            "one-official-list",
            (paths[0].name for paths in lists.values()),
            "one official list lies in the tree, the other does not: without both neither counts",
            loses=False,
        )
    known = _by_stem(rows)
    official = {
        part: frozenset(known.get(stem(name), name) for name in lines(paths[0]))
        for part, paths in lists.items()
    }
    listed = {part: rows["image"].isin(names) for part, names in official.items()}
    both = set(rows["patient"][listed["train_val"]]) & set(rows["patient"][listed["test"]])
    problems = problem(
        "patient-in-both-lists",
        sorted(both),
        "the official lists share a patient, so that the test would not be independent",
        loses=False,
    )
    problems += problem(
        "not-in-lists",
        rows["image"][~listed["train_val"] & ~listed["test"]],
        "the image stands in neither official list: the official split has no place for it",
        loses=False,
    )
    return official, problems


def _by_stem(rows: pd.DataFrame) -> dict[str, str]:
    return {stem(name): name for name in rows["image"]}
