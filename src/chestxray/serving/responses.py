"""What the service says: a reading and a model card as JSON, described for OpenAPI."""

from __future__ import annotations

import base64
from typing import Final, Literal

import cv2
from pydantic import BaseModel, Field

from chestxray.dataset import pixels
from chestxray.findings import term
from chestxray.model.model_card import TrainedOn
from chestxray.reading.overlay import COLOURS, blend
from chestxray.reading.reader import Reader, Reading
from chestxray.serving.http_errors import NoticeModel, shown
from chestxray.serving.uploads import SQUARE_SIDE, Decoded

RESEARCH: Final = "For research use, not a medical device."
HEAT_SCALE: Final = (
    "Evidence in calibrated log-odds, weighted by the probability and divided by one constant of "
    "the model: 1 is full colour, and the same in every image and for every finding."
)

Heatmaps = Literal["none", "maps", "inline"]


class FindingResult(BaseModel):
    """What is said of one finding in one radiograph."""

    finding: str
    probability: float = Field(ge=0, le=1, description="Calibrated where `calibrated` says so.")
    threshold: float | None = Field(
        description="The probability from which the finding is called; null where validation "
        "allowed none."
    )
    called: bool | None = Field(description="Null without a threshold.")
    calibrated: bool


class ImageResult(BaseModel):
    """The radiograph as it was decoded."""

    kind: Literal["PNG", "JPEG", "DICOM"]
    width: int
    height: int
    placement: tuple[float, float, float, float] = Field(
        description="x, y, w, h of the image in the square that heatmaps cover, as fractions of "
        "its side, from the top left."
    )
    display: str | None = Field(
        default=None,
        description="With `display=true`: the radiograph as a grey PNG of 8 bits in base64, no "
        "side longer than 2048 pixels.",
    )


class HeatmapsResult(BaseModel):
    """Where the evidence lies, over the canonical square image."""

    maps: dict[str, list[list[float]]] = Field(
        description=f"Finding → rows of values of at least 0. {HEAT_SCALE}"
    )
    pictures: dict[str, str] | None = Field(
        default=None,
        description="With `heatmaps=inline`: finding → the heatmap over the radiograph, a PNG of "
        f"{SQUARE_SIDE} × {SQUARE_SIDE} pixels in base64.",
    )


class ReadResult(BaseModel):
    """A reading of one radiograph. Nothing of it, nor of the upload, is kept."""

    model: str = Field(description="Identity of the weights; see `GET /v1/model`.")
    image: ImageResult
    findings: list[FindingResult] = Field(description="All of the model's, in its order.")
    warnings: list[NoticeModel] = Field(description="Why not to trust it, if so.")
    heatmaps: HeatmapsResult | None = None
    notice: str = RESEARCH


class FindingCard(BaseModel):
    """A finding that the model knows."""

    finding: str
    description: str
    threshold: float | None
    calibrated: bool
    uncalibrated: str | None = Field(description="Why it is not calibrated.")


class ModelCard(BaseModel):
    """What reads, and what it learnt from."""

    identity: str
    backbone: str
    input_size: int = Field(description="Side of the square image that the network sees, pixels.")
    engine: str
    package_version: str = Field(description="Of chestxray, which made the model.")
    findings: list[FindingCard]
    trained_on: TrainedOn
    heat_scale: str = HEAT_SCALE
    heat_colours: str = COLOURS
    warnings: list[NoticeModel] = Field(
        description="What every reading by this model suffers from."
    )
    notice: str = RESEARCH


def card(reader: Reader) -> ModelCard:
    """Describe the model."""
    about = reader.bundle.card
    unfitted = about.calibration.unfitted
    return ModelCard(
        identity=reader.bundle.identity,
        backbone=about.backbone,
        input_size=about.size,
        engine=reader.engine.name,
        package_version=about.package_version,
        findings=[
            FindingCard(
                finding=finding,
                description=known.description if (known := term(finding)) else "",
                threshold=about.thresholds[finding],
                calibrated=finding not in unfitted,
                uncalibrated=unfitted.get(finding),
            )
            for finding in reader.findings
        ],
        trained_on=about.trained_on,
        warnings=[*map(shown, reader.warnings)],
    )


def answer(
    reader: Reader, reading: Reading, kind: str, decoded: Decoded, heatmaps: Heatmaps
) -> ReadResult:
    """Put a reading into words for programs."""
    about = reader.bundle.card
    return ReadResult(
        model=reading.model,
        image=ImageResult.model_validate(
            {
                "kind": kind,
                "width": decoded.width,
                "height": decoded.height,
                "placement": pixels.placement(decoded.width, decoded.height),
                "display": png_text(decoded.display),
            }
        ),
        findings=[
            FindingResult(
                finding=finding,
                probability=probability,
                threshold=about.thresholds[finding],
                called=reading.calls[finding],
                calibrated=finding not in about.calibration.unfitted,
            )
            for finding, probability in reading.probabilities.items()
        ],
        warnings=[*map(shown, reading.warnings)],
        heatmaps=None if heatmaps == "none" else _heatmaps(reading, decoded, heatmaps == "inline"),
    )


def _heatmaps(reading: Reading, decoded: Decoded, pictures: bool) -> HeatmapsResult:
    drawn = None
    if pictures:
        drawn = {
            finding: base64.b64encode(_png(blend(decoded.square, heat))).decode()
            for finding, heat in reading.heatmaps.items()
        }
    maps = {finding: heat.round(6).tolist() for finding, heat in reading.heatmaps.items()}
    return HeatmapsResult(maps=maps, pictures=drawn)


def _png(picture: cv2.typing.MatLike) -> bytes:
    _, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return bytes(png)


def png_text(data: bytes) -> str | None:
    """Give a PNG in base64, None where there is none."""
    return base64.b64encode(data).decode() or None
