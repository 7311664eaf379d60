"""`chestxray report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.options import CacheGib, FigureStyle, Loggers


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, or of an evaluation alone.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page to write. Default: FOLDER/report.html.")
    ] = None,
    style: FigureStyle = "journal",
    loggers: Loggers = None,
    cache_gib: CacheGib = None,  # noqa: ARG001 - its callback sets it
) -> None:
    """Write one self-contained page about a run: data, training, results, examples, limits.

    The figures are also written for print into figures/ beside the page, as SVG, PDF and PNG files.
    """
    from chestxray.reporting.page import figures_folder
    from chestxray.reporting.page import report as write
    from chestxray.storage import is_url, shown
    from chestxray.training.tracking import add_report, check

    check(loggers or ())
    if loggers and (is_url(folder) or (out and is_url(out))):
        raise typer.BadParameter(
            "--logger adds the page to a run of this machine: leave it out, or give paths"
        )
    page = write(folder, out, style)
    if loggers:
        add_report(folder, loggers, page)
    where = shown(figures_folder(page))
    size = "" if is_url(page) else f"{page.stat().st_size / 1e6:.1f} MB, "
    typer.echo(f"{shown(page)}: {size}figures for print in {where}")
