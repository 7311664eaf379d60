"""`chestxray verify`: what a raw tree holds, and what of it would be lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from chestxray.sources.collection import Collection, Problem

_KINDS_SHOWN = 12
_CHUNK = 16  # files a worker takes at a time


class _Look(NamedTuple):
    """What one file is: its kind and size in words, or what is wrong with it."""

    name: str
    kind: str
    size: str
    wrong: str


def verify(
    raw: Annotated[Path, typer.Argument(help="Folder with the images and the label table.")],
) -> None:
    """Say what is in a folder of radiographs: images, labels, boxes, lists, and every problem.

    Reads every image once, on all cores. Exit status 1 where an image, a label or a box would be
    left out of a data set made from it.
    """
    from rich.console import Console

    from chestxray.sources import nih

    collection = nih.read(raw)
    looks = _look_at_all(collection.rows["path"].tolist())
    problems = [*collection.problems, *_file_problems(looks)]
    console = Console(markup=False, highlight=False)
    for table in (_overview(collection), _findings(collection), _files(looks), _problems(problems)):
        console.print(table)
    losing = sum(problem.loses for problem in problems)
    if losing:
        console.print(f"{losing} of these problems leave something out (marked): mend them first.")
        raise typer.Exit(1)
    console.print("Nothing would be left out.")


def _look_at_all(paths: list[str]) -> list[_Look]:
    """Decode every file on all cores."""
    import multiprocessing
    import os
    from concurrent.futures import ProcessPoolExecutor

    from chestxray.progress import progress

    looks = []
    cores = min(len(os.sched_getaffinity(0)), -(-len(paths) // _CHUNK))
    spawn = multiprocessing.get_context("spawn")  # forking a process with threads is not safe
    with (
        ProcessPoolExecutor(cores, mp_context=spawn) as pool,
        progress("verify", len(paths)) as advance,
    ):
        for look in pool.map(_look, paths, chunksize=_CHUNK):
            looks.append(look)
            advance()
    return looks


def _look(path: str) -> _Look:
    from PIL import Image

    from chestxray.dataset.pixels import decode
    from chestxray.errors import ImageError

    name = Path(path).name
    try:
        height, width = decode(Path(path)).shape
    except ImageError as error:
        return _Look(name, "", "", error.reason)
    with Image.open(path) as image:  # the header alone
        kind = f"{image.format} {image.mode}"
    return _Look(name, kind, f"{width} × {height}", "")


def _file_problems(looks: Iterable[_Look]) -> list[Problem]:
    from chestxray.sources.collection import problem

    wrong: dict[str, list[str]] = defaultdict(list)
    for look in looks:
        if look.wrong:
            wrong[look.wrong.partition(":")[0]].append(f"{look.name} ({look.wrong})")
    return [
        found
        for reason, names in sorted(wrong.items())
        for found in problem("unreadable-image", names, f"{reason}: left out", loses=True)
    ]


def _overview(collection: Collection) -> Table:
    rows = collection.rows
    table = _table(collection.source, "", "")
    patients = rows["patient"].nunique()
    facts = {
        **collection.facts,
        "its generation": collection.generation,
        "images with labels": f"{len(rows)} of {patients} patients",
        "views": _counts(rows["view"]),
        "sexes": _counts(rows["sex"]),
        "ages": _ages(rows["age"]),
        "boxes": f"{len(collection.boxes)} on {collection.boxes['image'].nunique()} images",
        "official lists": ", ".join(
            f"{part}: {rows['image'].isin(names).sum()} of its {len(names)} images are here"
            for part, names in sorted(collection.official.items(), reverse=True)
        )
        or "none",
    }
    for name, fact in facts.items():
        table.add_row(name, fact)
    return table


def _ages(ages: pd.Series) -> str:
    unknown = int(ages.isna().sum())
    if unknown == len(ages):
        return "unknown"
    return f"{ages.min():.0f} to {ages.max():.0f} years" + (f", unknown: {unknown}" * bool(unknown))


def _counts(column: Iterable[str]) -> str:
    return ", ".join(f"{value or 'unknown'}: {n}" for value, n in Counter(column).most_common())


def _findings(collection: Collection) -> Table:
    from chestxray.findings import FINDINGS, NO_FINDING

    rows, boxes = collection.rows, collection.boxes
    table = _table("Findings", "finding", "images", "%", "unknown", "boxes", numbers=True)
    columns = {name: rows[name] for name in FINDINGS}
    columns[NO_FINDING] = (rows[list(FINDINGS)] == 0).all(axis=1).astype(float)
    for name, values in columns.items():
        table.add_row(
            name,
            str(int((values == 1).sum())),
            f"{100 * (values == 1).mean():.2f}",
            str(int(values.isna().sum())),
            str(int((boxes["finding"] == name).sum())),
        )
    return table


def _files(looks: Iterable[_Look]) -> Table:
    """Count files by kind (Pillow's mode: L is 8-bit grey, I;16 16-bit) and size."""
    table = _table("Files", "kind", "pixels", "images", numbers=True)
    kinds = Counter((look.kind, look.size) for look in looks if not look.wrong).most_common()
    for (kind, size), count in kinds[:_KINDS_SHOWN]:
        table.add_row(kind, size, str(count))
    if rest := kinds[_KINDS_SHOWN:]:
        table.add_row("others", f"{len(rest)} more kinds", str(sum(count for _, count in rest)))
    return table


def _problems(problems: Iterable[Problem]) -> Table:
    table = _table("Problems", "problem", "count", "left out", "what", "such as")
    for problem in sorted(problems, key=lambda problem: not problem.loses):
        table.add_row(
            problem.code,
            str(problem.count),
            "yes" if problem.loses else "",
            problem.sentence,
            "\n".join(problem.examples),
        )
    if not table.row_count:
        table.add_row("none", "0", "", "", "")
    return table


def _table(title: str, *columns: str, numbers: bool = False) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(columns))
    for number, name in enumerate(columns):
        right = numbers and number > 0
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table
