"""Draws heatmaps over radiographs: for files one sheet each, for a dataset chosen examples.

From a dataset, each finding gets at most three pictures, chosen by a fixed rule: the most probable
true call, the most probable false call, and the least probable miss.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from chestxray import hub
from chestxray.artifacts import write_json, written
from chestxray.dataset.pixels import Canonical, placement
from chestxray.errors import ImageError, SourceError
from chestxray.file_names import shortened
from chestxray.findings import Findings, label
from chestxray.model import model_card
from chestxray.progress import progress
from chestxray.reading.evidence import NO_PLACE, no_place
from chestxray.reading.inputs import DatasetImages, Given, Inputs, RadiographFiles, find, leakage
from chestxray.reading.judged_image import load_with_display
from chestxray.reading.overlay import COLOURS, LEVELS, blend
from chestxray.reading.reader import Reader, Reading, opened
from chestxray.storage import path_of, staged_folder

_Kind = Literal["true call", "false call", "missed"]
_KINDS: Final[tuple[_Kind, ...]] = ("true call", "false call", "missed")
_Box = tuple[float, float, float, float]

_DISPLAY: Final = 512
_BATCH: Final = 32
_AHEAD: Final = 8
_INK: Final = "#e8e8e8"
_DARK: Final = "#101114"
_DPI: Final = 100
_TITLE: Final = 0.82  # inches above an image, for four lines
_PAD: Final = 0.12  # inches between images
_BAR: Final = 0.8  # inches for the colour bar
_FOOT: Final = 0.36  # inches below the images
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
        heat: [h, w], at least 0; 1 is the end of the finding's scale.
        boxes: true boxes x, y, w, h as fractions of the canonical square.
        per_image: the heat is drawn on the scale of its own peak.
    """

    finding: str
    probability: float
    called: bool | None
    heat: npt.NDArray[np.float32]
    boxes: tuple[_Box, ...] = ()
    per_image: bool = False


class _Example(NamedTuple):
    """An image of a dataset to show for one finding; `position` counts in the split."""

    position: int
    finding: str
    kind: _Kind


def explain(  # noqa: PLR0913 - the options of one command
    model: Reader | str | Path,
    inputs: Given,
    out: str | Path,
    *,
    split: str | None = None,
    findings: Sequence[str] | None = None,
    force: bool = False,
    per_image: bool = False,
    engine: str | Path = "auto",
    require_signature: str | Path | None = None,
) -> ExplanationRun:
    """Draw heatmaps over radiographs.

    Each file gets a sheet with all findings, `<image>.findings.png`. A dataset gets, for each
    finding, its most probable true call, its most probable false call and its least probable miss,
    and `explanations.json`, which lists them.

    Args:
        model: a reader, or the `bundle` folder of a run, or `hub:OWNER/NAME@REVISION`.
        inputs: a dataset or its folder; or files and folders, which are searched with all their
            subfolders.
        out: path or URL of the folder for the pictures.
        split: of a dataset, such as `test`.
        findings: to draw; all of the model's by default.
        force: also draw files that the gate refuses.
        per_image: scale each heatmap to its own peak, and label the pictures so; by default all
            images share one scale per finding.
        engine: for a bundle, see `chestxray.load`.
        require_signature: likewise.

    Raises:
        SourceError: an input is missing or not possible, or a finding is not one of the model's.
        ArtifactError: the dataset or the bundle is damaged or does not fit.
    """
    model = model if isinstance(model, Reader) else hub.local(model)
    card = model.bundle.card if isinstance(model, Reader) else model_card.read(model).card
    wanted = _wanted(findings, card.findings)
    found = find(inputs, split, card)
    reader = opened(model, engine, require_signature=require_signature)
    for warning in (*reader.warnings, leakage(found, card)):
        if warning:
            _log.warning("%s", warning)
    with staged_folder(out, "explain") as folder:
        run = explain_inputs(reader, found, folder, wanted, force, per_image)
    pictures = tuple(path_of(out) / path.relative_to(folder) for path in run.pictures)
    return replace(run, path=path_of(out), pictures=pictures)


def explain_inputs(
    reader: Reader,
    inputs: Inputs,
    out: Path,
    findings: Findings,
    force: bool = False,
    per_image: bool = False,
) -> ExplanationRun:
    """Draw heatmaps over what `inputs.find` found; see `explain`."""
    if isinstance(inputs, RadiographFiles):
        return _explain_files(reader, inputs, out, findings, force, per_image)
    return _explain_dataset(reader, inputs, out, findings, per_image)


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
    reader: Reader,
    files: RadiographFiles,
    out: Path,
    findings: Findings,
    force: bool,
    per_image: bool,
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
                # Never a radiograph's own name.
                sheet = out / f"{shortened(name.lstrip('/'))}.findings.png"
                _write_sheet(sheet, name, display, _panels(reading, findings, per_image))
                pictures.append(sheet)
            advance()
    return ExplanationRun(out, tuple(pictures), unread, findings)


def _panels(reading: Reading, findings: Findings, per_image: bool) -> list[_Panel]:
    return [
        _Panel(
            finding,
            reading.probabilities[finding],
            reading.calls[finding],
            reading.heatmaps[finding],
            per_image=per_image,
        )
        for finding in findings
    ]


def _explain_dataset(
    reader: Reader, images: DatasetImages, out: Path, findings: Findings, per_image: bool
) -> ExplanationRun:
    """Read all images for their probabilities, then the chosen ones again for their heatmaps."""
    read = []
    with progress("read", len(images.rows)) as advance:
        for batch in images.batches(_BATCH):
            read.append(reader.read_batch(np.stack(batch))[0])
            advance(len(batch))
    examples = list(_examples(reader, images, np.concatenate(read), findings))
    shown = []
    with progress("explain", len(examples), "pictures") as advance:
        for example in examples:
            shown.append(_explain_example(reader, images, out, example, per_image))
            advance()
    manifest = images.dataset.manifest
    listed = {
        "model": reader.bundle.identity,
        "split": {"name": manifest.split.name, "sha256": manifest.split.sha256},
        "per_image": per_image,
        "shown": shown,
    }
    write_json(out / "explanations.json", listed)
    return ExplanationRun(out, tuple(out / entry["file"] for entry in shown), {}, findings)


def _explain_example(
    reader: Reader, images: DatasetImages, out: Path, example: _Example, per_image: bool
) -> dict[str, Any]:
    """Draw one example and give its entry in `explanations.json`."""
    row, k = int(images.rows[example.position]), reader.findings.index(example.finding)
    image = images.dataset.images[row]
    probabilities, heat = reader.read_batch(image[None])
    p, name = float(probabilities[0, k]), str(images.dataset.index["image"].iloc[row])
    boxes = tuple(_boxes(images, row, example.finding))
    called = reader.call(example.finding, p)
    panel = _Panel(example.finding, p, called, heat[0, k], boxes, per_image)
    stem = Path(name).with_suffix("").as_posix().replace("/", "_")
    chosen = f"{_file_name(example.finding)}_{example.kind.replace(' ', '_')}_{stem}"
    file = f"{shortened(chosen)}.png"
    _write_overlay(out / file, name, image, panel)
    return _entry(reader, example, name, p, file) | {"not_localised": no_place(panel.heat)}


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
    """Draw one finding: the radiograph, and beside it, at the same size, with its heatmap."""
    large = _enlarged(image)
    figure, (plain, hot) = _grid(2, 1, 4.3, panel.per_image)
    _show(plain, np.repeat(large[..., None], 3, axis=2), _lines(name, 28, 2), panel.boxes)
    shown = blend(large, panel.heat, per_image=panel.per_image)
    _show(hot, shown, _title(panel, 28), panel.boxes)
    legend = "blue box: labelled region · " if panel.boxes else ""
    _note(figure, legend, panel.per_image)
    _save(figure, path)


def _write_sheet(path: Path, name: str, image: Canonical, panels: list[_Panel]) -> None:
    """Draw all findings of one radiograph on one sheet, the most probable first.

    Findings that are not assessed come last.
    """
    columns = min(5, len(panels) + 1)
    rows = -(-(len(panels) + 1) // columns)
    per_image = any(panel.per_image for panel in panels)
    figure, axes = _grid(columns, rows, 2.9, per_image)
    large = _enlarged(image)
    _show(axes[0], np.repeat(large[..., None], 3, axis=2), _lines(name, 18, 3), ())
    ranked = sorted(panels, key=lambda panel: (panel.called is None, -panel.probability))
    for axis, panel in zip(axes[1:], ranked, strict=False):
        shown = blend(large, panel.heat, per_image=panel.per_image)
        _show(axis, shown, _title(panel, 18), panel.boxes)
    _note(figure, "", per_image)
    _save(figure, path)


def _grid(columns: int, rows: int, side: float, per_image: bool) -> tuple[Figure, list[Axes]]:
    """Make a figure of squares of equal size, with room for titles, and its colour bar.

    Fixed places take a fraction of the time of an automatic layout.

    Args:
        columns: of squares.
        rows: of squares.
        side: of a square, inches.
        per_image: what the colour bar is about.
    """
    width = _PAD + columns * (side + _PAD) + _BAR
    height = rows * (side + _TITLE) + _FOOT
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_DARK)
    axes = []
    for row in range(rows):
        for column in range(columns):
            left, bottom = _PAD + column * (side + _PAD), height - (row + 1) * (side + _TITLE)
            place = (left / width, bottom / height, side / width, side / height)
            axes.append(figure.add_axes(place))
            axes[-1].set_axis_off()
    place = ((width - _BAR + 0.1) / width, _FOOT / height, 0.12 / width, side / height)
    _colour_bar(figure, figure.add_axes(place), per_image)
    return figure, axes


def _enlarged(image: Canonical) -> Canonical:
    """Enlarge a small image, so that contours are fine lines on it."""
    side = max(_DISPLAY, image.shape[0])
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def _title(panel: _Panel, letters: int) -> str:
    """Name a finding, then its probability and call, then that no place stands out, if so."""
    called = {True: ", called", False: ", not called", None: ", not assessed"}[panel.called]
    lines = [_lines(label(panel.finding), letters, 2), f"{panel.probability:.1%}{called}"]
    if no_place(panel.heat):
        lines.append(NO_PLACE)
    return "\n".join(lines)


def _lines(text: str, letters: int, most: int) -> str:
    """Break a text into lines that are no wider than their image."""
    lines = textwrap.wrap(text, letters, max_lines=most, placeholder=" …", break_on_hyphens=False)
    return "\n".join(lines)


def _show(axis: Axes, image: npt.NDArray[np.uint8], title: str, boxes: tuple[_Box, ...]) -> None:
    side = image.shape[0]
    axis.imshow(image, interpolation="bilinear")
    axis.set_title(title, color=_INK, fontsize=11, loc="left", parse_math=False)
    for x, y, w, h in boxes:
        outline = Rectangle((x * side, y * side), w * side, h * side, fill=False)
        outline.set(edgecolor="#4fd1ff", linewidth=1.4)
        axis.add_patch(outline)


def _colour_bar(figure: Figure, axis: Axes, per_image: bool) -> None:
    scale = ScalarMappable(Normalize(0, 1), COLOURS)
    end: Literal["neither", "max"] = "neither" if per_image else "max"
    bar = figure.colorbar(scale, cax=axis, extend=end)
    of = "this image's own peak" if per_image else "the finding's scale"
    bar.set_label(f"evidence, in parts of {of}", color=_INK, fontsize=9)
    bar.set_ticks([0, 0.25, *LEVELS])
    bar.ax.tick_params(colors=_INK, labelsize=8)
    bar.outline.set_visible(False)


def _note(figure: Figure, legend: str, per_image: bool) -> None:
    contours = f"contours at {', '.join(f'{level:g}' for level in LEVELS)}"
    own = ", each heatmap scaled to its own peak" if per_image else ""
    text = f"{legend}{contours}{own} · for research, not a medical device"
    at = _PAD / figure.get_figwidth(), 0.12 / figure.get_figheight()
    figure.text(*at, text, color=_INK, fontsize=9)


def _save(figure: Figure, path: Path) -> None:
    with written(path) as temporary:
        figure.savefig(temporary, facecolor=_DARK, metadata={"Software": None})
