"""`chestxray evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chestxray.cli.options import (
    AsJson,
    CacheGib,
    LabelsPath,
    LeaveOut,
    SourceOptions,
    echo_problems,
    with_source_options,
)

if TYPE_CHECKING:
    from chestxray.evaluation.bootstrap import Interval
    from chestxray.evaluation.result_details import FindingReliability, Localization
    from chestxray.evaluation.results import AsCalled, FindingResult, Results


@with_source_options
def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="A table of predictions (.csv, .csv.gz, .parquet or .jsonl), or a run: path or "
            "URL."
        ),
    ],
    *,
    labels: LabelsPath,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results.")] = None,
    fit_on: Annotated[
        Path | None,
        typer.Option(help="Predictions on validation, from which thresholds are chosen."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="The bundle that made the predictions, a folder or hub:OWNER/NAME@REVISION: "
            "evaluate its own thresholds.",
        ),
    ] = None,
    prevalence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FINDING=SHARE",
            help="The known prevalence of a finding in these images. Default: estimated. "
            "Repeatable.",
        ),
    ] = None,
    heatmaps: Annotated[
        Path | None, typer.Option(help="The heatmaps.npy of these predictions: localization.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks, used instead of the dataset's boxes.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Labels adjudicated by radiologists (Majkowska 2020)."),
    ] = None,
    leave_out: LeaveOut = None,
    split: Annotated[
        str | None, typer.Option(help="The split of the predictions. Default: test.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Resamples of patients for the intervals; 0 for none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    as_json: AsJson = False,
    cache_gib: CacheGib = None,  # noqa: ARG001 - its callback sets it
    given: SourceOptions,
) -> None:
    """Compare predictions with labels: metrics with intervals, subgroups, localization.

    Findings present in only the predictions or only the labels are listed and left out. Metrics at
    a threshold need --bundle, whose thresholds were chosen elsewhere, or --fit-on, predictions on
    validation images of the same data set. Either also shows calibration before and after
    correction for the prevalence of these images. Thresholds are never chosen on the evaluated
    images. Intervals are 95 %, from resamples of patients.
    """
    from chestxray.evaluation import Labels
    from chestxray.evaluation import evaluate as evaluated
    from chestxray.storage import shown

    if masks is not None and heatmaps is None:
        raise typer.BadParameter("--masks needs --heatmaps")
    truth = Labels.read(labels, given.source, given.read_options())
    echo_problems(labels.name, truth.problems)
    results = evaluated(
        predictions,
        truth,
        split=split,
        fit_on=fit_on,
        bundle=bundle,
        prevalence=_prevalences(prevalence or ()),
        heatmaps=heatmaps,
        masks=masks,
        reference=reference,
        leave_out=leave_out or (),
        resamples=resamples,
        seed=seed,
        out=out,
    )
    if as_json:
        typer.echo(results.model_dump_json(indent=2))
        return
    _show(results)
    if results.as_called is not None and not (results.thresholds_of or results.fit_on):
        _show_as_called(results.as_called)
    if results.thresholds_of or prevalence:
        _show_shift(results.reliability or {})
    if results.localization is not None:
        _show_localization(results.localization)
    if out is not None:
        typer.echo(f"\n{shown(out / 'metrics.json')}")


def _prevalences(pairs: Sequence[str]) -> dict[str, float]:
    """Read FINDING=SHARE pairs."""
    found = {}
    for pair in pairs:
        finding, _, share = pair.rpartition("=")
        try:
            found[finding] = float(share)
        except ValueError:
            finding = ""
        if not finding:
            raise typer.BadParameter(
                f"--prevalence takes FINDING=SHARE, not {pair!r}: give a share between 0 and 1, "
                f"such as Effusion=0.12"
            )
    return found


FEW_POSITIVES: Final = 10
_WITH_INTERVAL: Final = ("auroc", "auprc")
_AT_THRESHOLD: Final = ("recall", "specificity", "precision", "f1")


def _show(result: Results) -> None:
    """Print what was evaluated, and one line per finding."""
    typer.echo(
        f"{result.source}, split {result.split}: {result.images} images of "
        f"{result.patients} patients; thresholds: {_thresholds(result)}"
    )
    for count, what in (
        (result.failed, "rows without status ok were left out"),
        (result.unpredicted, "labelled images have no prediction"),
        (result.unlabelled, "predicted images have no labels"),
        (result.matched_by_file_name, "images were matched by the end of their path alone"),
    ):
        if count:
            typer.echo(f"{count} {what}")
    if result.uncalibrated_import:
        typer.echo(
            f"The bundle was imported from {result.uncalibrated_import} and is not calibrated: its "
            f"probabilities are the original network's own."
        )
    for line in _about_training_images(result):
        typer.echo(line)
    with_thresholds = bool(result.fit_on or result.thresholds_of)
    shown = (*_WITH_INTERVAL, *(_AT_THRESHOLD if with_thresholds else ()))
    width = max(20, *(len(finding) + 2 for finding in result.findings))
    typer.echo(f"\n{'':{width}}{'positives':>10}{_heads(shown)}")
    for finding, entry in result.findings.items():
        name, positives = f"{finding:{width}}", str(entry.positives)
        if _unmeasured(entry, shown):
            continue
        if finding in result.not_assessed:
            line = _line(name, positives, entry.metrics, _WITH_INTERVAL)
            typer.echo(line + "not assessed".rjust(sum(map(_width, _AT_THRESHOLD))))
        else:
            typer.echo(_line(name, positives, entry.metrics, shown))
    typer.echo(_line(f"{'mean':{width}}", "", result.mean.metrics, shown))
    for line in (
        *_not_measured(result, shown),
        *_workload(result),
        *_few(result.findings),
        *_remarks(result, shown),
        *_left_out(result),
        *_baselines(result),
    ):
        typer.echo(line)


def _about_training_images(result: Results) -> Iterator[str]:
    """Say which images were left out by files of the user, and which may have been seen."""
    if result.left_out_images is not None:
        yield f"left out: {result.left_out_images}"
    yield from (f"warning: {seen.sentence}" for seen in result.seen_images)
    if result.split == "unknown":
        yield "the split of these images is unknown: training images may be among them"


def _unmeasured(entry: FindingResult, shown: Sequence[str]) -> bool:
    return all(entry.metrics[metric].value is None for metric in shown)


def _not_measured(result: Results, shown: Sequence[str]) -> Iterator[str]:
    """Name the findings that have no figure, in one line."""
    reasons = {
        finding: entry.auroc.reason or "no figure"
        for finding, entry in result.findings.items()
        if _unmeasured(entry, shown)
    }
    if reasons:
        yield f"not measured: {'; '.join(f'{n} ({why})' for why, n in _by_text(reasons).items())}"


def _by_text(texts: Mapping[str, str]) -> dict[str, str]:
    """Give each text with the findings that it is said of."""
    return {
        text: ", ".join(finding for finding, of in texts.items() if of == text)
        for text in dict.fromkeys(texts.values())
    }


def _thresholds(result: Results) -> str:
    """Say where the thresholds come from."""
    if result.thresholds_of:
        return f"those of {result.thresholds_of}, chosen on other images"
    if result.fit_on:
        return f"chosen on {result.fit_on.images} images, split {result.fit_on.split}"
    return "none (give --bundle or --fit-on)"


def _show_as_called(result: AsCalled) -> None:
    """Print the metrics of the calls that the table itself states."""
    width = max(20, *(len(finding) + 2 for finding in result.findings))
    typer.echo(f"\n{'as called in the table':{width}}{_heads(_AT_THRESHOLD)}")
    for finding, entry in result.findings.items():
        typer.echo(_line(f"{finding:{width}}", "", entry.metrics, _AT_THRESHOLD))
    work = result.workload
    typer.echo(
        f"{_figure(work.calls_per_image.value)} calls per image; "
        f"{_figure(work.flagged.value)} of {work.finding_free} finding-free images have a call"
    )


def _heads(shown: Sequence[str]) -> str:
    return "".join(f"{name:>{_width(name)}}" for name in shown)


def _show_shift(entries: Mapping[str, FindingReliability]) -> None:
    """Print calibration before and after correction for the prevalence of these images."""
    shifted = {
        finding: (entry.prior_shift, entry.as_given.ece, entry.prior_corrected.ece)
        for finding, entry in entries.items()
        if entry.prior_shift and entry.prior_corrected
    }
    if not shifted:
        return
    width = max(20, *(len(finding) + 2 for finding in shifted))
    heads = ("calibrated at", "here", "labels", "ECE", "corrected")
    typer.echo(f"\n{'prevalence':{width}}{''.join(f'{head:>14}' for head in heads)}")
    for finding, (shift, before, after) in shifted.items():
        figures = (shift.fitted, shift.here, shift.observed, before.value, after.value)
        typer.echo(f"{finding:{width}}{''.join(f'{_figure(value):>14}' for value in figures)}")


def _line(name: str, positives: str, entry: Mapping[str, Interval], shown: Sequence[str]) -> str:
    figures = "".join(f"{_metric(entry[metric], metric):>{_width(metric)}}" for metric in shown)
    return f"{name}{positives:>10}{figures}"


def _width(metric: str) -> int:
    return 22 if metric in _WITH_INTERVAL else 12


def _metric(entry: Interval, metric: str) -> str:
    figure = _figure(entry.value)
    if metric not in _WITH_INTERVAL or entry.low is None:
        return figure
    return f"{figure} ({_figure(entry.low)}–{_figure(entry.high)})"


def _workload(result: Results) -> Iterator[str]:
    """Say what the calls of each operating point cost, in validation and on these images."""
    if not result.workload:
        return
    main = result.operating_point
    yield f"\nmetrics of calls above are at the operating point {main}"
    heads = ("calls per image", "finding-free with a call", "PPV of all calls", "sensitivity")
    yield f"{'':14}{'findings':>10}" + "".join(f"{head:>26}" for head in heads)
    for name, point in result.workload.items():
        parts = (point.validation, point.evaluated)
        cells = (
            " → ".join(_figure(getattr(of, part).value) for of in parts if of is not None)
            for part in ("calls_per_image", "flagged", "precision", "recall")
        )
        yield f"{name:14}{point.findings:>10}{''.join(f'{cell:>26}' for cell in cells)}"
    free = result.workload[main]
    where, counts = "on these images", str(free.evaluated.finding_free)
    if free.validation is not None:
        where, counts = f"in validation → {where}", f"{free.validation.finding_free} → {counts}"
    yield f"{where}; finding-free: {counts} images; PPV at this prevalence"
    for name, point in result.workload.items():
        if point.note:
            yield f"operating point {name}: {point.note}"


def _few(findings: dict[str, FindingResult]) -> Iterator[str]:
    """Name the findings in the mean that have too few positives."""
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


def _remarks(result: Results, shown: Sequence[str]) -> Iterator[str]:
    """Say why an interval or a threshold is missing, once for all findings of which it is true."""
    missing = {
        finding: entry.auroc.reason
        or (entry.threshold.reason if result.fit_on and finding not in result.not_assessed else "")
        for finding, entry in result.findings.items()
        if not _unmeasured(entry, shown)
    }
    for why, names in _by_text({f: why for f, why in missing.items() if why}).items():
        yield f"{names}: {why}"
    for why, names in _by_text(result.not_assessed).items():
        yield f"{names} {'are' if ', ' in names else 'is'} not assessed: {why}"


def _left_out(result: Results) -> Iterator[str]:
    """List the findings that are not evaluated, by reason."""
    for reason in dict.fromkeys(result.left_out.values()):
        names = [name for name, why in result.left_out.items() if why == reason]
        yield f"not evaluated, {reason}: {', '.join(names)}"


def _baselines(result: Results) -> Iterator[str]:
    """Name the mean AUROC of each simple baseline, and compare the model with the best of them."""
    if result.baselines is None:
        return
    scored = {
        of.title: of
        for of in result.baselines.of.values()
        if of.mean and of.mean["auroc"].baseline.value is not None
    }
    if scored:
        shown = (
            f"{title[0].lower()}{title[1:]} {_metric(of.mean['auroc'].baseline, 'auroc')}"
            for title, of in scored.items()
        )
        yield f"simple baselines (mean AUROC): {', '.join(shown)}"
        yield max(scored.values(), key=lambda of: of.mean["auroc"].baseline.value or 0.0).sentence
    for of in result.baselines.of.values():
        if of.title not in scored and scored:
            yield of.sentence


def _show_localization(result: Localization) -> None:
    """Print the pointing game beside its baselines."""
    if result.unmatched_masks:
        typer.echo(
            f"masks of images or findings that are not evaluated here: {result.unmatched_masks}"
        )
    if not result.all.cases:
        typer.echo("\npointing game: these images have no boxes or masks")
        return
    typer.echo(f"\n{'pointing game':20}{'cases':>10}{'hit':>12}{'random':>12}{'centre':>12}")
    for finding, entry in (*result.findings.items(), ("all", result.all)):
        if entry.cases:
            figures = (entry.hit.value, entry.random, entry.centre)
            shown = "".join(f"{_figure(figure):>12}" for figure in figures)
            typer.echo(f"{finding:20}{entry.cases:>10}{shown}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
