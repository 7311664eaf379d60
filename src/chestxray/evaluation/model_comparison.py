"""Compare any number of models on the same images: each with the first, and all side by side.

Only images and findings that all models have count, so that all figures of all models are of the
same ones. The comparisons with the first model are those of `comparison`, on the same resamples of
patients; each asks one question of its own, and p-values are not corrected for the number of
models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from chestxray.artifacts import write_json, write_table, write_text
from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError
from chestxray.evaluation.bootstrap import RESAMPLES, Draws
from chestxray.evaluation.comparison import Paired, check_margin, compared, sentence
from chestxray.evaluation.curves import curves, diagram
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.labels import Labels, Pairs, pair
from chestxray.evaluation.predictions import Predictions, file_of
from chestxray.evaluation.results import (
    ComparedFinding,
    ComparedMean,
    ComparedModel,
    ModelComparison,
    ModelFigures,
)
from chestxray.findings import Findings, label

JSON: Final = "models.json"
CSV: Final = "models.csv"
TEX: Final = "models.tex"

Table = Predictions | Path | str


def compare_models(  # noqa: PLR0913 - the options of one command
    tables: Sequence[Table],
    labels: Labels | Dataset | Path | str,
    *,
    names: Sequence[str] = (),
    split: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    margin: float | None = None,
    out: Path | str | None = None,
) -> ModelComparison:
    """Compare models by their predictions of the same images, each with the first one.

    Args:
        tables: at least two tables of predictions, their files, or run folders with one.
        labels: a prepared dataset, a label table, or either opened.
        names: of the models, by default after their files.
        split: which split all must be of, `test` by default.
        resamples: of patients, at least 1.
        seed: of the resamples.
        margin: as of `compare`, of each model to the first.
        out: folder to write `models.json`, `models.csv` and `models.tex` to, and of two models
            `comparison.json`; nothing by default.

    Raises:
        PredictionsError: fewer than two tables, names that are not as many or not distinct, a table
            that cannot be evaluated, or no image or finding that all have.
        SourceError: a label table that cannot be read.
        ArtifactError: a file that does not exist.
    """
    check_margin(margin)
    shown = _names(tables, names)
    truth = Labels.of(labels)
    read = [pair(of if isinstance(of, Predictions) else Path(of), truth, split) for of in tables]
    common = _common(read)
    draws = Draws.of(common[0].patients, resamples, seed)
    if len(read) == 2:  # which says how many images each has alone
        paired = [Paired.of(read[0], read[1], truth, (tables[0], tables[1]))]
    else:
        pairs = zip(common[1:], tables[1:], strict=True)
        several = [Paired.of(common[0], of, truth, (tables[0], table)) for of, table in pairs]
        paired = [replace(of, neither=0) for of in several]  # some have what is left out here
    comparisons = [
        compared(of, draws, truth, (shown[0], name), margin)
        for of, name in zip(paired, shown[1:], strict=True)
    ]
    first = comparisons[0]
    result = ModelComparison(
        source=truth.source,
        split=common[0].split,
        split_name=truth.split_name,
        images=first.images,
        patients=first.patients,
        left_out=_left_out(read, common[0].findings),
        models=[
            ComparedModel(
                name=name,
                path="" if isinstance(table, Predictions) else str(table),
                only=len(own.images) - len(of.images),
                seen_images=comparisons[place - 1].seen_b if place else first.seen_a,
                findings=_figures(of, draws),
            )
            for place, (name, table, own, of) in enumerate(
                zip(shown, tables, read, common, strict=True)
            )
        ],
        comparisons=comparisons,
        sentences=[sentence(of.mean, of.a, of.b) for of in comparisons],
    )
    if out is not None:
        write(result, Path(out))
    return result


def write(result: ModelComparison, folder: Path) -> None:
    """Write `models.json`, the AUROCs as `models.csv` and `models.tex`, and a pair's comparison."""
    write_table(folder / CSV, table_of(result))
    write_text(folder / TEX, latex_of(result))
    if len(result.models) == 2:
        result.comparisons[0].write(folder)
    write_json(folder / JSON, result.model_dump(mode="json"))


def table_of(result: ModelComparison) -> pd.DataFrame:
    """Give a row for each finding and the mean of each model, with the difference to the first."""
    rows = []
    for place, model in enumerate(result.models):
        versus = result.comparisons[max(place - 1, 0)]
        entries: dict[str, ComparedFinding | ComparedMean] = {**versus.findings}
        for finding, entry in (entries | {"mean": versus.mean}).items():
            own, difference = (entry.b, entry.difference) if place else (entry.a, None)
            rows.append({
                "model": model.name,
                "finding": finding,
                "positives": getattr(entry, "positives", None),
                "auroc": own.value,
                "low": own.low,
                "high": own.high,
                "difference": difference and difference.value,
                "difference_low": difference and difference.low,
                "difference_high": difference and difference.high,
                "p": entry.p if place else None,
                "p_holm": getattr(entry, "p_holm", None) if place else None,
            })  # fmt: skip
    return pd.DataFrame(rows).astype({"positives": "Int64"})


def latex_of(result: ModelComparison) -> str:
    """Give the AUROCs as a LaTeX table for the package booktabs, models as columns."""
    table = table_of(result)
    table["shown"] = [_shown(*figures) for figures in table[["auroc", "low", "high"]].to_numpy()]
    wide = table.pivot_table("shown", "finding", "model", aggfunc="first", sort=False)
    heads = " & ".join(_tex(of.name) for of in result.models)
    lines = [
        f"{_tex(label(str(finding)).capitalize() if finding == 'mean' else label(str(finding)))} & "
        + " & ".join(str(row[of.name]) for of in result.models)
        + r" \\"
        for finding, row in wide.iterrows()
    ]
    *body, mean = lines
    return "\n".join([
        f"% AUROC with 95 % interval, {result.images} images of {result.patients} patients",
        rf"\begin{{tabular}}{{l{'c' * len(result.models)}}}",
        r"\toprule",
        rf"Finding & {heads} \\",
        r"\midrule",
        *body,
        r"\midrule",
        mean,
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ])  # fmt: skip


def _shown(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "--"
    return f"{value:.3f}" + ("" if np.isnan(low + high) else f" ({low:.3f}--{high:.3f})")


def _tex(text: str) -> str:
    """Escape what LaTeX would read as a command."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, rf"\{c}" if c in "&%$#_{}" else c) for c in text)


def _names(tables: Sequence[Table], given: Sequence[str]) -> list[str]:
    """Give each model a name: the given one, or the shortest end of its path that is its own."""
    if len(tables) < 2:
        raise PredictionsError("a comparison needs at least two tables of predictions: give them")
    names = [*given] or _ends([Path() if isinstance(of, Predictions) else of for of in tables])
    if len(names) != len(tables) or len({*names}) != len(names):
        raise PredictionsError(
            f"{len(tables)} tables have the names {', '.join(names)}: give as many names, each once"
        )
    return names


def _ends(paths: Sequence[Path | str]) -> list[str]:
    found = []
    for place, path in enumerate(paths, start=1):
        file = file_of(Path(path)) if str(path) not in {"", "."} else Path(f"model {place}")
        parts = [part for part in file.absolute().parts if part not in {"run", "/"}]
        found.append([*parts[:-1], *([] if file.stem == "predictions" else [file.stem])])
    for count in range(1, max(map(len, found)) + 1):
        names = ["/".join(parts[-count:]) for parts in found]
        if len({*names}) == len(names):
            return names
    return [f"model {place}" for place in range(1, len(paths) + 1)]


def _common(read: Sequence[Pairs]) -> list[Pairs]:
    """Keep the images and findings of each that all have, named and ordered as in the first."""
    images = reduce(np.intersect1d, [of.images for of in read])
    if not len(images):
        raise PredictionsError(
            "the tables have no image in common: give predictions of the same images"
        )
    places = [dict(read[0].findings.common(of.findings)) for of in read]
    kept = [place for place in range(len(read[0].findings)) if all(place in of for of in places)]
    if not kept:
        raise PredictionsError(
            "the tables have no labelled finding in common: give predictions of the same findings"
        )
    findings = Findings(read[0].findings[place] for place in kept)
    return [
        of.restricted(images, [theirs[place] for place in kept], findings)
        for of, theirs in zip(read, places, strict=True)
    ]


def _left_out(read: Sequence[Pairs], kept: Findings) -> dict[str, str]:
    """Say why each other finding is not compared."""
    found: dict[str, str] = {}
    for of in read:
        found |= dict.fromkeys(
            (name for name in of.findings if kept.place(name) is None), "not predicted by all"
        )
        found |= of.left_out
    return found


def _figures(of: Pairs, draws: Draws) -> dict[str, ModelFigures]:
    """Give the ROC curve and the reliability diagram of each finding."""
    found = {}
    for k, finding in enumerate(of.findings):
        y, p = of.labels[:, k], of.probabilities[:, k]
        drawn = curves(y, p)
        found[finding] = ModelFigures(
            roc=drawn.roc if drawn else None,
            reliability=None if one_sided(y) else diagram(y, p, draws),
        )
    return found
