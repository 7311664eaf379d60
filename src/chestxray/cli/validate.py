"""`chestxray validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestxray.cli.options import (
    AllowMissing,
    AsJson,
    BundleFolder,
    CacheGib,
    EngineName,
    LeaveOut,
    SourceOptions,
    with_source_options,
)

if TYPE_CHECKING:
    from chestxray.evaluation.validation_results import ValidatedSet


@with_source_options
def validate(
    bundle: BundleFolder,
    sets: Annotated[
        list[Path],
        typer.Argument(metavar="SET...", help="Prepared datasets and raw trees of other places."),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder for results and page.")],
    engine: EngineName = "auto",
    allow_missing: AllowMissing = False,
    leave_out: LeaveOut = None,
    resamples: Annotated[
        int, typer.Option(min=100, help="Resamples of patients for the intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    as_json: AsJson = False,
    cache_gib: CacheGib = None,  # noqa: ARG001 - its callback sets it
    given: SourceOptions,
) -> None:
    """Validate a bundle on other data sets: one page that says where it may not be used.

    A raw tree is prepared first, a prepared dataset is taken as it is. Images that the bundle was
    trained or tuned on are left out as far as they are known, and those that --leave-out names; all
    others are evaluated. Each set is measured at the bundle's own thresholds, and its calibration
    as stated, corrected for prevalence, and recalibrated by halves. Intervals are 95 %, from
    resamples of patients. After an interruption the same command resumes.
    """
    from chestxray.reading.validation import validate as validated
    from chestxray.reporting.validation_page import PAGE
    from chestxray.storage import shown

    results = validated(
        bundle,
        sets,
        out,
        source=given.source,
        options=given.read_options(),
        engine=engine,
        allow_missing=allow_missing,
        leave_out=leave_out or (),
        resamples=resamples,
        seed=seed,
    )
    if as_json:
        typer.echo(results.model_dump_json(indent=2))
        return
    for of in results.sets:
        _show(of)
    typer.echo(f"\n{shown(out / PAGE)}")


def _show(of: ValidatedSet) -> None:
    """Print what to do on a data set, then the verdict on each finding, and why."""
    from chestxray.reporting.validation_summary import opening

    typer.echo(f"\n{of.name}: {of.source}, {of.images} images of {of.patients} patients")
    typer.echo(opening(of.model_dump(mode="json")))
    for part, images in of.left_out.items():
        typer.echo(f"left out: {images} images of {part}, on which the bundle was trained or tuned")
    if of.left_out_images is not None:
        typer.echo(f"left out: {of.left_out_images}")
    for warning in of.warnings:
        typer.echo(f"warning: {warning}")
    width = max(20, *(len(finding) + 2 for finding in of.findings))
    typer.echo(f"{'':{width}}{'positives':>10}{'AUROC':>22}  verdict")
    for finding, entry in of.findings.items():
        why = f": {_without_auroc(entry.reasons[0])}" if entry.reasons else ""
        auroc = "–" if entry.auroc.value is None else str(entry.auroc)
        line = f"{finding:{width}}{entry.positives:>10}{auroc:>22}  {entry.status}{why}"
        typer.echo(line)
    if of.not_labelled:
        typer.echo(f"not labelled in this data set: {', '.join(of.not_labelled)}")


def _without_auroc(reason: str) -> str:
    """Leave out the figures of a reason that stand in the line already."""
    what, _, figures = reason.partition(": ")
    return what if figures.startswith("AUROC") else reason
