"""`chestxray demo`: the complete pipeline on phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from chestxray.cli.run import run, say
from chestxray.cli.synth import synth

IMAGES: Final = 1500
PIXELS: Final = 128


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder for everything.")] = Path("demo"),
    images: Annotated[int, typer.Option(help="Number of phantoms to draw.", min=100)] = IMAGES,
) -> None:
    """Run the complete pipeline on synthetic radiographs: from an empty folder to a report."""
    raw = out / "raw"
    say("synth", raw, "--images", images, "--pixels", PIXELS, "--balanced")
    synth(raw, images=images, pixels=PIXELS, seed=0, balanced=True)
    run([raw], out=out, recipe="quick")
