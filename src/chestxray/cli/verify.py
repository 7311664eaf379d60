"""`chestxray verify`: what a raw tree holds and would lose, or which dataset files are damaged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestxray.cli.options import (
    AsJson,
    SourceOptions,
    with_source_options,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from chestxray.dataset.verification import DatasetVerdict, Kind, Verdict
    from chestxray.sources.collection import Collection, Problem

_KINDS_SHOWN = 12


@with_source_options
def verify(
    path: Annotated[Path, typer.Argument(help="A raw tree, or a prepared dataset.")],
    *,
    given: SourceOptions,
    as_json: AsJson = False,
) -> None:
    """Check a raw tree or a prepared dataset, file by file, on all cores.

    For a raw tree: images, labels, boxes, lists, and every problem. Exit status 1 if a dataset made
    from it would lose an image, a label or a box. For a dataset: exit status 1 if a file is
    damaged.
    """
    from rich.console import Console

    from chestxray.dataset.verification import Verdict
    from chestxray.dataset.verification import verify as look

    verdict = look(path, given.source, given.read_options())
    console = Console(markup=False, highlight=False)
    if as_json:
        typer.echo(json.dumps(verdict.to_dict(), indent=2, ensure_ascii=False))
    elif isinstance(verdict, Verdict):
        _show_tree(verdict, console)
    else:
        _show_dataset(verdict, console)
    if not verdict.passed:
        raise typer.Exit(1)


def _show_tree(verdict: Verdict, console: Console) -> None:
    from chestxray.sources.assembly import LISTED

    for table in _tables(verdict):
        console.print(table)
    losing = verdict.losing
    if losing:
        counted = "1 problem leaves" if losing == 1 else f"{losing} problems leave"
        console.print(f"{counted} something out (marked): fix them before running prepare.")
    else:
        listed = verdict.collection.facts.get(LISTED)
        console.print("Of what is there, nothing would be left out.")
        if listed:
            console.print(f"Images of the whole data set that the tables list: {listed}.")


def _show_dataset(verdict: DatasetVerdict, console: Console) -> None:
    damaged = len(verdict.damages)
    if damaged:
        table = _table(f"{verdict.folder}: damaged files", "file", "what", "what to do")
        for damage in verdict.damages:
            table.add_row(damage.file, damage.reason, damage.renew)
        console.print(table)
        console.print("1 file is damaged." if damaged == 1 else f"{damaged} files are damaged.")
    else:
        images = verdict.manifest.images
        console.print(f"{verdict.folder} is intact: {images} images match their manifest.")


def _tables(verdict: Verdict) -> tuple[Table, ...]:
    return (
        _overview(verdict.collection),
        _findings(verdict.collection),
        _files(verdict.kinds),
        _problems(verdict.problems),
    )


def _overview(collection: Collection) -> Table:
    from chestxray.dataset.verification import facts

    table = _table(collection.card.title, "", "")
    for name, fact in facts(collection).items():
        table.add_row(name, fact)
    return table


def _findings(collection: Collection) -> Table:
    from chestxray.dataset.verification import findings

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
