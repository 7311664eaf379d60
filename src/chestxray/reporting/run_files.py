"""The files of a run or of an evaluation, read once; None for a file that does not exist."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from chestxray.artifacts import read_json, read_text
from chestxray.errors import ArtifactError
from chestxray.evaluation.bundle_thresholds import model_identity
from chestxray.execution import Execution
from chestxray.findings import NO_FINDING

FEW: Final = 10  # positives; with fewer, one image changes a metric much

Json = dict[str, Any]

_NIH: Final = re.compile(r"\bNIH\b|\bChestX-ray(?:8|14)\b")
_OF_EVALUATION: Final = (
    "reliability", "subgroups", "localization", "benchmarks", "reference", "comparison",
)  # fmt: skip


@dataclass(frozen=True)
class RunFiles:
    """What a folder holds: a run, or an evaluation of predictions of any origin.

    Attributes:
        folder: of the run, or of the evaluation.
        run: `run.json`; None where only an evaluation is there.
        manifest: `dataset.json`, the manifest of the training dataset.
        bundle: `bundle/bundle.json`.
        history: `history.csv`.
        recipe: `recipe.yaml`, as text.
        explanations: `explanations/explanations.json`.
        causal: `causal.json`.
        execution: what ran where on a cluster; None where nothing did.
        source_probe: `source_probe.json`; None where training had one source.
        metrics, curves, reliability, subgroups, localization, benchmarks, reference, comparison:
            the files of `evaluation/`.
    """

    folder: Path
    run: Json | None
    manifest: Json | None
    bundle: Json | None
    history: pd.DataFrame | None
    recipe: str | None
    explanations: Json | None
    causal: Json | None
    execution: Execution | None
    source_probe: Json | None
    metrics: Json | None
    curves: Json | None
    reliability: Json | None
    subgroups: Json | None
    localization: Json | None
    benchmarks: Json | None
    reference: Json | None
    comparison: Json | None

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """Read a run, a folder with `evaluation/`, or the folder of an evaluation itself.

        Raises:
            ArtifactError: neither a run nor an evaluation, a file that cannot be read, or an
                evaluation without intervals.
        """
        train, evaluate = "chestxray train", "chestxray evaluate"
        inside = folder / "evaluation"
        evaluation = inside if inside.is_dir() or (folder / "run.json").exists() else folder
        run = _json(folder / "run.json", train)
        metrics = _json(evaluation / "metrics.json", evaluate)
        if run is None and metrics is None:
            raise ArtifactError(
                f"{folder} has neither run.json nor metrics.json: give the folder of a run "
                f"(`{train}`) or of an evaluation (`{evaluate}`)"
            )
        if metrics is not None and "intervals" not in metrics:
            raise ArtifactError(
                f"{evaluation / 'metrics.json'} has no intervals: run `{evaluate}` again"
            )
        recipe = folder / "recipe.yaml"
        return cls(
            folder=folder,
            run=run,
            manifest=_json(folder / "dataset.json", train),
            bundle=_json(folder / "bundle" / "bundle.json", train),
            history=_table(folder / "history.csv"),
            recipe=read_text(recipe, train) if recipe.exists() else None,
            explanations=_json(folder / "explanations" / "explanations.json", "chestxray explain"),
            source_probe=_json(folder / "source_probe.json", train),
            causal=_json(folder / "causal.json", "chestxray explain --phantom-pairs"),
            execution=_execution(folder, evaluation),
            metrics=metrics,
            curves=metrics and read_json(evaluation / "curves.json", evaluate),
            **{name: metrics and _json(evaluation / f"{name}.json", evaluate)
               for name in _OF_EVALUATION},
        )  # fmt: skip

    @property
    def best_epochs(self) -> list[int]:
        """The selected epoch of each network of the run."""
        return [of["best_epoch"] for of in self._networks]

    @property
    def seeds(self) -> list[int]:
        """The seed of each network of the run."""
        return [of["seed"] for of in self._networks]

    def each(self, key: str) -> list[Any]:
        """What `run.json` says of a run, once; several where its networks differ in it."""
        common = self.run.get(key) if self.run else None
        found = [of.get(key) for of in self._networks] if common is None else [common]
        return [value for place, value in enumerate(found) if value not in (None, *found[:place])]

    @property
    def _networks(self) -> list[Json]:
        return list(self.run.get("members", [self.run])) if self.run else []

    @property
    def findings(self) -> list[str]:
        """The findings that were evaluated; those of the model before any evaluation."""
        return list(self.metrics["findings"]) if self.metrics else self.trained

    @property
    def trained(self) -> list[str]:
        """The findings of the training dataset; empty without a run."""
        counts = self.run["counts"]["train"] if self.run else {}
        return [name for name in counts if name not in {"images", "patients", NO_FINDING}]

    @property
    def left_out(self) -> dict[str, str]:
        """Findings that only the predictions or only the labels have, with the reason."""
        return self.metrics.get("left_out", {}) if self.metrics else {}

    @property
    def not_assessed(self) -> dict[str, str]:
        """Findings that are never called, with the reason in validation."""
        return self.metrics.get("not_assessed", {}) if self.metrics else {}

    @property
    def identity(self) -> str:
        """The model's name as its bundle has it; the backbone alone where there is no bundle."""
        if self.run is None:
            return "Evaluation of predictions"
        if self.bundle is None:
            return " + ".join(map(str, self.each("backbone")))
        return model_identity(self.bundle)

    @property
    def sources(self) -> list[Json]:
        """The data sets of the training dataset as recorded; empty where they are not."""
        for file in (self.run, self.manifest):
            recorded = file.get("sources") if file else None
            if recorded and all(isinstance(source, dict) for source in recorded):
                return list(recorded)
        return []

    @property
    def label_origins(self) -> dict[str, str]:
        """Data set → how its labels were made, of the evaluated data; empty if not recorded."""
        recorded = self.metrics.get("sources") if self.metrics else None
        if not recorded or not all(isinstance(source, dict) for source in recorded):
            recorded = [] if self.external else self.sources
        return {s["title"]: s["label_origin"] for s in recorded if s.get("label_origin")}

    @property
    def baselines(self) -> Json | None:
        """Simple baselines beside the model; None before any evaluation and in older ones."""
        return self.metrics.get("baselines") if self.metrics else None

    @property
    def evaluated_on(self) -> str:
        """The data that it was evaluated on; that of training before any evaluation."""
        return str((self.metrics or self.run or {})["source"])

    @property
    def synthetic(self) -> bool:
        """Whether the evaluated radiographs are drawn by a program."""
        file = self.metrics if self.metrics and "synthetic" in self.metrics else self.run
        return bool(file and file["synthetic"])

    @property
    def nih(self) -> bool:
        """Whether the evaluated radiographs are of NIH ChestX-ray14."""
        return not self.synthetic and bool(_NIH.search(self.evaluated_on))

    @property
    def external(self) -> bool:
        """Whether it was evaluated on another source than it was trained on."""
        return bool(self.metrics and self.run and self.metrics["source"] != self.run["source"])

    @property
    def adjudicated(self) -> bool:
        """Whether it was evaluated against labels that radiologists agreed on."""
        return self.reference is not None and self.reference["images"] > 0

    @property
    def few(self) -> list[str]:
        """Findings with few positives, or with an AUROC that has no interval."""
        entries = self.metrics["findings"] if self.metrics else {}
        return [
            finding
            for finding, entry in entries.items()
            if entry["auroc"]["value"] is not None
            and (entry["positives"] < FEW or entry["auroc"]["low"] is None)
        ]

    @property
    def unmeasured(self) -> list[str]:
        """Findings without an AUROC."""
        entries = self.metrics["findings"] if self.metrics else {}
        return [finding for finding in entries if entries[finding]["auroc"]["value"] is None]

    @property
    def axes(self) -> dict[str, Json]:
        """Axis of subgroups → its groups; a single finding has no co-occurring findings."""
        axes = self.subgroups["axes"] if self.subgroups else {}
        return {
            axis: entry
            for axis, entry in axes.items()
            if axis != "co_occurrence" or len(self.findings) > 1
        }

    @property
    def marked(self) -> list[str]:
        """Findings that are marked by a box or mask in the evaluated images."""
        entries = self.localization["findings"] if self.localization else {}
        return [f for f in self.findings if f in entries and entries[f]["cases"]]


def _execution(*folders: Path) -> Execution | None:
    stages = Execution()
    for folder in folders:
        stages += Execution.read(folder)
    return stages if stages.stages else None


def _json(path: Path, made_by: str) -> Json | None:
    return read_json(path, made_by) if path.exists() else None


def _table(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pd.read_csv(io.StringIO(read_text(path, "chestxray train")))
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ArtifactError(f"{path} is not a CSV table ({error}): train again") from error
