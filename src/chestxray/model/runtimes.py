"""Engines beside torch: OpenVINO, for reading on a processor, and onnxruntime, to check ONNX.

Both are optional and imported when an engine is made.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Literal

import numpy as np

from chestxray.model.graph import INPUT, OUTPUTS, needed
from chestxray.model.inference import Answer, Images

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
        self._lock = threading.Lock()
        version = self._openvino.__version__.split("-")[0]
        self.name = f"OpenVINO {version}, {self.arithmetic()}"

    def arithmetic(self) -> str:
        """Say what is computed in: a processor without bfloat16 is given float32."""
        given = self._alone.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return _WORDS.get(given, str(given))

    def run(self, images: Images) -> Answer:
        """See `Engine.run`."""
        with self._lock:
            if len(images) == 1:
                found = self._alone({INPUT: images})
                return Answer(*(np.array(found[name]) for name in OUTPUTS))
            return self._run_together(images)

    def _run_together(self, images: Images) -> Answer:
        if self._together is None:
            self._together = self._openvino.AsyncInferQueue(self._compiled("THROUGHPUT"))
            self._together.set_callback(_keep)
        results: list[Any] = [None] * len(images)
        for place in range(len(images)):
            self._together.start_async({INPUT: images[place : place + 1]}, (results, place))
        self._together.wait_all()
        return Answer(*(np.concatenate(of) for of in zip(*results, strict=True)))

    def _compiled(self, hint: str) -> Any:  # noqa: ANN401
        settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": self._arithmetic}
        return self._openvino.Core().compile_model(self._model, "CPU", settings)


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
