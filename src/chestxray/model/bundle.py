"""A bundle: a trained classifier and all that is needed to use it, in a folder of two files.

    bundle/
      weights.safetensors   the tensors, nothing pickled
      bundle.json           the card: how to build, feed, calibrate and trust them

The card is written last and holds the SHA-256 of the weights, so a folder whose halves do not
belong together is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from chestxray import __version__
from chestxray.artifacts import read_json, require, sha256, write_json, written
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.errors import BundleError, RecipeError
from chestxray.evaluation.calibration import Platt
from chestxray.findings import FINDINGS
from chestxray.model.network import Classifier, check_finite

CARD: Final = "bundle.json"
WEIGHTS: Final = "weights.safetensors"
_MADE_BY: Final = "chestxray train"


class TrainedOn(BaseModel):
    """Where the weights come from."""

    model_config = ConfigDict(extra="forbid")

    source: str
    generation: str
    split: str
    split_sha256: str
    train_images: int
    train_patients: int
    recipe: str


class Card(BaseModel):
    """What `bundle.json` says.

    Attributes:
        backbone: timm's name.
        size: side of the canonical image, pixels.
        pixel_rule: the rule of `dataset.pixels` by which files became canonical images.
        findings: in the order of the logits.
        calibration: from logits to probabilities, fitted on validation.
        thresholds: probability from which a finding is called, None where none could be fitted.
        heat_scale: calibrated log-odds × probability that stand for 1 on a heatmap.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    package_version: str
    backbone: str
    size: int = Field(ge=16)
    mean: float
    std: float = Field(gt=0)
    pixel_rule: str
    findings: list[str] = Field(min_length=1)
    calibration: Platt
    thresholds: dict[str, float | None]
    heat_scale: float = Field(gt=0, allow_inf_nan=False)
    trained_on: TrainedOn
    weights_sha256: str


@dataclass(frozen=True)
class Bundle:
    """A classifier in evaluation mode and its card."""

    classifier: Classifier
    card: Card

    @property
    def identity(self) -> str:
        """Short name of exactly these weights: backbone and the start of their SHA-256."""
        return f"{self.card.backbone}-{self.card.weights_sha256[:12]}"


def save(folder: Path, classifier: Classifier, card: Card) -> Bundle:
    """Write a bundle; the card's hash and version are filled in here.

    Raises:
        BundleError: a weight is NaN or infinite.
    """
    check_finite(classifier)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()
    }
    with written(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    card = card.model_copy(
        update={"weights_sha256": sha256(folder / WEIGHTS), "package_version": __version__}
    )
    write_json(folder / CARD, card.model_dump(mode="json"))
    return Bundle(classifier.eval(), card)


def load(folder: Path) -> Bundle:
    """Read a bundle, refusing one whose parts do not match.

    Raises:
        BundleError: no bundle, another format, weights altered or truncated, tensors that are
            missing, extra, misshapen or not finite, or a pixel rule this version cannot follow.
    """
    card = _read_card(folder)
    path = folder / WEIGHTS
    require(path, _MADE_BY)
    found = sha256(path)
    if found != card.weights_sha256:
        raise BundleError(
            f"{path} is not the file that {CARD} describes (SHA-256 {found[:12]}…, expected "
            f"{card.weights_sha256[:12]}…): copy the whole bundle again"
        )
    classifier = _build(folder, card)
    try:
        classifier.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(f"{path} does not fit {card.backbone}: {error}") from error
    check_finite(classifier)
    _check_normalisation(folder, card, classifier)
    return Bundle(classifier.eval().to(memory_format=torch.channels_last), card)


def _read_card(folder: Path) -> Card:
    path = folder / CARD
    if not path.exists():
        raise BundleError(
            f"{folder} is no bundle, it has no {CARD}: give the `bundle` folder of a finished run"
        )
    try:
        card = Card.model_validate(read_json(path, _MADE_BY))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']}: train again") from error
    if card.pixel_rule != PIXEL_RULE:
        raise BundleError(
            f"{path} was trained on pixels made by rule {card.pixel_rule!r}, this version makes "
            f"them by {PIXEL_RULE!r}: use chestxray {card.package_version} or train again"
        )
    names = (card.findings, list(card.thresholds), list(card.calibration.slope))
    if any(tuple(of) != FINDINGS for of in names):
        raise BundleError(
            f"{path}: findings, thresholds and calibration must each name the 14 findings in the "
            f"order of {FINDINGS[0]} to {FINDINGS[-1]}: train again"
        )
    return card


def _build(folder: Path, card: Card) -> Classifier:
    try:
        return Classifier(card.backbone, card.findings, card.size)
    except RecipeError as error:
        raise BundleError(f"{folder / CARD}: {error}") from error


def _check_normalisation(folder: Path, card: Card, classifier: Classifier) -> None:
    inside = (classifier.mean.item(), classifier.std.item())
    if max(abs(inside[0] - card.mean), abs(inside[1] - card.std)) > 1e-6:
        raise BundleError(
            f"{folder}: the weights normalise by {inside}, the card says {(card.mean, card.std)}: "
            f"copy the whole bundle again"
        )
