"""`chestxray train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.options import Overrides, RecipeName


def train(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset folder.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.")],
    recipe: RecipeName = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run, with its own recipe.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard logs.")
    ] = False,
) -> None:
    """Train a classifier from a recipe. The bundle is written to OUT/bundle."""
    from chestxray.training.recipe_checks import for_run

    chosen = for_run(out, recipe, overrides or (), resume, dataset)
    from chestxray.training.fit import train as fit  # imports torch, after the checks

    finished = fit(dataset, chosen, out, resume=resume, tensorboard=tensorboard)
    typer.echo(f"{finished.bundle}: {finished.model}")
