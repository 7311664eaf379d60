"""Engines beside torch: OpenVINO, for reading on a processor, and onnxruntime, to check ONNX.

Both are optional and imported when an engine is made.
"""

from __future__ import annotations

import importlib
import threading
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np

from chestxray.errors import MissingExtraError
from chestxray.model.answer import Answer, Images

INPUT: Final = "images"
OUTPUTS: Final = ("logits", "maps", "features")
EXTRA: Final = "export"

Arithmetic = Literal["f32", "bf16"]
_WORDS: Final = {"f32": "float32", "bf16": "bfloat16"}


class OpenVinoEngine:
    """A graph compiled by OpenVINO for this machine's processor.

    One image alone gets all cores. Several at once are spread over streams, each with a few cores,
    which is compiled when they first come.

    Args:
        model: an `openvino.Model` as of `model.graph`.
        arithmetic: of its floating-point part. Left to itself, OpenVINO takes bfloat16 where the
            processor has it, which is not within 1e-4 of float32.
    """

    def __init__(self, model: Any, arithmetic: Arithmetic = "f32") -> None:  # noqa: ANN401
        self._openvino = needed("openvino")
        self._model = model
        self._arithmetic = arithmetic
        self._alone = self._compiled("LATENCY")
        self._together: Any = None
        self._queue: Any = None
        self._lock = threading.Lock()
        version = self._openvino.__version__.split("-")[0]
        self.name = f"OpenVINO {version}, {self.arithmetic()}"

    def arithmetic(self) -> str:
        """Say what is computed in: a processor without bfloat16 is given float32."""
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
        self._queue = queue  # only now: a queue in which a request failed raises for ever
        return Answer(*(np.concatenate(of) for of in zip(*results, strict=True)))

    def _new_queue(self) -> Any:  # noqa: ANN401
        if self._together is None:
            self._together = self._compiled("THROUGHPUT")
        queue = self._openvino.AsyncInferQueue(self._together)
        queue.set_callback(_keep)
        return queue

    def _compiled(self, hint: str) -> Any:  # noqa: ANN401
        settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": self._arithmetic}
        return self._openvino.Core().compile_model(self._model, "CPU", settings)


def quantised(model: Any) -> bool:  # noqa: ANN401
    """Say whether any layer of an `openvino.Model` is int8."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def _keep(request: Any, where: tuple[list[Any], int]) -> None:  # noqa: ANN401
    """Copy the outputs of a finished request to its image's place."""
    results, place = where
    results[place] = tuple(np.array(request.get_tensor(name).data) for name in OUTPUTS)


class OnnxEngine:
    """An ONNX file's bytes run by onnxruntime on the processor."""

    def __init__(self, onnx: bytes) -> None:
        runtime = needed("onnxruntime")
        self._session = runtime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self.name = f"onnxruntime {runtime.__version__}"

    def run(self, images: Images) -> Answer:
        """See `Engine.run`."""
        return Answer(*self._session.run(list(OUTPUTS), {INPUT: images}))


def last_line(error: Exception) -> str:
    """Give what matters of a runtime's own message, which has many lines."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def needed(package: str) -> ModuleType:
    """Import a package of the `export` extra; raises `MissingExtraError` where it is absent."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, EXTRA) from error
