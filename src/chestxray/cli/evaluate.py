"""`chestxray evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from chestxray.evaluation.bootstrap import Interval
    from chestxray.evaluation.result_details import Localization
    from chestxray.evaluation.results import FindingResult, Results


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A table of predictions (CSV).")],
    *,
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
    reference: Annotated[
        Path | None,
        typer.Option(help="Labels adjudicated by radiologists (Majkowska 2020) to hold them to."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="The part that the predictions are of; test where nothing is said."),
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Resamples of patients that intervals come from.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
) -> None:
    """Hold predictions against labels: metrics with intervals, subgroups, localisation.

    Metrics at a threshold need --fit-on: thresholds are chosen on validation, never on the images
    that are evaluated. Intervals are 95 %, from resamples of patients.
    """
    from chestxray.evaluation.evaluation import evaluate as evaluated
    from chestxray.evaluation.labels import Labels

    if masks is not None and heatmaps is None:
        raise typer.BadParameter("--masks needs --heatmaps")
    truth = Labels.read(labels)
    for problem in truth.problems:
        if problem.loses:
            typer.echo(f"{labels.name}: {problem.sentence} ({problem.count})", err=True)
    results = evaluated(
        predictions,
        truth,
        split=split,
        fit_on=fit_on,
        heatmaps=heatmaps,
        masks=masks,
        reference=reference,
        resamples=resamples,
        seed=seed,
        out=out,
    )
    _show(results)
    if results.localization is not None:
        _show_localization(results.localization)
    typer.echo(f"\n{out / 'metrics.json'}")


FEW_POSITIVES: Final = 10
_WITH_INTERVAL: Final = ("auroc", "auprc")
_AT_THRESHOLD: Final = ("recall", "specificity", "precision", "f1")


def _show(result: Results) -> None:
    """Print what was evaluated, and a line a finding."""
    fit_on = result.fit_on
    thresholds = "none (--fit-on)"
    if fit_on:
        thresholds = f"chosen on {fit_on.images} images, split {fit_on.split}"
    typer.echo(
        f"{result.source}, split {result.split}: {result.images} images of "
        f"{result.patients} patients; thresholds: {thresholds}"
    )
    for count, what in (
        (result.failed, "rows without status ok left out"),
        (result.unpredicted, "labelled images have no prediction"),
        (result.matched_by_file_name, "images matched by their file name alone"),
    ):
        if count:
            typer.echo(f"{count} {what}")
    shown = (*_WITH_INTERVAL, *(_AT_THRESHOLD if fit_on else ()))
    heads = "".join(f"{name:>{_width(name)}}" for name in shown)
    typer.echo(f"\n{'':20}{'positives':>10}{heads}")
    for finding, entry in result.findings.items():
        typer.echo(_line(finding, str(entry.positives), entry.metrics, shown))
    typer.echo(_line("mean", "", result.mean.metrics, shown))
    for line in (
        *_few(result.findings),
        *_remarks(result.findings, bool(fit_on)),
        *_left_out(result),
    ):
        typer.echo(line)


def _line(name: str, positives: str, entry: Mapping[str, Interval], shown: Sequence[str]) -> str:
    figures = "".join(f"{_metric(entry[metric], metric):>{_width(metric)}}" for metric in shown)
    return f"{name:20}{positives:>10}{figures}"


def _width(metric: str) -> int:
    return 22 if metric in _WITH_INTERVAL else 12


def _metric(entry: Interval, metric: str) -> str:
    figure = _figure(entry.value)
    if metric not in _WITH_INTERVAL or entry.low is None:
        return figure
    return f"{figure} ({_figure(entry.low)}–{_figure(entry.high)})"


def _few(findings: dict[str, FindingResult]) -> Iterator[str]:
    """Say which findings the mean rests on that have too few positives to rest on."""
    measured = {
        finding: entry.positives
        for finding, entry in findings.items()
        if entry.auroc.value is not None
    }
    few = [finding for finding, positives in measured.items() if positives < FEW_POSITIVES]
    if few:
        yield (
            f"{len(few)} of the {len(measured)} findings in the mean have fewer than "
            f"{FEW_POSITIVES} positives: {', '.join(few)}"
        )


def _remarks(findings: dict[str, FindingResult], with_thresholds: bool) -> Iterator[str]:
    """Say why a figure, an interval or a threshold is missing."""
    for finding, entry in findings.items():
        reason = entry.auroc.reason
        if not reason and with_thresholds:
            reason = entry.threshold.reason
        if reason:
            yield f"{finding}: {reason}"


def _left_out(result: Results) -> Iterator[str]:
    """List the findings that are not evaluated, by reason."""
    for reason in dict.fromkeys(result.left_out.values()):
        names = [name for name, why in result.left_out.items() if why == reason]
        yield f"not evaluated, {reason}: {', '.join(names)}"


def _show_localization(result: Localization) -> None:
    """Print the pointing game beside its baselines."""
    if not result.all.cases:
        typer.echo("\npointing game: no boxes or masks of these images, so nothing to point at")
        return
    typer.echo(f"\n{'pointing game':20}{'cases':>10}{'hit':>12}{'random':>12}{'centre':>12}")
    for finding, entry in (*result.findings.items(), ("all", result.all)):
        if entry.cases:
            figures = (entry.hit.value, entry.random, entry.centre)
            shown = "".join(f"{_figure(figure):>12}" for figure in figures)
            typer.echo(f"{finding:20}{entry.cases:>10}{shown}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
