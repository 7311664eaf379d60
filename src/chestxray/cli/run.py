"""`chestxray run`: the main job, verb by verb, from a raw tree to a report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.evaluate import evaluate
from chestxray.cli.explain import explain
from chestxray.cli.options import Changes, RecipeName, SplitName
from chestxray.cli.predict import predict
from chestxray.cli.prepare import prepare
from chestxray.cli.report import report
from chestxray.cli.train import train


def run(
    raw: Annotated[Path, typer.Argument(help="A raw tree: radiographs and a label table.")],
    out: Annotated[Path, typer.Option("--out", help="The folder for everything.")],
    recipe: RecipeName = None,
    change: Changes = None,
    split: SplitName = "official",
) -> None:
    """Do the whole main job: prepare, train, predict, evaluate, explain, report.

    Each step is a command of its own and is printed as one. Run again after an interruption, it
    goes on where it was.
    """
    from chestxray.training import recipe as recipes

    start = time.monotonic()
    recipe = recipe or "baseline"
    size = recipes.load(recipe, change or ()).size
    dataset, model = out / "dataset", out / "run"
    bundle, predictions, masks = model / "bundle", model / "predictions.csv", raw / "masks"
    resume = (model / "recipe.yaml").exists()

    say(f"prepare {raw} {dataset} --size {size} --split {split}")
    prepare(raw, dataset, size=size, split=split)
    overrides = "".join(f" --set {key}" for key in change or ())
    say(f"train {dataset} --out {model} --recipe {recipe}{overrides}{' --resume' * resume}")
    train(dataset, out=model, recipe=recipe, change=change, resume=resume)
    say(f"predict {bundle} {dataset} --split test --out {predictions} --heatmaps")
    predict(bundle, [dataset], out=predictions, split="test", heatmaps=True)
    say(
        f"evaluate {predictions} --labels {dataset} --out {model}/evaluation "
        f"--fit-on {model}/validation.csv --heatmaps {model}/heatmaps.npy"
        + f" --masks {masks}"
        * masks.is_dir()
    )
    evaluate(
        predictions,
        labels=dataset,
        out=model / "evaluation",
        fit_on=model / "validation.csv",
        heatmaps=model / "heatmaps.npy",
        masks=masks if masks.is_dir() else None,
    )
    say(f"explain {bundle} {dataset} --split test --out {model}/explanations")
    explain(bundle, [dataset], out=model / "explanations", split="test")
    say(f"report {model} --out {model}/report.html")
    report(model, out=model / "report.html")
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    typer.echo(f"\n{minutes} min {seconds} s. Open {(model / 'report.html').resolve()}")


def say(command: str) -> None:
    """Print a command as a user would type it."""
    typer.secho(f"\n$ chestxray {command}", bold=True)
