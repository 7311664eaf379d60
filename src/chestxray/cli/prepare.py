"""`chestxray prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestxray.cli.options import (
    AllowMissing,
    SourceOptions,
    SplitName,
    with_source_options,
)

if TYPE_CHECKING:
    from chestxray.dataset import Dataset
    from chestxray.sources import ReadOptions


def _not_pixels(pixels: int | None) -> None:
    """Refuse `synth`'s word for the side, and name this verb's own."""
    if pixels is not None:
        raise typer.BadParameter(f"the side of packed images is --size: give --size {pixels}")


def _list_sources(wanted: bool) -> None:
    """Print the sources that are known."""
    if not wanted:
        return
    from chestxray.sources import cards
    from chestxray.sources.card_text import described

    for name, card in cards().items():
        typer.secho(f"{name}: {card.title}", bold=True)
        for what, text in described(card):
            typer.echo(f"  {what}: {text}")
    raise typer.Exit


@with_source_options
def prepare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RAW... OUT",
            help="Raw trees of radiographs and tables, and the dataset folder to write.",
            show_default=False,
        ),
    ],
    *,
    size: Annotated[int, typer.Option(min=16, help="Side of the packed images, pixels.")] = 224,
    split: SplitName = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of a random split.")] = 0,
    given: SourceOptions,
    allow_missing: AllowMissing = False,
    allow_empty: Annotated[
        bool,
        typer.Option("--allow-empty", help="Accept that train, val or test gets no image."),
    ] = False,
    write_columns: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the columns that were recognised in RAW's table to a YAML file, and stop.",
        ),
    ] = None,
    list_sources: Annotated[  # noqa: ARG001 - its callback prints them
        bool,
        typer.Option(
            "--list-sources", callback=_list_sources, is_eager=True, help="List all sources."
        ),
    ] = False,
    pixels: Annotated[  # noqa: ARG001 - its callback refuses it
        int | None, typer.Option(hidden=True, callback=_not_pixels)
    ] = None,
) -> None:
    """Split by patient, decode every radiograph once, and pack them for training.

    Several raw trees become one dataset with the union of their findings; what a source cannot
    say is unknown there. An interrupted `prepare` resumes when the same command runs again. Images
    that cannot be read are left out, and listed here and in OUT/dataset.json.
    """
    from chestxray.dataset import prepare as make

    options = given.read_options()
    if write_columns is not None:
        _write_columns(paths, write_columns, options)
        return
    *raws, out = paths
    if not raws:
        raise typer.BadParameter("give at least one raw tree and then the folder to write")
    dataset = make(
        raws,
        out,
        size=size,
        split=split,
        seed=seed,
        source=given.source,
        options=options,
        allow_missing=allow_missing,
        allow_empty=allow_empty,
    )
    _show(dataset)
    typer.echo(f"\n{out}: {dataset.manifest.images} images of {size} px")


def _write_columns(raws: list[Path], out: Path, options: ReadOptions) -> None:
    from chestxray.sources import find_columns
    from chestxray.sources import write_columns as write

    if len(raws) != 1:
        raise typer.BadParameter("--write-columns takes one raw tree or table, and no OUT")
    if out.exists():
        raise typer.BadParameter(f"{out} exists: name another file, or delete it first")
    columns = find_columns(raws[0], options)
    write(columns, out)
    typer.echo(f"{out}: check it, then keep it beside the table as {columns.settings_name}")


def _show(dataset: Dataset) -> None:
    """Print what was packed by split, then what was not."""
    manifest = dataset.manifest
    typer.echo(
        f"{manifest.title}, split {manifest.split.name} (SHA-256 {manifest.split.sha256[:16]})"
    )
    for record in manifest.sources:
        policies = ", ".join(f"{name} {value}" for name, value in record.policies.items())
        typer.echo(f"{record.name}: {record.images} images; {policies}")
        for name, fact in record.facts.items():
            typer.echo(f"  {name}: {fact}")
    _show_counts(dataset)
    for problem in manifest.problems:
        typer.echo(f"\n{problem.sentence}: {problem.count}, such as {', '.join(problem.examples)}")
    if manifest.failures:
        typer.echo(f"\n{len(manifest.failures)} of {manifest.listed} images cannot be read:")
    for failure in manifest.failures:
        typer.echo(f"  {failure.image} ({failure.split}): {failure.reason}")


def _show_counts(dataset: Dataset) -> None:
    """Print images, patients and positives by split, and the unknown labels of each finding."""
    parts = dataset.manifest.counts
    unknown = dataset.index[list(dataset.findings)].isna().sum()
    width = max(20, *(len(name) + 2 for name in next(iter(parts.values()))))
    typer.echo(f"\n{'':{width}}" + "".join(f"{part:>10}" for part in (*parts, "unknown")))
    for count in next(iter(parts.values())):
        figures = "".join(f"{parts[part][count]:>10}" for part in parts)
        typer.echo(
            f"{count:{width}}{figures}" + (f"{unknown[count]:>10}" if count in unknown else "")
        )
