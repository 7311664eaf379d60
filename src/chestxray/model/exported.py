"""Exports: a model as a graph that other programs run, and how closely it agrees with torch.

    out/
      graph.onnx  or  graph.xml and graph.bin
      bundle.json   the bundle's card, unchanged
      export.json   precision, SHA-256 of the other files, measured differences from torch

`export.json` is written last, so a folder that is incomplete or altered is refused. Reading by an
export needs no torch; `export` writes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import read_json, require, sha256
from chestxray.errors import ArtifactError, MissingExtraError
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.metrics import value
from chestxray.model.engines import (
    Arithmetic,
    Engine,
    Images,
    Logits,
    Maps,
    OnnxEngine,
    OpenVinoEngine,
    last_line,
    needed,
    run_all,
)
from chestxray.progress import progress

Format = Literal["onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]

EXPORT: Final = "export.json"
ONNX: Final = "graph.onnx"
XML: Final = "graph.xml"
BIN: Final = "graph.bin"
GRAPH: Final[dict[Format, tuple[str, ...]]] = {"onnx": (ONNX,), "openvino": (XML, BIN)}
ARITHMETIC: Final[dict[Precision, Arithmetic]] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
TOLERANCE: Final = 1e-4  # of a probability, and of a cell of a class map in logits
AUROC_TOLERANCE: Final = 0.002

_NOISE_IMAGES: Final = 8
_MADE_BY: Final = "chestxray export"


@dataclass(frozen=True)
class Trial:
    """Images on which a graph is compared with torch.

    Attributes:
        name: what they are, for people.
        images: uint8 [N, S, S], canonical; may be memory-mapped.
        labels: float32 [N, K] of 1, 0, NaN; None where there are no labels.
    """

    name: str
    images: Images
    labels: npt.NDArray[np.float32] | None = None


class Parity(BaseModel):
    """Differences of a graph from torch in float32.

    Attributes:
        images: their number; `measured_on` names them.
        measured_with: the runtime and its arithmetic, which differs from the graph's own where this
            processor lacks it.
        probability: largest difference of a calibrated probability.
        map: largest difference of a cell of a class map, in logits.
        auroc: change of each finding's AUROC, None where it is not defined; None without labels.
    """

    model_config = ConfigDict(extra="forbid")

    images: int
    measured_on: str
    measured_with: str
    probability: float
    map: float
    auroc: dict[str, float | None] | None

    def misses(self, exact: bool) -> list[str]:
        """Give a sentence for each limit that is not kept.

        Args:
            exact: whether the graph must agree image by image (float32), or in AUROC.
        """
        if exact:
            return [
                f"{what} differ by up to {value:.2g}, at most {TOLERANCE:g} is allowed"
                for what, value in (("probabilities", self.probability), ("maps", self.map))
                if not value <= TOLERANCE  # NaN is a miss
            ]
        return [
            f"AUROC of {finding} changes by {change:+.4f}, at most {AUROC_TOLERANCE:g} is allowed"
            for finding, change in (self.auroc or {}).items()
            if change is not None and not abs(change) <= AUROC_TOLERANCE
        ]


def noise(size: int) -> Trial:
    """Give images where there is no dataset: eight of random pixels, the same each time."""
    shape = (_NOISE_IMAGES, size, size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Trial(f"{_NOISE_IMAGES} images of random pixels", images)


def outputs(engine: Engine, trial: Trial, label: str) -> tuple[Logits, Maps]:
    """Run an engine over all images of a trial: logits [N, K] and maps [N, K, h, w]."""
    found = []
    with progress(label, len(trial.images)) as advance:
        for answer in run_all(engine, trial.images, batch_size=8):
            found.append((answer.logits, answer.maps))
            advance(len(answer.logits))
    logits, maps = (np.concatenate(of) for of in zip(*found, strict=True))
    return logits, maps


def measure(
    engine: Engine, reference: tuple[Logits, Maps], trial: Trial, calibration: Calibration
) -> Parity:
    """Compare an engine with torch on the same images.

    Args:
        engine: to be measured.
        reference: torch's logits and maps, as `outputs` gives them.
        trial: the images.
        calibration: from logits to probabilities.
    """
    logits, maps = outputs(engine, trial, "check the graph")
    probabilities, expected = (
        calibration.apply(of.astype(np.float64)) for of in (logits, reference[0])
    )
    changes = None
    if trial.labels is not None:
        findings = list(calibration.calibrators)
        changes = auroc_changes(logits, reference[0], trial.labels, findings)
    return Parity(
        images=len(trial.images),
        measured_on=trial.name,
        measured_with=engine.name,
        probability=float(np.abs(probabilities - expected).max()),
        map=float(np.abs(maps - reference[1]).max()),
        auroc=changes,
    )


def auroc_changes(
    logits: Logits, reference: Logits, labels: npt.NDArray[np.float32], findings: Sequence[str]
) -> dict[str, float | None]:
    """Give each finding's AUROC by `logits` minus that by `reference`, None where not defined.

    Logits, reference and labels are float32 [N, K]; labels of 1, 0, NaN.
    """
    changes: dict[str, float | None] = {}
    for k, finding in enumerate(findings):
        y = labels[:, k]
        change = value("auroc", y, logits[:, k]) - value("auroc", y, reference[:, k])
        changes[finding] = None if np.isnan(change) else float(change)
    return changes


class Export(BaseModel):
    """The content of `export.json`.

    Attributes:
        kind: of graph.
        precision: of its weights and arithmetic.
        model: identity of the weights.
        input: name, type and shape of the graph's input; `outputs` likewise.
        compile: settings with which OpenVINO gives the measured answers.
        parity: the measured differences.
        limits: that `parity` was compared with.
        misses: a sentence for each limit that is not kept; empty unless written with `--force`.
        versions: of the packages that made it.
        sha256: of the other files, by name.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    kind: Format
    precision: Precision
    model: str
    input: str
    outputs: list[str]
    compile: dict[str, str]
    parity: Parity
    limits: dict[str, float]
    misses: list[str]
    versions: dict[str, str]
    sha256: dict[str, str]

    @property
    def identity(self) -> str:
        """Short name of exactly these files: the start of the SHA-256 over their SHA-256s."""
        hashes = (self.sha256[name] for name in (*GRAPH[self.kind], CARD))
        return hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]


def check(out: Path, kind: Format, precision: Precision, labelled: bool) -> None:
    """Check that an export is possible, before anything is loaded.

    Args:
        out: the folder to write.
        kind: of graph.
        precision: of its weights and arithmetic.
        labelled: whether it will be measured on images with labels.

    Raises:
        ArtifactError: the kind does not allow this precision, the precision needs labels, or the
            folder holds something else.
    """
    if kind == "onnx" and precision != "fp32":
        raise ArtifactError(
            f"--format onnx is available in fp32 only, not in {precision}: use --format openvino"
        )
    if precision != "fp32" and not labelled:
        raise ArtifactError(
            f"{precision} is checked by its AUROC on validation images: give the dataset that the "
            f"model was trained on with --calibrate-on"
        )
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / EXPORT).exists())):
        raise ArtifactError(f"{out} exists and is not an export: give a new folder to --out")


def read_export(folder: Path) -> Export:
    """Read `export.json` and check the files that it names.

    Raises:
        ArtifactError: not an export, of another version, it names other files than an export of
            its kind has, or a file is missing or altered.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is not an engine: give auto, torch, openvino, or the folder of an export"
        )
    try:
        record = Export.model_validate(read_json(folder / EXPORT, _MADE_BY))
    except ValidationError as error:
        raise ArtifactError(
            f"{folder / EXPORT} is not an export of this version: export the bundle again with "
            f"`{_MADE_BY}`"
        ) from error
    if set(record.sha256) != {*GRAPH[record.kind], CARD}:
        raise ArtifactError(
            f"{folder / EXPORT} must hold the SHA-256 of exactly "
            f"{', '.join((*GRAPH[record.kind], CARD))}, not of {sorted(record.sha256)}: export the "
            f"bundle again with `{_MADE_BY}`"
        )
    for name, wanted in record.sha256.items():
        require(folder / name, _MADE_BY)
        if not (folder / name).is_file():  # a device or a pipe may never end
            raise ArtifactError(
                f"{folder / name} is not a regular file: export the bundle again with `{_MADE_BY}`"
            )
        if sha256(folder / name) != wanted:
            raise ArtifactError(
                f"{folder / name} is not the file that {EXPORT} describes: export the bundle again "
                f"with `{_MADE_BY}`"
            )
    return record


def open_engine(folder: Path, model: str | None = None) -> Engine:
    """Make an engine from the folder of an export.

    Args:
        folder: of the export.
        model: identity of the weights that it must have, None for any.

    Raises:
        ArtifactError: as `read_export` says, it is of another model, or the installed runtime
            cannot run it.
        MissingExtraError: its runtime is not installed.
    """
    record = read_export(folder)
    if model is not None and record.model != model:
        raise ArtifactError(
            f"{folder} is an export of {record.model}, the bundle is {model}: export this bundle"
        )
    try:
        engine = _onnx(folder) if record.kind == "onnx" else _openvino(folder, record.precision)
    except MissingExtraError:
        raise
    except Exception as error:
        made_with = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        raise ArtifactError(
            f"{folder} cannot be run here ({last_line(error)}); it was made with {made_with}: "
            f"install these versions, or export the bundle again"
        ) from error
    engine.name += f" (export {record.identity})"
    return engine


def _onnx(folder: Path) -> Engine:
    return OnnxEngine((folder / ONNX).read_bytes())


def _openvino(folder: Path, precision: Precision) -> Engine:
    model = needed("openvino").Core().read_model(folder / XML)
    return OpenVinoEngine(model, ARITHMETIC[precision])
