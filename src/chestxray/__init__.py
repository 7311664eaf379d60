"""Chest radiographs and labels in; calibrated, explained and measured findings out.

    import chestxray

    dataset = chestxray.prepare("raw/", "dataset", split="patient")
    run = chestxray.train(dataset, recipe="baseline", out="run")
    predictions = chestxray.predict(run.bundle, dataset, "run/predictions.csv", split="test")
    results = chestxray.evaluate(predictions.path, labels=dataset)
    results.mean.auroc                           # value, low, high; shown as 0.814 (0.798–0.832)

    reader = chestxray.load("run/bundle")        # or "hub:OWNER/NAME@REVISION"
    reading = reader.read("radiograph.dcm")      # DICOM, PNG, JPEG, or a grey NumPy array
    reading.probabilities["Effusion"]            # calibrated, in [0, 1]
    reading.heatmaps["Effusion"]                 # float32 [h, w], one scale per finding
    reading.calls["Effusion"]                    # True, False, or None: not assessed
    reading.warnings                             # why not to trust it, if there is a reason
    reading.overlay("Effusion")                  # RGB [S, S, 3]; see also `to_dict()`
    reading.not_assessed                         # finding → why it is not called at all
    reading.not_localised                        # finding → why its heatmap points to no place

A reading also has `image`, the canonical image that the model saw, `placement`, where the
radiograph lies in it, the `thresholds`, the `operating_point` that they are of, `model`, the
identity of the model, `origin`, its commit on the hub if it comes from there, and `measures`,
figures of the image that are watched for drift.

Everything that the command line does is a function here or in a room's `__init__`. Names are loaded
when they are first used, so that importing the package stays fast and the core works without torch.
All failures derive from `ChestXrayError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chestxray.lazy import exports
from chestxray.version import __version__

if TYPE_CHECKING:
    from chestxray.dataset import Dataset, Manifest, overlap, prepare, verify
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
        SignatureError,
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
        plan,
    )
    from chestxray.findings import Findings, vocabulary
    from chestxray.model import calibrate, push
    from chestxray.reading import Reader, Reading, explain, load, predict, validate
    from chestxray.reporting import report
    from chestxray.serving import serve
    from chestxray.sources import Collection, ReadOptions, Source, SourceCard, synth
    from chestxray.training import Recipe, Run, crossval, ensemble, pretrain, train

_ROOMS: Final = {
    "dataset": ("Dataset", "Manifest", "overlap", "prepare", "verify"),
    "errors": (
        "ArtifactError", "BundleError", "ChestXrayError", "ConfigError", "DownloadError",
        "FindingsError", "ImageError", "MissingExtraError", "Notice", "PredictionsError",
        "RecipeError", "RefusedError", "SignatureError", "SourceError", "TrainingError",
        "WorkerError",
    ),
    "evaluation": (
        "Comparison", "Interval", "Labels", "Predictions", "Results", "compare", "evaluate", "plan",
    ),
    "findings": ("Findings", "vocabulary"),
    "model": ("calibrate", "push"),
    "reading": ("Reader", "Reading", "explain", "load", "predict", "validate"),
    "reporting": ("report",),
    "serving": ("serve",),
    "sources": ("Collection", "ReadOptions", "Source", "SourceCard", "synth"),
    "training": ("Recipe", "Run", "crossval", "ensemble", "pretrain", "train"),
}  # fmt: skip

__all__ = [
    "ArtifactError", "BundleError", "ChestXrayError", "Collection", "Comparison", "ConfigError",
    "Dataset", "DownloadError", "Findings", "FindingsError", "ImageError", "Interval", "Labels",
    "Manifest", "MissingExtraError", "Notice", "Predictions", "PredictionsError", "ReadOptions",
    "Reader", "Reading", "Recipe", "RecipeError", "RefusedError", "Results", "Run",
    "SignatureError", "Source", "SourceCard", "SourceError", "TrainingError", "WorkerError",
    "__version__", "calibrate", "compare", "crossval", "ensemble", "evaluate", "explain", "load",
    "overlap", "plan", "predict", "prepare", "pretrain", "push", "report", "serve", "synth",
    "train", "validate", "verify", "vocabulary",
]  # fmt: skip


__getattr__ = exports(__name__, _ROOMS)


def __dir__() -> list[str]:
    return sorted(__all__)
