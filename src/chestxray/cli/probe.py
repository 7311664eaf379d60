"""`chestxray probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chestxray import hub
from chestxray.cli.options import Overrides
from chestxray.errors import BundleError


def probe(
    network: Annotated[
        str,
        typer.Argument(
            help="A bundle: its folder, or hub:OWNER/NAME. Or a backbone: a timm model with its "
            "ImageNet weights, or hub:OWNER/NAME, such as hub:microsoft/rad-dino."
        ),
    ],
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset folder.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.")],
    *,
    overrides: Overrides = None,
) -> None:
    """Fit the head of a given network to a dataset, in one pass over its radiographs.

    The backbone stays as it is. The result is an ordinary run with a bundle. The recipe is `probe`:
    `--set method=logistic` takes logistic instead of ridge regression, `--set weights=FILE` another
    start of a timm model.
    """
    from chestxray.training.recipe import load
    from chestxray.training.recipe_checks import for_run

    chosen = for_run(out, load("probe", _keys(network)), overrides or (), dataset=dataset)
    from chestxray.training.fit import train  # imports torch, after the checks

    finished = train(dataset, chosen, out)
    typer.echo(f"{finished.bundle}: {finished.model}")


def _keys(network: str) -> dict[str, Any]:
    """Give the keys of the recipe that choose a network."""
    folder = hub.bundle_in(network)
    if folder is None:
        if network.startswith(hub.PREFIX):
            from chestxray.model.foundation import foundation

            return {"backbone": network, "size": foundation(network).size}
        if "/" in network:
            raise BundleError(
                f"{network} is not a folder: give the folder of a bundle, such as run/bundle, or "
                f"the name of a timm model"
            )
        return {"backbone": network}
    from chestxray.model.model_card import read

    card = read(folder).card
    if card.is_ensemble:
        raise BundleError(
            f"{network} is an ensemble, whose networks have no common features: give one of its "
            f"members, or learn from it with --set teacher={network}"
        )
    return {
        "weights": network,
        "backbone": card.backbone,
        "head": card.head,
        "size": card.size,
        "tta": list(card.tta),
    }
