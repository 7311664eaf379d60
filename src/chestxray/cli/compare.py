"""`chestxray compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chestxray.cli.options import (
    AsJson,
    FigureStyle,
    LabelsPath,
    SourceOptions,
    echo_problems,
    with_source_options,
)


@with_source_options
def compare(
    tables: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B...",
            help="Tables of predictions of the same images, or run folders; at least two.",
        ),
    ],
    *,
    labels: LabelsPath,
    split: Annotated[
        str | None, typer.Option(help="The split of both predictions. Default: test.")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="The name of a model, once for each. Default: its folder."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a page, its figures, and the tables.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=1, help="Resamples of patients for the intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    margin: Annotated[
        float | None,
        typer.Option(help="Also test that each loses less mean AUROC to A, such as 0.02."),
    ] = None,
    style: FigureStyle = "journal",
    as_json: AsJson = False,
    given: SourceOptions,
) -> None:
    """Test whether other models are better than the first: paired, by patient.

    Prints the AUROC of each finding and their mean, the difference B - A on the same resamples of
    patients, and DeLong's test beside it. p-values of findings are Holm-corrected. With --margin it
    also tests that B is not inferior to A. Only images and findings that all models have count.
    With --out it writes one page with all models side by side, figures for print, and the AUROCs as
    CSV and LaTeX.
    """
    from chestxray.evaluation import Labels, compare_models
    from chestxray.reporting.print_style import print_style

    print_style(style)  # before anything slow
    if style != "journal" and out is None:
        raise typer.BadParameter("--style is of the figures for print: give --out too")
    truth = Labels.read(labels, given.source, given.read_options())
    echo_problems(labels.name, truth.problems)
    result = compare_models(
        tables, truth, names=names or (), split=split, resamples=resamples, seed=seed,
        margin=margin, out=out,
    )  # fmt: skip
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        for model in result.models if len(tables) > 2 else ():
            if model.only:
                typer.echo(f"{model.name}: {model.only} images are left out, not predicted by all")
        for versus in result.comparisons:
            _show(versus.model_dump(mode="json"))
    if out is not None:
        from chestxray.reporting import comparison_page

        typer.echo(f"\n{comparison_page(out, style)}", err=as_json)


def _show(result: dict[str, Any]) -> None:
    """Print what was compared, the figures, and the conclusion."""
    typer.echo(f"A: {result['a']}\nB: {result['b']}")
    typer.echo(
        f"{result['source']}, split {result['split']}: {result['images']} images of "
        f"{result['patients']} patients"
    )
    for name in ("a", "b"):
        if count := result[f"only_{name}"]:
            typer.echo(f"{count} images are predicted by {name.upper()} alone and left out of both")
        for seen in result[f"seen_{name}"]:
            typer.echo(f"warning: {name.upper()}: {seen['sentence']}")
    if result["neither"]:
        typer.echo(f"{result['neither']} labelled images are predicted by neither")
    _show_figures(result)
    typer.echo(f"\n{result['sentence']}")
    if result["noninferiority"]:
        typer.echo(result["noninferiority"]["sentence"])


def _show_figures(result: dict[str, Any]) -> None:
    """Print a line for each finding, and what is left out."""
    typer.echo(
        f"\n{'AUROC':20}{'positives':>10}{'A':>8}{'B':>8}{'B - A':>9}{'95 % interval':>19}"
        f"{'p':>10}{'p (Holm)':>10}{'p (DeLong)':>12}"
    )
    for finding, entry in result["findings"].items():
        typer.echo(_line(finding, entry))
    typer.echo(_line("mean", result["mean"]))
    for finding, entry in result["findings"].items():
        if reason := entry["difference"].get("reason"):
            typer.echo(f"{finding}: {reason}")
    if not_in_mean := result["mean"]["left_out"]:
        typer.echo(f"not in the mean: {', '.join(not_in_mean)}")
    for name, reason in result["left_out"].items():
        typer.echo(f"{name} is left out: {reason}")


def _line(name: str, entry: dict[str, Any]) -> str:
    from chestxray.evaluation.signed_numbers import signed

    difference = entry["difference"]
    value = "–" if difference["value"] is None else signed(difference["value"])
    interval = "–"
    if difference["low"] is not None:
        interval = f"{signed(difference['low'])} to {signed(difference['high'])}"
    return (
        f"{name:20}{entry.get('positives', ''):>10}"
        f"{_figure(entry['a']['value'], '8.3f')}{_figure(entry['b']['value'], '8.3f')}"
        f"{value:>9}{interval:>19}{_figure(entry['p'], '10.2g')}"
        f"{_figure(entry.get('p_holm'), '10.2g')}{_figure(entry['delong']['p'], '12.2g')}"
    )


def _figure(value: float | None, form: str) -> str:
    width = int(form.split(".", maxsplit=1)[0])
    return f"{'–':>{width}}" if value is None else format(value, form)
