"""`chestxray evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A table of predictions (CSV).")],
    labels: Annotated[
        Path, typer.Option("--labels", help="A prepared dataset, or an NIH label table.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for the results.")],
    fit_on: Annotated[
        Path | None,
        typer.Option(help="Predictions on validation, which the thresholds are chosen on."),
    ] = None,
    heatmaps: Annotated[
        Path | None, typer.Option(help="The heatmaps.npy of these predictions: localisation.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Masks to locate against, in place of the dataset's boxes.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The part that the predictions must be of.")
    ] = None,
) -> None:
    """Hold predictions against labels: metrics, curves and, with heatmaps, localisation.

    Metrics at a threshold need --fit-on: thresholds are chosen on validation, never on the images
    that are evaluated.
    """
    from chestxray.evaluation import evaluate as evaluation
    from chestxray.evaluation import localisation, regions
    from chestxray.evaluation.labels import Labels, pair

    if masks is not None and heatmaps is None:
        raise typer.BadParameter("--masks goes with --heatmaps")
    if heatmaps is not None:
        localisation.check_belongs(heatmaps, predictions)
    truth = Labels.read(labels)
    for problem in truth.problems:
        if problem.loses:
            typer.echo(f"{labels.name}: {problem.sentence} ({problem.count})", err=True)
    _show(evaluation.evaluate(predictions, truth, out, fit_on, split))
    if heatmaps is not None:
        pairs = pair(predictions, truth, split)
        found = regions.from_masks(masks, pairs) if masks else regions.from_boxes(truth, pairs)
        _show_localisation(localisation.point(heatmaps, pairs, list(found), out))
    typer.echo(f"\n{out / 'metrics.json'}")


_SHOWN: Final = ("auroc", "auprc", "recall", "specificity", "precision", "f1")


def _show(result: dict[str, Any]) -> None:
    """Print what was evaluated, and a line a finding."""
    fit_on = result["fit_on"]
    thresholds = "none (--fit-on)"
    if fit_on:
        thresholds = f"chosen on {fit_on['images']} images, split {fit_on['split']}"
    typer.echo(
        f"{result['source']}, split {result['split']}: {result['images']} images of "
        f"{result['patients']} patients; thresholds: {thresholds}"
    )
    for count, what in (
        (result["failed"], "rows without status ok left out"),
        (result["unpredicted"], "labelled images have no prediction"),
    ):
        if count:
            typer.echo(f"{count} {what}")
    typer.echo(f"\n{'':20}{'positives':>10}" + "".join(f"{name:>12}" for name in _SHOWN))
    for finding, entry in result["findings"].items():
        typer.echo(_line(finding, str(entry["positives"]), entry))
    typer.echo(_line("mean", "", result["mean"]))
    for finding, entry in result["findings"].items():
        no_threshold = entry["threshold"].get("reason", "") if fit_on else ""
        reason = entry["auroc"].get("reason") or no_threshold
        if reason:
            typer.echo(f"{finding}: {reason}")


def _line(name: str, positives: str, entry: dict[str, Any]) -> str:
    return f"{name:20}{positives:>10}" + "".join(
        f"{_figure(entry[metric]['value']):>12}" for metric in _SHOWN
    )


def _show_localisation(result: dict[str, Any]) -> None:
    """Print the pointing game beside its baselines."""
    if not result["all"]["cases"]:
        typer.echo("\npointing game: no boxes or masks of these images, so nothing to point at")
        return
    typer.echo(f"\n{'pointing game':20}{'cases':>10}{'hit':>12}{'random':>12}{'centre':>12}")
    for finding, entry in (*result["findings"].items(), ("all", result["all"])):
        if entry["cases"]:
            figures = (entry["hit"]["value"], entry["random"], entry["centre"])
            shown = "".join(f"{_figure(figure):>12}" for figure in figures)
            typer.echo(f"{finding:20}{entry['cases']:>10}{shown}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
