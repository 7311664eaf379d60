"""The source `nih`: a tree of ChestX-ray14, or its label table alone → one `Collection`.

Files, labels, boxes and official lists are joined by name. Names are compared without their suffix,
so that a JPEG copy belongs to the row, the boxes and the list entry of the PNG that it was made
from. `image` stays the name that the label table gives.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.collection import (
    MISSING_IMAGE,
    Collection,
    Problem,
    ReadOptions,
    SourceCard,
    no_boxes,
    only_views,
    policies,
    problem,
)
from chestxray.sources.files import LISTS, Tree, one_file_per_image, scan
from chestxray.sources.nih.tables import (
    FINDINGS,
    ROW_COLUMNS,
    LabelTable,
    has_names_of_nih,
    is_box_table,
    is_label_table,
    read_boxes,
    read_labels,
)
from chestxray.sources.table_files import lines, stem

# Phantoms lie in NIH's layout (sources.phantom). Nothing may take them for real radiographs.
PHANTOM_MARKS: Final = ("phantom.json", "phantom-unfinished.json")
_GENERATIONS: Final = ("v2020", "unknown", "2017")  # the corrected table first


def are_phantoms(folder: Path) -> bool:
    """Tell whether the label table in a folder is one of phantoms."""
    return any((folder / name).exists() for name in PHANTOM_MARKS)


class _NIH:
    name: Final = "nih"
    card: Final = SourceCard(
        title="NIH ChestX-ray14",
        citation="Wang et al., ChestX-ray8, CVPR 2017 (arXiv 1705.02315)",
        licence="Open. Cite the paper and acknowledge the NIH Clinical Center.",
        access="`chestxray download raw --from nih`, or --from kaggle.",
        label_origin="Mined from the reports by a program; NIH expects over 90 % to be correct.",
        reasons="No label is uncertain, and a finding that a row does not name is absent: NIH "
        "writes No Finding where none of the 14 was named.",
        split="train_val_list.txt and test_list.txt; val is drawn from the patients of the former.",
        differs=(
            "views: only PA, here PA and AP",
            "patients: the first image of each, here all",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        return any(
            has_names_of_nih(table) and not are_phantoms(table.parent)
            for table in label_tables(tree)[:1]
        )

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        return read(tree, options, self.name, self.card)


NIH: Final = _NIH()


def read(raw: Path, options: ReadOptions, name: str, card: SourceCard) -> Collection:
    """Understand a tree of radiographs with NIH's tables, without decoding an image.

    Args:
        raw: a folder, in which images, tables and lists may lie anywhere; or a label table, beside
            which the official lists may lie.
        options: what the user asks of the source.
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
    return [path for path in paths if path.suffix != ".parquet" and is_label_table(path)]


def _read_tree(raw: Path) -> Collection:
    if not raw.is_dir():
        raise SourceError(
            f"{raw} is not a folder: give the folder that holds the images and the label table"
        )
    tree = scan(raw)
    if not tree.images:
        raise SourceError(f"{raw} holds no .png or .jpg image{_what_it_holds(tree)}")
    path, labels, problems = _label_table(tree)
    files, found = one_file_per_image(tree.images)
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
    """Say what lies there instead of images, and what to do."""
    if tree.packed:
        return f" but archives that are not unpacked, such as {tree.packed[0].name}: unpack them"
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
        f"{path.name} is read ({labels.generation}); other label tables are not. The shallowest in "
        "the tree comes first, then Data_Entry…, then the corrected generation, then by name",
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
            f"{table.name} has rows that differ only in the suffix, such as "
            f"{rows['image'][names.duplicated()].iloc[0]}: keep one row per image"
        )
    paths = names.map(files)
    without = paths.isna()
    if without.all():
        raise SourceError(
            f"no row of {table.name} has its image in the tree: the table begins with "
            f"{rows['image'].iloc[0]}, the images with {min(files)}; these are two data sets"
        )
    problems = problem(
        MISSING_IMAGE,
        rows["image"][without],
        "the label table has a row, but the tree has no image: left out; download the other images",
        loses=True,
    )
    problems += problem(
        "missing-row",
        sorted(Path(files[name]).name for name in set(files) - set(names)),
        "the tree has an image, but the label table has no row: left out",
        loses=True,
    )
    kept = rows.assign(path=paths)[~without]
    return kept[list(ROW_COLUMNS)].reset_index(drop=True), problems


def _boxes(tree: Tree, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Read the shallowest box table, and keep the boxes of images in the tree."""
    paths = [path for path in tree.tables if is_box_table(path)]
    if not paths:
        return no_boxes(), []
    table = read_boxes(paths[0])
    problems = problem(
        "unused-box-table",
        paths[1:],
        f"{paths[0]} is read, the shallowest in the tree; other box tables are not",
        loses=False,
    )
    image = table.rows["image"].map(stem).map(_by_stem(rows))
    problems += [*table.problems]
    problems += problem(
        "box-without-image",
        table.rows["image"][image.isna()].unique(),
        "a box belongs to an image that is not in the tree or has no row: left out",
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
            "one official list is in the tree, the other is not: neither is used",
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
        "a patient is in both official lists, so that the test would not be independent",
        loses=False,
    )
    problems += problem(
        "not-in-lists",
        rows["image"][~listed["train_val"] & ~listed["test"]],
        "the image is in neither official list: the official split cannot place it",
        loses=False,
    )
    return official, problems


def _by_stem(rows: pd.DataFrame) -> dict[str, str]:
    return {stem(name): name for name in rows["image"]}
