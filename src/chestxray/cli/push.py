"""`chestxray push` and `chestxray card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Licence = Annotated[
    str | None,
    typer.Option(
        "--licence",
        metavar="NAME",
        help="Licence of the weights as the hub names it, such as apache-2.0 or cc-by-nc-4.0.",
    ),
]


def push(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder of a run.")],
    to: Annotated[str, typer.Argument(metavar="hub:OWNER/NAME[@BRANCH]", help="Where to.")],
    *,
    licence: Licence = None,
    private: Annotated[
        bool,
        typer.Option("--private", help="Make a new repository private; refuse a public one."),
    ] = False,
    card: Annotated[
        Path | None,
        typer.Option("--card", help="Push this file as README.md. Default: as `chestxray card`."),
    ] = None,
) -> None:
    """Push a bundle and its model card to the Hugging Face hub, in one commit.

    Log in first with `hf auth login`, or set HF_TOKEN. Prints the name under which
    `chestxray.load` and every command find exactly this bundle.
    """
    from chestxray.model import push as send

    typer.echo(send(bundle, to, licence=licence, private=private, card=card))


def card(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, or of a bundle alone.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The Markdown file to write.")],
    licence: Licence = None,
) -> None:
    """Write the model card as Markdown, with the metadata that the Hugging Face hub reads.

    It states intended use, figures with intervals, training data, calibration, findings that are
    not assessed, and limits, as the run recorded them. Edit it, and push it with
    `chestxray push --card`.
    """
    from chestxray.reporting import model_card

    model_card(folder, out, licence=licence)
    typer.echo(f"{out}: model card")
