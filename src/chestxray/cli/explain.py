"""`chestxray explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.options import BundleFolder, DatasetSplit, Inputs


def explain(
    bundle: BundleFolder,
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--out", help="Folder for the images.")],
    split: DatasetSplit = None,
    finding: Annotated[
        list[str] | None, typer.Option(help="Only this finding. Repeatable. Default: all.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also explain what the gate refuses.")
    ] = False,
    per_image: Annotated[
        bool,
        typer.Option(
            "--per-image", help="Scale each heatmap to its own peak. The images are labelled so."
        ),
    ] = False,
) -> None:
    """Draw heatmaps over radiographs.

    Each file gets one sheet with all findings. A dataset gets, for each finding, its most probable
    true call, its most probable false call and its least probable miss.
    """
    from chestxray.reading import explain as draw

    run = draw(
        bundle,
        inputs,
        out,
        split=split,
        findings=finding or None,
        force=force,
        per_image=per_image,
    )
    count = len(run.pictures)
    typer.echo(
        f"{out}: {count} picture{'' if count == 1 else 's'}, {len(run.unread)} refused or "
        f"unreadable"
    )
    for name, reason in run.unread.items():
        typer.echo(f"  {name}: {reason}")
    if not count and run.unread:
        raise typer.Exit(1)
