"""`chestxray recipe list` and `chestxray recipe show NAME`."""

from __future__ import annotations

from typing import Annotated

import typer

from chestxray.cli.options import Overrides

recipe = typer.Typer(name="recipe", help="List and show training recipes.", no_args_is_help=True)


@recipe.command("list")
def list_() -> None:
    """List the shipped recipes: what each is for, what it costs, what it should score."""
    from chestxray.training.recipe import shipped

    for one in shipped():
        typer.secho(one.name, bold=True)
        for what, text in (
            ("", one.description),
            ("cost: ", one.cost),
            ("expected: ", one.expected),
        ):
            typer.echo(f"  {what}{text}")


@recipe.command()
def show(
    name: Annotated[str, typer.Argument(help="A shipped recipe, or a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Print a recipe as YAML, with every key and override filled in."""
    from chestxray.training.recipe import show as as_yaml

    typer.echo(as_yaml(name, overrides or ()), nl=False)
