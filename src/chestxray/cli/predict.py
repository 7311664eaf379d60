"""`chestxray predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.options import EngineName


def predict(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder of a run.")],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="A dataset, or folders and files.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The CSV file to write.")],
    split: Annotated[
        str | None, typer.Option(help="The part of a dataset: train, val or test.")
    ] = None,
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Write heatmaps.npy beside the CSV file.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Read also what the gate refuses; reasons are kept.")
    ] = False,
    engine: EngineName = "auto",
) -> None:
    """Predict the findings of radiographs.

    The CSV file has a row an image: `Image Index`, a calibrated `prob_<Finding>` for each finding,
    `status` (ok, refused, error), `reason` (why, or what to be warned of), `called` (findings whose
    probability reaches the bundle's threshold, joined by |) and `model`.

    A file that is refused, or cannot be read, keeps its row, with why. A dataset's images are not
    judged, so that an evaluation loses none.
    """
    from chestxray.model import model_card as card
    from chestxray.reading import predict as reading
    from chestxray.reading.inputs import films, leak

    reading.check_out(out)
    chosen = films(inputs, split, card.read(bundle).card)
    typer.echo("loading the model", err=True)
    from chestxray import load  # what takes time begins here

    reader = load(bundle, engine)
    for warning in (*reader.warnings, leak(chosen, reader.bundle.card)):
        if warning:
            typer.echo(f"warning: {warning}", err=True)
    unread = reading.predict(reader, chosen, out, heatmaps, force)
    typer.echo(
        f"{out}: {len(chosen.names) - len(unread)} read by {reader.engine.name}, "
        f"{len(unread.refused)} refused, {len(unread.failed)} could not be read"
    )
    for name, reason in (unread.refused | unread.failed).items():
        typer.echo(f"  {name}: {reason}")
    if len(unread) == len(chosen.names):
        raise typer.Exit(1)
