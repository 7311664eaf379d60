"""What a bundle says of its model, all but the network itself: read without torch.

    bundle/
      weights.safetensors   the tensors, nothing pickled
      gate.safetensors      what its training images look like to it (`detector`)
      bundle.json           the card: how to build, feed, calibrate and trust them

The card is written last and holds the SHA-256 of the others, so a folder whose parts do not belong
together is refused. Bundles made before there was a gate have none, in the folder or the card.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from chestxray.artifacts import read_json, require, sha256
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.errors import BundleError
from chestxray.evaluation.calibration import Calibration
from chestxray.findings import Findings
from chestxray.model.exported import EXPORT
from chestxray.model.out_of_distribution import FILE, Detector, Limits

CARD: Final = "bundle.json"
WEIGHTS: Final = "weights.safetensors"
GATE: Final = FILE
FORMAT: Final = 3
_MADE_BY: Final = "chestxray train"


class TrainedOn(BaseModel):
    """Where the weights come from."""

    model_config = ConfigDict(extra="forbid")

    source: str
    release: str
    synthetic: bool
    split: str
    split_sha256: str
    train_images: int
    train_patients: int
    recipe: str


class GateCard(Limits):
    """What was fitted for the gate, and the hash of its file."""

    sha256: str


class ModelCard(BaseModel):
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

    format: Literal[3] = FORMAT
    package_version: str
    backbone: str
    size: int = Field(ge=16)
    mean: float
    std: float = Field(gt=0)
    pixel_rule: str
    findings: Findings
    calibration: Calibration
    thresholds: dict[str, float | None]
    heat_slopes: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    heat_scale: float = Field(gt=0, allow_inf_nan=False)
    trained_on: TrainedOn
    gate: GateCard | None = None
    weights_sha256: str


@dataclass(frozen=True)
class Facts:
    """The card of a model, and what its gate knows of training images."""

    card: ModelCard
    detector: Detector | None

    @property
    def identity(self) -> str:
        """Short name of exactly these weights: backbone and the start of their SHA-256."""
        return f"{self.card.backbone}-{self.card.weights_sha256[:12]}"


def read(folder: Path) -> Facts:
    """Read a bundle without its network, refusing one whose parts do not match.

    Raises:
        BundleError: no bundle, an unknown format, weights or gate altered or truncated, or a pixel
            rule this version cannot follow.
    """
    card = _read_card(folder)
    checked(folder / WEIGHTS, card.weights_sha256)
    return Facts(card, _load_gate(folder, card))


def checked(path: Path, wanted: str) -> Path:
    """Give the path of a file that is the one its card describes."""
    require(path, _MADE_BY)
    found = sha256(path)
    if found != wanted:
        raise BundleError(
            f"{path} is not the file that {CARD} describes (SHA-256 {found[:12]}…, expected "
            f"{wanted[:12]}…): copy the whole bundle again"
        )
    return path


def _load_gate(folder: Path, card: ModelCard) -> Detector | None:
    if card.gate is None:
        return None
    path = checked(folder / GATE, card.gate.sha256)
    limits = Limits.model_validate(card.gate.model_dump(exclude={"sha256"}))
    try:
        return Detector.load(path, limits)
    except (SafetensorError, KeyError) as error:
        raise BundleError(f"{path} holds no gate ({error}): train again") from error


def _read_card(folder: Path) -> ModelCard:
    path = folder / CARD
    if (folder / EXPORT).exists():
        raise BundleError(
            f"{folder} is an export: give the bundle that it was made of, and this folder as the "
            f"engine (--engine, or engine= in Python)"
        )
    if not path.exists():
        raise BundleError(
            f"{folder} is no bundle, it has no {CARD}: give the `bundle` folder of a finished run"
        )
    try:
        card = ModelCard.model_validate(_current(path, read_json(path, _MADE_BY)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {first['msg']}: train again") from error
    if card.pixel_rule != PIXEL_RULE:
        raise BundleError(
            f"{path} was trained on pixels made by rule {card.pixel_rule!r}, this version makes "
            f"them by {PIXEL_RULE!r}: use chestxray {card.package_version} or train again"
        )
    names = (card.thresholds, card.calibration.calibrators, card.heat_slopes)
    if any(tuple(of) != card.findings for of in names):
        raise BundleError(
            f"{path}: findings, thresholds, calibration and heat_slopes must each name the same "
            f"findings in the same order: train again"
        )
    return card


def _current(path: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Refuse a card of another format."""
    found = card.get("format")
    if found != FORMAT:
        raise BundleError(
            f"{path} has format {found!r}, this version reads format {FORMAT}: use the chestxray "
            f"that made it ({card.get('package_version')}), or train again"
        )
    return card
