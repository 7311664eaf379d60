"""`chestxray doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from chestxray.cli.options import AsJson

_EXTRAS = {
    "train": ("torch", "timm", "lightning"),
    "report": ("jinja2", "matplotlib"),
    "serve": ("fastapi", "python_multipart", "uvicorn"),
    "pacs": ("prometheus_client", "pynetdicom"),
    "export": ("nncf", "onnx", "onnxruntime", "openvino"),
    "sign": ("cryptography",),
    "scale": ("fsspec", "gcsfs", "ray", "s3fs"),
    "track": ("tensorboard", "mlflow"),
}
_DISTRIBUTED = {
    "mlflow": "mlflow-skinny",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
}
"""The names that packages are installed by, where modules have others."""


class Check(NamedTuple):
    """One line: a verdict, what was checked, and what was found or how to fix it."""

    verdict: Literal["PASS", "WARN", "FAIL"]
    subject: str
    finding: str


def doctor(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Datasets and bundles to check as well."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the machine, datasets and bundles; print PASS, WARN or FAIL and how to fix it."""
    # First of all: importing torch takes seconds, and a wrong path needs another command anyway.
    checks = [check for folder in folders or () if (check := _unknown_folder(folder))]
    if not checks:
        checks = [Check("PASS", "Python", platform.python_version()), *_torch(), *_extras()]
        checks += [_folder(folder) for folder in folders or ()]
    if as_json:
        typer.echo(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        for check in checks:
            typer.echo(f"{check.verdict}  {check.subject:<16} {check.finding}")
    if any(check.verdict == "FAIL" for check in checks):
        raise typer.Exit(1)


def _torch() -> Iterator[Check]:
    try:
        import torch

        from chestxray.training.precision import resolve
    except ImportError as error:
        yield Check("WARN", "torch", f"{error}: pip install 'chestxray[train]'")
        return
    yield Check("PASS", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        device = torch.device("cuda")
        yield Check("PASS", "GPU", torch.cuda.get_device_name())
    else:
        device = torch.device("cpu")
        yield Check("WARN", "GPU", "none: training on the full data set would take days")
    precision = resolve("auto", device)
    if precision == "bfloat16":
        yield Check("PASS", "precision", "bfloat16 in hardware")
    else:
        yield Check("WARN", "precision", f"no bfloat16 in this {device.type}: float32 is used")


def _extras() -> Iterator[Check]:
    for extra, packages in _EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            what = ", ".join(missing)
            yield Check("WARN", extra, f"{what} missing: pip install 'chestxray[{extra}]'")
        else:
            found = ", ".join(
                f"{name} {importlib.metadata.version(_DISTRIBUTED.get(name, name))}"
                for name in packages
            )
            yield Check("PASS", extra, found)


def _unknown_folder(folder: Path) -> Check | None:
    """Give the failure of a folder that holds nothing to check."""
    from chestxray.dataset.manifest import MANIFEST, UNFINISHED
    from chestxray.evaluation.bundle_thresholds import CARD

    if any((folder / name).exists() for name in (CARD, f"bundle/{CARD}", MANIFEST, UNFINISHED)):
        return None
    return Check(
        "FAIL",
        "folder",
        f"{folder} is neither a dataset, which holds {MANIFEST}, nor a bundle, which holds {CARD}: "
        "give what `chestxray prepare` or `chestxray train` made",
    )


def _folder(folder: Path) -> Check:
    """Check a folder as what its files say it is."""
    from chestxray.evaluation.bundle_thresholds import CARD

    if (folder / CARD).exists():
        return _bundle(folder)
    if (folder / "bundle" / CARD).exists():  # a run, which holds the manifest of its dataset too
        return _bundle(folder / "bundle")
    return _dataset(folder)


def _dataset(folder: Path) -> Check:
    from chestxray.dataset.store import Dataset
    from chestxray.errors import ChestXrayError

    try:
        manifest = Dataset.open(folder).manifest
    except ChestXrayError as error:
        return Check("FAIL", "dataset", str(error))
    return Check("PASS", "dataset", f"{manifest.title}, {manifest.images} images")


def _bundle(folder: Path) -> Check:
    from chestxray.errors import ChestXrayError
    from chestxray.reading.reader import load

    try:
        reader = load(folder)
    except ChestXrayError as error:
        return Check("FAIL", "bundle", str(error))
    count = len(reader.findings)
    about = f"{reader.bundle.identity}, {count} finding{'s' if count != 1 else ''}"
    card = reader.bundle.card
    if card.members:
        what = "ensemble" if card.is_ensemble else "average of the weights"
        about += f", {what} of {len(card.members)}, {card.passes} passes an image"
    if reader.warnings:
        return Check("WARN", "bundle", f"{about}: {'; '.join(map(str, reader.warnings))}")
    return Check("PASS", "bundle", about)
