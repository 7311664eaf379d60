"""`chestxray calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestxray.cli.options import (
    BundleFolder,
    LabelsPath,
    SourceOptions,
    echo_problems,
    with_source_options,
)

if TYPE_CHECKING:
    from chestxray.model.model_card import ModelCard


@with_source_options
def calibrate(
    bundle: BundleFolder,
    *,
    predictions: Annotated[
        Path, typer.Option(help="Predictions of this bundle for labelled images of the site.")
    ],
    labels: LabelsPath,
    out: Annotated[Path, typer.Option("--out", help="Folder of the new bundle.")],
    split: Annotated[
        str | None, typer.Option(help="The split of the predictions. Default: test.")
    ] = None,
    given: SourceOptions,
) -> None:
    """Calibrate a bundle for a site: a new bundle, the given one stays as it is.

    Probabilities are fitted to the labels of the site. Ranking and calls stay: thresholds move with
    the probabilities. Evaluate the new bundle on other images than these.
    """
    from chestxray.evaluation import Labels
    from chestxray.model import model_card, recalibration

    truth = Labels.read(labels, given.source, given.read_options())
    echo_problems(labels.name, truth.problems)
    before = model_card.read(bundle).card
    after = recalibration.calibrate(bundle, predictions, truth, out, split=split)
    _show(before, after.card)
    typer.echo(f"\n{out}: {after.identity}")


def _show(before: ModelCard, after: ModelCard) -> None:
    """Print what was fitted to each finding."""
    on, site = after.recalibrated_on, after.calibration
    while site.then is not None:
        site = site.then
    if on is not None:
        typer.echo(f"{on.source}: {on.images} images of {on.patients} patients\n")
    width = max(20, *(len(finding) + 2 for finding in after.findings))
    typer.echo(f"{'prevalence':{width}}{'before':>10}{'here':>10}  family")
    for finding in after.findings:
        shares = (of.prevalences.get(finding) for of in (before, after))
        figures = "".join("         –" if p is None else f"{p:10.3f}" for p in shares)
        why = site.unfitted.get(finding) or site.reasons[finding]
        typer.echo(f"{finding:{width}}{figures}  {site.calibrators[finding].family}: {why}")
