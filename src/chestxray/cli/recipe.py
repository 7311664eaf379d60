"""`chestxray recipe list` and `chestxray recipe show NAME`."""

from __future__ import annotations

from typing import Annotated

import typer

from chestxray.cli.options import Overrides

recipe = typer.Typer(name="recipe", help="List and show training recipes.", no_args_is_help=True)


@recipe.command("list")
def list_() -> None:
    """List the shipped recipes with what each is for."""
    from chestxray.training import recipe as recipes

    for name, description in recipes.shipped().items():
        typer.echo(f"{name:12} {description}")


@recipe.command()
def show(
    name: Annotated[str, typer.Argument(help="A shipped recipe, or a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Print a recipe as YAML with every default filled in."""
    from chestxray.training import recipe as recipes

    typer.echo(recipes.as_yaml(recipes.load(name, overrides or ())), nl=False)
