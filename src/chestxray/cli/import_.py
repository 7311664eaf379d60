"""`chestxray import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from chestxray.errors import BundleError

if TYPE_CHECKING:
    from chestxray.model.importing import Imported
    from chestxray.model.origin import PerChannel


def import_(
    file: Annotated[Path, typer.Argument(help="The checkpoint.")],
    *,
    form: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FORMAT",
            help="arnoweng, zoogzog, jrzech, keras-chexnet, torchxrayvision (by the file's name, "
            "or torchxrayvision-all and so on), timm or torchvision.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new bundle.")],
    backbone: Annotated[
        str | None, typer.Option(help="timm's name of the network, for timm and torchvision.")
    ] = None,
    findings: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Names of the outputs in their order, for timm and torchvision; - for one to "
            "leave out.",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the canonical image, pixels. Default: the format's.")
    ] = None,
    crops: Annotated[
        Literal["none", "centre", "ten"] | None,
        typer.Option(
            help="Parts of the image that are read: none, the whole; ten, whose probabilities are "
            "averaged. Default: the format's."
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="X[,X,X]",
            help="Subtracted from grey values from 0 to 1; one number, or one for each of three "
            "channels, for timm and torchvision. Default: timm's.",
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="X[,X,X]", help="Divided by; as --mean, and with it.")
    ] = None,
    trained_on: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Short names of the public data sets that it was trained on, such as nih, for "
            "timm and torchvision.",
        ),
    ] = None,
) -> None:
    """Make a bundle of a checkpoint that another project trained.

    Its probabilities are the original network's own, and each reading says that they are not
    calibrated, until `chestxray calibrate` is run. A file of which a tensor is missing, extra or
    misshapen is refused.
    """
    from chestxray.model.importing import Choices, import_checkpoint

    choices = Choices(
        backbone=backbone,
        findings=None if findings is None else _names(findings),
        size=size,
        crops=crops,
        normalisation=_normalisation(mean, std),
        sources=() if trained_on is None else _names(trained_on),
    )
    _show(import_checkpoint(file, form, out, choices), out)


def _names(text: str) -> tuple[str, ...]:
    return tuple("" if name.strip() == "-" else name.strip() for name in text.split(","))


def _normalisation(mean: str | None, std: str | None) -> tuple[PerChannel, PerChannel] | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise BundleError("--mean and --std belong together: give both")
    return _numbers("--mean", mean), _numbers("--std", std)


def _numbers(option: str, text: str) -> PerChannel:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise BundleError(f"{option} {text!r} is not a number: give one, or three") from error
    if len(values) not in {1, 3}:
        raise BundleError(f"{option} has {len(values)} numbers: give one, or one per channel")
    return values[0] if len(values) == 1 else cast("PerChannel", tuple(values))


def _show(made: Imported, out: Path) -> None:
    card, origin = made.bundle.card, made.bundle.card.origin
    typer.echo(f"{made.tensors} of {made.tensors} tensors of {card.backbone}, from {made.format}")
    if origin is not None and origin.converted:
        typer.echo(
            "The file is a pickle of whole objects: a restricted reader converted it in a process "
            "of its own."
        )
    thresholds = sum(of is not None for of in card.thresholds.values())
    typer.echo(f"{len(card.findings)} findings, {thresholds} with a threshold of the original")
    typer.echo(f"Trained on {card.trained_on.title}{f'; {made.leak}' if made.leak else ''}.")
    typer.echo("Not calibrated: run `chestxray calibrate` with labelled images of your patients.")
    typer.echo(f"\n{out}: {made.bundle.identity}")
