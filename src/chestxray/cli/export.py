"""`chestxray export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from chestxray.cli.options import BundleFolder, RequireSignature
from chestxray.errors import ArtifactError

if TYPE_CHECKING:
    from chestxray.model.model_card import ModelCard
    from chestxray.model.parity import Trial


def export(
    bundle: BundleFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    format: Annotated[  # noqa: A002 - the option's name
        Literal["onnx", "openvino"], typer.Option(help="Format of the graph.")
    ],
    precision: Annotated[
        Literal["fp32", "bf16", "int8"], typer.Option(help="bf16 and int8 need OpenVINO.")
    ] = "fp32",
    calibrate_on: Annotated[
        Path | None,
        typer.Option(
            help="Dataset whose validation split is used to measure; bf16 and int8 need it, and "
            "int8 is calibrated on its training split."
        ),
    ] = None,
    *,
    triton: Annotated[
        Path | None,
        typer.Option(
            help="Also write the ONNX graph into this folder as a model repository for Triton "
            "Inference Server."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Write it even if a limit is exceeded."),
    ] = False,
    require_signature: RequireSignature = None,
) -> None:
    """Write the model as a graph for other programs: images in, logits and all class maps out.

    Its outputs are compared with torch's before it is written: float32 must agree within 1e-4; of
    bf16 and int8 no finding's validation AUROC may be shown to fall by more than 0.002, a fall of
    the mean by 0.01 must be excluded, no probability may change by more than 0.05, no cell of a
    heatmap by more than 0.2, and its peak must stay. Their first convolution and their head stay in
    float32.
    """
    from chestxray.model import exported
    from chestxray.model import model_card as card
    from chestxray.model.parity import noise

    exported.check(out, format, precision, labelled=calibrate_on is not None)
    if triton is not None:
        from chestxray.model.triton import check_place

        if format != "onnx":
            raise ArtifactError("--triton takes an ONNX graph: give --format onnx")
        check_place(triton)
    if require_signature is not None:
        from chestxray.model import check_signature

        check_signature(bundle, require_signature)
    about = card.read(bundle).card
    trial = _validation(calibrate_on, about) if calibrate_on else noise(about.size)
    typer.echo("loading the model", err=True)
    from chestxray.model import bundle as bundles  # what takes time begins here
    from chestxray.model import export as exports

    record = exports.export(bundles.load(bundle), out, format, precision, trial, force)
    parity = record.parity
    typer.echo(
        f"{out}: {record.model}, {record.kind} {record.precision}; on {parity.measured_on} with "
        f"{parity.measured_with}: probabilities differ by up to {parity.probability:.1e}, maps by "
        f"{parity.map:.1e} logits"
    )
    if parity.heat is not None:
        typer.echo(f"heatmaps differ by up to {parity.heat:.1e}")
    if parity.mean_auroc is not None:
        typer.echo(f"the mean AUROC changes by {parity.mean_auroc}")
    elif parity.auroc is not None:
        typer.echo(f"AUROC was not compared: {parity.untested}")
    for miss in record.misses:
        typer.echo(f"warning: {miss}", err=True)
    if triton is not None:
        from chestxray.model.triton import write_repository

        model = write_repository(triton, (out / exported.ONNX).read_bytes())
        typer.echo(f"{model}: model repository for Triton")


def _validation(folder: Path, card: ModelCard) -> Trial:
    from chestxray.model.parity_images import trial_of
    from chestxray.reading.inputs import dataset_split, leakage

    chosen = dataset_split(folder, "val", card)
    warning = leakage(chosen, card)
    if warning:
        typer.echo(f"warning: {warning}", err=True)
    return trial_of(chosen.dataset, card.findings)
