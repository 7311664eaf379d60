"""Writing an export: the classifier as one graph, for runtimes other than torch.

In: `images`, uint8 [N, S, S], canonical, any N. Out: `logits`, float32 [N, K], `maps`, float32
[N, K, h, w], and `features`, float32 [N, C], pooled. Normalisation is part of the graph. torch
traces it once, to ONNX; OpenVINO reads that, so both run the same graph. It is compared with torch
before it is written (see `parity`).

OpenVINO graphs can have bfloat16 weights, or int8 layers by NNCF's post-training quantisation. The
first convolution and the head stay in float32 (see `openvino_graph`).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

from chestxray.artifacts import sha256, write_bytes, write_json
from chestxray.errors import ArtifactError, MissingExtraError
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.evaluation.calibration import Calibration
from chestxray.model.bfloat16 import Bfloat16Engine
from chestxray.model.bundle import Bundle
from chestxray.model.engines import (
    INPUT,
    OUTPUTS,
    Engine,
    Images,
    OnnxEngine,
    OpenVinoEngine,
    has_bfloat16,
    needed,
)
from chestxray.model.ensemble import Network
from chestxray.model.exported import (
    ARITHMETIC,
    BIN,
    EXPORT,
    GRAPH,
    ONNX,
    XML,
    Export,
    Format,
    Precision,
    check,
)
from chestxray.model.heatmaps import HeatScale
from chestxray.model.network import to_input
from chestxray.model.openvino_graph import (
    GraphFiles,
    bfloat16_weights,
    float32_layers,
    keep_float32,
)
from chestxray.model.parity import (
    COARSE,
    HARM,
    HEAT,
    LOG_ODDS,
    MARGIN,
    PEAK,
    PROBABILITY,
    TOLERANCE,
    Parity,
    Trial,
    measure,
)
from chestxray.model.torch_engine import TorchEngine, device_of
from chestxray.progress import progress
from chestxray.version import __version__

_CALIBRATION_IMAGES: Final = 300  # NNCF's own number
_FEW: Final = 16  # images that tell whether a graph is of a network
_EXACT: Final = {"probability": TOLERANCE, "map": TOLERANCE, "features": TOLERANCE}
_HARMLESS: Final = {
    "auroc": HARM,
    "mean_auroc": MARGIN,
    "probability": PROBABILITY,
    "log_odds": LOG_ODDS,
    "heat": HEAT,
    "peak": PEAK,
    "features": COARSE,
}


class _Graph(nn.Module):
    def __init__(self, classifier: Network) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.classifier.explain(to_input(images))


def to_onnx(classifier: Network) -> bytes:
    """Give the graph of a classifier, on the CPU and in evaluation mode, as bytes of an ONNX file.

    Raises:
        ArtifactError: the backbone has an operation that ONNX lacks.
        MissingExtraError: onnx is not installed.
    """
    needed("onnx")
    size = classifier.size
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.inference_mode(),
        warnings.catch_warnings(),
    ):
        file = Path(folder) / "graph.onnx"
        # torch warns that its tracing exporter is old. The new one needs another package and, for
        # DenseNet-121, 30 s instead of 1.5 s (torch 2.15, 2 cores).
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Graph(classifier).eval(),
                (torch.zeros(2, size, size, dtype=torch.uint8),),
                file,
                dynamo=False,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_axes={name: {0: "N"} for name in (INPUT, *OUTPUTS)},
            )
        except (RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArtifactError(f"the classifier cannot be exported to ONNX: {reason}") from error
        return file.read_bytes()


def to_openvino(onnx: bytes) -> Any:  # noqa: ANN401 - OpenVINO is optional and ships no types
    """Read an ONNX graph into OpenVINO; gives an `openvino.Model`."""
    return needed("openvino").Core().read_model(onnx)


def _int8(model: Any, images: Images) -> Any:  # noqa: ANN401
    """Quantise an `openvino.Model` to int8, except for its first convolution and its head.

    Args:
        model: in float32.
        images: uint8 [N, S, S], from which the ranges of values are taken.
    """
    nncf = _nncf()
    count = min(_CALIBRATION_IMAGES, len(images))
    with contextlib.redirect_stdout(sys.stderr):  # NNCF's progress
        return nncf.quantize(
            model,
            nncf.Dataset(range(count), lambda place: images[place : place + 1]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=count,
            ignored_scope=nncf.IgnoredScope(names=sorted(float32_layers(model))),
            # Without VNNI sums of products overflow, unless weights keep one bit free.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE
            ),
        )


def _nncf() -> ModuleType:
    nncf = needed("nncf")
    logging.getLogger("nncf").setLevel(logging.WARNING)
    return nncf


def export(
    bundle: Bundle,
    out: Path,
    kind: Format,
    precision: Precision,
    trial: Trial,
    force: bool = False,
) -> Export:
    """Write a bundle's classifier as a graph, after comparing it with torch.

    Args:
        bundle: its classifier is moved to the CPU.
        out: the folder; an export in it is replaced.
        kind: of graph.
        precision: bf16 and int8 are for OpenVINO, and need labels in `trial`.
        trial: images to compare on; int8 is calibrated on those without labels.
        force: write it even where a limit is not kept.

    Returns:
        The content of `export.json`.

    Raises:
        ArtifactError: a limit is not kept, the classifier cannot be exported, or as `check` says.
        MissingExtraError: a package of the `export` extra is not installed.
    """
    check(out, kind, precision, labelled=trial.labels is not None)
    reference = TorchEngine(bundle.classifier.cpu())
    onnx = to_onnx(bundle.classifier)
    graph = None if kind == "onnx" else _stored(to_openvino(onnx), precision, trial)
    engine, misses = (
        (OnnxEngine(onnx), []) if graph is None else _engine(graph, precision, bundle, trial)
    )
    with progress("compare with torch", len(trial.images)) as advance:
        parity = measure(engine, reference, trial, *_rules(bundle), advance=advance)
    misses += parity.misses(exact=precision == "fp32")
    if misses and not force:
        raise ArtifactError(
            f"the {precision} graph differs too much from the model: {'; '.join(misses)}; choose "
            f"another precision, or write it anyway with --force"
        )
    limits = _EXACT if precision == "fp32" else _HARMLESS
    return _write(bundle, out, onnx if graph is None else graph, precision, parity, limits, misses)


def _write(
    bundle: Bundle,
    out: Path,
    graph: bytes | GraphFiles,
    precision: Precision,
    parity: Parity,
    limits: dict[str, float],
    misses: Sequence[str],
) -> Export:
    """Write the files of an export; one that is there is replaced."""
    kind: Format = "onnx" if isinstance(graph, bytes) else "openvino"
    files = (graph,) if isinstance(graph, bytes) else graph
    out.mkdir(parents=True, exist_ok=True)
    for name in (EXPORT, ONNX, XML, BIN):
        (out / name).unlink(missing_ok=True)
    for name, content in zip(GRAPH[kind], files, strict=True):
        write_bytes(out / name, content)
    write_json(out / CARD, bundle.card.model_dump(mode="json"))
    record = _record(bundle, kind, precision, parity, limits, misses)
    record.sha256 = {name: sha256(out / name) for name in (*GRAPH[kind], CARD)}
    write_json(out / EXPORT, record.model_dump(mode="json"))
    return record


def _stored(model: Any, precision: Precision, trial: Trial) -> GraphFiles:  # noqa: ANN401
    if precision == "int8":
        model = _int8(model, trial.unlabelled)
    if precision == "bf16":
        bfloat16_weights(model)
        return keep_float32(model)
    return GraphFiles.of(model)


def _engine(
    graph: GraphFiles, precision: Precision, bundle: Bundle, trial: Trial
) -> tuple[Engine, list[str]]:
    """Give the engine that the graph is measured with, and what is wrong with the graph itself."""
    engine = OpenVinoEngine(graph.read(), ARITHMETIC[precision])
    if precision != "bf16" or engine.arithmetic() == "bfloat16":
        return engine, []
    # This processor computes the graph in float32, which is too exact: that it is this network's
    # graph is all that can be seen.
    few = Trial(trial.name, trial.images[-_FEW:])
    found = measure(engine, TorchEngine(bundle.classifier), few, *_rules(bundle))
    return Bfloat16Engine(bundle.classifier), list(found.image_misses())


def bfloat16_engine(network: Network) -> Engine:
    """Give what computes a network in bfloat16 to see what that changes.

    OpenVINO rounds more than the emulation does (docs/log.md), so a processor that has the
    instructions is asked itself.
    """
    if device_of(network).type == "cpu":
        with contextlib.suppress(ArtifactError, MissingExtraError, RuntimeError):
            if has_bfloat16():
                return OpenVinoEngine(keep_float32(to_openvino(to_onnx(network))).read(), "bf16")
    return Bfloat16Engine(network)


def _rules(bundle: Bundle) -> tuple[Calibration, HeatScale]:
    """Give what turns a network's answers into what a reader sees."""
    return bundle.card.calibration, bundle.card.heat_scale


def _record(
    bundle: Bundle,
    kind: Format,
    precision: Precision,
    parity: Parity,
    limits: dict[str, float],
    misses: Sequence[str],
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
            f"logits: float32 [N, {count}], before the calibration of the card",
            f"maps: float32 [N, {count}, h, w], in logits",
            "features: float32 [N, C], pooled, the input of the out-of-distribution detector",
        ],
        compile=settings,
        parity=parity,
        limits=limits,
        misses=list(misses),
        versions={"chestxray": __version__, **versions},
        sha256={},
    )
