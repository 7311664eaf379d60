"""`chestxray findings`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from chestxray.cli.options import AsJson


def findings(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset.")], *, as_json: AsJson = False
) -> None:
    """Count positive, negative and unknown labels per source and finding, with the rule behind.

    Beside the positive images stands how many patients they are of. What a source cannot say is
    unknown, not absent: it is left out of training, thresholds and metrics.
    """
    from chestxray.dataset import Dataset, label_counts

    opened = Dataset.open(dataset)
    counts = label_counts(opened)
    if as_json:
        typer.echo(json.dumps([asdict(of) for of in counts], indent=2, ensure_ascii=False))
        return
    width = max(20, *(len(of.finding) + 2 for of in counts))
    for record in {of.name: of for of in opened.manifest.sources}.values():
        rows = [of for of in counts if of.source == record.name]
        images = rows[0].positive + rows[0].negative + rows[0].unknown
        typer.echo(f"\n{record.name}: {record.title}, {images} images")
        names = _columns("positive", "of patients", "negative", "unknown")
        typer.echo(f"{'':{width}}{names}  rule")
        general = record.rules.get("", "")  # of each labelled finding: printed once
        for of in rows:
            numbers = _columns(of.positive, of.patients, of.negative, of.unknown)
            rule = of.rule.removesuffix(f"; {general}")
            typer.echo(f"{of.finding:{width}}{numbers}  {rule}")
        if general:
            typer.echo(f"all labelled findings: {general}")
        for name, fact in record.facts.items():
            if name.startswith("renamed") or name.endswith("by a finer finding"):
                typer.echo(f"{name}: {fact}")


def _columns(*cells: int | str) -> str:
    return "".join(f"{cell:>12}" for cell in cells)
