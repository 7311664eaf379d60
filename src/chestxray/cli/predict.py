"""`chestxray predict`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import typer

from chestxray.cli.options import (
    BundleFolder,
    CacheGib,
    DatasetSplit,
    EngineName,
    Inputs,
    OnCluster,
    OperatingPointName,
    RequireSignature,
)

_SHOWN: Final = 10  # images that are named because they were not read


def predict(
    bundle: BundleFolder,
    inputs: Inputs,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="The table to write: .csv, .parquet or .jsonl; or a folder of Parquet files, "
            "named without suffix.",
        ),
    ],
    split: DatasetSplit = None,
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Write heatmaps.npy beside the table.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also read what the gate refuses; the reasons are kept.")
    ] = False,
    engine: EngineName = "auto",
    operating_point: OperatingPointName = None,
    require_signature: RequireSignature = None,
    cluster: OnCluster = None,
    cache_gib: CacheGib = None,  # noqa: ARG001 - its callback sets it
) -> None:
    """Predict the findings of radiographs.

    The table has one row per image: `Image Index`, a calibrated `prob_<Finding>` for each finding,
    `status` (ok, refused, error), `reason` (why, and warnings), `called` (findings whose
    probability reaches the bundle's threshold, joined by |), `not_assessed` (findings without
    a threshold, which are never called), `operating_point`, `model`, and `origin`, its commit on
    the hub if it comes from there.

    An image that is refused or cannot be read keeps its row, with the reason. The gate does not
    refuse images of a prepared dataset, so no image is lost from the evaluation. Resumes an
    interrupted run.

    A folder holds the same rows, 2,048 in each Parquet file, for millions of images: `evaluate`
    reads it as one table. With --cluster the workers of a Ray cluster write its files.
    """
    from chestxray.reading import predict as read
    from chestxray.storage import shown

    run = read(
        bundle,
        inputs,
        out,
        split=split,
        heatmaps=heatmaps,
        force=force,
        engine=engine,
        operating_point=operating_point,
        require_signature=require_signature,
        cluster=cluster,
    )
    typer.echo(
        f"{shown(run.path)}: {run.read} read by {run.engine}, {run.number_refused} refused, "
        f"{run.number_failed} unreadable"
    )
    unread = run.refused | run.failed
    for name, reason in islice(unread.items(), _SHOWN):
        typer.echo(f"  {name}: {reason}")
    if (more := run.rows - run.read - _SHOWN) > 0:
        typer.echo(f"  and {more} more: see the column reason of {shown(run.path)}")
    if not run.read:
        raise typer.Exit(1)
