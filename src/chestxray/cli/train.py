"""`chestxray train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.options import CacheGib, Loggers, Overrides, RecipeName


def train(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset: folder or URL.")],
    out: Annotated[Path, typer.Option("--out", help="The run to write: folder or URL.")],
    *,
    recipe: RecipeName = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run, with its own recipe.")
    ] = False,
    loggers: Loggers = None,
    devices: Annotated[
        int,
        typer.Option(
            min=1, help="Processes of this machine: one per GPU, or for a share of the CPU."
        ),
    ] = 1,
    nodes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Machines. Each runs this command with the environment variables NODE_RANK, "
            "MASTER_ADDR and MASTER_PORT. Under torchrun leave out --devices and --nodes.",
        ),
    ] = 1,
    cache_gib: CacheGib = None,  # noqa: ARG001 - its callback sets it
) -> None:
    """Train a classifier from a recipe. The bundle is written to OUT/bundle."""
    from chestxray.storage import path_of, shown, staging_of
    from chestxray.training.recipe_checks import for_run

    # As `training.distributed` has it, which imports torch.
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    rank = "RANK" if launched else "NODE_RANK"
    first = os.environ.get(rank, "0" if nodes == 1 else "") == "0"
    at = staging_of(out)
    begun, ended = (at / "recipe.yaml").exists(), (at / "run.json").exists()
    resume |= launched and begun and not ended
    chosen = for_run(at, recipe, overrides or (), resume, path_of(dataset), first=first)
    from chestxray.training.fit import train as fit  # imports torch, after the checks
    from chestxray.training.loop import Processes

    processes = Processes(devices, nodes)
    finished = fit(dataset, chosen, out, resume=resume, trackers=loggers or (), processes=processes)
    typer.echo(f"{shown(finished.bundle)}: {finished.model}")
