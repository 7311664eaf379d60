"""An exported graph: a folder that other programs can run, with the card and what was measured.

    out/
      graph.onnx  or  graph.xml and graph.bin
      bundle.json   the bundle's card, as it is
      export.json   precision, files with their SHA-256, how far the answers lie from torch's

`export.json` is written last and speaks of the other files by their hashes, so a folder that is
half-written or altered is refused.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray import __version__
from chestxray.artifacts import read_json, require, sha256, write_json, written
from chestxray.errors import ArtifactError
from chestxray.model import quantise
from chestxray.model.bundle import CARD, Bundle
from chestxray.model.graph import needed, to_onnx, to_openvino
from chestxray.model.inference import Engine, Logits, Maps, TorchEngine
from chestxray.model.parity import AUROC_TOLERANCE, TOLERANCE, Parity, Trial, measure, outputs
from chestxray.model.runtimes import Arithmetic, OnnxEngine, OpenVinoEngine

Format = Literal["onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]

EXPORT: Final = "export.json"
ONNX: Final = "graph.onnx"
XML: Final = "graph.xml"
BIN: Final = "graph.bin"
_MADE_BY: Final = "chestxray export"
_ARITHMETIC: Final[dict[Precision, Arithmetic]] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


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


def export(
    bundle: Bundle,
    out: Path,
    kind: Format,
    precision: Precision,
    trial: Trial,
    force: bool = False,
) -> Export:
    """Write a graph of a bundle's classifier, measured against torch before anything is written.

    Args:
        bundle: its classifier is moved to the processor.
        out: the folder; an earlier export in it is replaced.
        kind: of graph.
        precision: bf16 and int8 are for OpenVINO, and need labels in `trial`.
        trial: images to measure on; int8 is calibrated on them too.
        force: write it even where a limit is not kept; int8 is then in all layers.

    Raises:
        ArtifactError: a limit is not kept, or the classifier, the folder, or what is asked for do
            not allow it.
        MissingExtraError: a package of the `export` extra is not installed.
    """
    _check(out, kind, precision, trial)
    torch_engine = TorchEngine(bundle.classifier.cpu())
    onnx = to_onnx(bundle.classifier)
    reference = outputs(torch_engine, trial, "torch")
    if kind == "onnx":
        model, engine = None, OnnxEngine(onnx)  # type: tuple[Any, Engine]
    else:
        model = _model(onnx, precision, trial, reference, bundle, force)
        engine = _engine(model, precision, bundle)
    parity = measure(engine, reference, trial, bundle.card.calibration)
    misses = parity.misses(exact=precision == "fp32")
    if misses and not force:
        raise ArtifactError(
            f"the {precision} graph is not as good as the model: {'; '.join(misses)}: choose "
            f"another precision, or --force to write it all the same"
        )
    files = _write_graph(out, onnx if model is None else model)
    write_json(out / CARD, bundle.card.model_dump(mode="json"))
    record = _record(bundle, kind, precision, parity, misses)
    record.sha256 = {name: sha256(out / name) for name in (*files, CARD)}
    write_json(out / EXPORT, record.model_dump(mode="json"))
    return record


def read_export(folder: Path) -> Export:
    """Read `export.json` and check the files it speaks of.

    Raises:
        ArtifactError: no export, of another version, or a file that is missing or altered.
    """
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


def open_engine(folder: Path) -> Engine:
    """Make an engine of an exported folder; raises what `read_export` raises."""
    record = read_export(folder)
    if record.kind == "onnx":
        return OnnxEngine((folder / ONNX).read_bytes())
    model = needed("openvino").Core().read_model(folder / XML)
    return OpenVinoEngine(model, _ARITHMETIC[record.precision])


def _check(out: Path, kind: Format, precision: Precision, trial: Trial) -> None:
    if kind == "onnx" and precision != "fp32":
        raise ArtifactError(
            f"--format onnx is written in fp32 alone, not in {precision}: use --format openvino"
        )
    if precision != "fp32" and trial.labels is None:
        raise ArtifactError(
            f"{precision} is judged by AUROC on validation images: name the dataset that the "
            f"model was trained on with --calibrate-on"
        )
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / EXPORT).exists())):
        raise ArtifactError(f"{out} is there and is no export: --out names a new folder")


def _model(
    onnx: bytes,
    precision: Precision,
    trial: Trial,
    reference: tuple[Logits, Maps],
    bundle: Bundle,
    force: bool,
) -> Any:  # noqa: ANN401 - OpenVINO ships no types
    model = to_openvino(onnx)
    if precision == "int8" and force:
        return quantise.int8(model, trial.images)
    if precision == "int8" and trial.labels is not None:
        return quantise.careful_int8(
            model, trial.images, trial.labels, reference[0], bundle.card.findings
        )
    if precision == "bf16":
        quantise.bfloat16(model)
    return model


def _engine(model: Any, precision: Precision, bundle: Bundle) -> Engine:  # noqa: ANN401
    """Give what the graph is to be measured with."""
    engine = OpenVinoEngine(model, _ARITHMETIC[precision])
    if precision == "bf16" and engine.arithmetic() != "bfloat16":
        # This processor would run it in float32 and find it all too good: torch emulates.
        return TorchEngine(bundle.classifier, bfloat16=True)
    return engine


def _write_graph(out: Path, graph: Any) -> tuple[str, ...]:  # noqa: ANN401
    (out / EXPORT).unlink(missing_ok=True)
    if isinstance(graph, bytes):
        with written(out / ONNX) as temporary:
            temporary.write_bytes(graph)
        return (ONNX,)
    with written(out / XML) as xml, written(out / BIN) as weights:
        needed("openvino").save_model(graph, xml, compress_to_fp16=False)
        xml.with_suffix(".bin").replace(weights)
    return XML, BIN


def _record(
    bundle: Bundle, kind: Format, precision: Precision, parity: Parity, misses: list[str]
) -> Export:
    size, count = bundle.card.size, len(bundle.card.findings)
    runtimes = ("onnx", "onnxruntime") if kind == "onnx" else ("onnx", "openvino")
    used = ("torch", *runtimes, *(("nncf",) if precision == "int8" else ()))
    settings = {"INFERENCE_PRECISION_HINT": _ARITHMETIC[precision]} if kind == "openvino" else {}
    versions = {name: importlib.metadata.version(name) for name in used}
    return Export(
        kind=kind,
        precision=precision,
        model=bundle.identity,
        input=f"images: uint8 [N, {size}, {size}], canonical",
        outputs=[
            f"logits: float32 [N, {count}], to be calibrated by the card",
            f"maps: float32 [N, {count}, h, w], in logits",
            "features: float32 [N, C], the pooled features that the gate judges by",
        ],
        compile=settings,
        parity=parity,
        limits={"fp32": TOLERANCE} if precision == "fp32" else {"auroc": AUROC_TOLERANCE},
        misses=misses,
        versions={"chestxray": __version__, **versions},
        sha256={},
    )
