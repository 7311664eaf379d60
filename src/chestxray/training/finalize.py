"""From the best checkpoint to a complete bundle: calibration, thresholds, heatmap scale, gate.

All are fitted on the validation part, which chose the epoch too, but for the gate's template: it is
fitted on training images. The test part is not touched here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from chestxray.dataset.store import Dataset
from chestxray.evaluation import predictions
from chestxray.evaluation.calibration import fit_calibration, fit_slopes
from chestxray.evaluation.thresholds import fit_thresholds
from chestxray.model.bundle import Bundle, save
from chestxray.model.engines import Features, Images
from chestxray.model.model_card import ModelCard, TrainedOn
from chestxray.model.network import GREY_MEAN, GREY_STD, Classifier
from chestxray.model.out_of_distribution import Detector
from chestxray.model.torch_engine import batches
from chestxray.training.data import Part
from chestxray.training.recipe import Recipe

Floats = npt.NDArray[np.float64]

_SCALE_PERCENTILE = 90.0
_GATE_IMAGES = 1024  # of each part at most: more make it slower and no better


def finish(run: Path, dataset: Dataset, recipe: Recipe, classifier: Classifier) -> Bundle:
    """Predict validation, fit on it, and write `validation.csv` and `bundle/`.

    Args:
        run: the run's folder.
        dataset: trained on.
        recipe: trained by.
        classifier: with the best weights.
    """
    val = Part(dataset, "val")
    classifier = classifier.eval().to(memory_format=torch.channels_last)
    logits, peaks, features = _predict(classifier, val.images)
    about = dataset.index.iloc[val.rows]
    patients = np.unique(about["patient"], return_inverse=True)[1]
    findings = dataset.findings
    calibration = fit_calibration(logits, val.labels, patients, findings)
    probabilities = calibration.apply(logits)
    slopes = fit_slopes(logits, val.labels, findings)
    table = predictions.table(about["image"].tolist(), probabilities, findings)
    predictions.write(run / "validation.csv", table)
    card = ModelCard(
        package_version="",
        weights_sha256="",
        backbone=recipe.backbone,
        size=recipe.size,
        mean=GREY_MEAN,
        std=GREY_STD,
        pixel_rule=dataset.manifest.pixel_rule,
        findings=findings,
        calibration=calibration,
        thresholds=fit_thresholds(probabilities, val.labels, findings),
        heat_slopes=slopes,
        heat_scale=_heat_scale(peaks * np.array(list(slopes.values())), val.labels),
        trained_on=_trained_on(dataset, recipe),
    )
    detector = fit_detector(dataset, recipe.seed, val, features)
    return save(run / "bundle", classifier, card, detector)


def fit_detector(dataset: Dataset, seed: int, val: Part, features: Features) -> Detector:
    """Fit the gate on a bounded draw of training and of validation images.

    Args:
        dataset: trained on.
        seed: of the draws.
        val: the validation part.
        features: float32 [N, C], pooled, of its images.
    """
    draw = np.random.default_rng(seed).permutation
    films = np.sort(draw(dataset.rows("train"))[:_GATE_IMAGES])
    kept = np.sort(draw(len(val))[:_GATE_IMAGES])
    rows = val.rows[kept]
    patients = np.unique(dataset.index["patient"], return_inverse=True)[1][rows]
    return Detector.fit(dataset.images[films], dataset.images[rows], features[kept], patients)


def _predict(classifier: Classifier, images: Images) -> tuple[Floats, Floats, Features]:
    """Logits and the highest value of each class map, [N, K] both, and features [N, C]."""
    found = [
        (logits, maps.clip(min=0).max(axis=(2, 3)), features)
        for logits, maps, features in batches(classifier, images)
    ]
    logits, peaks, features = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return logits.astype(np.float64), peaks.astype(np.float64), features


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
        source=dataset.manifest.title,
        release=dataset.manifest.release,
        synthetic=dataset.manifest.synthetic,
        split=dataset.manifest.split.name,
        split_sha256=dataset.manifest.split.sha256,
        train_images=len(rows),
        train_patients=int(dataset.index["patient"].iloc[rows].nunique()),
        recipe=recipe.name,
    )
