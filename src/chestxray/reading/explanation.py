"""Draws heatmaps over radiographs: for files one sheet each, for a dataset chosen examples.

From a dataset, each finding gets at most three pictures, chosen by a fixed rule: the most probable
true call, the most probable false call, and the least probable miss.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from chestxray.artifacts import write_json, written
from chestxray.dataset.pixels import Canonical, placement
from chestxray.errors import ImageError, SourceError
from chestxray.findings import Findings, label
from chestxray.model import model_card
from chestxray.progress import progress
from chestxray.reading.inputs import DatasetImages, Given, Inputs, RadiographFiles, find, leakage
from chestxray.reading.judged_image import load_with_display
from chestxray.reading.overlay import COLOURS, blend
from chestxray.reading.reader import Reader, Reading, load

_Kind = Literal["true call", "false call", "missed"]
_KINDS: Final[tuple[_Kind, ...]] = ("true call", "false call", "missed")
_Box = tuple[float, float, float, float]

_DISPLAY: Final = 512
_BATCH: Final = 32
_AHEAD: Final = 8
_INK: Final = "#e8e8e8"
_DARK: Final = "#101114"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExplanationRun:
    """What `explain` wrote.

    Attributes:
        path: the folder.
        pictures: PNG files in it, in the order of the inputs or examples.
        unread: image → reason, of files that were refused or are not readable radiographs.
        findings: that are drawn.
    """

    path: Path
    pictures: tuple[Path, ...]
    unread: dict[str, str]
    findings: Findings


@dataclass(frozen=True)
class _Panel:
    """One finding over one radiograph.

    Attributes:
        finding: its name.
        probability: calibrated.
        called: whether the probability reaches the finding's threshold; None if not assessed.
        heat: [h, w], at least 0; 1 and more is full colour.
        boxes: true boxes x, y, w, h as fractions of the canonical square.
    """

    finding: str
    probability: float
    called: bool | None
    heat: npt.NDArray[np.float32]
    boxes: tuple[_Box, ...] = ()


class _Example(NamedTuple):
    """An image of a dataset to show for one finding; `position` counts in the split."""

    position: int
    finding: str
    kind: _Kind


def explain(
    model: Reader | str | Path,
    inputs: Given,
    out: str | Path,
    *,
    split: str | None = None,
    findings: Sequence[str] | None = None,
    force: bool = False,
    engine: str | Path = "auto",
) -> ExplanationRun:
    """Draw heatmaps over radiographs.

    Each file gets a sheet with all findings, `<image>.findings.png`. A dataset gets, for each
    finding, its most probable true call, its most probable false call and its least probable miss,
    and `explanations.json`, which lists them.

    Args:
        model: a reader, or the `bundle` folder of a run.
        inputs: a dataset or its folder; or files and folders, which are searched with all their
            subfolders.
        out: folder for the pictures.
        split: of a dataset, such as `test`.
        findings: to draw; all of the model's by default.
        force: also draw files that the gate refuses.
        engine: for a bundle, see `chestxray.load`.

    Raises:
        SourceError: an input is missing or not possible, or a finding is not one of the model's.
        ArtifactError: the dataset or the bundle is damaged or does not fit.
    """
    card = model.bundle.card if isinstance(model, Reader) else model_card.read(Path(model)).card
    wanted = _wanted(findings, card.findings)
    found = find(inputs, split, card)
    reader = model if isinstance(model, Reader) else load(model, engine)
    for warning in (*reader.warnings, leakage(found, card)):
        if warning:
            _log.warning("%s", warning)
    return explain_inputs(reader, found, Path(out), wanted, force)


def explain_inputs(
    reader: Reader, inputs: Inputs, out: Path, findings: Findings, force: bool = False
) -> ExplanationRun:
    """Draw heatmaps over what `inputs.find` found; see `explain`."""
    if isinstance(inputs, RadiographFiles):
        return _explain_files(reader, inputs, out, findings, force)
    return _explain_dataset(reader, inputs, out, findings)


def _wanted(names: Sequence[str] | None, findings: Findings) -> Findings:
    if names is None:
        return findings
    places = [findings.place(name) for name in names]
    for name, place in zip(names, places, strict=True):
        if place is None:
            raise SourceError(
                f"{name!r} is not a finding of this model: choose from {', '.join(findings)}"
            )
    return Findings(findings[place] for place in places if place is not None)


def _explain_files(
    reader: Reader, files: RadiographFiles, out: Path, findings: Findings, force: bool
) -> ExplanationRun:
    pictures, unread = [], {}
    decode = partial(load_with_display, size=reader.size, display=_DISPLAY)
    with (
        progress("explain", len(files.paths)) as advance,
        closing(files.decoded(decode, _AHEAD)) as stream,
    ):
        for name, decoded in zip(files.names, stream, strict=True):
            try:
                if isinstance(decoded, ImageError):
                    raise decoded
                judged, display = decoded
                reading = reader.read(judged, force)
            except ImageError as error:
                unread[name] = error.reason
            else:
                sheet = out / f"{name.lstrip('/')}.findings.png"  # never a radiograph's own name
                _write_sheet(sheet, name, display, _panels(reading, findings))
                pictures.append(sheet)
            advance()
    return ExplanationRun(out, tuple(pictures), unread, findings)


def _panels(reading: Reading, findings: Findings) -> list[_Panel]:
    return [
        _Panel(f, reading.probabilities[f], reading.calls[f], reading.heatmaps[f]) for f in findings
    ]


def _explain_dataset(
    reader: Reader, images: DatasetImages, out: Path, findings: Findings
) -> ExplanationRun:
    read = []
    with progress("read", len(images.rows)) as advance:
        for batch in images.batches(_BATCH):
            read.append(reader.read_batch(np.stack(batch)))
            advance(len(batch))
    probabilities = np.concatenate([p for p, _ in read])
    heat = np.concatenate([h for _, h in read])
    examples = list(_examples(reader, images, probabilities, findings))
    shown = []
    with progress("explain", len(examples), "pictures") as advance:
        for example in examples:
            k = reader.findings.index(example.finding)
            row, p = int(images.rows[example.position]), float(probabilities[example.position, k])
            name = str(images.dataset.index["image"].iloc[row])
            panel = _Panel(
                example.finding,
                p,
                reader.call(example.finding, p),
                heat[example.position, k],
                tuple(_boxes(images, row, example.finding)),
            )
            stem = Path(name).with_suffix("").as_posix().replace("/", "_")
            file = f"{_file_name(example.finding)}_{example.kind.replace(' ', '_')}_{stem}.png"
            _write_overlay(out / file, name, images.dataset.images[row], panel)
            shown.append(_entry(reader, example, name, p, file))
            advance()
    manifest = images.dataset.manifest
    listed = {
        "model": reader.bundle.identity,
        "split": {"name": manifest.split.name, "sha256": manifest.split.sha256},
        "shown": shown,
    }
    write_json(out / "explanations.json", listed)
    return ExplanationRun(out, tuple(out / entry["file"] for entry in shown), {}, findings)


def _examples(
    reader: Reader,
    images: DatasetImages,
    probabilities: npt.NDArray[np.float64],
    findings: Findings,
) -> Iterator[_Example]:
    """Choose the examples of each finding that the model calls and the dataset labels."""
    labels = images.dataset.labels(images.rows)
    for finding in findings:
        threshold, column = _threshold(reader, finding), images.dataset.findings.place(finding)
        if threshold is None or column is None:
            continue
        p = probabilities[:, reader.findings.index(finding)]
        present, absent = labels[:, column] == 1, labels[:, column] == 0
        candidates = (
            present & (p >= threshold),
            absent & (p >= threshold),
            present & (p < threshold),
        )
        for kind, chosen in zip(_KINDS, candidates, strict=True):
            positions = np.flatnonzero(chosen)
            if positions.size:
                best = p[positions].argmin() if kind == "missed" else p[positions].argmax()
                yield _Example(int(positions[best]), finding, kind)


def _threshold(reader: Reader, finding: str) -> float | None:
    return reader.bundle.card.thresholds[finding]


def _boxes(images: DatasetImages, row: int, finding: str) -> Iterator[_Box]:
    """Give the true boxes of a finding, as fractions of the canonical square."""
    entry = images.dataset.index.iloc[row]
    left, top, wide, high = placement(int(entry["width"]), int(entry["height"]))
    boxes, place = images.dataset.boxes, images.dataset.findings.place(finding)
    own = finding if place is None else images.dataset.findings[place]
    mine = boxes[(boxes["image"] == entry["image"]) & (boxes["finding"] == own)]
    for x, y, w, h in mine[["x", "y", "w", "h"]].itertuples(index=False):
        yield left + x * wide, top + y * high, w * wide, h * high


def _entry(reader: Reader, example: _Example, name: str, p: float, file: str) -> dict[str, Any]:
    return {
        "image": name,
        "finding": example.finding,
        "kind": example.kind,
        "probability": p,
        "threshold": _threshold(reader, example.finding),
        "label": int(example.kind != "false call"),
        "file": file,
    }


def _file_name(finding: str) -> str:
    return finding.replace(" ", "_").replace("/", "_")


def _write_overlay(path: Path, name: str, image: Canonical, panel: _Panel) -> None:
    """Draw one finding: the radiograph, the same with its heatmap, the colour bar."""
    figure = Figure(figsize=(9.2, 4.45), dpi=100, facecolor=_DARK, layout="constrained")
    plain, hot = figure.subplots(1, 2)
    _show(plain, np.repeat(image[..., None], 3, axis=2), name, panel.boxes)
    _show(hot, blend(image, panel.heat), _title(panel), panel.boxes)
    _colour_bar(figure, [plain, hot])
    legend = "blue box: labelled region · " if panel.boxes else ""
    figure.supxlabel(f"{legend}for research, not a medical device", color=_INK, fontsize=9)
    _save(figure, path)


def _write_sheet(path: Path, name: str, image: Canonical, panels: list[_Panel]) -> None:
    """Draw all findings of one radiograph on one sheet, the most probable first.

    Findings that are not assessed come last.
    """
    columns = min(5, len(panels) + 1)
    rows = -(-(len(panels) + 1) // columns)
    size = (3 * columns, 3.2 * rows)
    figure = Figure(figsize=size, dpi=90, facecolor=_DARK, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    _show(axes[0], np.repeat(image[..., None], 3, axis=2), name, ())
    ranked = sorted(panels, key=lambda panel: (panel.called is None, -panel.probability))
    for axis, panel in zip(axes[1:], ranked, strict=False):
        _show(axis, blend(image, panel.heat), _title(panel), panel.boxes)
    for axis in axes[len(panels) + 1 :]:
        axis.set_axis_off()
    _colour_bar(figure, axes)
    figure.supxlabel("for research, not a medical device", color=_INK, fontsize=9)
    _save(figure, path)


def _title(panel: _Panel) -> str:
    called = {True: " · called", False: "", None: " · not assessed"}[panel.called]
    return f"{label(panel.finding)} {panel.probability:.1%}{called}"


def _show(axis: Axes, image: npt.NDArray[np.uint8], title: str, boxes: tuple[_Box, ...]) -> None:
    side = image.shape[0]
    axis.imshow(image, interpolation="bilinear")
    axis.set_title(title, color=_INK, fontsize=12, loc="left", parse_math=False)
    axis.set_axis_off()
    for x, y, w, h in boxes:
        outline = Rectangle((x * side, y * side), w * side, h * side, fill=False)
        outline.set(edgecolor="#4fd1ff", linewidth=1.4)
        axis.add_patch(outline)


def _colour_bar(figure: Figure, axes: list[Axes]) -> None:
    scale = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = figure.colorbar(scale, ax=axes, fraction=0.02, pad=0.01, extend="max")
    bar.set_label("evidence × probability (same scale for all images)", color=_INK, fontsize=9)
    bar.ax.tick_params(colors=_INK, labelsize=8)
    bar.outline.set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with written(path) as temporary:
        figure.savefig(temporary, facecolor=_DARK, metadata={"Software": None})
