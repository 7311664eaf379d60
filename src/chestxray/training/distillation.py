"""Distillation: a network learns from the probabilities of another one (arXiv 1503.02531).

A teacher's probabilities say of every image how sure each finding is, also where the label is
unknown. They are calibrated, so they are targets as labels are. The teacher, which may be an
ensemble, answers once for the training images as they are, with its own views; augmented images
keep these targets. They are kept with the run, so that a resumed run learns from the same ones.

    teacher.safetensors   float32 [N, K] in the order of the training split, and of whom they are
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chestxray import hub
from chestxray.artifacts import require, written
from chestxray.dataset.store import Dataset
from chestxray.errors import ArtifactError
from chestxray.model import bundle as bundles
from chestxray.model.torch_engine import device
from chestxray.training.data import Part
from chestxray.training.finalize import logits_of
from chestxray.training.leakage import seen_through
from chestxray.training.recipe import Recipe
from chestxray.training.recipe_checks import TARGETS

_TENSOR: Final = "probabilities"
_MADE_BY: Final = "chestxray train"


def keep_targets(dataset: Dataset, recipe: Recipe, run: Path) -> None:
    """Ask the teacher for its probabilities of the training images, unless they are kept already.

    Raises:
        BundleError: the teacher is damaged.
        ArtifactError: the kept ones are of other images.
    """
    if (run / TARGETS).exists():
        targets_of(dataset, run)
        return
    teacher = bundles.load(hub.local(recipe.teacher))
    part, findings = Part(dataset, "train", device()), dataset.findings
    logits = logits_of(teacher.classifier.to(device()), part)
    places = [theirs for _, theirs in findings.common(teacher.card.findings)]
    probabilities = teacher.card.calibration.apply(logits)[:, places].astype(np.float32)
    trained = teacher.card.trained_on
    origin = {
        "model": teacher.identity,
        "source": trained.source,
        "synthetic": trained.synthetic,
        "recipe": trained.recipe,
        "members": [member.identity for member in teacher.card.members],
        "seen": [of.model_dump(mode="json") for of in seen_through("teacher", teacher)],
    }
    facts = {"images": _images_sha256(dataset), "teacher": json.dumps(origin)}
    with written(run / TARGETS) as temporary:
        save_file({_TENSOR: torch.from_numpy(probabilities).contiguous()}, temporary, facts)


def targets_of(dataset: Dataset, run: Path) -> Tensor:
    """Give the teacher's probabilities that a run keeps, float32 [N, K] of the training split.

    Raises:
        ArtifactError: there are none, they are damaged, or of other images or findings.
    """
    tensor, facts = _read(run / TARGETS)
    shape = (len(dataset.rows("train")), len(dataset.findings))
    if facts.get("images") != _images_sha256(dataset) or tuple(tensor.shape) != shape:
        raise ArtifactError(
            f"{run / TARGETS} holds a teacher's probabilities of other images or findings: train "
            f"with another --out"
        )
    return tensor


def origin_of(run: Path) -> dict[str, Any]:
    """Describe the teacher of a run, for its record.

    Returns:
        `model`, its identity; `source` and `synthetic`, what it was trained on; `recipe`;
        `members`, the identities of those of an ensemble; `seen`, see `seen_images.Seen`.
    """
    origin: dict[str, Any] = json.loads(_read(run / TARGETS)[1]["teacher"])
    return origin


def _read(path: Path) -> tuple[Tensor, dict[str, str]]:
    require(path, _MADE_BY)
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(_TENSOR), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} does not hold a teacher's probabilities ({error}): train with another --out"
        ) from error


def _images_sha256(dataset: Dataset) -> str:
    """Give the SHA-256 over findings and names of the training images, in their order."""
    names = [*dataset.findings, *dataset.index["image"].iloc[dataset.rows("train")]]
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
