"""`chestxray ensemble`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from chestxray.model import ModelCard


def ensemble(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...",
            help="2 to 16 bundles with the same findings: folders, or hub:OWNER/NAME@REVISION.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder of the new bundle.")],
    dataset: Annotated[
        Path,
        typer.Option(
            "--dataset",
            help="A prepared dataset of the largest bundle's size, whose validation part no bundle "
            "was trained on.",
        ),
    ],
    method: Annotated[
        Literal["logits", "weights"],
        typer.Option(
            help="logits: keep all networks and average their calibrated logits and class maps. "
            "weights: one network with the average of the weights, for runs that started from the "
            "same bundle."
        ),
    ] = "logits",
) -> None:
    """Make one bundle of several, which is used like any other.

    Its calibration, thresholds and detector of unusual images are fitted on the dataset. By
    `logits` a reading takes as long as those of all bundles together, by `weights` as long as one.
    """
    from chestxray.model import model_card
    from chestxray.training import ensemble as combine

    made = combine(bundles, dataset, out, method)
    _show(made.card, {model_card.read(folder).identity: str(folder) for folder in bundles})
    typer.echo(f"\n{out}: {made.identity}")


def _show(card: ModelCard, folders: Mapping[str, str]) -> None:
    """Print members and result with their validation AUROC, and the cost of a reading.

    Args:
        card: of the result.
        folders: of the members, by their identity.
    """
    rows = [(folders[member.identity], member.auroc) for member in card.members]
    own = card.fitted_on.auroc if card.fitted_on else None
    width = max(len(name) for name, _ in rows) + 2
    typer.echo(f"{'validation':{width}}{'mean AUROC':>10}")
    for name, auroc in (*rows, ("together", own)):
        figure = "–" if auroc is None else f"{auroc:.3f}"
        typer.echo(f"{name:{width}}{figure:>10}")
    typer.echo(f"\n{card.passes} network pass{'es' * (card.passes != 1)} per radiograph")
