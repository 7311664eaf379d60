"""What label tables state, joined with the files of a tree → a `Collection`.

A reader of a data set understands its tables and gives `Stated`: a row per image, labels as the
data set has them, and the part of its own split. What all data sets share happens here: files are
found, findings that others imply are filled in, policies are applied, repeated rows are refused,
lists are made, and what a table does not state is read from DICOM headers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.collection import (
    LEADING_COLUMNS,
    MISSING_IMAGE,
    Collection,
    Problem,
    ReadOptions,
    Source,
    no_boxes,
    one_row_per_image,
    only_views,
    policies,
    problem,
    resolve,
)
from chestxray.sources.files import Tree, find_named, radiographs, scan
from chestxray.sources.headers import with_headers
from chestxray.sources.implications import imply
from chestxray.sources.table_columns import TABLE
from chestxray.sources.table_files import DICOM_SUFFIXES, IMAGE_SUFFIXES, table_stem, titles
from chestxray.sources.table_labels import TableLabels

LISTED: Final = "images of the data set"  # the fact that `completeness` gives
MISSING_ROW: Final = "missing-row"  # the code of a file without a row
_PARTS: Final = ("train", "val", "test")
_ADVICE: Final = "give the folder that holds both the images and the label table"


@dataclass(frozen=True)
class Stated:
    """What the label tables of a data set state.

    Attributes:
        rows: the leading columns of `Collection.rows` without `path`, and `file`: the path, name or
            UID by which an image's file is found.
        labels: in the order of `rows`.
        parts: of each row: `train`, `val`, `test`, or empty; no row has one where there is no
            official split.
        problems: everything in the tables that could not be used as it is.
        facts: what the reader adds for people.
        headers: read view, age and sex from DICOM headers where the tables do not state them.
        frontal: of a data set with lateral radiographs, whether each row is known to be frontal
            where no direction (PA, AP) is stated; None where all radiographs are frontal.
        of_larger_set: the tables label some images of another data set, so a file without a row
            is not missed.
        unstated_view: what to call a view that is stated nowhere; frontal where empty.
        apart: paths from the root of images that need no row, such as masks.
    """

    rows: pd.DataFrame
    labels: TableLabels
    parts: pd.Series[str]
    problems: tuple[Problem, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    headers: bool = False
    frontal: pd.Series[bool] | None = None
    of_larger_set: bool = False
    unstated_view: str = ""
    apart: frozenset[str] = frozenset()


def assemble(
    source: Source, tree: Path, table: Path, stated: Stated, options: ReadOptions
) -> Collection:
    """Make the collection of a tree, or of a label table alone, whose rows then have no file.

    Args:
        source: whose name and card the collection gets.
        tree: a folder, or a label table.
        table: that names the images; paths count from its folder.
        stated: by the label tables.
        options: what the user asks of the source.

    Raises:
        SourceError: no image of the tables is there, or the views leave none.
    """
    applied = policies(source.card, options)
    labels, implied_facts = imply(stated.labels)
    values = resolve(pd.DataFrame(labels.values, columns=list(labels.findings)), applied)
    values = values.mask(labels.unknown | labels.empty[:, None])
    rows = pd.concat([stated.rows.reset_index(drop=True), values], axis=1)
    rows = rows.assign(part=stated.parts.to_numpy(), frontal=_known_frontal(stated))
    rows, found, facts = _with_files(rows, tree, table, stated)
    problems = [*stated.problems, *labels.problems, *found]
    rows, found = one_row_per_image(rows)
    problems += found
    parts, frontal = rows.pop("part"), rows.pop("frontal")
    official, found = official_lists(rows, parts, "the data set's own split")
    problems += found
    rows, found = with_headers(rows, describe=stated.headers)
    problems += found
    if applied["views"] == "frontal":
        problems += _unknown_views(rows, frontal)
    if stated.unstated_view:
        rows = rows.assign(view=rows["view"].replace("", stated.unstated_view))
    rows, found = only_views(rows, applied["views"])
    problems += found
    rows = rows[[*LEADING_COLUMNS, *labels.findings]]
    counted = {"neither 1 nor 0": text} if (text := labels.counted(applied)) else {}
    return Collection(
        name=source.name,
        card=source.card,
        findings=labels.findings,
        rows=rows.sort_values("image", ignore_index=True),
        boxes=no_boxes(),
        official=official,
        problems=tuple(problems),
        policies=applied,
        rules=labels.rules,
        facts={
            "label table": table.name,
            **stated.facts,
            **labels.facts,
            **implied_facts,
            **counted,
            **facts,
        },
    )


def _known_frontal(stated: Stated) -> npt.NDArray[np.bool_]:
    if stated.frontal is None:
        return np.ones(len(stated.rows), dtype=bool)
    return stated.frontal.to_numpy(dtype=bool)


def _unknown_views(rows: pd.DataFrame, frontal: pd.Series[bool]) -> list[Problem]:
    return problem(
        "unknown-view",
        rows["image"][(rows["view"] == "") & ~frontal],
        "neither a table nor the file tells whether the radiograph is frontal: taken for frontal; "
        "--views PA,AP leaves it out",
        loses=False,
    )


def completeness(parts: Iterable[str], expected: Mapping[str, int]) -> dict[str, str]:
    """Compare the images that tables list with those of the published data set.

    Args:
        parts: of each image.
        expected: images by part; the part "" stands for all.

    Returns:
        A fact for people.
    """
    counts = pd.Series(list(parts), dtype="str").value_counts()
    return {
        LISTED: ", ".join(
            f"{part or 'all'}: {counts.get(part, 0) if part else int(counts.sum())} of {count}"
            for part, count in expected.items()
        )
    }


def _with_files(
    rows: pd.DataFrame, tree: Path, table: Path, stated: Stated
) -> tuple[pd.DataFrame, list[Problem], dict[str, str]]:
    """Give each row the path of its file, and leave out the rows without one."""
    written = rows["file"]
    rows = rows.drop(columns="file")
    if tree.is_file():
        return rows.assign(path=""), [], {}
    scanned = scan(tree)
    found, problems, facts = find_files(written, scanned, table, _ADVICE, stated.apart)
    if stated.of_larger_set:
        problems = [
            replace(each, loses=each.loses and each.code != MISSING_ROW) for each in problems
        ]
    here = found != ""
    path = f"{scanned.root.as_posix()}/" + found[here]
    return rows[here].assign(path=path).reset_index(drop=True), problems, facts


def find_files(
    written: pd.Series,
    tree: Tree,
    table: Path,
    advice: str,
    apart: frozenset[str] = frozenset(),
) -> tuple[pd.Series, list[Problem], dict[str, str]]:
    """Find the files that a table names; report rows without a file and files without a row.

    Args:
        written: a path, a name or a UID for each row.
        tree: where to look.
        table: that names them.
        advice: what to do where no row has a file.
        apart: paths from the root of files that need no row.

    Returns:
        The path from the root for each row, empty where there is none.

    Raises:
        SourceError: no row has a file.
    """
    found, several, dropped = find_named(written, tree, table.parent)
    here = found != ""
    if not here.any():
        files = radiographs(tree)
        raise SourceError(
            f"no row of {table.name} has its image in {tree.root}: the table begins with "
            f"{written.iloc[0]!r}, and "
            + (f"the images with {files[0]!r}" if files else "there is no PNG, JPEG or DICOM file")
            + f"; {advice}"
        )
    problems = problem(
        "ambiguous-image",
        written[several],
        "several files have the name that the table gives: left out; write their paths",
        loses=True,
    )
    problems += problem(
        MISSING_IMAGE,
        written[~here & ~several],
        "the table has a row, but the tree has no image: left out",
        loses=True,
    )
    without = sorted(set(radiographs(tree)) - set(found) - apart)
    suffixes = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES)
    problems += problem(
        MISSING_ROW,
        [path for path in without if path.casefold().endswith(suffixes)],
        "the tree has an image, but the table has no row: left out",
        loses=True,
    )
    return found, problems, {"dropped path prefix": dropped} if dropped else {}


def official_lists(
    rows: pd.DataFrame, parts: pd.Series[str], who: str
) -> tuple[dict[str, frozenset[str]], list[Problem]]:
    """Make the official lists of the parts that rows state.

    Args:
        rows: `image` and `patient`.
        parts: `train`, `val`, `test` or empty, for each row.
        who: states them, for people.

    Returns:
        `train`, `val` and `test`; `train_val` and `test` where there is no val; nothing where train
        or test is empty.
    """
    if not len(parts) or not (parts != "").any():
        return {}, []
    official = {part: frozenset(rows["image"][parts == part]) for part in _PARTS}
    if not official["train"] or not official["test"]:
        return {}, problem(
            "no-official-split",
            [part for part in ("train", "test") if not official[part]],
            f"{who} has no images for train or for test: it is not used",
            loses=False,
        )
    if not official["val"]:
        official = {"train_val": official["train"], "test": official["test"]}
    listed = parts != ""
    shared = parts[listed].groupby(rows["patient"][listed]).nunique()
    problems = problem(
        "patient-in-several-parts",
        shared.index[shared > 1],
        f"{who} puts a patient into several splits, so they are not independent",
        loses=False,
    )
    problems += problem(
        "not-in-lists",
        rows["image"][~listed],
        f"{who} does not place the image",
        loses=False,
    )
    return official, problems


def tables_where(tree: Path, fits: Callable[[frozenset[str]], bool]) -> list[Path]:
    """Find the CSV tables whose titles fit, the shallowest first: in a folder, or a file itself."""
    if tree.is_file():
        return [tree] if fits(frozenset(_titles_of(tree))) else []
    if not tree.is_dir():
        return []
    scanned = scan(tree)
    for path in scanned.tables:
        if path not in scanned.titles:
            scanned.titles[path] = _titles_of(path)
    return [path for path in scanned.tables if fits(frozenset(scanned.titles[path]))]


def check_titled(tree: Path, expected: Callable[[str], bool]) -> None:
    """Refuse an empty or damaged table of a data set: it would be missed without a word.

    Args:
        tree: a folder; a table that is read alone is checked when it is read.
        expected: tells by its name without suffixes whether a table is one of the data set.

    Raises:
        SourceError: there is one that has no column titles or cannot be read.
    """
    for table in tables_where(tree, lambda titles: not titles) if tree.is_dir() else ():
        if expected(table_stem(table)):
            titles(table)  # says what is wrong where the table is damaged
            raise SourceError(
                f"{table} is empty or begins with an empty line, so that it has no column titles: "
                f"download it again, or remove it"
            )


def _titles_of(table: Path) -> tuple[str, ...]:
    try:
        return tuple(titles(table))
    except SourceError:
        return ()


def chosen_first(tables: list[Path], tree: Path, options: ReadOptions) -> list[Path]:
    """Put the table first that the option `--columns table=…` names.

    Raises:
        SourceError: it is not one of the tables.
    """
    wanted = options.columns.get(TABLE)
    if not wanted:
        return tables
    named = [
        path for path in tables if path in {tree / wanted, Path(wanted)} or path.name == wanted
    ]
    if not named:
        raise SourceError(
            f"{tree} has no label table {wanted}: it has {', '.join(path.name for path in tables)}"
        )
    return [*named, *(path for path in tables if path not in named)]
