"""`chestxray train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.options import Changes, RecipeName


def train(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset folder.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.")],
    recipe: RecipeName = None,
    change: Changes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was cut off.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard logs too.")
    ] = False,
) -> None:
    """Train a classifier by a recipe; the bundle lies in OUT/bundle."""
    from chestxray.dataset.store import Dataset
    from chestxray.errors import ArtifactError
    from chestxray.training import fit
    from chestxray.training import recipe as recipes

    begun = out / "recipe.yaml"
    if resume and not begun.exists():
        raise ArtifactError(f"{out} holds no run to go on with: leave out --resume to begin one")
    if resume and recipe is None and not change:
        recipe = str(begun)
    chosen = recipes.load(recipe or "baseline", change or ())
    bundle = fit.train(Dataset.open(dataset), out, chosen, resume, tensorboard)
    typer.echo(f"{out / 'bundle'}: {bundle.identity}")
