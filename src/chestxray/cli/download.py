"""`chestxray download`: NIH ChestX-ray14."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Origin(StrEnum):
    """Where ChestX-ray14 is published."""

    KAGGLE = "kaggle"
    NIH = "nih"


def download(
    out: Annotated[Path, typer.Argument(help="The folder to write; created if missing.")],
    origin: Annotated[
        Origin,
        typer.Option("--from", help="kaggle: one file, needs your token. nih: twelve archives."),
    ],
) -> None:
    """Download NIH ChestX-ray14 (112,120 images, 45 GB).

    After an interruption the same command resumes. Every file is checked, and archives are deleted
    once they are unpacked.
    """
    from chestxray.sources.download import BY_HAND, FOLDER, download_kaggle, download_nih

    if origin is Origin.KAGGLE:
        download_kaggle(out)
        typer.echo(f"{out} is complete; next: chestxray verify {out}")
        return
    by_hand = download_nih(out)
    typer.echo(f"the images are in {out}; next: chestxray verify {out}")
    for name, reason in by_hand.items():
        typer.echo(f"download {name} from {FOLDER} into {out} manually ({reason})")
    if set(by_hand) - set(BY_HAND):  # boxes are optional, labels and lists are not
        raise typer.Exit(1)
