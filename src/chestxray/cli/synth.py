"""`chestxray synth`: draw phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synth(
    out: Annotated[Path, typer.Argument(help="The folder to write, absent or empty.")],
    images: Annotated[int, typer.Option(min=1, help="Number of radiographs.")],
    pixels: Annotated[int, typer.Option(min=64, help="Side of each, in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    balanced: Annotated[
        bool,
        typer.Option("--balanced", help="Draw all findings equally often, not as often as NIH."),
    ] = False,
) -> None:
    """Draw phantoms: synthetic radiographs with exact masks, in the layout of NIH ChestX-ray14."""
    from chestxray.sources import synth as draw

    draw(out, images, pixels, seed, balanced)
    typer.echo(f"{images} phantoms in {out}; next: chestxray prepare {out} DATASET")
