"""`chestxray verify`: what a raw tree holds, and what of it would be lost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from chestxray.dataset.verify import Kind, Verdict
    from chestxray.sources.collection import Collection, Problem

_KINDS_SHOWN = 12


def verify(
    raw: Annotated[Path, typer.Argument(help="Folder with the images and the label table.")],
) -> None:
    """Say what is in a folder of radiographs: images, labels, boxes, lists, and every problem.

    Reads every image once, on all cores. Exit status 1 where an image, a label or a box would be
    left out of a data set made from it.
    """
    from rich.console import Console

    from chestxray.dataset.verify import verify as look

    verdict = look(raw)
    console = Console(markup=False, highlight=False)
    for table in _tables(verdict):
        console.print(table)
    if verdict.losing:
        console.print(
            f"{verdict.losing} of these problems leave something out (marked): mend them first."
        )
        raise typer.Exit(1)
    console.print("Nothing would be left out.")


def _tables(verdict: Verdict) -> tuple[Table, ...]:
    return (
        _overview(verdict.collection),
        _findings(verdict.collection),
        _files(verdict.kinds),
        _problems(verdict.problems),
    )


def _overview(collection: Collection) -> Table:
    from chestxray.dataset.verify import facts

    table = _table(collection.card.title, "", "")
    for name, fact in facts(collection).items():
        table.add_row(name, fact)
    return table


def _findings(collection: Collection) -> Table:
    from chestxray.dataset.verify import findings

    table = _table("Findings", "finding", "images", "%", "unknown", "boxes", numbers=True)
    for name, found in findings(collection).items():
        share = f"{100 * found.share:.2f}"
        table.add_row(name, str(found.images), share, str(found.unknown), str(found.boxes))
    return table


def _files(kinds: tuple[tuple[Kind, int], ...]) -> Table:
    table = _table("Files", "kind", "pixels", "images", numbers=True)
    for kind, count in kinds[:_KINDS_SHOWN]:
        table.add_row(*kind, str(count))
    if rest := kinds[_KINDS_SHOWN:]:
        table.add_row("others", f"{len(rest)} more kinds", str(sum(count for _, count in rest)))
    return table


def _problems(problems: Iterable[Problem]) -> Table:
    table = _table("Problems", "problem", "count", "left out", "what", "such as")
    for problem in problems:
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
