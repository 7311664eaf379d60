"""Writing an export: the classifier as one graph, for runtimes other than torch.

In: `images`, uint8 [N, S, S], canonical, any N. Out: `logits`, float32 [N, K], `maps`, float32
[N, K, h, w], and `features`, float32 [N, C], pooled. Normalisation is part of the graph. torch
traces it once, to ONNX; OpenVINO reads that, so both run the same graph. It is compared with torch
before it is written (see `exported`).

OpenVINO graphs can have bfloat16 weights, or int8 layers by NNCF's post-training quantisation on
validation images: all convolutions but the first, whose rounding costs most. Layers whose rounding
moves a finding's AUROC most return to float32 until none moves by more than the limit.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from chestxray.artifacts import sha256, write_json, written
from chestxray.errors import ArtifactError
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.model.bundle import Bundle
from chestxray.model.engines import (
    INPUT,
    OUTPUTS,
    Engine,
    Images,
    Logits,
    Maps,
    OnnxEngine,
    OpenVinoEngine,
    needed,
    quantised,
)
from chestxray.model.ensemble import Network
from chestxray.model.exported import (
    ARITHMETIC,
    AUROC_TOLERANCE,
    BIN,
    EXPORT,
    ONNX,
    TOLERANCE,
    XML,
    Export,
    Format,
    Parity,
    Precision,
    Trial,
    auroc_changes,
    check,
    measure,
    outputs,
)
from chestxray.model.network import to_input
from chestxray.model.torch_engine import TorchEngine
from chestxray.version import __version__

_CALIBRATION_IMAGES: Final = 128
_RANKING_IMAGES: Final = 32
_ROUNDS: Final = 24


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


def _bfloat16(model: Any) -> None:  # noqa: ANN401 - OpenVINO ships no types
    """Store the weights of an `openvino.Model` in bfloat16, in place; the file is half as large."""
    openvino = needed("openvino")
    for constant in model.get_ops():
        if constant.get_type_name() != "Constant":
            continue
        weights = constant.data
        if constant.get_element_type() != openvino.Type.f32 or weights.size == 1:
            continue
        readers = list(constant.output(0).get_target_inputs())
        small = openvino.opset13.constant(weights, openvino.Type.bf16)
        wide = openvino.opset13.convert(small, "f32")
        for reader in readers:
            reader.replace_source_output(wide.output(0))


def _int8(model: Any, images: Images) -> Any:  # noqa: ANN401
    """Quantise an `openvino.Model` to int8, except for its first convolution.

    Args:
        model: in float32.
        images: uint8 [N, S, S] of validation, from which the ranges of values are taken.
    """
    nncf = _nncf()
    count = min(_CALIBRATION_IMAGES, len(images))
    with contextlib.redirect_stdout(sys.stderr):  # NNCF's progress
        return nncf.quantize(
            model,
            nncf.Dataset(range(count), lambda place: images[place : place + 1]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=count,
            ignored_scope=_first_convolution(model),
        )


def _careful_int8(
    model: Any,  # noqa: ANN401
    images: Images,
    labels: npt.NDArray[np.float32],
    reference: Logits,
    findings: Sequence[str],
) -> Any:  # noqa: ANN401
    """Quantise as many layers of an `openvino.Model` to int8 as AUROC allows.

    Args:
        model: in float32.
        images: uint8 [N, S, S] of validation, for calibration and for AUROC.
        labels: float32 [N, K] of 1, 0, NaN.
        reference: float32 [N, K], torch's logits of these images.
        findings: the K names.

    Raises:
        ArtifactError: AUROC allows no layer.
    """
    nncf = _nncf()

    def image(place: int) -> Images:
        return images[place : place + 1]

    def validate(compiled: Any, places: Iterable[int]) -> tuple[float, list[list[Any]]]:  # noqa: ANN401
        """Give 1 minus the largest change of an AUROC, and the outputs of each image."""
        order = list(places)
        found = [compiled({INPUT: image(place)}) for place in order]
        each = [[np.array(of[name]) for name in OUTPUTS] for of in found]
        logits = np.concatenate([of[0] for of in each])
        changes = auroc_changes(logits, reference[order], labels[order], findings).values()
        return 1 - max((abs(of) for of in changes if of is not None), default=0.0), each

    count = len(images)
    every = nncf.Dataset(range(count), image)
    with contextlib.redirect_stdout(sys.stderr):
        found = nncf.quantize_with_accuracy_control(
            model,
            every,
            every,
            validate,
            max_drop=AUROC_TOLERANCE,
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=min(_CALIBRATION_IMAGES, count),
            ignored_scope=_first_convolution(model),
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                max_num_iterations=_ROUNDS, ranking_subset_size=min(_RANKING_IMAGES, count)
            ),
        )
    if not quantised(found):
        raise ArtifactError(
            f"int8 in any layer changes a finding's AUROC on these {count} validation images by "
            f"more than {AUROC_TOLERANCE:g}: use fp32, or --force for int8 in all layers"
        )
    return found


def _first_convolution(model: Any) -> Any:  # noqa: ANN401
    nodes = (node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution")
    return _nncf().IgnoredScope(names=[next(nodes).get_friendly_name()])


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
        trial: images to compare on; int8 is calibrated on them too.
        force: write it even where a limit is not kept; int8 is then in all layers.

    Returns:
        The content of `export.json`.

    Raises:
        ArtifactError: a limit is not kept, the classifier cannot be exported, or as `check` says.
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
            f"the {precision} graph differs too much from the model: {'; '.join(misses)}; choose "
            f"another precision, or write it anyway with --force"
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
        return _int8(model, trial.images)
    if precision == "int8" and trial.labels is not None:
        return _careful_int8(model, trial.images, trial.labels, reference[0], bundle.card.findings)
    if precision == "bf16":
        _bfloat16(model)
    return model


def _engine(model: Any, precision: Precision, bundle: Bundle) -> Engine:  # noqa: ANN401
    """Give the engine that the graph is measured with."""
    engine = OpenVinoEngine(model, ARITHMETIC[precision])
    if precision == "bf16" and engine.arithmetic() != "bfloat16":
        # This processor would compute in float32, which is too exact: torch emulates bfloat16.
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
            f"logits: float32 [N, {count}], before the calibration of the card",
            f"maps: float32 [N, {count}, h, w], in logits",
            "features: float32 [N, C], pooled, the input of the out-of-distribution detector",
        ],
        compile=settings,
        parity=parity,
        limits={"fp32": TOLERANCE} if precision == "fp32" else {"auroc": AUROC_TOLERANCE},
        misses=misses,
        versions={"chestxray": __version__, **versions},
        sha256={},
    )
