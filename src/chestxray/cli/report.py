"""`chestxray report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.options import Loggers


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, or of an evaluation alone.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page to write. Default: FOLDER/report.html.")
    ] = None,
    loggers: Loggers = None,
) -> None:
    """Write one self-contained page about a run: data, training, results, examples, limits.

    The figures are also written for print into figures/ beside the page, as SVG, PDF and PNG files.
    """
    from chestxray.reporting.page import figures_folder
    from chestxray.reporting.page import report as write
    from chestxray.training.tracking import add_report, check

    check(loggers or ())
    page = write(folder, out)
    add_report(folder, loggers or (), page)
    size = page.stat().st_size / 1e6
    typer.echo(f"{page}: {size:.1f} MB, figures for print in {figures_folder(page)}")
