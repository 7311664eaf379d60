"""`chestxray report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one self-contained page about a run: data, training, results, examples, limits.

    Its figures are also written one by one, as SVG for print, into figures/ beside the page.
    """
    from chestxray.report.page import FIGURES
    from chestxray.report.page import report as write_report

    write_report(run, out)
    figures = out.parent / FIGURES
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, figures for print in {figures}")
