"""Published results on NIH ChestX-ray14, and how a run compares with them.

`published.csv` holds mean AUROCs over the 14 findings, `published_localization.csv` what was scored
on the 984 boxes. A figure means nothing without its split: `official` is NIH's own test list, `own`
another one, drawn by patient by the authors, which is about 0.03 easier for the same model.
*Selected on test* means that the authors' code evaluated on the test set during training and kept
the best model: treat it as optimistic.

Two mean AUROCs are comparable when they are of the same test images. So a run is compared only if
it covers all of the official test set and the 14 findings, and only with figures of that. It
*matches* a figure that its own interval by patient contains; else it is *above* or *below*. The
published figures have an uncertainty too, mostly not reported: a small difference proves nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from chestxray.evaluation.result_details import (
    BenchmarkMean,
    BenchmarkRow,
    Benchmarks,
    Localization,
    MeanInterval,
)
from chestxray.evaluation.results import Results
from chestxray.findings import Findings
from chestxray.sources.nih import FINDINGS, NIH

NOT_COMPARABLE: Final = "not comparable"

_OFFICIAL_TEST_IMAGES: Final = 25_596
_BOXES: Final = 984
_OWN_SPLIT: Final = "the authors' own split by patient: other test images, easier by about 0.03"
_STRICTER: Final = (
    "Wang counts a finding as located when any of several boxes overlaps enough; here a heatmap "
    "gives one box, which is stricter"
)


@dataclass(frozen=True)
class Published:
    """A published mean AUROC.

    Attributes:
        system: what was evaluated.
        source: the publication; empty where only the figure is known.
        split: `official` or `own`.
        input: side of the images in pixels; empty where not reported.
        low, high: the figure, or the range of several runs.
        selected_on_test: whether the best model was selected on the test set.
        remark: further information.
        findings: the AUROC of each finding; None where not reported.
    """

    system: str
    source: str
    split: str
    input: str
    low: float
    high: float
    selected_on_test: bool
    remark: str
    findings: dict[str, float] | None


@dataclass(frozen=True)
class _PublishedLocalization:
    """A published localization result on the 984 boxes.

    Attributes:
        row: system and measure.
        remark: further information.
        low, high: over all boxes, the figure or the range of several runs; None where not reported.
        findings: of each finding; None where not reported.
    """

    row: str
    remark: str
    low: float | None
    high: float | None
    findings: dict[str, float] | None


def published_classification() -> list[Published]:
    """Give the published mean AUROCs, those of the official split first."""
    return [
        Published(
            system=row["system"],
            source=row["source"],
            split=row["split"],
            input=row["input"],
            low=float(row["low"]),
            high=float(row["high"]),
            selected_on_test=row["selected_on_test"] == "yes",
            remark=row["remark"],
            findings=_findings(row),
        )
        for row in _table("published.csv")
    ]


def _published_localization() -> list[_PublishedLocalization]:
    """Give the published results on the 984 boxes."""
    return [
        _PublishedLocalization(
            row=row["row"],
            remark=row["remark"],
            low=float(row["low"]) if row["low"] else None,
            high=float(row["high"]) if row["high"] else None,
            findings=_findings(row),
        )
        for row in _table("published_localization.csv")
    ]


def _findings(row: dict[str, str]) -> dict[str, float] | None:
    return {name: float(row[name]) for name in FINDINGS if row.get(name)} or None


def _table(name: str) -> Iterator[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines())


def benchmarks(results: Results, localization: Localization | None) -> Benchmarks:
    """Compare a run with the published figures.

    Args:
        results: the metrics of the run.
        localization: of the run; None without heatmaps. It is compared only on NIH's radiographs.
    """
    mean = results.mean.auroc
    note = _obstacle(results)
    compared = localization if _on_nih(results) else None
    located = _published_localization() if compared else []
    return Benchmarks(
        split=results.split,
        split_name=results.split_name,
        mean=BenchmarkMean(value=mean.value, low=mean.low, high=mean.high, reason=mean.reason),
        note=note,
        rows=[_row(row, mean, note) for row in published_classification()],
        localization=[_located(row) for row in located],
        localization_note=_about_boxes(compared) if compared else None,
    )


def _on_nih(results: Results) -> bool:
    """Tell whether a run was evaluated on radiographs of NIH alone."""
    return results.source == NIH.card.title and not results.synthetic


def _obstacle(results: Results) -> str | None:
    """Say why a run is comparable with no published figure, None where it is."""
    mean, images, name = results.mean.auroc, results.images, results.split_name
    scored = [name for name, of in results.findings.items() if of.auroc.value is not None]
    lacking = [name for name in FINDINGS if name not in _named(scored)]
    obstacles = {
        "the radiographs are synthetic: results on them say nothing about patients": (
            results.synthetic
        ),
        f"the radiographs are of {results.source}: the published figures are of {NIH.card.title}": (
            not _on_nih(results)
        ),
        f"the split is {name or 'unknown'!r}: other test images than those of NIH's list": (
            name != "official"
        ),
        f"the evaluated split is {results.split!r}: the published figures are of the test split": (
            results.split != "test"
        ),
        f"{images:,} images were evaluated, the official test list has {_OFFICIAL_TEST_IMAGES:,}": (
            images != _OFFICIAL_TEST_IMAGES
        ),
        "the model has seen images that are evaluated, so that its figures are too good": any(
            of.certain for of in results.seen_images
        ),
        f"the mean lacks {', '.join(lacking)}: the published means are over {len(FINDINGS)} "
        "findings": bool(lacking),
        f"the mean is over {mean.findings} findings, the published ones over {len(FINDINGS)}": (
            mean.findings != len(FINDINGS)
        ),
        "the mean AUROC has no interval, so nothing can be said about a difference": (
            mean.low is None
        ),
    }
    return next((why for why, holds in obstacles.items() if holds), None)


def _named(scored: list[str]) -> list[str]:
    """Give the published findings that are among those scored, under any spelling."""
    return [FINDINGS[there] for _, there in Findings(scored).common(FINDINGS)] if scored else []


def _row(row: Published, mean: MeanInterval, note: str | None) -> BenchmarkRow:
    why = note or (_OWN_SPLIT if row.split != "official" else None)
    comparable = why is None and mean.low is not None and mean.high is not None
    return BenchmarkRow(
        system=row.system,
        input=row.input,
        source=row.source,
        split=row.split,
        auroc=round((row.low + row.high) / 2, 4),
        auroc_low=row.low,
        auroc_high=row.high,
        selected_on_test=row.selected_on_test,
        remark=row.remark,
        comparable=comparable,
        verdict=_verdict(row, mean) if comparable else NOT_COMPARABLE,
        why=why,
        findings=row.findings,
    )


def _verdict(row: Published, mean: MeanInterval) -> str:
    """Compare the run's interval with a figure or a range, which it matches where they overlap."""
    if mean.low is not None and mean.low > row.high:
        return "above"
    if mean.high is not None and mean.high < row.low:
        return "below"
    return "matches"


def _located(row: _PublishedLocalization) -> dict[str, Any]:
    return {
        "row": row.row,
        "remark": row.remark,
        "low": row.low,
        "high": row.high,
        **(row.findings or {}),
    }


def _about_boxes(localization: Localization) -> str:
    """Say how far the localization is comparable with the published one."""
    cases = localization.all.cases
    if cases == _BOXES:
        return f"{_STRICTER}."
    located = "1 case was" if cases == 1 else f"{cases} cases were"
    return f"{located} evaluated, the published figures are of {_BOXES} boxes. {_STRICTER}."
