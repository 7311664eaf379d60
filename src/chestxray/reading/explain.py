"""Overlays: for files all findings of each; for a dataset the calls worth looking at.

From a dataset, each finding gets at most three pictures, chosen by a rule and not by taste: the
most probable true call, the most probable false call, and the least probable miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from chestxray.artifacts import write_json
from chestxray.dataset.pixels import canonical, decode, placement
from chestxray.errors import ImageError
from chestxray.progress import progress
from chestxray.reading.inputs import DatasetFilms, FileFilms
from chestxray.reading.overlay import Box, Panel, write_overlay, write_sheet
from chestxray.reading.reader import Reader

Kind = Literal["true call", "false call", "missed"]
KINDS: Final[tuple[Kind, ...]] = ("true call", "false call", "missed")

_DISPLAY: Final = 512
_BATCH: Final = 32


@dataclass(frozen=True)
class Example:
    """A film of a dataset to be shown for one finding; `position` counts in the split."""

    position: int
    finding: str
    kind: Kind


def explain_files(
    reader: Reader, films: FileFilms, out: Path, findings: Sequence[str], force: bool = False
) -> dict[str, str]:
    """Write a sheet with all chosen findings for each file.

    Returns:
        Name → reason of the files that could not be read, or, unless `force`, were refused.
    """
    failed = {}
    with progress("explain", len(films.paths)) as advance:
        for path, name in zip(films.paths, films.names, strict=True):
            try:
                reading = reader.read(path, force)
                image = decode(path)
            except ImageError as error:
                failed[name] = error.reason
            else:
                panels = [
                    Panel(f, reading.probabilities[f], reading.calls[f], reading.heatmaps[f])
                    for f in findings
                ]
                sheet = out / f"{path.name}.findings.png"  # never a film's own name
                write_sheet(sheet, name, canonical(image, _DISPLAY), panels)
            advance()
    return failed


def explain_dataset(
    reader: Reader, films: DatasetFilms, out: Path, findings: Sequence[str]
) -> list[dict[str, Any]]:
    """Write the overlays of chosen examples and `explanations.json`, which says what they show."""
    read = []
    with progress("read", len(films.rows)) as advance:
        for batch in films.batches(_BATCH):
            read.append(reader.read_batch(np.stack(batch)))
            advance(len(batch))
    probabilities = np.concatenate([p for p, _ in read])
    heat = np.concatenate([h for _, h in read])
    labels = films.dataset.labels(films.rows)
    examples = list(_examples(reader, probabilities, labels, findings))
    shown = []
    with progress("explain", len(examples), "pictures") as advance:
        for example in examples:
            k = reader.findings.index(example.finding)
            row, p = int(films.rows[example.position]), float(probabilities[example.position, k])
            name = str(films.dataset.index["image"].iloc[row])
            panel = Panel(
                example.finding,
                p,
                reader.call(example.finding, p),
                heat[example.position, k],
                tuple(_boxes(films, row, example.finding)),
            )
            file = f"{example.finding}_{example.kind.replace(' ', '_')}_{Path(name).stem}.png"
            write_overlay(out / file, name, films.dataset.images[row], panel)
            shown.append(_entry(reader, example, name, p, file))
            advance()
    manifest = films.dataset.manifest
    told = {
        "model": reader.bundle.identity,
        "split": {"name": manifest.split.name, "sha256": manifest.split.sha256},
        "shown": shown,
    }
    write_json(out / "explanations.json", told)
    return shown


def _examples(
    reader: Reader,
    probabilities: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float32],
    findings: Sequence[str],
) -> Iterator[Example]:
    for finding in findings:
        threshold = reader.bundle.card.thresholds[finding]
        if threshold is None:
            continue
        k = reader.findings.index(finding)
        p, present, absent = probabilities[:, k], labels[:, k] == 1, labels[:, k] == 0
        candidates = (
            present & (p >= threshold),
            absent & (p >= threshold),
            present & (p < threshold),
        )
        for kind, chosen in zip(KINDS, candidates, strict=True):
            positions = np.flatnonzero(chosen)
            if positions.size:
                best = p[positions].argmin() if kind == "missed" else p[positions].argmax()
                yield Example(int(positions[best]), finding, kind)


def _boxes(films: DatasetFilms, row: int, finding: str) -> Iterator[Box]:
    """Give the true boxes of a finding, as fractions of the canonical square."""
    entry = films.dataset.index.iloc[row]
    left, top, wide, high = placement(int(entry["width"]), int(entry["height"]))
    boxes = films.dataset.boxes
    mine = boxes[(boxes["image"] == entry["image"]) & (boxes["finding"] == finding)]
    for x, y, w, h in mine[["x", "y", "w", "h"]].itertuples(index=False):
        yield left + x * wide, top + y * high, w * wide, h * high


def _entry(reader: Reader, example: Example, name: str, p: float, file: str) -> dict[str, Any]:
    return {
        "image": name,
        "finding": example.finding,
        "kind": example.kind,
        "probability": p,
        "threshold": reader.bundle.card.thresholds[example.finding],
        "label": int(example.kind != "false call"),
        "file": file,
    }
