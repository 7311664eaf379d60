"""The typed results of an external validation, as they stand in `validation.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, ValidationError

from chestxray.artifacts import read_json, write_json
from chestxray.errors import ArtifactError
from chestxray.evaluation.bootstrap import Interval
from chestxray.evaluation.result_details import (
    FindingReliability,
    LeftOut,
    MeanInterval,
    Model,
    ResampleSettings,
    ValidationAuroc,
)
from chestxray.version import __version__

FILE: Final = "validation.json"

Status = Literal[
    "no objection", "restricted", "recalibrate", "do not use", "not independent", "too few",
    "not assessed",
]  # fmt: skip
Relation = Literal["independent", "held out", "listed", "unknown"]

FEWEST: Final = 10
"""Patients with a finding, and without it, below which nothing is said of it."""
SLOPES: Final = (0.8, 1.25)
INTERCEPT: Final = 0.2  # log-odds
GAP: Final = 0.05  # of AUROC
MISSED: Final = 0.1  # share of positives
ALPHA: Final = 0.05

UNCALIBRATED: Final = "the model's probabilities of it are not calibrated"
"""Begins the reason of a finding whose slope and intercept say nothing of the model."""

RULES: Final[dict[Status, str]] = {
    "not assessed": "the bundle's own validation has no evidence that it ranks the finding, so it "
    "never calls it",
    "too few": f"fewer than {FEWEST} patients with the finding, or fewer than {FEWEST} without it, "
    "have a known label",
    "do not use": "the 95 % interval of AUROC is not above 0.5, or that of its difference from "
    "the bundle's own validation lies below 0, or that of sensitivity + specificity - 1 at its "
    "threshold is not above 0",
    "recalibrate": "the finding is ranked as in validation, but the bundle does not calibrate it, "
    "or the calibration slope lies outside "
    f"{SLOPES[0]:g} to {SLOPES[1]:g} and its interval excludes 1, or the intercept lies outside "
    f"±{INTERCEPT:g} and its interval excludes 0: probabilities are wrong until "
    "`chestxray calibrate`; calls are not affected",
    "restricted": f"in a group (source, sex, age, view) AUROC is lower by at least {GAP:g}, or "
    f"at least {MISSED:g} more of the positives are missed, with Holm's p below {ALPHA:g}",
    "not independent": "nothing above, but the model may have been trained on these patients",
    "no objection": "none of these; no proof that the model may be used",
}
"""Status of a finding → when it applies; the first that applies is taken, in this order."""


class ValidatedFinding(Model):
    """A finding of the bundle on a data set.

    Attributes:
        positives, negatives, unknown: images by label.
        patients: on the smaller side, those with or those without the finding.
        auroc: with its interval.
        own: the bundle's own validation; None where the bundle does not say.
        recall, specificity, precision: at the bundle's threshold.
        reliability: as stated, corrected for prevalence, and recalibrated on the other half.
        status: whether it may be used here, see `RULES`.
        reasons: for the status, each a statement, then a colon and its figures.
    """

    positives: int
    negatives: int
    unknown: int
    patients: int
    auroc: Interval
    own: ValidationAuroc | None
    recall: Interval
    specificity: Interval
    precision: Interval
    reliability: FindingReliability
    status: Status
    reasons: list[str]


class ValidatedSet(Model):
    """A data set that a bundle was validated on.

    Attributes:
        name: of its folder in `sets`.
        source: title.
        release: of the data set; empty where there is one only.
        synthetic: whether any of the radiographs are drawn.
        label_origins: data set → how its labels were made.
        relation: to the images that the model has seen: `independent` (no data set of that name in
            common; `chestxray overlap` finds copies), `held out` (images of the same split that
            training did not use: an internal validation), `listed` (images may have been seen, and
            those that files of the user name were left out, see `leave_out.Named.lacking`), or
            `unknown`.
        left_out: part → images that were not evaluated, as the bundle was trained or tuned on them.
        left_out_images: what was left out besides because files of the user name it; None without
            such files.
        unread: listed images that could not be decoded.
        images, patients: that were evaluated.
        about: characteristic → value → images, of sex, view and source.
        age: quartiles, years; None where it is unknown.
        mean: AUROC averaged over findings.
        flagged: share of the finding-free images with any call.
        not_labelled: findings of the bundle that the data set does not label.
        findings: finding → its figures.
        warnings: what speaks against these figures, or against the model here, as a whole.
    """

    name: str
    source: str
    release: str
    synthetic: bool
    label_origins: dict[str, str]
    relation: Relation
    left_out: dict[str, int]
    left_out_images: LeftOut | None = None
    unread: int
    images: int
    patients: int
    about: dict[str, dict[str, int]]
    age: tuple[float, float, float] | None
    mean: MeanInterval
    flagged: Interval | None
    not_labelled: list[str]
    findings: dict[str, ValidatedFinding]
    warnings: list[str]


class ExternalValidation(Model):
    """What `validation.json` holds.

    Attributes:
        format: version of the file format.
        model: identity of the bundle.
        trained_on: titles of the data sets that it was trained on.
        operating_point: that calls are made at.
        rules: status → when it applies.
        intervals: how the intervals were made.
        sets: the data sets, in the order given.
        package_version: that made the file.
    """

    format: Literal[1] = 1
    model: str
    trained_on: str
    operating_point: str
    rules: dict[Status, str] = Field(default_factory=RULES.copy)
    intervals: ResampleSettings
    sets: list[ValidatedSet]
    package_version: str = __version__

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read `validation.json` of a folder.

        Raises:
            ArtifactError: missing, of another format, or not such a file.
        """
        path = Path(folder) / FILE
        try:
            return cls.model_validate(read_json(path, "chestxray validate"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(
                f"{path} is not valid at {where}: {first['msg']}; run `chestxray validate` again"
            ) from error

    def write(self, folder: Path) -> None:
        """Write `validation.json`."""
        write_json(folder / FILE, self.model_dump(mode="json"))
