"""From the best checkpoint to a bundle: calibration, operating points, heatmap scales, detector.

All are fitted on the validation split, which also chose the epoch, except for the template of the
out-of-distribution detector: it is fitted on training images. The test split is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from chestxray.dataset.store import Dataset
from chestxray.evaluation import predictions
from chestxray.evaluation.calibration import fit_calibration
from chestxray.evaluation.prior_shift import prevalences
from chestxray.evaluation.thresholds import MAIN, fit_operating_points
from chestxray.model.bundle import Bundle, save
from chestxray.model.engines import Features, Images
from chestxray.model.heatmaps import MapSummary, fit_heat_scales
from chestxray.model.model_card import InitialWeights, ModelCard, TrainedOn, list_sha256
from chestxray.model.network import Classifier
from chestxray.model.out_of_distribution import Detector
from chestxray.model.torch_engine import batches
from chestxray.training.data import Part
from chestxray.training.losses import link_of
from chestxray.training.recipe import Recipe

_Floats = npt.NDArray[np.float64]

_DETECTOR_IMAGES = 1024  # of each split at most: more make it slower and no better


def finish(
    run: Path,
    dataset: Dataset,
    recipe: Recipe,
    classifier: Classifier,
    origin: Mapping[str, Any],
) -> Bundle:
    """Predict validation, fit on it, and write `validation.csv` and `bundle/`.

    Args:
        run: the run's folder.
        dataset: that it was trained on.
        recipe: that it was trained by.
        classifier: with the best weights.
        origin: of its initial weights, see `initial_weights.origin`.
    """
    val = Part(dataset, "val")
    classifier = classifier.eval().to(memory_format=torch.channels_last)
    logits, maps, features = _predict(classifier, val.images)
    about = dataset.index.iloc[val.rows]
    patients = np.unique(about["patient"], return_inverse=True)[1]
    findings = dataset.findings
    link = link_of(recipe.loss)
    calibration = fit_calibration(logits, val.labels, patients, findings, link)
    probabilities = calibration.apply(logits)
    points = fit_operating_points(probabilities, val.labels, patients, findings)
    thresholds = points.thresholds()
    references, scales = fit_heat_scales(maps, probabilities, val.labels, thresholds)
    table = predictions.table(about["image"].tolist(), probabilities, findings)
    predictions.write(run / "validation.csv", table)
    card = ModelCard(
        package_version="",
        weights_sha256="",
        backbone=recipe.backbone,
        head=recipe.head,
        size=recipe.size,
        mean=classifier.normalisation[0],
        std=classifier.normalisation[1],
        tta=recipe.tta,
        pixel_rule=dataset.manifest.pixel_rule,
        findings=findings,
        calibration=calibration,
        thresholds=thresholds,
        operating_points={name: points.thresholds(name) for name in points.chosen},
        operating_point=MAIN,
        not_assessed=points.not_assessed,
        prevalences=prevalences(val.labels, findings),
        heat_references=references,
        heat_scales=scales,
        trained_on=_trained_on(dataset, recipe, origin),
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


def _predict(classifier: Classifier, images: Images) -> tuple[_Floats, MapSummary, Features]:
    """Give logits [N, K], the summary of the class maps, and features [N, C]."""
    found = [
        (logits, *MapSummary.of(maps), features)
        for logits, maps, features in batches(classifier, images)
    ]
    logits, *summary, features = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return logits.astype(np.float64), MapSummary(*summary), features


def _trained_on(dataset: Dataset, recipe: Recipe, origin: Mapping[str, Any]) -> TrainedOn:
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
        initial_weights=InitialWeights.model_validate(origin),
    )
