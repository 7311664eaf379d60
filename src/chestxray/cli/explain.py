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

    Each file gets one sheet with all findings. A dataset gets, for each finding, its most probable
    true call, its most probable false call and its least probable miss.
    """
    from chestxray.reading.explanation import explain

    run = explain(bundle, inputs, out, split=split, findings=finding or None, force=force)
    count = len(run.pictures)
    typer.echo(
        f"{out}: {count} picture{'' if count == 1 else 's'}, {len(run.unread)} refused or not "
        f"readable"
    )
    for name, reason in run.unread.items():
        typer.echo(f"  {name}: {reason}")
    if not count and run.unread:
        raise typer.Exit(1)
