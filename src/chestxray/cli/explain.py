"""`chestxray explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explain(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder of a run.")],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="A dataset, or folders and files.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for the pictures.")],
    split: Annotated[
        str | None, typer.Option(help="The part of a dataset: train, val or test.")
    ] = None,
    finding: Annotated[
        list[str] | None, typer.Option(help="Only this finding; repeatable. Default: all.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Explain also files that the gate refuses.")
    ] = False,
) -> None:
    """Draw heatmaps over radiographs.

    Files get a sheet each, with all findings. A dataset gets, for each finding, its most probable
    true call, its most probable false call and its least probable miss.
    """
    from chestxray import load
    from chestxray.reading.explain import explain_dataset, explain_files
    from chestxray.reading.inputs import FileFilms, films, leak

    reader = load(bundle)
    chosen = films(inputs, split, reader.bundle.card)
    for warning in (*reader.warnings, leak(chosen, reader.bundle.card)):
        if warning:
            typer.echo(f"warning: {warning}", err=True)
    wanted = _chosen(finding, reader.findings)
    if isinstance(chosen, FileFilms):
        failed = explain_files(reader, chosen, out, wanted, force)
        typer.echo(
            f"{out}: {len(chosen.paths) - len(failed)} explained, {len(failed)} refused or not read"
        )
        for name, reason in failed.items():
            typer.echo(f"  {name}: {reason}")
        if len(failed) == len(chosen.paths):
            raise typer.Exit(1)
    else:
        shown = explain_dataset(reader, chosen, out, wanted)
        typer.echo(f"{out}: {len(shown)} examples of {len(wanted)} findings")


def _chosen(names: list[str] | None, findings: tuple[str, ...]) -> tuple[str, ...]:
    for name in names or ():
        if name not in findings:
            raise typer.BadParameter(
                f"{name!r} is none of the model's findings: {', '.join(findings)}"
            )
    return tuple(names) if names else findings
