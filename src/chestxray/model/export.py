"""Writing an exported graph (see `exported`), once it was measured against torch."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from chestxray import __version__
from chestxray.artifacts import sha256, write_json, written
from chestxray.errors import ArtifactError
from chestxray.model import quantise
from chestxray.model.answer import Engine, Logits, Maps
from chestxray.model.bundle import Bundle
from chestxray.model.card import CARD
from chestxray.model.exported import (
    ARITHMETIC,
    BIN,
    EXPORT,
    ONNX,
    XML,
    Export,
    Format,
    Precision,
    check,
)
from chestxray.model.graph import to_onnx, to_openvino
from chestxray.model.inference import TorchEngine
from chestxray.model.parity import AUROC_TOLERANCE, TOLERANCE, Parity, Trial, measure, outputs
from chestxray.model.runtimes import OnnxEngine, OpenVinoEngine, needed


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
    check(out, kind, precision, labelled=trial.labels is not None)
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
    engine = OpenVinoEngine(model, ARITHMETIC[precision])
    if precision == "bf16" and engine.arithmetic() != "bfloat16":
        # This processor would run it in float32 and find it all too good: torch emulates.
        return TorchEngine(bundle.classifier, bfloat16=True)
    return engine


def _write_graph(out: Path, graph: Any) -> tuple[str, ...]:  # noqa: ANN401
    for name in (EXPORT, ONNX, XML, BIN):
        (out / name).unlink(missing_ok=True)
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
    settings = {"INFERENCE_PRECISION_HINT": ARITHMETIC[precision]} if kind == "openvino" else {}
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
