"""Options that several verbs share, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="A shipped recipe (baseline, quick) or a YAML file. Default: baseline."
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."),
]
SplitName = Annotated[
    str,
    typer.Option(
        metavar="official|patient|FILE",
        help="NIH's lists, a draw by patient, or a CSV of image,split or patient,split.",
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="auto|torch|openvino|DIR",
        help="What computes. DIR is an export of this bundle, which starts fastest.",
    ),
]
