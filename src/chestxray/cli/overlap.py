"""`chestxray overlap`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

_SHOWN: Final = 5


def overlap(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="A [B]",
            help="Two folders of radiographs or prepared datasets; or one, which is compared with "
            "itself.",
        ),
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", help="The pairs: a CSV or Parquet file with a,b,score,kind.")
    ],
) -> None:
    """Find the radiographs that two data sets share, on all cores.

    Finds equal pixels (kind exact), and copies that were resized, recompressed, shown in another
    window or with another gamma, or cropped by up to 2 % at each side (kind copy). Rotated,
    mirrored, inverted and padded copies are not found.
    """
    from chestxray.dataset.copies import overlap as shared

    if len(paths) > 2:
        raise typer.BadParameter("give one folder or two")
    found = shared(paths[0], paths[1] if len(paths) > 1 else None, out)
    first, second = found.images
    what = f"{first} and {second} images" if len(paths) > 1 else f"{first} images"
    typer.echo(
        f"{what}: {found.count('exact')} exact pairs, {found.count('copy')} other copies, of "
        f"{found.pairs['a'].nunique()} images of A and {found.pairs['b'].nunique()} of B"
    )
    if found.left_out:
        typer.echo(f"{found.left_out} images show nothing or have under 48 px: no copies of them")
    if found.unreadable:
        shown = "".join(f"\n  {name}" for name in found.unreadable[:_SHOWN])
        typer.echo(f"{len(found.unreadable)} files cannot be read, such as{shown}")
    typer.echo(str(out))
