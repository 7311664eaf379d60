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
    Blank,
    Columns,
    Overrides,
    PatientPerImage,
    RecipeName,
    SourceName,
    SplitName,
    Uncertain,
    Views,
    read_options,
)
from chestxray.cli.predict import predict
from chestxray.cli.prepare import prepare
from chestxray.cli.report import report
from chestxray.cli.train import train


def run(
    raws: Annotated[
        list[Path],
        typer.Argument(metavar="RAW...", help="Raw trees: radiographs and a label table."),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder for everything.")],
    recipe: RecipeName = None,
    overrides: Overrides = None,
    split: SplitName = "official",
    source: SourceName = None,
    columns: Columns = None,
    uncertain: Uncertain = None,
    blank: Blank = None,
    views: Views = None,
    patient_per_image: PatientPerImage = False,
) -> None:
    """Prepare, train, predict, evaluate, explain and report.

    Each step is a separate command, which is printed. Inputs are validated before preparation
    starts. After an interruption the same command resumes.
    """
    from chestxray.training.recipe_checks import checked

    start = time.monotonic()
    recipe = recipe or "baseline"
    chosen = checked(recipe, overrides or ())
    dataset, model = out / "dataset", out / "run"
    bundle, predictions = model / "bundle", model / "predictions.csv"
    if not (dataset / "dataset.json").exists():
        from chestxray.dataset.preparation import check_split
        from chestxray.training import check_recipe

        options = read_options(columns, uncertain, blank, views, patient_per_image)
        check_split(raws, split, source=source, options=options)
        check_recipe(chosen)
    resume = (model / "recipe.yaml").exists()
    reading: dict[str, object] = {
        "--source": source, "--columns": columns, "--uncertain": uncertain, "--blank": blank,
        "--views": views,
    }  # fmt: skip
    asked = [word for name, value in reading.items() if value for word in (name, value)]
    asked += ["--patient-per-image"] * patient_per_image

    say("prepare", *raws, dataset, "--size", chosen.size, "--split", split, *asked)
    prepare(
        [*raws, dataset],
        size=chosen.size,
        split=split,
        source=source,
        columns=columns,
        uncertain=uncertain,
        blank=blank,
        views=views,
        patient_per_image=patient_per_image,
    )
    changes = [word for override in overrides or () for word in ("--set", override)]
    more = [*changes, *(["--resume"] * resume)]
    say("train", dataset, "--out", model, "--recipe", recipe, *more)
    train(dataset, out=model, recipe=recipe, overrides=overrides, resume=resume)
    say("predict", bundle, dataset, "--split", "test", "--out", predictions, "--heatmaps")
    predict(bundle, [dataset], out=predictions, split="test", heatmaps=True)
    # Masks of one tree would leave the images of the others without a region.
    beside = raws[0] / "masks"
    masks = beside if len(raws) == 1 and beside.is_dir() else None
    say(
        "evaluate", predictions, "--labels", dataset, "--out", model / "evaluation",
        "--fit-on", model / "validation.csv", "--heatmaps", model / "heatmaps.npy",
        *(["--masks", masks] if masks else []),
    )  # fmt: skip
    evaluate(
        predictions,
        labels=dataset,
        out=model / "evaluation",
        fit_on=model / "validation.csv",
        heatmaps=model / "heatmaps.npy",
        masks=masks,
    )
    say("explain", bundle, dataset, "--split", "test", "--out", model / "explanations")
    explain(bundle, [dataset], out=model / "explanations", split="test")
    say("report", model, "--out", model / "report.html")
    report(model, out=model / "report.html")
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    typer.echo(f"\n{minutes} min {seconds} s. Open {(model / 'report.html').resolve()}")


def say(*words: object) -> None:
    """Print a command so that it can be pasted into a shell."""
    typer.secho(f"\n$ chestxray {shlex.join(map(str, words))}", bold=True)
