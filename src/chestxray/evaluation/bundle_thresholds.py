"""What an evaluation elsewhere needs of a bundle: its thresholds and the prevalence behind them.

It reads `bundle.json` alone: no weights, no torch. `model.model_card` describes the whole file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chestxray import hub
from chestxray.artifacts import read_json
from chestxray.errors import PredictionsError
from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.predictions import Predictions, file_of
from chestxray.evaluation.result_details import ValidationAuroc
from chestxray.evaluation.seen_images import Seen, all_seen, all_tuned_on
from chestxray.evaluation.thresholds import Chosen, OperatingPoints, targets
from chestxray.findings import Findings

CARD: Final = "bundle.json"

Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A probability from which a finding is called."""
Prevalence = Annotated[float, Field(gt=0, lt=1)]
"""A share of positives: neither none nor all."""

_CHOICE: Final = {"thresholds", "operating_point"}  # of the reader, not of the model
_UNKNOWN: Final = "the bundle does not have this finding"
_NO_THRESHOLD: Final = "the bundle has no threshold for this finding"


def model_identity(card: Mapping[str, Any]) -> str:
    """Give the short name of exactly one model: backbone and the start of a SHA-256.

    The hash is of all that decides a reading: the hash of the weights, calibration, operating
    points, scales. Which operating point is used does not change it.

    Args:
        card: the content of `bundle.json`.
    """
    fixed = {name: value for name, value in card.items() if name not in _CHOICE}
    text = json.dumps(fixed, sort_keys=True, separators=(",", ":"))
    return f"{card['backbone']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class _Origin(BaseModel):
    """What of the origin of some weights tells which images they have seen."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    policies: dict[str, Any]
    synthetic: bool
    training_list_sha256: str | None
    seen: tuple[Seen, ...] = ()


class _ImportedFrom(BaseModel):
    """What an imported bundle says of its file, as far as it is used here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: str


class _Fit(BaseModel):
    """What of the images that a bundle was fitted on tells which these are."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    source: str
    seen: tuple[Seen, ...] = ()


class _Member(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    trained_on: _Origin


class BundleThresholds(BaseModel):
    """The thresholds of a bundle, chosen on other images than those that are evaluated.

    Attributes:
        model: identity of the model, as the column `model` of its predictions has it.
        findings: of the bundle.
        operating_points: name → finding → threshold, None without one.
        operating_point: the bundle's default.
        not_assessed: finding → why it is never called.
        prevalences: finding → share of positives in the validation images that the bundle was
            calibrated on.
        trained_on: origin of the weights.
        members: of an ensemble, whose own origins count instead.
        fitted_on, recalibrated_on: images that it was fitted or calibrated on after its training.
        validation_auroc: finding → how well the model ranks it on these; empty in bundles of
            earlier versions.
        calibration: from logits to probabilities.
        origin: of an imported model.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal[4]
    model: str
    findings: Findings
    operating_points: dict[str, dict[str, Threshold | None]]
    operating_point: str
    not_assessed: dict[str, str]
    prevalences: dict[str, Prevalence]
    trained_on: _Origin
    members: tuple[_Member, ...] = ()
    fitted_on: _Fit | None = None
    recalibrated_on: _Fit | None = None
    validation_auroc: dict[str, ValidationAuroc] = {}
    calibration: Calibration
    origin: _ImportedFrom | None = None

    @property
    def uncalibrated_import(self) -> str | None:
        """The format that the model was imported from, while no finding of it is calibrated."""
        if self.origin is None or len(self.calibration.uncalibrated) < len(self.findings):
            return None
        return self.origin.format

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read the thresholds of a bundle, in a folder or on the hub (`hub:OWNER/NAME`).

        Raises:
            BundleError: as `hub.local` says.
            PredictionsError: not a bundle, or of another format.
            ArtifactError: the folder has no card.
        """
        path = hub.local(folder) / CARD
        card = read_json(path, "chestxray train")
        try:
            return cls.model_validate(card | {"model": model_identity(card)})
        except (ValidationError, KeyError) as error:
            raise PredictionsError(
                f"{path} is not the card of a bundle that this version reads: give the `bundle` "
                f"folder of a finished run, or train again"
            ) from error

    @property
    def seen(self) -> tuple[Seen, ...]:
        """All lists of images that the model learned from, was chosen by or calibrated on."""
        origins = [member.trained_on for member in self.members] or [self.trained_on]
        fits = (self.fitted_on, self.recalibrated_on)
        return (*all_seen(origins), *all_tuned_on(origins, fits))

    def points(self, findings: Sequence[str]) -> OperatingPoints:
        """Give the operating points for findings under any of their names, the default first."""
        names = {finding: self._named(finding) for finding in findings}
        reasons = {
            finding: _UNKNOWN if name is None else self.not_assessed.get(name, "")
            for finding, name in names.items()
        }
        order = (self.operating_point, *self.operating_points)
        wanted = targets()
        chosen = {}
        for point in dict.fromkeys(order):
            at = self.operating_points[point]
            chosen[point] = {
                finding: Chosen(
                    wanted.get(point),
                    threshold := at.get(name or ""),
                    "" if threshold is not None else reasons[finding] or _NO_THRESHOLD,
                )
                for finding, name in names.items()
            }
        return OperatingPoints(chosen, {f: why for f, why in reasons.items() if why}, {})

    def fitted_prevalences(self, findings: Sequence[str]) -> dict[str, float]:
        """Give the prevalences behind the calibration, for findings under any of their names."""
        names = {finding: self._named(finding) for finding in findings}
        return {
            finding: self.prevalences[name]
            for finding, name in names.items()
            if name in self.prevalences
        }

    def validated(self, finding: str) -> ValidationAuroc | None:
        """Give how well the model ranked a finding, under any of its names, on validation."""
        return self.validation_auroc.get(self._named(finding) or "")

    def check_made(self, models: Sequence[str]) -> None:
        """Refuse predictions that name another model.

        Raises:
            PredictionsError: they do.
        """
        others = [model for model in models if model != self.model]
        if others:
            raise PredictionsError(
                f"the predictions were made by {', '.join(others)}, the bundle is {self.model}: "
                f"give the bundle that made them, or predict again with this one"
            )

    def _named(self, finding: str) -> str | None:
        """Give the bundle's own name of a finding; None where it does not have it."""
        place = self.findings.place(finding)
        return None if place is None else self.findings[place]


def seen_beside(predictions: Predictions | Path | str, models: Sequence[str]) -> tuple[Seen, ...]:
    """Give what the model of some predictions has seen, by the bundle in their run folder.

    Args:
        predictions: a table, its file, or a run folder with one.
        models: identities of the models that made it, as it names them.

    Returns:
        Empty where there is no such bundle, or another one.
    """
    if isinstance(predictions, Predictions):
        return ()
    folder = file_of(Path(predictions)).parent / "bundle"
    if not models or not (folder / CARD).exists():
        return ()
    try:
        beside = BundleThresholds.read(folder)
    except PredictionsError:  # of another version: what it has seen cannot be told
        return ()
    return beside.seen if tuple(models) == (beside.model,) else ()
