"""Options that several verbs share, each declared once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from chestxray.sources import Problem, ReadOptions

RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="A shipped recipe (see `chestxray recipe list`) or a YAML file. Default: baseline.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe. Repeatable."),
]
SplitName = Annotated[
    str,
    typer.Option(
        metavar="official|patient|FILE",
        help="The data set's own lists, a random split by patient, or a CSV file with the columns "
        "image,split or patient,split.",
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="auto|torch|openvino|DIR",
        help="What runs the network. DIR is an export of this bundle, which loads fastest.",
    ),
]
OperatingPointName = Annotated[
    str | None,
    typer.Option(
        "--operating-point",
        metavar="NAME",
        help="The rule whose thresholds call findings: joint (default), youden, f1, sensitivity, "
        "precision or alert_rate.",
    ),
]
BundleFolder = Annotated[Path, typer.Argument(help="The bundle folder of a run.")]
Inputs = Annotated[
    list[Path], typer.Argument(metavar="INPUT...", help="A dataset, or folders and files.")
]
DatasetSplit = Annotated[
    str | None, typer.Option("--split", help="The split of a dataset: train, val or test.")
]
LabelsPath = Annotated[
    Path, typer.Option("--labels", help="A prepared dataset, or a label table of any source.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

SourceName = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="NAME",
        help="The source of the tree (see `chestxray prepare --list-sources`). Default: recognised "
        "by its content.",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="OUR=THEIRS,…",
        help="For a table of your own: its columns, such as image=file,patient=pid.",
    ),
]
Uncertain = Annotated[
    Literal["zeros", "ones", "ignore"] | None,
    typer.Option(help="How to read an uncertain label: as absent, present or unknown."),
]
Blank = Annotated[
    Literal["negative", "unknown"] | None,
    typer.Option(help="How to label a finding that a row does not mention."),
]
Views = Annotated[
    str | None,
    typer.Option(metavar="frontal|all|PA,AP,…", help="The views to keep. Default: frontal."),
]
PatientPerImage = Annotated[
    bool,
    typer.Option(
        "--patient-per-image",
        help="Treat each image as a different patient (for tables without a patient column).",
    ),
]


def read_options(
    columns: str | None = None,
    uncertain: Literal["zeros", "ones", "ignore"] | None = None,
    blank: Literal["negative", "unknown"] | None = None,
    views: str | None = None,
    patient_per_image: bool = False,
) -> ReadOptions:
    """Collect the options that a source takes."""
    from chestxray.sources import ReadOptions

    return ReadOptions(uncertain, blank, views, _columns(columns), patient_per_image)


def _columns(text: str | None) -> dict[str, str]:
    """Read pairs; a comma ends one only where a name and `=` follow, as a title may hold commas."""
    parts = re.split(r",(?=\s*\w+\s*=)", text or "")
    pairs = [part.partition("=") for part in (part.strip(" ,") for part in parts) if part]
    for ours, equals, _ in pairs:
        if not (ours.strip() and equals):
            raise typer.BadParameter(
                f"--columns takes OUR=THEIRS pairs separated by commas, not {text!r}: name a "
                f"column as image=file, and leave out THEIRS where the table has no such column"
            )
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def echo_problems(name: str, problems: Iterable[Problem]) -> None:
    """Print what a source left out, with counts, to standard error."""
    for problem in problems:
        if problem.loses:
            typer.echo(f"{name}: {problem.sentence} ({problem.count})", err=True)
