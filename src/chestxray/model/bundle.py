"""A bundle: a trained classifier and all that is needed to use it, in a folder of three files.

    bundle/
      weights.safetensors   the tensors, nothing pickled
      gate.safetensors      what its training images look like to it (`familiarity`)
      bundle.json           the card: how to build, feed, calibrate and trust them

The card is written last and holds the SHA-256 of the others, so a folder whose parts do not belong
together is refused. Bundles made before there was a gate have none, in the folder or the card.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from chestxray import __version__
from chestxray.artifacts import read_json, require, sha256, write_json, written
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.errors import BundleError, RecipeError
from chestxray.evaluation.calibration import Calibration
from chestxray.findings import FINDINGS
from chestxray.model import format1
from chestxray.model.familiarity import FILE as GATE
from chestxray.model.familiarity import Familiarity, Limits
from chestxray.model.network import Classifier, check_finite

CARD: Final = "bundle.json"
WEIGHTS: Final = "weights.safetensors"
FORMAT: Final = 2
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


class GateCard(Limits):
    """What was fitted for the gate, and the hash of its file."""

    sha256: str


class Card(BaseModel):
    """What `bundle.json` says.

    Attributes:
        backbone: timm's name.
        size: side of the canonical image, pixels.
        pixel_rule: the rule of `dataset.pixels` by which files became canonical images.
        findings: in the order of the logits.
        calibration: from logits to probabilities, chosen and fitted on validation.
        thresholds: probability from which a finding is called, None where none could be fitted.
        heat_slopes: calibrated log-odds that one unit of each class map stands for.
        heat_scale: calibrated log-odds × probability that stand for 1 on a heatmap.
        gate: limits to how unlike its training images a film may be, None where none were fitted.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[2] = FORMAT
    package_version: str
    backbone: str
    size: int = Field(ge=16)
    mean: float
    std: float = Field(gt=0)
    pixel_rule: str
    findings: list[str] = Field(min_length=1)
    calibration: Calibration
    thresholds: dict[str, float | None]
    heat_slopes: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    heat_scale: float = Field(gt=0, allow_inf_nan=False)
    trained_on: TrainedOn
    gate: GateCard | None = None
    weights_sha256: str


@dataclass(frozen=True)
class Bundle:
    """A classifier in evaluation mode, its card, and what its gate knows of training images."""

    classifier: Classifier
    card: Card
    familiarity: Familiarity | None = None

    @property
    def identity(self) -> str:
        """Short name of exactly these weights: backbone and the start of their SHA-256."""
        return f"{self.card.backbone}-{self.card.weights_sha256[:12]}"


def save(
    folder: Path, classifier: Classifier, card: Card, familiarity: Familiarity | None = None
) -> Bundle:
    """Write a bundle; the card's hashes, version and gate are filled in here.

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
        update={
            "weights_sha256": sha256(folder / WEIGHTS),
            "package_version": __version__,
            "gate": _save_gate(folder, familiarity),
        }
    )
    write_json(folder / CARD, card.model_dump(mode="json"))
    return Bundle(classifier.eval(), card, familiarity)


def load(folder: Path) -> Bundle:
    """Read a bundle, refusing one whose parts do not match.

    Raises:
        BundleError: no bundle, an unknown format, weights or gate altered or truncated, tensors
            that are missing, extra, misshapen or not finite, or a pixel rule this version cannot
            follow.
    """
    card = _read_card(folder)
    path = _checked(folder / WEIGHTS, card.weights_sha256)
    classifier = _build(folder, card)
    try:
        classifier.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(f"{path} does not fit {card.backbone}: {error}") from error
    check_finite(classifier)
    _check_normalisation(folder, card, classifier)
    familiarity = _load_gate(folder, card)
    return Bundle(classifier.eval().to(memory_format=torch.channels_last), card, familiarity)


def _checked(path: Path, wanted: str) -> Path:
    """Give the path of a file that is the one its card describes."""
    require(path, _MADE_BY)
    found = sha256(path)
    if found != wanted:
        raise BundleError(
            f"{path} is not the file that {CARD} describes (SHA-256 {found[:12]}…, expected "
            f"{wanted[:12]}…): copy the whole bundle again"
        )
    return path


def _save_gate(folder: Path, familiarity: Familiarity | None) -> GateCard | None:
    if familiarity is None:
        (folder / GATE).unlink(missing_ok=True)
        return None
    familiarity.save(folder / GATE)
    return GateCard(**familiarity.limits.model_dump(), sha256=sha256(folder / GATE))


def _load_gate(folder: Path, card: Card) -> Familiarity | None:
    if card.gate is None:
        return None
    path = _checked(folder / GATE, card.gate.sha256)
    limits = Limits.model_validate(card.gate.model_dump(exclude={"sha256"}))
    try:
        return Familiarity.load(path, limits)
    except (SafetensorError, KeyError) as error:
        raise BundleError(f"{path} holds no gate ({error}): train again") from error


def _read_card(folder: Path) -> Card:
    path = folder / CARD
    if not path.exists():
        raise BundleError(
            f"{folder} is no bundle, it has no {CARD}: give the `bundle` folder of a finished run"
        )
    try:
        card = Card.model_validate(_current(path, read_json(path, _MADE_BY)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']}: train again") from error
    if card.pixel_rule != PIXEL_RULE:
        raise BundleError(
            f"{path} was trained on pixels made by rule {card.pixel_rule!r}, this version makes "
            f"them by {PIXEL_RULE!r}: use chestxray {card.package_version} or train again"
        )
    names = (card.findings, card.thresholds, card.calibration.calibrators, card.heat_slopes)
    if any(tuple(of) != FINDINGS for of in names):
        raise BundleError(
            f"{path}: findings, thresholds, calibration and heat_slopes must each name the 14 "
            f"findings in the order of {FINDINGS[0]} to {FINDINGS[-1]}: train again"
        )
    return card


def _current(path: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Bring a card as read to today's format."""
    found = card.get("format")
    if found == format1.FORMAT:
        return format1.upgraded(card) | {"format": FORMAT}
    if found != FORMAT:
        raise BundleError(
            f"{path} has format {found!r}, this version reads {format1.FORMAT} and {FORMAT}: use "
            f"the chestxray that made it ({card.get('package_version')}) or a newer one"
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
