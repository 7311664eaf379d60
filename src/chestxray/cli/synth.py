"""`chestxray synth`: write phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write, absent or empty.")],
    images: Annotated[int, typer.Option(min=1, help="How many radiographs.")],
    pixels: Annotated[int, typer.Option(min=64, help="Side of each, in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Every finding as frequent, instead of as at NIH.")
    ] = False,
) -> None:
    """Write phantoms: synthetic radiographs with exact masks, in the NIH tree's own layout."""
    from chestxray.sources.phantom.tree import write_tree

    write_tree(out, images, pixels, seed, balanced)
    typer.echo(f"{images} phantoms in {out}; next: chestxray prepare {out} DATASET")
