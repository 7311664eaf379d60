"""`chestxray sign` and `chestxray keygen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sign(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Bundles and exports.")
    ],
    *,
    key: Annotated[Path, typer.Option(help="Private key that `chestxray keygen` made.")],
) -> None:
    """Sign bundles and exports: `--require-signature` then refuses what was changed since.

    The signature of the folder `bundle` is the file `bundle.sig` beside it.
    """
    from chestxray.model import sign as write

    for folder in folders:
        typer.echo(f"{write(folder, key)}: signature of {folder}")


def keygen(
    key: Annotated[Path, typer.Argument(help="Private key to write; the public key is KEY.pub.")],
) -> None:
    """Create a key for `chestxray sign`; keep the private key, give the public one to others."""
    from chestxray.model import create_key

    public = create_key(key)
    typer.echo(f"{key}: private key, for `chestxray sign --key`; keep it secret")
    typer.echo(f"{public}: public key, for --require-signature")
