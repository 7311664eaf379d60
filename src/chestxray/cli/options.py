"""Options that several verbs share, each declared once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from chestxray.hub import local
from chestxray.storage.cache import LIMIT

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
Loggers = Annotated[
    list[str] | None,
    typer.Option(
        "--logger",
        metavar="TRACKER",
        help="Also give the run to a tracker: tensorboard, mlflow or wandb. Repeatable.",
    ),
]
FigureStyle = Annotated[
    str,
    typer.Option(
        "--style",
        metavar="journal|slide|POINTS",
        help="Of the figures for print: journal (text of 7.5 points on a page of 7.2 by 9.2 "
        "inches), slide (16 points, 13.3 by 7), or the points of the text on a journal's page, 6 "
        "to 12.",
    ),
]
SplitName = Annotated[
    str,
    typer.Option(
        metavar="auto|official|patient|PATH",
        help="The data set's own lists, a random split by patient, the split of a prepared dataset "
        "(its new patients go to train), or a CSV file with the columns image,split or "
        "patient,split. auto: official where a source has lists, else patient.",
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="auto|torch|openvino|DIR",
        help="What runs the network. auto keeps its choice in the cache for the next start. DIR is "
        "an export of this bundle.",
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
RequireSignature = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        metavar="PUBLIC_KEY",
        help="Refuse a bundle or export that the holder of this key did not sign (see "
        "`chestxray sign`).",
    ),
]
OnCluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="local|auto|ADDRESS",
        help="Run on a Ray cluster: local starts one on this machine, auto is the one that this "
        "machine belongs to, ADDRESS is ray://HOST:PORT or HOST:PORT. Default: this machine "
        "without Ray.",
    ),
]
BUNDLE_HELP: Final = "The bundle of a run: folder or URL, or hub:OWNER/NAME@REVISION."
BundleFolder = Annotated[Path, typer.Argument(help=BUNDLE_HELP, callback=local)]
Inputs = Annotated[
    list[Path],
    typer.Argument(metavar="INPUT...", help="A dataset, or folders and files: paths or URLs."),
]
DatasetSplit = Annotated[
    str | None, typer.Option("--split", help="The split of a dataset: train, val or test.")
]
LabelsPath = Annotated[
    Path,
    typer.Option(
        "--labels", help="A prepared dataset, or a label table of any source: path or URL."
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing", help="Accept that more than half of the rows have no image file."
    ),
]
LeaveOut = Annotated[
    list[Path] | None,
    typer.Option(
        "--leave-out",
        metavar="FILE",
        help="A file of `chestxray overlap`, or a table with a column image: leave out the images "
        "that it names, and their patients. Path or URL. Repeatable.",
    ),
]


def _set_cache_limit(gib: float | None) -> None:
    if gib is not None:
        os.environ[LIMIT] = str(gib)  # worker processes have it from there


CacheGib = Annotated[
    float | None,
    typer.Option(
        "--cache-gib",
        metavar="GIB",
        help="Keep at most this much of what is read from URLs on this machine. Default: "
        "$CHESTXRAY_CACHE_GIB, or else 50.",
        callback=_set_cache_limit,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@dataclass(frozen=True)
class SourceOptions:
    """The options of a verb that reads raw trees or label tables; see `with_source_options`."""

    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="NAME",
            help="The source of the tree (see `chestxray prepare --list-sources`). Default: "
            "recognised by its content.",
        ),
    ] = None
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="OUR=THEIRS,…",
            help="For a table of your own: its columns, such as image=file,patient=pid. With "
            "--source: table=FILE chooses one of several label tables.",
        ),
    ] = None
    uncertain: Annotated[
        Literal["zeros", "ones", "ignore"] | None,
        typer.Option(help="How to read an uncertain label: as absent, present or unknown."),
    ] = None
    blank: Annotated[
        Literal["negative", "unknown"] | None,
        typer.Option(help="How to label a finding that a row does not mention."),
    ] = None
    views: Annotated[
        str | None,
        typer.Option(metavar="frontal|all|PA,AP,…", help="The views to keep. Default: frontal."),
    ] = None
    patient_per_image: Annotated[
        bool,
        typer.Option(
            "--patient-per-image",
            help="Treat each image as a different patient (for tables without a patient column).",
        ),
    ] = False

    readers: Annotated[
        Literal["majority", "any", "unanimous"] | None,
        typer.Option(
            help="For a data set that several people read (VinDr-CXR): how many of them must name "
            "a finding. Default: majority. There is no mean: a label is 1, 0 or unknown."
        ),
    ] = None
    labelers: Annotated[
        Literal["all", "physicians"] | None,
        typer.Option(
            help="For a data set that physicians labelled in part (PadChest): whose images to "
            "keep. Default: all."
        ),
    ] = None

    def read_options(self) -> ReadOptions:
        """Give what is asked of a source."""
        from chestxray.sources import ReadOptions

        return ReadOptions(
            self.uncertain,
            self.blank,
            self.views,
            _columns(self.columns),
            self.patient_per_image,
            self.readers,
            self.labelers,
        )

    def words(self) -> list[str]:
        """Give the options as they are typed; those that are not given are left out."""
        given = [
            (f"--{field.name}".replace("_", "-"), getattr(self, field.name))
            for field in fields(self)
        ]
        return [
            word
            for name, value in given
            if value
            for word in ((name,) if value is True else (name, value))
        ]


def with_source_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb one option for each field of `SourceOptions`, in place of its parameter `given`.

    Typer reads the options from the signature; the verb receives them as one value.
    """
    options = signature(SourceOptions, eval_str=True).parameters
    parameters: list[Parameter] = []
    for parameter in signature(verb, eval_str=True).parameters.values():
        own = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in options.values()]
        parameters += own if parameter.name == "given" else [parameter]

    @wraps(verb)
    def command(*arguments: Any, **named: Any) -> None:  # noqa: ANN401 - those of the verb
        chosen = {name: named.pop(name) for name in options if name in named}
        verb(*arguments, **named, given=SourceOptions(**chosen))

    vars(command)["__signature__"] = Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


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
