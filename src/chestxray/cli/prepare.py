"""`chestxray prepare`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chestxray.cli.options import (
    AllowMissing,
    CacheGib,
    OnCluster,
    SourceOptions,
    SplitName,
    with_source_options,
)

if TYPE_CHECKING:
    from chestxray.dataset import Dataset
    from chestxray.dataset.manifest import Manifest, SourceProblem
    from chestxray.sources import ReadOptions, SourceCard


_EXAMPLES: Final = 3  # of a notice


def _not_pixels(pixels: int | None) -> None:
    """Refuse `synth`'s word for the side, and name this verb's own."""
    if pixels is not None:
        raise typer.BadParameter(f"the side of packed images is --size: give --size {pixels}")


def _list_sources(wanted: bool) -> None:
    """Print the sources that are known."""
    if not wanted:
        return
    from chestxray.sources import cards

    for name, card in cards().items():
        _show_card(name, card)
    raise typer.Exit


def _show_source(wanted: str | None) -> None:
    """Print the card of one source."""
    if wanted is None:
        return
    from chestxray.sources.registry import named

    _show_card(wanted, named(wanted).card)
    raise typer.Exit


def _show_card(name: str, card: SourceCard) -> None:
    from chestxray.sources.card_text import described, layout

    typer.secho(f"{name}: {card.title}", bold=True)
    for what, text in described(name, card):
        typer.echo(f"  {what}: {text}")
    if lines := layout(name):
        typer.echo("\n".join(["  files:", *(f"    {line}" for line in lines)]))


@with_source_options
def prepare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RAW... OUT",
            help="Raw trees of radiographs and tables, and the dataset to write: paths or URLs.",
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
    cluster: OnCluster = None,
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
            "--list-sources",
            callback=_list_sources,
            is_eager=True,
            help="Print the cards of all sources.",
        ),
    ] = False,
    show_source: Annotated[  # noqa: ARG001 - its callback prints it
        str | None,
        typer.Option(
            "--show-source",
            metavar="NAME",
            callback=_show_source,
            is_eager=True,
            help="Print the card of one source: how to get the data set, its files, its labels.",
        ),
    ] = None,
    cache_gib: CacheGib = None,  # noqa: ARG001 - its callback sets it
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
    from chestxray.storage import shown

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
        cluster=cluster,
    )
    _show(dataset)
    typer.echo(f"\n{shown(dataset.folder)}: {dataset.manifest.images} images of {size} px")


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
    typer.echo(f"{manifest.title}, {_split_of(manifest)} (SHA-256 {manifest.split.sha256[:16]})")
    for record in manifest.sources:
        policies = ", ".join(f"{name} {value}" for name, value in record.policies.items())
        typer.echo(f"{record.name}: {record.images} images; {policies}")
        for name, fact in record.facts.items():
            typer.echo(f"  {name}: {fact}")
    _show_counts(dataset)
    for line in _notices(manifest):
        typer.echo(f"\n{line}")
    if manifest.failures:
        typer.echo(f"\n{len(manifest.failures)} of {manifest.listed} images cannot be read:")
    for failure in manifest.failures:
        typer.echo(f"  {failure.image} ({failure.split}): {failure.reason}")


def _split_of(manifest: Manifest) -> str:
    """Name the split; where the parts of some sources are drawn, which."""
    drawn = [p for p in manifest.problems if p.code == "no-official-list"]
    if not drawn or manifest.split.name != "official":
        return f"split {manifest.split.name}"
    names = {name for p in drawn for name in p.examples}
    own = [record.name for record in manifest.sources if record.name not in names]
    return f"split by the lists of {', '.join(own)}, drawn in {', '.join(sorted(names))}"


def _notices(manifest: Manifest) -> Iterator[str]:
    """Say once what several sources have in common, with the count of each."""
    names = [record.name for record in manifest.sources]
    by_sentence: dict[tuple[str, str], list[tuple[str, SourceProblem]]] = {}
    for problem in manifest.problems:
        of = next((name for name in names if problem.sentence.startswith(f"{name}: ")), "")
        sentence = problem.sentence.removeprefix(f"{of}: ")
        by_sentence.setdefault((problem.code, sentence), []).append((of, problem))
    for (_, sentence), found in by_sentence.items():
        counts = ", ".join(f"{of} {problem.count}".strip() for of, problem in found)
        examples = [example for _, problem in found for example in problem.examples[:_EXAMPLES]]
        yield f"{sentence}: {counts}, such as {', '.join(examples[:_EXAMPLES])}"


def _show_counts(dataset: Dataset) -> None:
    """Print images, patients and positives by split, and the unknown labels of each finding."""
    from chestxray.dataset.store import no_finding
    from chestxray.findings import NO_FINDING

    parts = dataset.manifest.counts
    labels = dataset.index[list(dataset.findings)]
    unknown = labels.isna().sum()
    unknown[NO_FINDING] = int(no_finding(labels).isna().sum())
    width = max(20, *(len(name) + 2 for name in next(iter(parts.values()))))
    typer.echo(f"\n{'':{width}}" + "".join(f"{part:>10}" for part in (*parts, "unknown")))
    for count in next(iter(parts.values())):
        figures = "".join(f"{parts[part][count]:>10}" for part in parts)
        typer.echo(
            f"{count:{width}}{figures}" + (f"{unknown[count]:>10}" if count in unknown else "")
        )
    if NO_FINDING not in next(iter(parts.values())):
        typer.echo(
            "No Finding is unknown: no source labels all of these findings, so that an image "
            "without a known one may have another"
        )
