"""`chestxray explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chestxray.cli.options import BundleFolder, CacheGib, DatasetSplit, RequireSignature

if TYPE_CHECKING:
    from chestxray.evaluation import Interval


def explain(
    bundle: BundleFolder,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT...", help="A dataset, or folders and files."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the images.")],
    split: DatasetSplit = None,
    finding: Annotated[
        list[str] | None, typer.Option(help="Only this finding. Repeatable. Default: all.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also explain what the gate refuses.")
    ] = False,
    per_image: Annotated[
        bool,
        typer.Option(
            "--per-image", help="Scale each heatmap to its own peak. The images are labelled so."
        ),
    ] = False,
    phantom_pairs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="In place of inputs: draw N phantoms without and with each finding, and measure "
            "whether the answers and heatmaps follow.",
        ),
    ] = None,
    require_signature: RequireSignature = None,
    cache_gib: CacheGib = None,  # noqa: ARG001 - its callback sets it
) -> None:
    """Draw heatmaps over radiographs, or test them on pairs of phantoms.

    Each file gets one sheet with all findings. A dataset gets, for each finding, its most probable
    true call, its most probable false call and its least probable miss. Pairs of phantoms give
    causal.json and causal.png.
    """
    if phantom_pairs is not None:
        if inputs or split or finding or force or per_image:
            raise typer.BadParameter(
                "--phantom-pairs draws its own radiographs of all findings: leave out INPUT, "
                "--split, --finding, --force and --per-image"
            )
        _test_on_pairs(bundle, out, phantom_pairs, require_signature)
        return
    if not inputs:
        raise typer.BadParameter("name a dataset, folders or files, or give --phantom-pairs N")
    from chestxray.reading import explain as draw
    from chestxray.storage import shown

    run = draw(
        bundle,
        inputs,
        out,
        split=split,
        findings=finding or None,
        force=force,
        per_image=per_image,
        require_signature=require_signature,
    )
    count = len(run.pictures)
    typer.echo(
        f"{shown(run.path)}: {count} picture{'' if count == 1 else 's'}, {len(run.unread)} refused "
        f"or unreadable"
    )
    if not count and not run.unread:
        typer.echo(
            "  no assessed finding is called or missed in these images: name files in place of the "
            "dataset to see the heatmaps of all findings"
        )
    for name, reason in run.unread.items():
        typer.echo(f"  {name}: {reason}")
    if not count and run.unread:
        raise typer.Exit(1)


def _test_on_pairs(bundle: Path, out: Path, patients: int, public_key: Path | None) -> None:
    from chestxray.reading import explain_pairs

    if public_key is not None:
        from chestxray.model import check_signature

        check_signature(bundle, public_key)
    run = explain_pairs(bundle, out, patients)
    every, random = run.effects.all, run.effects.randomized[-1]
    typer.echo(f"{run.path}: {every.pairs} pairs of {patients} phantoms, figure {run.picture.name}")
    typer.echo(f"  change of the finding's logit       {_shown(every.logit)}")
    typer.echo(f"  peak of the map's change in mask    {_shown(every.hit.value)}")
    typer.echo(f"    maps of the other findings        {_shown(every.hit.other_maps)}")
    typer.echo(f"    random weights                    {_shown(random.hit.value)}")
    if run.left_out:
        typer.echo(f"  phantoms cannot show: {', '.join(run.left_out)}")


def _shown(value: Interval) -> str:
    if value.value is None:
        return "–"
    ends = "" if value.low is None else f" ({value.low:.3f} to {value.high:.3f})"
    return f"{value.value:.3f}{ends}"
