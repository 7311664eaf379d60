"""From the best checkpoint to a bundle: calibration, operating points, heatmap scales, detector.

All are fitted on the validation split, which also chose the epoch, except for the template of the
out-of-distribution detector: it is fitted on training images. The test split is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chestxray.artifacts import write_json
from chestxray.dataset.store import Dataset
from chestxray.evaluation import predictions
from chestxray.evaluation.calibration import Calibration, fit_calibration
from chestxray.evaluation.drift import distributions
from chestxray.evaluation.evidence import validation_auroc
from chestxray.evaluation.focal_link import FocalLink
from chestxray.evaluation.metrics import mean_of_defined, value
from chestxray.evaluation.predictions import Predictions
from chestxray.evaluation.prior_shift import prevalences
from chestxray.evaluation.seen_images import Seen, list_sha256
from chestxray.evaluation.source_probe import source_probe
from chestxray.evaluation.thresholds import MAIN, fit_operating_points
from chestxray.findings import Findings
from chestxray.model.bundle import Bundle, save
from chestxray.model.engines import Features, Images
from chestxray.model.ensemble import Network, reduced
from chestxray.model.export import bfloat16_engine
from chestxray.model.heatmaps import HeatScale, MapSummary, fit_heat_scales
from chestxray.model.image_measures import grey_measures
from chestxray.model.model_card import InitialWeights, ModelCard, TrainedOn
from chestxray.model.network import Classifier, to_input
from chestxray.model.out_of_distribution import Detector
from chestxray.model.parity import FEWEST_IMAGES, Parity, measure
from chestxray.model.parity_images import trial_of
from chestxray.model.torch_engine import TorchEngine, batches, device
from chestxray.progress import say
from chestxray.training.data import Part
from chestxray.training.losses import link_of
from chestxray.training.recipe import Recipe

_Floats = npt.NDArray[np.float64]

_BATCH: Final = 32  # images
_COMPARED: Final = (384, 128)  # images of validation and training on which bfloat16 is measured
_DETECTOR_IMAGES: Final = 1024  # of each split at most: more make it slower and no better


@dataclass(frozen=True)
class Validation:
    """What a network says of the validation images, and what was fitted on that.

    Attributes:
        probabilities: float64 [N, K], calibrated.
        features: float32 [N, C], pooled.
        auroc: mean over findings, None where none is present and absent.
        fitted: the values of a model card that follow, by name.
    """

    probabilities: _Floats
    features: Features
    auroc: float | None
    fitted: dict[str, Any]


def finish(
    run: Path,
    dataset: Dataset,
    recipe: Recipe,
    classifier: Classifier,
    origin: Mapping[str, Any],
    seen: Sequence[Seen] = (),
) -> Bundle:
    """Predict validation, fit on it, and write `validation.csv` and `bundle/`.

    Of a dataset of several sources `source_probe.json` is written too, see
    `evaluation.source_probe`.

    Args:
        run: the run's folder.
        dataset: that it was trained on.
        recipe: that it was trained by.
        classifier: with the best weights.
        origin: of its initial weights, see `initial_weights.origin`.
        seen: what it learned from through its initial weights and its teacher.
    """
    val = Part(dataset, "val")
    say("train", f"calibration, thresholds and heatmap scales on {len(val)} validation images")
    classifier = classifier.eval().to(memory_format=torch.channels_last)
    found = fit_on_validation(classifier, val, dataset.findings, recipe_link(recipe))
    names = dataset.index["image"].iloc[val.rows].tolist()
    table = predictions.table(names, found.probabilities, dataset.findings)
    predictions.write(run / "validation.csv", table)
    card = ModelCard(
        package_version="",
        weights_sha256="",
        backbone=classifier.timm_name,
        backbone_options=classifier.options,
        head=recipe.head,
        size=recipe.size,
        mean=classifier.normalisation[0],
        std=classifier.normalisation[1],
        tta=recipe.tta,
        pixel_rule=dataset.manifest.pixel_rule,
        findings=dataset.findings,
        trained_on=_trained_on(dataset, recipe, origin, seen),
        **found.fitted,
    )
    probe_sources(run, val, found.features, recipe.seed)
    say("train", "template of the detector of unlike images")
    detector = fit_detector(dataset, recipe.seed, val, found.features)
    return save(run / "bundle", classifier, card, detector)


def probe_sources(run: Path, val: Part, features: Features, seed: int) -> None:
    """Write whether the source of validation images can be told, where there are several.

    Args:
        run: the run's folder.
        val: the validation split.
        features: float32 [N, C], pooled, of its images.
        seed: of the folds and the resamples.
    """
    patients = val.dataset.index["patient"].iloc[val.rows].to_numpy()
    found = source_probe(features, val.sources, patients, val.labels, val.dataset.findings, seed)
    if found is not None:
        write_json(run / "source_probe.json", found.model_dump(mode="json"))


def predicted(bundle: Bundle, dataset: Dataset, split: str) -> Predictions:
    """Give a model's calibrated probabilities of a split of the dataset it was trained on."""
    part = Part(dataset, split)
    answers = batches(bundle.classifier.to(device()), part.images)
    probabilities = bundle.card.calibration.apply(np.concatenate([answer[0] for answer in answers]))
    names = dataset.index["image"].iloc[part.rows].tolist()
    return predictions.table(names, probabilities, dataset.findings)


def fit_on_validation(
    classifier: Network, val: Part, findings: Findings, link: FocalLink
) -> Validation:
    """Fit calibration, operating points and heatmap scales on the validation split.

    Args:
        classifier: in evaluation mode.
        val: the split, whose dataset has all findings.
        findings: K, in the order of the logits.
        link: of the loss that the logits were trained with.
    """
    images = val.images
    logits, maps, features = _predict(classifier, images)
    labels = labels_of(val, findings)
    patients = np.unique(val.dataset.index["patient"].iloc[val.rows], return_inverse=True)[1]
    calibration = fit_calibration(logits, labels, patients, findings, link)
    probabilities = calibration.apply(logits)
    points = fit_operating_points(probabilities, labels, patients, findings)
    references, scales = fit_heat_scales(maps, probabilities, labels, points.thresholds())
    heat = HeatScale.fitted(references, scales, points.thresholds())
    fitted = {
        "calibration": calibration,
        "thresholds": points.thresholds(),
        "operating_points": {name: points.thresholds(name) for name in points.chosen},
        "operating_point": MAIN,
        "not_assessed": points.not_assessed,
        "prevalences": prevalences(labels, findings),
        "validation_auroc": {
            finding: found
            for finding, y, p in zip(findings, labels.T, probabilities.T, strict=True)
            if (found := validation_auroc(y, p, patients)) is not None
        },
        "probability_distributions": distributions(
            dict(zip(findings, probabilities.T, strict=True)), patients
        ),
        "image_distributions": distributions(grey_measures(images), patients),
        "heat_references": references,
        "heat_scales": scales,
        "bfloat16": _in_bfloat16(classifier, val.dataset, findings, calibration, heat),
    }
    return Validation(probabilities, features, mean_auroc(labels, logits), fitted)


def _in_bfloat16(
    classifier: Network,
    dataset: Dataset,
    findings: Findings,
    calibration: Calibration,
    heat: HeatScale,
) -> Parity | None:
    """Compare the network in bfloat16 with itself, on validation and training images.

    None where it gives no numbers in bfloat16, or where the images are too few to say anything.
    """
    trial = trial_of(dataset, findings, _COMPARED, drawn=False)
    if len(trial.images) < FEWEST_IMAGES:
        return None
    say("train", f"the same network in bfloat16 on {len(trial.images)} images")
    engines = bfloat16_engine(classifier), TorchEngine(classifier)
    found = measure(*engines, trial, calibration, heat, _BATCH)
    figures = (found.probability, found.map, found.heat, found.peak, found.features)
    return found if np.isfinite(np.array(figures, np.float64)).all() else None


def logits_of(classifier: Network, part: Part) -> _Floats:
    """Give the logits of a part's images, reduced to the network's size, float64 [N, K]."""
    found: list[Tensor] = []
    place = next(classifier.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(part), _BATCH):
            images, *_ = part[list(range(start, min(start + _BATCH, len(part))))]
            inputs = reduced(to_input(images.to(place)), classifier.size)
            found.append(classifier(inputs.contiguous(memory_format=torch.channels_last)).cpu())
    return torch.cat(found).double().numpy()


def labels_of(part: Part, findings: Findings) -> npt.NDArray[np.float32]:
    """Give the labels of findings under any of their names, float32 [N, K]."""
    pairs = findings.common(part.dataset.findings)
    return part.labels[:, [theirs for _, theirs in pairs]]


def mean_auroc(labels: npt.NDArray[Any], scores: _Floats) -> float | None:
    """Give the mean AUROC over findings, None where none is both present and absent."""
    mean = mean_of_defined(value("auroc", y, x) for y, x in zip(labels.T, scores.T, strict=True))
    return None if np.isnan(mean) else float(mean)


def recipe_link(recipe: Recipe) -> FocalLink:
    """Give the link from logits to log-odds; a teacher's probabilities are learnt without one."""
    return FocalLink() if recipe.taught else link_of(recipe.loss)


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


def _predict(classifier: Network, images: Images) -> tuple[_Floats, MapSummary, Features]:
    """Give logits [N, K], the summary of the class maps, and features [N, C]."""
    found = [
        (logits, *MapSummary.of(maps), features)
        for logits, maps, features in batches(classifier, images)
    ]
    logits, *summary, features = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return logits.astype(np.float64), MapSummary(*summary), features


def _trained_on(
    dataset: Dataset, recipe: Recipe, origin: Mapping[str, Any], seen: Sequence[Seen]
) -> TrainedOn:
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
        seen=tuple(seen),
    )
