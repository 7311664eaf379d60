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
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import read_json, require, sha256
from chestxray.errors import ArtifactError, MissingExtraError
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.model.engines import (
    MOST_MEMORY,
    Arithmetic,
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    last_line,
    needed,
)
from chestxray.model.openvino_graph import check_memory
from chestxray.model.parity import Parity
from chestxray.process_limits import allocating_at_most

Format = Literal["onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]

EXPORT: Final = "export.json"
ONNX: Final = "graph.onnx"
XML: Final = "graph.xml"
BIN: Final = "graph.bin"
GRAPH: Final[dict[Format, tuple[str, ...]]] = {"onnx": (ONNX,), "openvino": (XML, BIN)}
ARITHMETIC: Final[dict[Precision, Arithmetic]] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_MADE_BY: Final = "chestxray export"
_NO_MEMORY: Final = ("bad_alloc", "Failed to allocate memory")  # in messages of the runtimes


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

    format: Literal[2] = 2
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


def open_engine(folder: Path, model: str | None = None, threads: int | None = None) -> Engine:
    """Make an engine from the folder of an export.

    Args:
        folder: of the export.
        model: identity of the weights that it must have, None for any.
        threads: that OpenVINO computes with; all cores when None.

    Raises:
        ArtifactError: as `read_export` says, it is of another model, the installed runtime cannot
            run it, or as `openvino_graph.check_memory` says.
        MissingExtraError: its runtime is not installed.
    """
    record = read_export(folder)
    if model is not None and record.model != model:
        raise ArtifactError(
            f"{folder} is an export of {record.model}, the bundle is {model}: export this bundle"
        )
    try:
        with allocating_at_most(MOST_MEMORY):
            engine = (
                _onnx(folder)
                if record.kind == "onnx"
                else _openvino(folder, record.precision, threads)
            )
    except MissingExtraError:
        raise
    except ArtifactError as error:
        raise ArtifactError(f"{folder} is refused: {error}") from error
    except Exception as error:
        if isinstance(error, MemoryError) or any(of in str(error) for of in _NO_MEMORY):
            raise ArtifactError(
                f"{folder} is refused: its graph takes more than "
                f"{MOST_MEMORY / 2**30:g} GiB, or than this machine has: export the bundle again, "
                f"or read with its network (--engine torch)"
            ) from error
        made_with = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        raise ArtifactError(
            f"{folder} cannot be run here ({last_line(error)}); it was made with {made_with}: "
            f"install these versions, or export the bundle again"
        ) from error
    engine.name += f" (export {record.identity})"
    return engine


def _onnx(folder: Path) -> Engine:
    engine = OnnxEngine((folder / ONNX).read_bytes())
    engine.run(np.zeros((1, *engine.sides), np.uint8))  # what it takes shows only then
    return engine


def _openvino(folder: Path, precision: Precision, threads: int | None) -> Engine:
    model = needed("openvino").Core().read_model(folder / XML)
    check_memory(model)
    return OpenVinoEngine(model, ARITHMETIC[precision], threads)
