"""Chest radiographs and labels in; calibrated, explained and measured findings out.

    import chestxray

    dataset = chestxray.prepare("raw/", "dataset", split="patient")
    run = chestxray.train(dataset, recipe="baseline", out="run")
    predictions = chestxray.predict(run.bundle, dataset, "run/predictions.csv", split="test")
    results = chestxray.evaluate(predictions.path, labels=dataset)
    results.mean["auroc"]                        # Interval(value, low, high)

    reader = chestxray.load("run/bundle")
    reading = reader.read("radiograph.dcm")      # DICOM, PNG, JPEG, or a grey NumPy array
    reading.probabilities["Effusion"]            # calibrated, in [0, 1]
    reading.heatmaps["Effusion"]                 # float32 [h, w], one scale for all images
    reading.calls["Effusion"]                    # whether it reaches the threshold of validation
    reading.warnings                             # why not to trust it, if there is a reason

Everything that the command line does is a function here or in a room's `__init__`. Names are loaded
when they are first used, so that importing the package stays fast and the core works without torch.
All failures derive from `ChestXrayError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from chestxray.version import __version__

if TYPE_CHECKING:
    from chestxray.dataset import Dataset, Manifest, prepare, verify
    from chestxray.errors import (
        ArtifactError,
        BundleError,
        ChestXrayError,
        ConfigError,
        DownloadError,
        FindingsError,
        ImageError,
        MissingExtraError,
        Notice,
        PredictionsError,
        RecipeError,
        RefusedError,
        SourceError,
        TrainingError,
        WorkerError,
    )
    from chestxray.evaluation import (
        Comparison,
        Interval,
        Labels,
        Predictions,
        Results,
        compare,
        evaluate,
    )
    from chestxray.findings import Findings, vocabulary
    from chestxray.model import export
    from chestxray.reading import Reader, Reading, explain, load, predict
    from chestxray.reporting import report
    from chestxray.serving import serve
    from chestxray.sources import Collection, ReadOptions, Source, SourceCard, synth
    from chestxray.training import Recipe, Run, train

_ROOMS: Final = {
    "chestxray.dataset": ("Dataset", "Manifest", "prepare", "verify"),
    "chestxray.errors": (
        "ArtifactError", "BundleError", "ChestXrayError", "ConfigError", "DownloadError",
        "FindingsError", "ImageError", "MissingExtraError", "Notice", "PredictionsError",
        "RecipeError", "RefusedError", "SourceError", "TrainingError", "WorkerError",
    ),
    "chestxray.evaluation": (
        "Comparison", "Interval", "Labels", "Predictions", "Results", "compare", "evaluate",
    ),
    "chestxray.findings": ("Findings", "vocabulary"),
    "chestxray.model": ("export",),
    "chestxray.reading": ("Reader", "Reading", "explain", "load", "predict"),
    "chestxray.reporting": ("report",),
    "chestxray.serving": ("serve",),
    "chestxray.sources": ("Collection", "ReadOptions", "Source", "SourceCard", "synth"),
    "chestxray.training": ("Recipe", "Run", "train"),
}  # fmt: skip
_ROOM_OF: Final = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "ArtifactError", "BundleError", "ChestXrayError", "Collection", "Comparison", "ConfigError",
    "Dataset", "DownloadError", "Findings", "FindingsError", "ImageError", "Interval", "Labels",
    "Manifest", "MissingExtraError", "Notice", "Predictions", "PredictionsError", "ReadOptions",
    "Reader", "Reading", "Recipe", "RecipeError", "RefusedError", "Results", "Run", "Source",
    "SourceCard", "SourceError", "TrainingError", "WorkerError", "__version__", "compare",
    "evaluate", "explain", "export", "load", "predict", "prepare", "report", "serve", "synth",
    "train", "verify", "vocabulary",
]  # fmt: skip


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load a public name from its room (PEP 562).

    Raises:
        MissingExtraError: the room needs a package of an extra that is not installed.
    """
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'chestxray' has no attribute {name!r}")
    from chestxray.errors import of_missing_module

    try:
        value = getattr(import_module(_ROOM_OF[name]), name)
    except ModuleNotFoundError as error:
        raise of_missing_module(error) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
