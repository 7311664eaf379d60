"""`chestxray crossval`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestxray.cli.options import AsJson, Overrides, RecipeName

if TYPE_CHECKING:
    from chestxray.evaluation.bootstrap import Interval
    from chestxray.evaluation.cross_validation import CrossFinding, CrossMean, CrossValidation


def crossval(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset folder.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder for all runs and the result.")],
    recipe: RecipeName = None,
    overrides: Overrides = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of patients.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per fold, each with its seed.")] = 1,
    resamples: Annotated[
        int, typer.Option(min=0, help="Resamples of patients for the intervals; 0 for none.")
    ] = 1000,
    as_json: AsJson = False,
) -> None:
    """Train and test a recipe on every fold of a dataset, with several seeds.

    Each patient is tested once per seed, by a model that was trained on other patients. The split
    of the dataset is not used. Intervals account for the sampling of patients and of seeds. The
    same command resumes after an interruption, and keeps finished runs where --seeds grows.
    """
    from chestxray.training import crossval as validate

    result = validate(
        dataset,
        recipe,
        out,
        folds=folds,
        seeds=seeds,
        overrides=overrides or (),
        resamples=resamples,
    )
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
        return
    for line in _lines(result):
        typer.echo(line)
    typer.echo(f"\n{out / 'crossval.json'}")


def _lines(result: CrossValidation) -> Iterator[str]:
    """Give a table of findings, a table of runs, and what the figures are."""
    yield (
        f"{result.source}: {result.images} images of {result.patients} patients, recipe "
        f"{result.recipe}, {result.folds} folds, {_counted(len(result.seeds), 'seed')}"
    )
    width = max(20, *(len(finding) + 2 for finding in result.findings))
    yield f"\n{'':{width}}{'positives':>10}{'AUROC':>22}{'SD of seeds':>13}{'AUPRC':>22}"
    for finding, entry in result.findings.items():
        yield _row(f"{finding:{width}}{entry.positives:>10}", entry)
    yield _row(f"{'mean':{width}}{'':>10}", result.mean)
    seeds = "".join(f"{f'seed {seed}':>10}" for seed in result.seeds)
    yield f"\n{'mean AUROC':{width}}{'images':>10}{'patients':>10}{seeds}"
    for fold in range(1, result.folds + 1):
        runs = [run for run in result.runs if run.fold == fold]
        figures = "".join(f"{_figure(run.mean['auroc']):>10}" for run in runs)
        yield f"{f'fold {fold}':{width}}{runs[0].images:>10}{runs[0].patients:>10}{figures}"
    for finding, entry in result.findings.items():
        if reason := entry.auroc.pooled.reason:
            yield f"{finding}: {reason}"
    yield f"\n{result.method}"


def _row(name: str, entry: CrossFinding | CrossMean) -> str:
    return (
        f"{name}{_interval(entry.auroc.pooled):>22}{_figure(entry.auroc.seed_sd):>13}"
        f"{_interval(entry.auprc.pooled):>22}"
    )


def _interval(entry: Interval) -> str:
    figure = _figure(entry.value)
    if entry.low is None:
        return figure
    return f"{figure} ({_figure(entry.low)}–{_figure(entry.high)})"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
