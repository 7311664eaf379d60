"""`chestxray pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chestxray.cli.options import Overrides


def pretrain(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    *,
    images: Annotated[
        int | None, typer.Option(help="Phantoms to draw. Default: 10,000, as the recipe says.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="A timm model. Default: resnet10t.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Side of the phantoms, in pixels. Default: 128."),
    ] = None,
    head: Annotated[
        Literal["plain", "multiscale"] | None, typer.Option(help="Default: multiscale.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of phantoms, weights and order. Default: 0.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train a network on phantoms, with findings and masks, for other trainings to start from.

    The recipe is `phantoms`. The bundle is written to OUT/run/bundle; `--set weights=BUNDLE` starts
    from it, with the same backbone and head. The same command resumes after an interruption.
    """
    chosen = {
        "phantoms": images, "backbone": backbone, "size": size, "head": head, "seed": seed,
    }  # fmt: skip
    options = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    from chestxray.artifacts import read_json
    from chestxray.training.phantom_weights import RUN, Pretraining
    from chestxray.training.recipe_checks import checked

    changes = [*options, *(overrides or ())]
    if not Pretraining(checked("phantoms", changes)).made(out):
        from chestxray.training.pretraining import pretrain as make  # imports torch

        make(out, changes)
    model = read_json(out / RUN / "run.json", "chestxray pretrain")["model"]
    typer.echo(f"{out / RUN / 'bundle'}: {model}")
