"""The typed results beside `metrics.json`: curves, subgroups, localization, benchmarks.

`results` says which file holds which. Names are those of the JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from chestxray.evaluation.bootstrap import Interval, Number, is_none


class Model(BaseModel):
    """The base of all results: checked, immutable, without NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LeftOut(Model):
    """What was left out because files of the user name it, see `leave_out`.

    Attributes:
        files: as given.
        images: left out: those that the files name, and all others of their patients.
        patients: left out.
        unmatched: how many names in the files no image has, of this data set or another that was
            validated with it.
        example: one of these names.
    """

    files: list[str]
    images: int
    patients: int
    unmatched: int
    example: str = ""

    def __str__(self) -> str:
        """Say it in words."""
        images = "1 image" if self.images == 1 else f"{self.images:,} images"
        patients = "1 patient" if self.patients == 1 else f"{self.patients:,} patients"
        return f"{images} of {patients}, by {', '.join(self.files)}{self._not_found()}"

    def _not_found(self) -> str:
        if not self.unmatched:
            return ""
        names = "1 name there" if self.unmatched == 1 else f"{self.unmatched:,} names there"
        are = "is" if self.unmatched == 1 else "are"
        return f" ({names}, such as {self.example}, {are} of no image)"

    def after(self, doubt: str) -> str:
        """Give a sentence on images that may have been seen, and what was left out of them."""
        return f"{doubt} Left out here are {self}; that these are all is not checked."


class MeanInterval(Interval):
    """An average over findings with its interval; `findings` counts them."""

    findings: int


class ResampleSettings(Model):
    """How the intervals were made.

    Attributes:
        level: of confidence.
        resamples: their number.
        seed: of the random numbers.
        by: the unit drawn.
        weights: how often a patient counts: `multinomial`, as many are drawn as there are, or
            `poisson`, each by itself, for very many patients (see `poisson_weights`).
    """

    level: float
    resamples: int
    seed: int
    by: str = "patient"
    weights: Literal["multinomial", "poisson"] = "multinomial"


class ValidationAuroc(Model):
    """How well a model ranks a finding on the validation images that chose and calibrated it.

    Attributes:
        auroc: its value.
        low, high: its 95 % interval by patient, by which `evidence` judges it.
        patients: on the smaller side, those with or those without the finding.
    """

    auroc: Annotated[float, Field(ge=0, le=1)]
    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(ge=0, le=1)]
    patients: Annotated[int, Field(ge=1)]


class Workload(Model):
    """What the calls of an operating point cost and find on some images.

    Attributes:
        images: their number.
        finding_free: those without a positive label whose labels of all assessed findings are
            known.
        calls_per_image: mean number of calls.
        flagged: share of the finding-free images with any call.
        precision: share of all calls on known labels that are right, at `prevalence`.
        prevalence: mean over the findings that have a threshold; None without any.
        recall: sensitivity, mean over these findings.
        specificity: mean over these findings.
    """

    images: int
    finding_free: int
    calls_per_image: Interval
    flagged: Interval
    precision: Interval
    prevalence: Number
    recall: Interval
    specificity: Interval


class PointWorkload(Model):
    """One operating point, in validation and on the evaluated images.

    Attributes:
        wanted: what its rule had to reach; None for a maximum.
        note: how it was chosen where its rule could not be applied.
        findings: how many findings have a threshold.
        validation: where the thresholds were chosen, so without intervals; None where those images
            are not at hand.
        evaluated: on the evaluated images.
    """

    wanted: float | None
    note: str | None = Field(default=None, exclude_if=is_none)
    findings: int
    validation: Workload | None
    evaluated: Workload


class Band(Model):
    """A pointwise 95 % band of a curve over a fixed grid of its x axis."""

    fpr: list[float] | None = Field(default=None, exclude_if=is_none)
    recall: list[float] | None = Field(default=None, exclude_if=is_none)
    low: list[float]
    high: list[float]


class RocCurve(Model):
    """A ROC curve from (0, 0) to (1, 1)."""

    fpr: list[float]
    tpr: list[float]
    band: Band | None


class PrCurve(Model):
    """A precision-recall curve, from the first call on."""

    recall: list[float]
    precision: list[float]
    band: Band | None


class FindingCurves(Model):
    """The curves of one finding."""

    roc: RocCurve
    pr: PrCurve


class ReliabilityBin(Model):
    """One bin of a reliability diagram: mean probability, observed frequency and its interval."""

    mean_probability: float
    observed: Number
    low: Number
    high: Number
    images: int


class ReliabilityDiagram(Model):
    """Observed against predicted frequency, with the calibration metrics."""

    bins: list[ReliabilityBin]
    brier: Interval
    bce: Interval
    ece: Interval
    slope: Interval
    intercept: Interval


class PriorShift(Model):
    """The prevalence of a finding where a model was calibrated, and where it is evaluated.

    Attributes:
        fitted: of the images that the model was calibrated on.
        here: that the correction assumes for the evaluated images.
        given: whether `here` was stated, not estimated from the probabilities.
        observed: of the evaluated images' labels; None without labels.
    """

    fitted: float
    here: float
    given: bool
    observed: float | None


class FindingReliability(Model):
    """The reliability of one finding.

    Attributes:
        as_given: of the evaluated probabilities.
        recalibrated: after calibration on validation; None where it could not be fitted.
        method: the family of calibration; None without one.
        reason: why that family was chosen, or why there is none.
        prior_corrected: after correction for another prevalence; None where the prevalence that the
            model was calibrated on is unknown.
        prior_shift: that was corrected.
    """

    as_given: ReliabilityDiagram
    recalibrated: ReliabilityDiagram | None
    method: str | None
    reason: str
    prior_corrected: ReliabilityDiagram | None = None
    prior_shift: PriorShift | None = None


class Group(Model):
    """A group of images, for one finding.

    Attributes:
        images, patients, positives: counts.
        too_small: whether it is too small to be measured; `reason` says what is missing.
        auroc: of the group.
        missed: share of its positives that are not called.
    """

    images: int
    patients: int
    positives: int
    too_small: bool
    reason: str | None = Field(default=None, exclude_if=is_none)
    auroc: Interval
    missed: Interval


class Gap(Interval):
    """A difference between two groups, its p-value, and that adjusted for all gaps (Holm).

    The interval holds what the test of `p` does not reject, so it excludes 0 exactly where
    p < 0.05.
    """

    p: Number = None
    p_holm: Number = None


class Contrast(Model):
    """The first group minus the second, per finding and metric."""

    between: tuple[str, str]
    findings: dict[str, dict[str, Gap]]


class Axis(Model):
    """A division of the images into groups.

    Attributes:
        groups: their names.
        unknown: images that belong to no group.
        findings: finding → group → its figures.
        gaps: differences between groups.
        mean: group → AUROC averaged over the findings that all groups have.
    """

    groups: list[str]
    unknown: int
    findings: dict[str, dict[str, Group]]
    gaps: list[Contrast]
    mean: dict[str, MeanInterval]


class Shortcut(Model):
    """How well the view position alone ranks the images of a finding, beside the model."""

    toward: str | None
    view_auroc: Interval
    auroc: Interval
    difference: Interval


class Subgroups(Model):
    """What `subgroups.json` holds: `axes` by name, the rules, and the view as a shortcut."""

    axes: dict[str, Axis]
    rules: dict[str, str]
    multiplicity: str
    smallest: dict[str, int]
    shortcut: dict[str, Shortcut]


class BaselineFigure(Model):
    """One metric of a baseline, and the model's minus it on the same resamples of patients."""

    baseline: Interval
    difference: Interval


class BaselineMean(BaselineFigure):
    """The same averaged over the `findings` that both have, with the model's own average.

    `p` tests the difference against 0, two-sided; None where it cannot be tested. The interval of
    `difference` holds what this test does not reject.
    """

    findings: int
    model: Interval
    p: Number


class Baseline(Model):
    """A simple way to score the images, fitted on the training images, beside the model.

    Attributes:
        title: for people.
        about: one sentence on what it knows.
        reason: why it has no figures; None where it has.
        inputs: what it was given, such as `view`.
        not_fitted: finding → why it has no figures.
        findings: finding → metric → its figure.
        mean: metric → its average over findings.
        sentence: whether the model ranks the images better.
    """

    title: str
    about: str
    reason: str | None = Field(default=None, exclude_if=is_none)
    inputs: list[str] = Field(default_factory=list)
    not_fitted: dict[str, str] = Field(default_factory=dict)
    findings: dict[str, dict[str, BaselineFigure]] = Field(default_factory=dict)
    mean: dict[str, BaselineMean] = Field(default_factory=dict)
    sentence: str


class Baselines(Model):
    """Simple baselines beside the model, in `metrics.json`.

    Attributes:
        images, patients: that the baselines were fitted on.
        split: that these belong to; None without training labels.
        of: `prevalence`, `demographics` and `thumbnail`.
    """

    images: int
    patients: int
    split: str | None
    of: dict[str, Baseline]


class Met(Model):
    """Share of located cases, beside the image's centre and the finding's mean box."""

    hit: Interval
    centre: Number
    mean_box: Number


class Located(Met):
    """Localization of some cases: the pointing game, then T(IoU) and T(IoBB) by threshold.

    Attributes:
        cases: of a finding in an image.
        random: chance that a random point hits.
        above: baseline of the pointing game (`random`, `centre`, `mean_box`) → the heatmaps' hits
            minus the baseline's on the same cases; empty in files of older versions.
        iou, iobb: threshold → shares.
    """

    cases: int
    random: Number
    above: dict[str, Interval] = Field(default_factory=dict)
    iou: dict[str, Met]
    iobb: dict[str, Met]


class Localization(Model):
    """What `localization.json` holds, per finding and over all cases.

    `unmatched_masks` counts the masks that belong to no evaluated image and finding.
    """

    split: str
    heat_threshold: dict[str, Any]
    detection: str
    intervals: ResampleSettings
    findings: dict[str, Located]
    all: Located
    unmatched_masks: int = 0


class ReferenceLabel(Model):
    """One adjudicated label: the model against it and against NIH's label of the same images."""

    findings: list[str]
    rule: str
    images: int
    positives: int
    nih_positives: int
    auroc: Interval
    auprc: Interval
    nih_auroc: Interval
    nih_auprc: Interval
    difference: Interval
    agreement: dict[str, Interval]


class Reference(Model):
    """What `reference.json` holds: images by what they lack, and the figures by label."""

    set: str
    images: int
    patients: int
    without_reference: int
    of_other_sets: int
    without_prediction: int
    labels: dict[str, ReferenceLabel]
    not_covered: dict[str, str]
    mapping: str


class BenchmarkRow(Model):
    """A published mean AUROC and the verdict on the run; `why` it is not comparable."""

    system: str
    input: str
    source: str
    split: str
    auroc: float
    auroc_low: float
    auroc_high: float
    selected_on_test: bool
    remark: str
    comparable: bool
    verdict: str
    why: str | None
    findings: dict[str, float] | None


class BenchmarkMean(Model):
    """The run's own mean AUROC."""

    value: Number
    low: Number
    high: Number
    reason: str | None = Field(default=None, exclude_if=is_none)


class Benchmarks(Model):
    """What `benchmarks.json` holds; `note` says why the run is comparable with no row."""

    split: str
    split_name: str | None
    mean: BenchmarkMean
    note: str | None
    rows: list[BenchmarkRow]
    localization: list[dict[str, Any]]
    localization_note: str | None
