"""`chestxray synth`: generate phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synth(
    out: Annotated[Path, typer.Argument(help="Output folder; must be new or empty.")],
    images: Annotated[int, typer.Option(min=1, help="Number of radiographs.")],
    pixels: Annotated[int, typer.Option(min=64, help="Side of each, in pixels.")] = 256,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed; the same seed gives identical files.")
    ] = 0,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced", help="Generate all findings with equal frequency instead of NIH's."
        ),
    ] = False,
) -> None:
    """Generate phantoms: synthetic radiographs with exact masks, laid out like NIH ChestX-ray14."""
    from chestxray.sources import synth as draw

    draw(out, images, pixels, seed, balanced)
    typer.echo(f"{images} phantoms in {out}; next: chestxray prepare {out} DATASET")
