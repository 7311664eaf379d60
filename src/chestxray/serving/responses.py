"""Response bodies of the HTTP API, described for OpenAPI: readings and the model card."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict
from typing import Final, Literal

import cv2
import numpy as np
from pydantic import BaseModel, Field

from chestxray.dataset import pixels
from chestxray.findings import label, term
from chestxray.model.heatmaps import TYPICAL_PEAK
from chestxray.model.model_card import ModelCard, TrainedOn
from chestxray.reading.evidence import no_place
from chestxray.reading.overlay import COLOURS, blend
from chestxray.reading.reader import Reader, Reading
from chestxray.serving.http_errors import NoticeModel
from chestxray.serving.upload_decoding import SQUARE_SIDE, Decoded

RESEARCH_NOTICE: Final = "For research use, not a medical device."
_HEAT_SCALE: Final = (
    "One scale per finding, the same in every radiograph: 0 is what a radiograph without the "
    f"finding has, a typical true call peaks at {TYPICAL_PEAK}. Below the threshold heat fades "
    "with the probability."
)

Heatmaps = Literal["none", "json", "png", "npz"]


class FindingResult(BaseModel):
    """One finding in one radiograph."""

    finding: str = Field(description="The finding's name, as in the model card.")
    label: str = Field(description="The name for people.")
    probability: float = Field(ge=0, le=1, description="Calibrated where `calibrated` is true.")
    threshold: float | None = Field(
        description="The probability from which the finding is called; null where it is not "
        "assessed."
    )
    called: bool | None = Field(description="Null where the finding is not assessed.")
    not_assessed: str | None = Field(
        description="Why the finding is not assessed, such as validation data without evidence "
        "for it. Such a finding is never called."
    )
    calibrated: bool
    not_localised: str | None = Field(
        description="Why the heatmap points to no place in the radiograph; null where it does."
    )


class SpacingResult(BaseModel):
    """The physical distance between the pixels of the radiograph (DICOM PS3.3, 10.7.1.3)."""

    row: float = Field(description="mm from one row to the next.")
    column: float = Field(description="mm from one column to the next.")
    plane: Literal["patient", "detector", "unknown"] = Field(
        description="patient: calibrated; detector: at the receptor, where a shadow is larger than "
        "what casts it; unknown: the file does not say which."
    )


class ImageResult(BaseModel):
    """The decoded radiograph."""

    kind: Literal["PNG", "JPEG", "DICOM"]
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    spacing: SpacingResult | None = Field(
        default=None, description="Null where the file does not give it, such as PNG and JPEG."
    )
    placement: tuple[float, float, float, float] = Field(
        description="x, y, width, height of the radiograph in the square that heatmaps cover, as "
        "fractions of its side, from the top left."
    )
    display: str | None = Field(
        default=None,
        description="With `display=true`: the radiograph as a grey PNG of 8 bits in base64, no "
        "side longer than 2048 pixels.",
    )


class GridResult(BaseModel):
    """Where the cells of heatmaps lie in the radiograph, in pixels of the file.

    The cell of row r and column c covers x from `left + c * cell_width`, y from
    `top + r * cell_height`; 0, 0 is the top left corner of the radiograph. Heatmaps cover a square,
    so cells at two of its sides may lie outside.
    """

    rows: int
    columns: int
    left: float
    top: float
    cell_width: float
    cell_height: float


class HeatmapsResult(BaseModel):
    """The evidence for each finding, over the square around the radiograph."""

    grid: GridResult
    maps: dict[str, list[list[float]]] | None = Field(
        default=None,
        description="With `heatmaps=json`: finding → rows of values of at least 0. " + _HEAT_SCALE,
    )
    pictures: dict[str, str] | None = Field(
        default=None,
        description="With `heatmaps=png`: finding → the heatmap over the radiograph, a PNG of "
        f"{SQUARE_SIDE} × {SQUARE_SIDE} pixels in base64.",
    )
    npz: str | None = Field(
        default=None,
        description="With `heatmaps=npz`: a file for `numpy.load` in base64, with `findings`, "
        "`heatmaps` (float32, finding × row × column), `origin` (left and top of the grid) and "
        "`cell` (width and height), in pixels of the file.",
    )


class ReadResult(BaseModel):
    """A reading of one radiograph. The service keeps neither it nor the upload."""

    model: str = Field(description="Identity of the weights; see `GET /v1/model`.")
    image: ImageResult
    findings: list[FindingResult] = Field(
        description="The findings asked for, all by default, in the model's order."
    )
    refused: bool = Field(
        default=False,
        description="Whether the gate refuses this radiograph, and it was read only because of "
        "`force=true`. Do not rely on such a reading; `warnings` has the reasons, with `refuses`.",
    )
    warnings: list[NoticeModel] = Field(description="Reasons not to trust the reading.")
    heatmaps: HeatmapsResult | None = None
    notice: str = RESEARCH_NOTICE


class FindingCard(BaseModel):
    """A finding of the model."""

    finding: str
    label: str = Field(description="The name for people.")
    description: str = Field(description="Empty where the vocabulary has none.")
    threshold: float | None
    not_assessed: str | None = Field(description="Why it is not assessed.")
    calibrated: bool
    uncalibrated: str | None = Field(description="Why it is not calibrated.")
    calibrated_on: str | None = Field(
        description="The data set whose labels the probabilities fit: that of training, or that of "
        "the site for which the bundle was calibrated again. Null where it is not calibrated."
    )


class ModelCardResult(BaseModel):
    """The model: its findings, its training data and its engine."""

    identity: str
    origin: str | None = Field(
        description="hub:OWNER/NAME@COMMIT of a model of the hub; null for any other."
    )
    backbone: str
    members: list[str] = Field(
        description="Identities of the models that this one was made of; empty for a single one."
    )
    passes: int = Field(description="Passes through a network that each image takes.")
    input_size: int = Field(description="Side of the square input image, pixels.")
    engine: str
    package_version: str = Field(description="Of the chestxray that trained the model.")
    operating_point: str = Field(description="The rule that chose the thresholds.")
    findings: list[FindingCard]
    trained_on: TrainedOn
    heat_scale: str = _HEAT_SCALE
    heat_colours: str = COLOURS
    warnings: list[NoticeModel] = Field(description="Warnings that apply to every reading.")
    notice: str = RESEARCH_NOTICE


def model_card_result(reader: Reader) -> ModelCardResult:
    """Describe the model of a reader."""
    card = reader.bundle.card
    return ModelCardResult(
        identity=reader.bundle.identity,
        origin=reader.bundle.origin,
        backbone=card.backbone,
        members=[member.identity for member in card.members],
        passes=card.passes,
        input_size=card.size,
        engine=reader.engine.name,
        package_version=card.package_version,
        operating_point=card.operating_point,
        findings=[_finding_card(reader, finding) for finding in reader.findings],
        trained_on=card.trained_on,
        warnings=[NoticeModel.of(warning) for warning in reader.warnings],
    )


def read_result(
    reader: Reader, reading: Reading, kind: str, decoded: Decoded, heatmaps: Heatmaps
) -> ReadResult:
    """Turn a reading into its response.

    Args:
        reader: made the reading.
        reading: of the radiograph.
        kind: the file's format.
        decoded: the radiograph.
        heatmaps: which are included.
    """
    return ReadResult(
        model=reading.model,
        image=ImageResult.model_validate(
            {
                "kind": kind,
                "width": decoded.width,
                "height": decoded.height,
                "spacing": None if decoded.spacing is None else asdict(decoded.spacing),
                "placement": pixels.placement(decoded.width, decoded.height),
                "display": base64_text(decoded.display),
            }
        ),
        findings=[_finding_result(reader, reading, finding) for finding in reading.probabilities],
        refused=reading.forced,
        warnings=[NoticeModel.of(warning) for warning in reading.warnings],
        heatmaps=heatmaps_result(reading, decoded, heatmaps),
    )


def base64_text(data: bytes) -> str | None:
    """Give bytes in base64, None where there are none."""
    return base64.b64encode(data).decode() or None


def _finding_card(reader: Reader, finding: str) -> FindingCard:
    card = reader.bundle.card
    known = term(finding)
    return FindingCard(
        finding=finding,
        label=label(finding),
        description=known.description if known else "",
        threshold=card.thresholds[finding],
        not_assessed=card.unavailable.get(finding),
        calibrated=finding not in card.calibration.uncalibrated,
        uncalibrated=card.calibration.uncalibrated.get(finding),
        calibrated_on=_calibrated_on(card, finding),
    )


def _calibrated_on(card: ModelCard, finding: str) -> str | None:
    if finding in card.calibration.uncalibrated:
        return None
    latest, site = card.calibration, card.recalibrated_on
    while latest.then is not None:
        latest = latest.then
    own = card.trained_on if card.fitted_on is None else card.fitted_on
    return own.source if site is None or finding in latest.unfitted else site.source


def _finding_result(reader: Reader, reading: Reading, finding: str) -> FindingResult:
    card = reader.bundle.card
    return FindingResult(
        finding=finding,
        label=label(finding),
        probability=reading.probabilities[finding],
        threshold=card.thresholds[finding],
        called=reading.calls[finding],
        not_assessed=card.unavailable.get(finding),
        calibrated=finding not in card.calibration.uncalibrated,
        not_localised=no_place(reading.heatmaps[finding]),
    )


def heatmaps_result(reading: Reading, decoded: Decoded, form: Heatmaps) -> HeatmapsResult | None:
    """Give the heatmaps of a reading in the form that is asked for; None where none are."""
    if form == "none":
        return None
    result = HeatmapsResult(grid=_grid(reading, decoded))
    maps = reading.heatmaps
    if form == "json":
        result.maps = {finding: heat.round(6).tolist() for finding, heat in maps.items()}
    elif form == "png":
        if decoded.square is None:  # a mistake of ours: it is decoded where pictures are wanted
            raise RuntimeError("the square for the heatmaps was not decoded")
        drawn = {finding: _png(blend(decoded.square, heat)) for finding, heat in maps.items()}
        result.pictures = {
            finding: base64.b64encode(png).decode() for finding, png in drawn.items()
        }
    else:
        result.npz = base64.b64encode(_npz(reading, result.grid)).decode()
    return result


def _grid(reading: Reading, decoded: Decoded) -> GridResult:
    rows, columns = next(iter(reading.heatmaps.values())).shape
    left, top, wide, high = pixels.placement(decoded.width, decoded.height)
    width, height = decoded.stored
    return GridResult(
        rows=rows,
        columns=columns,
        left=0.0 - left / wide * width,
        top=0.0 - top / high * height,
        cell_width=width / wide / columns,
        cell_height=height / high / rows,
    )


def _npz(reading: Reading, grid: GridResult) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file,
        findings=np.array(list(reading.heatmaps)),
        heatmaps=np.stack(list(reading.heatmaps.values())).astype(np.float32),
        origin=np.array([grid.left, grid.top]),
        cell=np.array([grid.cell_width, grid.cell_height]),
    )
    return file.getvalue()


def _png(picture: cv2.typing.MatLike) -> bytes:
    _, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return bytes(png)
