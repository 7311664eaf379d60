"""The files of a run, read once: what is there, and None for what was not made yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from chestxray.artifacts import read_json
from chestxray.errors import ArtifactError

FEW: Final = 10  # positives; with fewer, a figure moves much with each of them

Json = dict[str, Any]


@dataclass(frozen=True)
class Files:
    """A run as its files tell it.

    Attributes:
        folder: of the run.
        run: `run.json`.
        bundle: `bundle/bundle.json`.
        history: `history.csv`.
        recipe: `recipe.yaml`, as text.
        explanations: `explanations/explanations.json`.
        metrics, curves, reliability, subgroups, localisation, standing, reference, comparison:
            the files of `evaluation/`.
    """

    folder: Path
    run: Json
    bundle: Json | None
    history: pd.DataFrame | None
    recipe: str | None
    explanations: Json | None
    metrics: Json | None
    curves: Json | None
    reliability: Json | None
    subgroups: Json | None
    localisation: Json | None
    standing: Json | None
    reference: Json | None
    comparison: Json | None

    @classmethod
    def read(cls, folder: Path) -> Files:
        """Read a run; `run.json` must be there.

        Raises:
            ArtifactError: no `run.json`, a file that cannot be read, or an evaluation without
                intervals, as older versions made.
        """
        recipe = folder / "recipe.yaml"
        train, evaluate = "chestxray train", "chestxray evaluate"
        metrics = _json(folder / "evaluation" / "metrics.json", evaluate)
        if metrics is not None and "intervals" not in metrics:
            raise ArtifactError(
                f"{folder / 'evaluation' / 'metrics.json'} has no intervals: an older version made "
                f"it, run `chestxray evaluate` again"
            )
        others = ("reliability", "subgroups", "localisation", "standing", "reference", "comparison")
        return cls(
            folder=folder,
            run=read_json(folder / "run.json", train),
            bundle=_json(folder / "bundle" / "bundle.json", train),
            history=_table(folder / "history.csv"),
            recipe=recipe.read_text(encoding="utf-8") if recipe.exists() else None,
            explanations=_json(folder / "explanations" / "explanations.json", "chestxray explain"),
            metrics=metrics,
            curves=metrics and read_json(folder / "evaluation" / "curves.json", evaluate),
            **{name: metrics and _json(folder / "evaluation" / f"{name}.json", evaluate)
               for name in others},
        )  # fmt: skip

    @property
    def findings(self) -> list[str]:
        """The findings that were evaluated; those of the model before any evaluation."""
        return list(self.metrics["findings"] if self.metrics else self.run["findings"])

    @property
    def identity(self) -> str:
        """The model's name as its bundle has it; the backbone alone where there is no bundle."""
        if self.bundle is None:
            return str(self.run["backbone"])
        return f"{self.bundle['backbone']}-{self.bundle['weights_sha256'][:12]}"

    @property
    def phantoms(self) -> bool:
        """Whether the radiographs were drawn by a program."""
        return bool(self.run["synthetic"])

    @property
    def external(self) -> bool:
        """Whether it was evaluated on another source than it was trained on."""
        return self.metrics is not None and self.metrics["source"] != self.run["source"]

    @property
    def adjudicated(self) -> bool:
        """Whether it was held against labels that radiologists agreed on."""
        return self.reference is not None and self.reference["images"] > 0

    @property
    def few(self) -> list[str]:
        """Findings with few positives, or with an AUROC that has no interval."""
        entries = self.metrics["findings"] if self.metrics else {}
        return [
            finding
            for finding in self.findings
            if finding in entries
            and entries[finding]["auroc"]["value"] is not None
            and (entries[finding]["positives"] < FEW or entries[finding]["auroc"]["low"] is None)
        ]

    @property
    def unmeasured(self) -> list[str]:
        """Findings without an AUROC."""
        entries = self.metrics["findings"] if self.metrics else {}
        return [f for f in self.findings if f in entries and entries[f]["auroc"]["value"] is None]

    @property
    def marked(self) -> list[str]:
        """Findings that are marked by a box or mask in the evaluated images."""
        entries = self.localisation["findings"] if self.localisation else {}
        return [f for f in self.findings if f in entries and entries[f]["cases"]]


def _json(path: Path, made_by: str) -> Json | None:
    return read_json(path, made_by) if path.exists() else None


def _table(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ArtifactError(f"{path} is no table ({error}): train again") from error
