"""`chestxray run`: the complete pipeline, verb by verb, from raw trees to a report."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.evaluate import evaluate
from chestxray.cli.explain import explain
from chestxray.cli.options import (
    AllowMissing,
    Loggers,
    Overrides,
    RecipeName,
    SourceOptions,
    SplitName,
    with_source_options,
)
from chestxray.cli.predict import predict
from chestxray.cli.prepare import prepare
from chestxray.cli.report import report
from chestxray.cli.train import train


@with_source_options
def run(
    raws: Annotated[
        list[Path],
        typer.Argument(metavar="RAW...", help="Raw trees: radiographs and a label table."),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder for everything.")],
    recipe: RecipeName = None,
    overrides: Overrides = None,
    split: SplitName = "auto",
    given: SourceOptions,
    allow_missing: AllowMissing = False,
    loggers: Loggers = None,
) -> None:
    """Prepare, train, predict, evaluate, explain and report.

    Each step is a separate command, which is printed. Inputs are validated before preparation
    starts. After an interruption the same command resumes.
    """
    start = time.monotonic()
    recipe = recipe or "baseline"
    dataset, model = out / "dataset", out / "run"
    size = _checked_size(recipe, overrides, dataset)
    asked = [*given.words(), *(["--allow-missing"] * allow_missing)]
    say("prepare", *raws, dataset, "--size", size, "--split", split, *asked)
    prepare([*raws, dataset], size=size, split=split, allow_missing=allow_missing, **vars(given))
    _train(dataset, model, recipe, overrides, loggers)
    _predict_and_evaluate(dataset, model, _masks(raws))
    say("explain", model / "bundle", dataset, "--split", "test", "--out", model / "explanations")
    explain(model / "bundle", [dataset], out=model / "explanations", split="test")
    _explain_pairs(dataset, model)
    say("report", model, "--out", model / "report.html", *_tracked(loggers))
    report(model, out=model / "report.html", loggers=loggers)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    typer.echo(f"\n{minutes} min {seconds} s. Open {(model / 'report.html').resolve()}")


def _checked_size(recipe: str, overrides: list[str] | None, dataset: Path) -> int:
    """Give the image size of a recipe, which is checked first where nothing is prepared yet."""
    from chestxray.training.recipe_checks import checked

    chosen = checked(recipe, overrides or ())
    if not (dataset / "dataset.json").exists():
        from chestxray.training import check_recipe

        check_recipe(chosen)
    return chosen.size


def _train(
    dataset: Path,
    model: Path,
    recipe: str,
    overrides: list[str] | None,
    loggers: list[str] | None,
) -> None:
    resume = (model / "recipe.yaml").exists()
    changes = [word for override in overrides or () for word in ("--set", override)]
    more = [*changes, *(["--resume"] * resume), *_tracked(loggers)]
    say("train", dataset, "--out", model, "--recipe", recipe, *more)
    train(dataset, out=model, recipe=recipe, overrides=overrides, resume=resume, loggers=loggers)


def _tracked(loggers: list[str] | None) -> list[str]:
    return [word for name in loggers or () for word in ("--logger", name)]


def _predict_and_evaluate(dataset: Path, model: Path, masks: Path | None) -> None:
    predictions, heatmaps = model / "predictions.csv", model / "heatmaps.npy"
    validation, evaluation = model / "validation.csv", model / "evaluation"
    bundle = model / "bundle"
    say("predict", bundle, dataset, "--split", "test", "--out", predictions, "--heatmaps")
    predict(bundle, [dataset], out=predictions, split="test", heatmaps=True)
    say(
        "evaluate", predictions, "--labels", dataset, "--out", evaluation,
        "--fit-on", validation, "--heatmaps", heatmaps, *(["--masks", masks] if masks else []),
    )  # fmt: skip
    evaluate(
        predictions,
        labels=dataset,
        out=evaluation,
        fit_on=validation,
        heatmaps=heatmaps,
        masks=masks,
    )


def _masks(raws: list[Path]) -> Path | None:
    """Give the masks of a single tree; those of one would leave the others without a region."""
    beside = raws[0] / "masks"
    return beside if len(raws) == 1 and beside.is_dir() else None


def _explain_pairs(dataset: Path, model: Path) -> None:
    """Test the model on pairs of phantoms, where it was trained on phantoms."""
    from chestxray.dataset import Dataset
    from chestxray.reading.phantom_pairs import PATIENTS

    if all(source.name == "phantoms" for source in Dataset.open(dataset).manifest.sources):
        bundle = model / "bundle"
        say("explain", bundle, "--phantom-pairs", PATIENTS, "--out", model)
        explain(bundle, out=model, phantom_pairs=PATIENTS)


def say(*words: object) -> None:
    """Print a command so that it can be pasted into a shell."""
    typer.secho(f"\n$ chestxray {shlex.join(map(str, words))}", bold=True)
