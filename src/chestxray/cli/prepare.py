"""`chestxray prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestxray.cli.options import SplitName

if TYPE_CHECKING:
    from chestxray.dataset.store import Manifest


def _not_pixels(pixels: int | None) -> None:
    """Refuse `synth`'s word for the side with this verb's own."""
    if pixels is not None:
        raise typer.BadParameter(f"the side of packed images is --size: give --size {pixels}")


def prepare(
    raw: Annotated[Path, typer.Argument(help="A tree in one of NIH's layouts.")],
    out: Annotated[Path, typer.Argument(help="The dataset folder to write.")],
    size: Annotated[int, typer.Option(min=16, help="Side of the packed images, pixels.")] = 224,
    split: SplitName = "official",
    seed: Annotated[int, typer.Option(min=0, help="Of what the split draws.")] = 0,
    pixels: Annotated[  # noqa: ARG001 - its callback refuses it
        int | None, typer.Option(hidden=True, callback=_not_pixels)
    ] = None,
) -> None:
    """Split by patient, decode every radiograph once, and pack them for training.

    Stopped in the middle, the same command goes on where it was. Images that can't be read are
    left out, and listed here and in OUT/dataset.json.
    """
    from chestxray.dataset.prepare import prepare as make

    manifest = make(raw, out, size, split, seed).manifest
    _show(manifest)
    typer.echo(f"\n{out}: {manifest.images} images of {manifest.size} px")


def _show(manifest: Manifest) -> None:
    """Print what was packed by part, then what was not."""
    typer.echo(
        f"{manifest.title}, split {manifest.split.name} (sha256 {manifest.split.sha256[:16]})"
    )
    parts = manifest.counts
    typer.echo(f"\n{'':20}" + "".join(f"{part:>10}" for part in parts))
    for count in next(iter(parts.values())):
        typer.echo(f"{count:20}" + "".join(f"{parts[part][count]:>10}" for part in parts))
    for problem in manifest.problems:
        typer.echo(f"\n{problem.sentence}: {problem.count}, such as {', '.join(problem.examples)}")
    if manifest.failures:
        typer.echo(f"\n{len(manifest.failures)} of {manifest.listed} images can't be read:")
    for failure in manifest.failures:
        typer.echo(f"  {failure.image} ({failure.split}): {failure.reason}")
