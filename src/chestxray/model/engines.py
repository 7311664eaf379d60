"""Engines: what computes logits, class maps and features of canonical images.

An engine takes uint8 and gives float32, keeps the order of its images, and may be called from
several threads. OpenVINO serves for reading on a processor, onnxruntime for checking ONNX files;
both are optional and imported when an engine is made. `torch_engine` is the third.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from chestxray.errors import MissingExtraError
from chestxray.process_limits import allocating_at_most

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]
Heat = npt.NDArray[np.float32]
Arithmetic = Literal["f32", "bf16"]

INPUT: Final = "images"
OUTPUTS: Final = ("logits", "maps", "features")
MOST_MEMORY: Final = 8 * 2**30
"""Bytes that a graph may take for one image."""

_WORDS: Final = {"f32": "float32", "bf16": "bfloat16"}


class Answer(NamedTuple):
    """The model's output for B images; K findings, C features, maps of h × w.

    Attributes:
        logits: float32 [B, K].
        maps: float32 [B, K, h, w], in logits.
        features: float32 [B, C], the means of the feature maps, which are the head's input; of an
            ensemble those of all members, each of length 1.
    """

    logits: Logits
    maps: Maps
    features: Features


class Engine(Protocol):
    """Runs one model.

    Attributes:
        name: for people: the runtime, its version and arithmetic, and the export that it runs, if
            any. Engines of one name give the same answers.
    """

    name: str

    def run(self, images: Images) -> Answer:
        """Give the model's output for canonical images uint8 [B, S, S]."""
        ...


def run_all(engine: Engine, images: Images, batch_size: int = 32) -> Iterator[Answer]:
    """Run an engine over images uint8 [N, S, S], at most `batch_size` at a time."""
    for start in range(0, len(images), batch_size):
        yield engine.run(images[start : start + batch_size])


class OpenVinoEngine:
    """A graph compiled by OpenVINO for this machine's processor.

    A single image is computed on all cores. Several images are spread over streams of a few cores
    each; that form is compiled when it is first needed.

    Args:
        model: an `openvino.Model`, as `export.to_openvino` gives.
        arithmetic: of its floating-point part. By default OpenVINO takes bfloat16 where the
            processor has it, which is not within 1e-4 of float32.
        threads: to compute with; all cores when None.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        arithmetic: Arithmetic = "f32",
        threads: int | None = None,
    ) -> None:
        self._openvino = needed("openvino")
        self._model = model
        self._arithmetic = arithmetic
        self._threads = threads
        self._alone = self._compiled("LATENCY")
        self._together: Any = None
        self._queue: Any = None
        self._lock = threading.Lock()
        version = self._openvino.__version__.split("-")[0]
        self.name = f"OpenVINO {version}, {self.arithmetic()}"

    def arithmetic(self) -> str:
        """Name the arithmetic in use: on a processor without bfloat16 it is float32."""
        given = self._alone.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        words = _WORDS.get(given, str(given))
        return f"int8 and {words}" if quantised(self._model) else words

    def run(self, images: Images) -> Answer:
        """See `Engine.run`."""
        with self._lock:
            if len(images) == 1:
                found = self._alone({INPUT: images})
                return Answer(*(np.array(found[name]) for name in OUTPUTS))
            return self._run_together(images)

    def _run_together(self, images: Images) -> Answer:
        queue, self._queue = self._queue, None
        if queue is None:
            queue = self._new_queue()
        results: list[Any] = [None] * len(images)
        for place in range(len(images)):
            queue.start_async({INPUT: images[place : place + 1]}, (results, place))
        queue.wait_all()
        self._queue = queue  # only now: a queue in which a request failed keeps raising
        return Answer(*(np.concatenate(of) for of in zip(*results, strict=True)))

    def _new_queue(self) -> Any:  # noqa: ANN401
        if self._together is None:
            self._together = self._compiled("THROUGHPUT")
        queue = self._openvino.AsyncInferQueue(self._together)
        queue.set_callback(_keep)
        return queue

    def _compiled(self, hint: str) -> Any:  # noqa: ANN401
        settings: dict[str, str | int] = {
            "PERFORMANCE_HINT": hint,
            "INFERENCE_PRECISION_HINT": self._arithmetic,
        }
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        return self._openvino.Core().compile_model(self._model, "CPU", settings)


def has_bfloat16() -> bool:
    """Tell whether OpenVINO computes in bfloat16 on this processor (AVX-512 BF16, AMX)."""
    able = needed("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in able


def gpu_possible() -> bool:
    """Tell, without torch, whether torch may find a GPU here: whether there is a driver of one.

    macOS has neither; torch takes the GPU there only where it is named.
    """
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()  # of AMD
    return True


def quantised(model: Any) -> bool:  # noqa: ANN401
    """Tell whether any layer of an `openvino.Model` is int8."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def _keep(request: Any, where: tuple[list[Any], int]) -> None:  # noqa: ANN401
    """Copy the outputs of a finished request to its image's place."""
    results, place = where
    results[place] = tuple(np.array(request.get_tensor(name).data) for name in OUTPUTS)


class OnnxEngine:
    """A graph run by onnxruntime on the processor.

    Args:
        onnx: bytes of an ONNX file.

    Attributes:
        sides: height and width of its images.
    """

    def __init__(self, onnx: bytes) -> None:
        runtime = needed("onnxruntime")
        self._session = runtime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self.sides: tuple[int, ...] = tuple(self._session.get_inputs()[0].shape[1:])
        self.name = f"onnxruntime {runtime.__version__}"

    def run(self, images: Images) -> Answer:
        """See `Engine.run`."""
        with allocating_at_most(MOST_MEMORY * len(images)):
            return Answer(*self._session.run(list(OUTPUTS), {INPUT: images}))


def last_line(error: Exception) -> str:
    """Give the last line of a runtime's message, which states the cause."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def needed(package: str) -> ModuleType:
    """Import a package of the `export` extra; raises `MissingExtraError` where it is absent.

    OpenVINO and NNCF report their use to Google Analytics where openvino_telemetry can be imported,
    and do without where it cannot.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "export") from error
