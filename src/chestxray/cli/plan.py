"""`chestxray plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from chestxray.cli.options import AsJson


def plan(
    *,
    auroc: Annotated[float, typer.Option(help="The expected AUROC.")],
    prevalence: Annotated[float, typer.Option(help="Share of the images with the finding.")],
    width: Annotated[
        float, typer.Option(help="Wanted width of the interval, from one end to the other.")
    ],
    images_per_patient: Annotated[float, typer.Option(help="Mean number of images.")] = 1.0,
    images_sd: Annotated[
        float, typer.Option(help="Standard deviation of the number of images per patient.")
    ] = 0.0,
    correlation: Annotated[
        float, typer.Option(help="Correlation of the scores of a patient's images, 0 to 1.")
    ] = 0.5,
    second_auroc: Annotated[
        float | None,
        typer.Option(help="AUROC of a second model: the width is that of their difference."),
    ] = None,
    model_correlation: Annotated[
        float, typer.Option(help="Correlation of the two estimated AUROCs, 0 to below 1.")
    ] = 0.5,
    level: Annotated[float, typer.Option(help="Confidence level of the interval.")] = 0.95,
    as_json: AsJson = False,
) -> None:
    """Compute how many patients a study needs for an interval of a wanted width.

    The expected interval of an AUROC (Hanley and McNeil 1982, binormal scores), with the design
    effect of several images per patient. With --second-auroc that of the difference of two models
    on the same images.
    """
    from chestxray.evaluation import plan as planned

    size = planned(
        auroc,
        prevalence,
        width,
        images_per_patient=images_per_patient,
        images_sd=images_sd,
        correlation=correlation,
        second_auroc=second_auroc,
        model_correlation=model_correlation,
        level=level,
    )
    if as_json:
        typer.echo(size.model_dump_json(indent=2))
        return
    typer.echo(size.sentence)
    if size.design_effect > 1:
        typer.echo(
            f"Design effect {size.design_effect:.2f}: the study needs so many times the images "
            f"that it would need with one image per patient."
        )
