"""How far a graph's answers lie from torch's in float32, measured on images and never assumed.

An exported graph: a folder that other programs can run, with the card and what was measured.

    out/
      graph.onnx  or  graph.xml and graph.bin
      bundle.json   the bundle's card, as it is
      export.json   precision, files with their SHA-256, how far the answers lie from torch's

`export.json` is written last and speaks of the other files by their hashes, so a folder that is
half-written or altered is refused. To read by an export no torch is needed.
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

TOLERANCE: Final = 1e-4
AUROC_TOLERANCE: Final = 0.002
_NOISE_IMAGES: Final = 8


@dataclass(frozen=True)
class Trial:
    """Images to measure on.

    Attributes:
        name: what they are.
        images: uint8 [N, S, S], canonical; may be memory-mapped.
        labels: float32 [N, K] of 1, 0, NaN; None where they have none.
    """

    name: str
    images: Images
    labels: npt.NDArray[np.float32] | None = None


class Parity(BaseModel):
    """Differences of a graph from torch in float32.

    Attributes:
        images: how many, and `measured_on` which.
        measured_with: the runtime and its arithmetic, which is not the graph's own where this
            processor lacks it.
        probability: largest difference of a calibrated probability.
        map: largest difference of a cell of a class map, in logits.
        auroc: finding → change of its AUROC, None where it is not defined; None without labels.
    """

    model_config = ConfigDict(extra="forbid")

    images: int
    measured_on: str
    measured_with: str
    probability: float
    map: float
    auroc: dict[str, float | None] | None

    def misses(self, exact: bool) -> list[str]:
        """Say in sentences which limits are not kept.

        Args:
            exact: whether the graph is to agree image by image (float32) or in AUROC.
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
    """Give images that need no dataset: eight of random pixels, always the same."""
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
    """Compare an engine with what torch made of the same images."""
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
    """Give finding → AUROC by these logits less AUROC by the reference's, None where undefined."""
    changes: dict[str, float | None] = {}
    for k, finding in enumerate(findings):
        y = labels[:, k]
        change = value("auroc", y, logits[:, k]) - value("auroc", y, reference[:, k])
        changes[finding] = None if np.isnan(change) else float(change)
    return changes


Format = Literal["onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]

EXPORT: Final = "export.json"
ONNX: Final = "graph.onnx"
XML: Final = "graph.xml"
BIN: Final = "graph.bin"
ARITHMETIC: Final[dict[Precision, Arithmetic]] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_MADE_BY: Final = "chestxray export"


class Export(BaseModel):
    """What `export.json` says.

    Attributes:
        model: identity of the weights.
        input: name, type and shape of the graph's input; `outputs` likewise.
        compile: settings under which OpenVINO gives the answers measured here.
        limits: what `parity` was held against.
        misses: limits that are not kept, in sentences; only with `--force` is there any.
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
        """Short name of exactly these files: the start of the SHA-256 of their SHA-256s."""
        return hashlib.sha256("".join(self.sha256.values()).encode()).hexdigest()[:12]


def check(out: Path, kind: Format, precision: Precision, labelled: bool) -> None:
    """Refuse what cannot be exported, before anything is loaded.

    Args:
        out: the folder to write.
        kind: of graph.
        precision: of it.
        labelled: whether it will be measured on images with labels.

    Raises:
        ArtifactError: the kind is not written in this precision, the precision needs labels, or
            the folder holds something else.
    """
    if kind == "onnx" and precision != "fp32":
        raise ArtifactError(
            f"--format onnx is written in fp32 alone, not in {precision}: use --format openvino"
        )
    if precision != "fp32" and not labelled:
        raise ArtifactError(
            f"{precision} is judged by AUROC on validation images: name the dataset that the "
            f"model was trained on with --calibrate-on"
        )
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / EXPORT).exists())):
        raise ArtifactError(f"{out} is there and is no export: --out names a new folder")


def read_export(folder: Path) -> Export:
    """Read `export.json` and check the files it speaks of.

    Raises:
        ArtifactError: no export, of another version, or a file that is missing or altered.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is no engine: give auto, torch, openvino, or the folder of an export"
        )
    try:
        record = Export.model_validate(read_json(folder / EXPORT, _MADE_BY))
    except ValidationError as error:
        raise ArtifactError(
            f"{folder / EXPORT} is no export of this version: make it anew with `{_MADE_BY}`"
        ) from error
    for name, wanted in record.sha256.items():
        require(folder / name, _MADE_BY)
        if sha256(folder / name) != wanted:
            raise ArtifactError(
                f"{folder / name} is not the file that {EXPORT} describes: make it anew with "
                f"`{_MADE_BY}`"
            )
    return record


def open_engine(folder: Path, model: str | None = None) -> Engine:
    """Make an engine of an exported folder.

    Args:
        folder: of the export.
        model: identity of the weights that it must be of, where that matters.

    Raises:
        ArtifactError: as `read_export` says, it is of another model, or the runtime that is
            installed cannot take it.
        MissingExtraError: its runtime is not installed.
    """
    record = read_export(folder)
    if model is not None and record.model != model:
        raise ArtifactError(
            f"{folder} is an export of {record.model}, the bundle is {model}: export this bundle "
            f"anew"
        )
    try:
        engine = _onnx(folder) if record.kind == "onnx" else _openvino(folder, record.precision)
    except MissingExtraError:
        raise
    except Exception as error:
        made_with = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        raise ArtifactError(
            f"{folder} cannot be run here ({last_line(error)}); it was made with {made_with}: "
            f"install these, or export the bundle anew"
        ) from error
    engine.name += f" (export {record.identity})"
    return engine


def _onnx(folder: Path) -> Engine:
    return OnnxEngine((folder / ONNX).read_bytes())


def _openvino(folder: Path, precision: Precision) -> Engine:
    model = needed("openvino").Core().read_model(folder / XML)
    return OpenVinoEngine(model, ARITHMETIC[precision])
