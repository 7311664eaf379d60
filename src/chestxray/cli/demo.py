"""`chestxray demo`: the main job, verb by verb, on phantoms."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from chestxray.cli.evaluate import evaluate
from chestxray.cli.explain import explain
from chestxray.cli.predict import predict
from chestxray.cli.prepare import prepare
from chestxray.cli.report import report
from chestxray.cli.synth import synth
from chestxray.cli.train import train

IMAGES: Final = 1500
PIXELS: Final = 128
SIZE: Final = 112


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder for everything.")] = Path("demo"),
    images: Annotated[int, typer.Option(help="Phantoms to draw.", min=100)] = IMAGES,
) -> None:
    """Do the whole main job on synthetic radiographs: from an empty folder to a report."""
    from chestxray.errors import ArtifactError

    if out.exists() and any(out.iterdir()):
        raise ArtifactError(f"{out} is not empty: choose another --out, or remove it first")
    start = time.monotonic()
    raw, dataset, run = out / "raw", out / "dataset", out / "run"
    bundle, predictions = run / "bundle", run / "predictions.csv"

    _say(f"synth {raw} --images {images} --pixels {PIXELS} --balanced")
    synth(raw, images=images, pixels=PIXELS, seed=0, balanced=True)
    _say(f"prepare {raw} {dataset} --size {SIZE}")
    prepare(raw, dataset, size=SIZE)
    _say(f"train {dataset} --out {run} --recipe quick")
    train(dataset, out=run, recipe="quick")
    _say(f"predict {bundle} {dataset} --split test --out {predictions} --heatmaps")
    predict(bundle, [dataset], out=predictions, split="test", heatmaps=True)
    _say(
        f"evaluate {predictions} --labels {dataset} --out {run}/evaluation "
        f"--fit-on {run}/validation.csv --heatmaps {run}/heatmaps.npy --masks {raw}/masks"
    )
    evaluate(
        predictions,
        labels=dataset,
        out=run / "evaluation",
        fit_on=run / "validation.csv",
        heatmaps=run / "heatmaps.npy",
        masks=raw / "masks",
    )
    _say(f"explain {bundle} {dataset} --split test --out {run}/explanations")
    explain(bundle, [dataset], out=run / "explanations", split="test")
    _say(f"report {run} --out {run}/report.html")
    report(run, out=run / "report.html")
    typer.echo(f"\n{time.monotonic() - start:.0f} s. Open {(run / 'report.html').resolve()}")


def _say(command: str) -> None:
    typer.secho(f"\n$ chestxray {command}", bold=True)
