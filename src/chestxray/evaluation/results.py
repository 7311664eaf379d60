"""The typed results of an evaluation and of a comparison, as they stand in their JSON files.

    metrics.json        Results: every metric is an `Interval`, or null with the reason
    curves.json         finding → FindingCurves: ROC and precision-recall curves with bands
    reliability.json    finding → FindingReliability: observed against predicted frequency
    subgroups.json      Subgroups: by sex, age, view, visit and co-occurrence, with gaps
    localization.json   Localization: heatmaps against boxes or masks
    reference.json      Reference: against adjudicated labels
    benchmarks.json     Benchmarks: beside published results
    comparison.json     Comparison: two models on the same images

`python -m chestxray.evaluation.results FOLDER` writes the JSON Schemas of `metrics.json`,
`comparison.json`, and `validation.json` (see `validation_results`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import ConfigDict, Field, PrivateAttr, TypeAdapter, ValidationError

from chestxray.artifacts import read_json, write_json
from chestxray.errors import ArtifactError
from chestxray.evaluation.bootstrap import Interval, Number, is_none
from chestxray.evaluation.metrics import METRICS
from chestxray.evaluation.result_details import (
    Baselines,
    Benchmarks,
    FindingCurves,
    FindingReliability,
    LeftOut,
    Localization,
    MeanInterval,
    Model,
    PointWorkload,
    Reference,
    ReliabilityDiagram,
    ResampleSettings,
    RocCurve,
    Subgroups,
    Workload,
)
from chestxray.evaluation.seen_images import SeenImages
from chestxray.evaluation.validation_results import ExternalValidation

_FORMAT: Final = 1
_METRICS_FILE: Final = "metrics.json"
_COMPARISON_FILE: Final = "comparison.json"
_MODELS_FILE: Final = "models.json"
_MADE_BY: Final = "chestxray evaluate"


class _Scored(Model):
    """A table of metrics: each name in `METRICS` is an attribute, an `Interval`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Interval] = Field(init=False)

    @property
    def metrics(self) -> dict[str, Interval]:
        """All metrics by name."""
        return dict(self.__pydantic_extra__)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Interval: ...


class FitOn(Model):
    """The validation predictions that thresholds and recalibration were fitted on."""

    split: str
    images: int
    patients: int


class Confusion(Model):
    """Counts of true and false calls and of what is not called, at the main operating point."""

    tp: int
    fp: int
    tn: int
    fn: int


class Threshold(Model):
    """The probability from which a finding is called; `reason` says why there is none."""

    value: Number
    reason: str | None = Field(default=None, exclude_if=is_none)


class InValidation(Model):
    """Metrics of calls on the validation images that the threshold was chosen on."""

    recall: Number
    specificity: Number
    precision: Number


class OperatingPoint(_Scored):
    """The metrics of calls of one finding at one operating point.

    Attributes:
        wanted: what the rule had to reach; None for a maximum.
        threshold: of the finding.
        validation: the metrics in validation; None without a threshold.
    """

    wanted: float | None
    threshold: Threshold
    validation: InValidation | None = None


class FindingResult(_Scored):
    """One finding. Metrics of calls are of the main operating point.

    Attributes:
        positives, negatives, unknown: images by label.
        prevalence: positives among the images whose label is known.
        threshold: of the main operating point.
        confusion: counts there; None without a threshold.
        operating_points: name → metrics of calls; empty without validation predictions.
    """

    positives: int
    negatives: int
    unknown: int
    prevalence: float | None
    threshold: Threshold
    confusion: Confusion | None
    operating_points: dict[str, OperatingPoint]


class AsCalled(Model):
    """The calls that the table of predictions itself states, in its column `called`.

    Attributes:
        findings: finding → metrics of its calls; none for a finding that the model does not assess.
        workload: what the calls cost and find.
    """

    findings: dict[str, OperatingPoint]
    workload: Workload


class MeanResult(_Scored):
    """Each metric averaged over the findings that have it."""

    __pydantic_extra__: dict[str, MeanInterval] = Field(init=False)  # type: ignore[assignment]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> MeanInterval: ...


class MicroResult(_Scored):
    """Each metric over all pairs of image and finding."""


_PARTS: Final[dict[str, TypeAdapter[Any]]] = {
    "curves": TypeAdapter(dict[str, FindingCurves | None]),
    "reliability": TypeAdapter(dict[str, FindingReliability]),
    "subgroups": TypeAdapter(Subgroups),
    "localization": TypeAdapter(Localization),
    "reference": TypeAdapter(Reference),
    "benchmarks": TypeAdapter(Benchmarks),
}


class Results(Model):
    """What `metrics.json` holds, and the results beside it.

    Attributes:
        format: version of the file format.
        split: which split was evaluated, such as `test`.
        split_name: how the images were split, such as `official`; None where unknown.
        split_sha256: of the dataset's split; None for a label table.
        source: where the labels come from.
        synthetic: whether any of the radiographs are drawn.
        release: of the data set; empty where unknown.
        images, patients: evaluated.
        failed: rows without probabilities, left out.
        unpredicted: labelled images of the split without a prediction.
        unlabelled: predicted images without labels, left out.
        matched_by_file_name: images whose predicted name is only the end of the label's path, or
            the reverse.
        left_out: finding → why it is not evaluated.
        fit_on: the validation predictions; None without.
        not_assessed: finding → why validation gives no evidence for it, so that it is not called.
        operating_point: the one that metrics of calls are of, unless another is named.
        workload: operating point → what its calls cost and find, the default first; empty without
            validation predictions.
        thresholds_of: identity of the bundle whose own thresholds these are; None where they were
            chosen on validation predictions.
        uncalibrated_import: format of the checkpoint that the bundle was imported from, where it
            is not calibrated; None otherwise.
        seen_images: images that the model has, or may have, seen in its training, or that what it
            started from or learned from has, or that it was chosen by or calibrated on; empty where
            neither a bundle is given nor is one in the run folder of the predictions.
        left_out_images: what was left out because files of the user name it; None without them.
        as_called: the calls that the table of predictions states; None where it states none.
        intervals: how the intervals were made.
        findings: finding → its metrics, in the order of the predictions.
        mean: each metric averaged over findings.
        micro: each metric over all pairs of image and finding.
        baselines: simple baselines beside the model; None in files of earlier versions.
        package_version: that made the file.
    """

    format: int = _FORMAT
    split: str
    split_name: str | None
    split_sha256: str | None
    source: str
    synthetic: bool
    release: str
    images: int
    patients: int
    failed: int
    unpredicted: int
    unlabelled: int = 0
    matched_by_file_name: int
    left_out: dict[str, str]
    fit_on: FitOn | None
    not_assessed: dict[str, str] = Field(default_factory=dict)
    operating_point: str = "youden"
    workload: dict[str, PointWorkload] = Field(default_factory=dict)
    thresholds_of: str | None = None
    uncalibrated_import: str | None = None
    seen_images: list[SeenImages] = Field(default_factory=list)
    left_out_images: LeftOut | None = None
    as_called: AsCalled | None = None
    intervals: ResampleSettings
    findings: dict[str, FindingResult]
    mean: MeanResult
    micro: MicroResult
    baselines: Baselines | None = None
    package_version: str

    _parts: dict[str, Any] = PrivateAttr(default_factory=dict)
    _folder: Path | None = PrivateAttr(default=None)

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read `metrics.json`, or the folder that it is in.

        Raises:
            ArtifactError: missing, of another format, or not such a file.
        """
        path = Path(path)
        file = path / _METRICS_FILE if path.is_dir() else path
        results: Self = _validated(cls, file)
        results._folder = file.parent
        return results

    def write(self, folder: Path) -> None:
        """Write every result to a folder, `metrics.json` last.

        Results of an earlier evaluation there are removed first: they may be of other predictions.
        """
        for name in ("metrics", *_PARTS):
            (folder / f"{name}.json").unlink(missing_ok=True)
        for name, adapter in _PARTS.items():
            part = self.part(name)
            if part is not None:
                write_json(folder / f"{name}.json", adapter.dump_python(part, mode="json"))
        write_json(folder / _METRICS_FILE, self.model_dump(mode="json"))

    def with_parts(self, **parts: Any) -> Self:  # noqa: ANN401 - each has its own type
        """Attach other results, by the name of their file."""
        self._parts.update(parts)
        return self

    def part(self, name: str) -> Any:  # noqa: ANN401 - each has its own type
        """Give the results of another file, such as `subgroups`; None where there are none."""
        if name not in self._parts and self._folder is not None:
            file = self._folder / f"{name}.json"
            self._parts[name] = _validated(_PARTS[name], file) if file.exists() else None
        return self._parts.get(name)

    @property
    def curves(self) -> dict[str, FindingCurves | None] | None:
        """ROC and precision-recall curves by finding; None where they are not defined."""
        curves: dict[str, FindingCurves | None] | None = self.part("curves")
        return curves

    @property
    def reliability(self) -> dict[str, FindingReliability] | None:
        """Reliability diagrams by finding."""
        reliability: dict[str, FindingReliability] | None = self.part("reliability")
        return reliability

    @property
    def subgroups(self) -> Subgroups | None:
        """Results by subgroup."""
        subgroups: Subgroups | None = self.part("subgroups")
        return subgroups

    @property
    def localization(self) -> Localization | None:
        """Heatmaps against regions; None without heatmaps."""
        localization: Localization | None = self.part("localization")
        return localization

    @property
    def reference(self) -> Reference | None:
        """Results against adjudicated labels; None without them."""
        reference: Reference | None = self.part("reference")
        return reference

    @property
    def benchmarks(self) -> Benchmarks | None:
        """Published results beside these."""
        benchmarks: Benchmarks | None = self.part("benchmarks")
        return benchmarks

    def __repr__(self) -> str:
        """Show the split, the size, the mean AUROC and the findings."""
        return (
            f"Results({self.source}, split {self.split}: {self.images:,} images of "
            f"{self.patients:,} patients; mean AUROC {self.mean.auroc}; {len(self.findings)} "
            f"findings: {', '.join(self.findings)})"
        )

    __str__ = __repr__


class DeLongTest(Model):
    """DeLong's test of a difference in AUROC, a cross-check; `reason` says why there is none.

    It refers to Student's t with `degrees_of_freedom`.
    """

    difference: Number
    low: Number
    high: Number
    p: Number
    degrees_of_freedom: Number = None
    reason: str | None = Field(default=None, exclude_if=is_none)


class ComparedMean(Model):
    """The mean AUROC of two models and their difference B - A.

    The interval of `difference` holds what the test of `p` does not reject, so it excludes 0
    exactly where p < 0.05.

    Attributes:
        findings: how many have enough patients to be compared, and are in the mean.
        left_out: each other compared finding → why it is not in the mean.
        a, b: the mean of each model.
        difference: B - A.
        p: two-sided, of no difference, from the bootstrap.
        delong: the same by DeLong's method.
    """

    findings: int
    left_out: dict[str, str] = Field(default_factory=dict)
    a: Interval
    b: Interval
    difference: Interval
    p: Number
    delong: DeLongTest


class ComparedFinding(Model):
    """The AUROC of two models for one finding, as in `ComparedMean`.

    `p_holm` is adjusted for all findings; the interval is not.
    """

    positives: int
    a: Interval
    b: Interval
    difference: Interval
    p: Number
    delong: DeLongTest
    p_holm: Number


class NonInferiority(Model):
    """Whether B is worse than A by no more than a margin, for the mean AUROC.

    Attributes:
        margin: the greatest loss of mean AUROC that is accepted, chosen in advance.
        p: one-sided, of a loss of the margin or more; None without a test.
        shown: whether p < 0.025, so that the 95 % interval lies above the loss; None without a
            test.
        sentence: the same in words.
    """

    margin: float
    p: Number
    shown: bool | None
    sentence: str


class Comparison(Model):
    """What `comparison.json` holds.

    Attributes:
        format: version of the file format.
        a, b: the two tables of predictions.
        source, split, split_name: as in `Results`.
        images, patients: that both predict.
        only_a, only_b: images that only one predicts, left out.
        neither: labelled images of the split that neither predicts.
        seen_a, seen_b: as `seen_images` of `Results`, of the models of A and of B.
        left_out: finding → why it is not compared.
        intervals: how the intervals were made.
        findings: finding → its figures.
        mean: over the findings that have enough patients.
        sentence: which model is better, by the p-value of the mean's difference.
        noninferiority: of B, where a margin was given.
    """

    format: int = _FORMAT
    a: str
    b: str
    source: str
    split: str
    split_name: str | None
    images: int
    patients: int
    only_a: int
    only_b: int
    neither: int
    seen_a: list[SeenImages] = Field(default_factory=list)
    seen_b: list[SeenImages] = Field(default_factory=list)
    left_out: dict[str, str]
    intervals: ResampleSettings
    findings: dict[str, ComparedFinding]
    mean: ComparedMean
    sentence: str
    noninferiority: NonInferiority | None = None

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read `comparison.json`, or the folder that it is in.

        Raises:
            ArtifactError: missing, of another format, or not such a file.
        """
        path = Path(path)
        found: Self = _validated(cls, path / _COMPARISON_FILE if path.is_dir() else path)
        return found

    def write(self, folder: Path) -> None:
        """Write `comparison.json` to a folder."""
        write_json(folder / _COMPARISON_FILE, self.model_dump(mode="json"))

    def __repr__(self) -> str:
        """Show the size and the sentence."""
        return f"Comparison({self.images:,} images of {self.patients:,} patients; {self.sentence})"

    __str__ = __repr__


class ModelFigures(Model):
    """What is drawn of a model for one finding; None without images both with and without it."""

    roc: RocCurve | None
    reliability: ReliabilityDiagram | None


class ComparedModel(Model):
    """One of several models that are compared.

    Attributes:
        name: that tells it from the others.
        path: its table or run folder; empty for a table in memory.
        only: images that it predicts and another model does not, left out.
        seen_images: as of `Results`.
        findings: finding → its curves.
    """

    name: str
    path: str
    only: int
    seen_images: list[SeenImages] = Field(default_factory=list)
    findings: dict[str, ModelFigures]


class ModelComparison(Model):
    """What `models.json` holds: any number of models on the same images.

    Attributes:
        format: version of the file format.
        source, split, split_name: as in `Results`.
        images, patients: that all models predict.
        left_out: finding → why it is not compared.
        models: in the order given.
        comparisons: of each later model (B) with the first (A).
        sentences: the same in words, with the models' names.
    """

    format: int = _FORMAT
    source: str
    split: str
    split_name: str | None
    images: int
    patients: int
    left_out: dict[str, str]
    models: list[ComparedModel]
    comparisons: list[Comparison]
    sentences: list[str]

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read `models.json`, or the folder that it is in.

        Raises:
            ArtifactError: missing, of another format, or not such a file.
        """
        path = Path(path)
        found: Self = _validated(cls, path / _MODELS_FILE if path.is_dir() else path)
        return found

    def __repr__(self) -> str:
        """Show the size and what was found."""
        return f"ModelComparison({self.images:,} images; {' '.join(self.sentences)})"

    __str__ = __repr__


def schema(
    model: type[Results | Comparison | ModelComparison | ExternalValidation] = Results,
) -> dict[str, Any]:
    """Give the JSON Schema (2020-12) of one of the files of results, such as `metrics.json`.

    Every metric of `METRICS` is a property with its label, meaning and range.
    """
    found = model.model_json_schema()
    for name, definition in found["$defs"].items():
        if name in {"FindingResult", "MeanResult", "MicroResult", "OperatingPoint"}:
            for metric in METRICS.values():
                if name != "OperatingPoint" or metric.needs_threshold:
                    definition["properties"][metric.name] = _described(metric.name, name)
                    definition.setdefault("required", []).append(metric.name)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def _described(metric: str, where: str) -> dict[str, Any]:
    """Describe one metric in a schema."""
    about = METRICS[metric]
    value: dict[str, Any] = {"type": ["number", "null"]}
    if about.low is not None:
        value["minimum"] = about.low
    if about.high is not None:
        value["maximum"] = about.high
    return {
        "title": about.label,
        "description": about.meaning,
        "$ref": f"#/$defs/{'MeanInterval' if where == 'MeanResult' else 'Interval'}",
        "properties": {"value": value},
    }


def _write_schemas(folder: Path) -> None:
    """Write the schemas of all files of results."""
    write_json(folder / "metrics.schema.json", schema(Results))
    write_json(folder / "comparison.schema.json", schema(Comparison))
    write_json(folder / "models.schema.json", schema(ModelComparison))
    write_json(folder / "validation.schema.json", schema(ExternalValidation))


def _validated(model: Any, file: Path) -> Any:  # noqa: ANN401 - a model or a type adapter
    """Read a file and check it against its model."""
    compared = model in (Comparison, ModelComparison)
    made_by = "chestxray compare" if compared else _MADE_BY
    content = read_json(file, made_by)
    if (compared or model is Results) and content.get("format") != _FORMAT:
        raise ArtifactError(
            f"{file} has format {content.get('format')!r}, this version reads format {_FORMAT}: "
            f"run `{made_by}` again"
        )
    validate = model.validate_python if isinstance(model, TypeAdapter) else model.model_validate
    try:
        return validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{file} is not valid at {where}: {first['msg']}; run `{made_by}` again"
        ) from error


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description="Write the JSON Schemas of the results.")
    _parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/schemas"))
    _write_schemas(_parser.parse_args().folder)
