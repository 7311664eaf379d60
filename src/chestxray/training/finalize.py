"""From the best checkpoint to a bundle: calibration, thresholds, heatmap scale, detector.

All are fitted on the validation split, which also chose the epoch, except for the template of the
out-of-distribution detector: it is fitted on training images. The test split is not used.
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
from chestxray.model.model_card import ModelCard, TrainedOn, list_sha256
from chestxray.model.network import Classifier
from chestxray.model.out_of_distribution import Detector
from chestxray.model.torch_engine import batches
from chestxray.training.data import Part
from chestxray.training.recipe import Recipe

_Floats = npt.NDArray[np.float64]

_SCALE_PERCENTILE = 90.0
_DETECTOR_IMAGES = 1024  # of each split at most: more make it slower and no better


def finish(run: Path, dataset: Dataset, recipe: Recipe, classifier: Classifier) -> Bundle:
    """Predict validation, fit on it, and write `validation.csv` and `bundle/`.

    Args:
        run: the run's folder.
        dataset: that it was trained on.
        recipe: that it was trained by.
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
        mean=classifier.normalisation[0],
        std=classifier.normalisation[1],
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
    """Fit the out-of-distribution detector on a random sample of training and validation images.

    Args:
        dataset: that the model was trained on.
        seed: of the samples.
        val: the validation split.
        features: float32 [N, C], pooled, of its images.
    """
    draw = np.random.default_rng(seed).permutation
    train = np.sort(draw(dataset.rows("train"))[:_DETECTOR_IMAGES])
    kept = np.sort(draw(len(val))[:_DETECTOR_IMAGES])
    rows = val.rows[kept]
    patients = np.unique(dataset.index["patient"], return_inverse=True)[1][rows]
    return Detector.fit(dataset.images[train], dataset.images[rows], features[kept], patients)


def _predict(classifier: Classifier, images: Images) -> tuple[_Floats, _Floats, Features]:
    """Give logits and the highest value of each class map, both [N, K], and features [N, C]."""
    found = [
        (logits, maps.clip(min=0).max(axis=(2, 3)), features)
        for logits, maps, features in batches(classifier, images)
    ]
    logits, peaks, features = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return logits.astype(np.float64), peaks.astype(np.float64), features


def _heat_scale(evidence: _Floats, labels: npt.NDArray[np.float32]) -> float:
    """Give the evidence that a heatmap shows as 1, where the probability is 1.

    The 90th percentile, over the images that show a finding, of the evidence for it; then the
    median over findings, so that one that is easy to see does not make all others pale. The
    probability is not part of it: where all probabilities are low, heatmaps are pale.

    Args:
        evidence: [N, K], the highest value of each class map in calibrated log-odds.
        labels: [N, K].
    """
    present = [evidence[labels[:, k] == 1, k] for k in range(evidence.shape[1])]
    hottest = [np.percentile(of, _SCALE_PERCENTILE) for of in present if of.size]
    scale = float(np.median(hottest)) if hottest else 0.0
    return scale if scale > 0 else 1.0


def _trained_on(dataset: Dataset, recipe: Recipe) -> TrainedOn:
    manifest, train = dataset.manifest, dataset.index.iloc[dataset.rows("train")]
    return TrainedOn(
        source=manifest.title,
        release=manifest.release,
        synthetic=manifest.synthetic,
        policies={source.name: source.policies for source in manifest.sources},
        split=manifest.split.name,
        split_sha256=manifest.split.sha256,
        train_images=len(train),
        train_patients=int(train["patient"].nunique()),
        training_list_sha256=list_sha256(train["image"]),
        recipe=recipe.name,
    )
