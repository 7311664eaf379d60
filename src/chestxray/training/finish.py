"""From the best checkpoint to a complete bundle: calibration, thresholds and the heatmap's scale.

All three are fitted on the validation part, which chose the epoch too; the test part is not
touched here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from chestxray.dataset.store import Dataset
from chestxray.evaluation import predictions
from chestxray.evaluation.calibration import fit_platt
from chestxray.evaluation.thresholds import fit_thresholds
from chestxray.findings import FINDINGS
from chestxray.model.bundle import Bundle, Card, TrainedOn, save
from chestxray.model.inference import batches
from chestxray.model.network import GREY_MEAN, GREY_STD, Classifier
from chestxray.training.data import Part
from chestxray.training.recipe import Recipe

Floats = npt.NDArray[np.float64]

_SCALE_PERCENTILE = 90.0


def finish(run: Path, dataset: Dataset, recipe: Recipe, classifier: Classifier) -> Bundle:
    """Predict validation, fit on it, and write `validation.csv` and `bundle/`.

    Args:
        run: the run's folder.
        dataset: trained on.
        recipe: trained by.
        classifier: with the best weights.
    """
    val = Part(dataset, "val")
    logits, peaks = _predict(classifier, val)
    calibration = fit_platt(logits, val.labels, FINDINGS)
    probabilities = calibration.apply(logits)
    slopes = np.array(list(calibration.slope.values()))
    names = dataset.index["image"].iloc[val.rows].tolist()
    predictions.write(run / "validation.csv", predictions.table(names, probabilities))
    card = Card(
        package_version="",
        weights_sha256="",
        backbone=recipe.backbone,
        size=recipe.size,
        mean=GREY_MEAN,
        std=GREY_STD,
        pixel_rule=dataset.manifest.pixel_rule,
        findings=list(FINDINGS),
        calibration=calibration,
        thresholds=fit_thresholds(probabilities, val.labels, FINDINGS),
        heat_scale=_heat_scale(peaks * slopes, val.labels),
        trained_on=_trained_on(dataset, recipe),
    )
    return save(run / "bundle", classifier, card)


def _predict(classifier: Classifier, part: Part) -> tuple[Floats, Floats]:
    """Logits and the highest value of each class map, [N, K] both."""
    classifier = classifier.eval().to(memory_format=torch.channels_last)
    found = [
        (logits, maps.clip(min=0).max(axis=(2, 3)))
        for logits, maps in batches(classifier, part.images)
    ]
    logits, peaks = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return logits.astype(np.float64), peaks.astype(np.float64)


def _heat_scale(evidence: Floats, labels: npt.NDArray[np.float32]) -> float:
    """Let the strongest tenth of a middling finding's evidence reach full colour when it is sure.

    The median over findings keeps one that is easy to see from making all others pale. The
    probability has no part in it: where all are low, heatmaps are to be pale.

    Args:
        evidence: [N, K], the highest value of each class map in calibrated log-odds.
        labels: [N, K].
    """
    present = [evidence[labels[:, k] == 1, k] for k in range(evidence.shape[1])]
    hottest = [np.percentile(of, _SCALE_PERCENTILE) for of in present if of.size]
    scale = float(np.median(hottest)) if hottest else 0.0
    return scale if scale > 0 else 1.0


def _trained_on(dataset: Dataset, recipe: Recipe) -> TrainedOn:
    rows = dataset.rows("train")
    return TrainedOn(
        source=dataset.manifest.source,
        generation=dataset.manifest.generation,
        split=dataset.manifest.split.name,
        split_sha256=dataset.manifest.split.sha256,
        train_images=len(rows),
        train_patients=int(dataset.index["patient"].iloc[rows].nunique()),
        recipe=recipe.name,
    )
