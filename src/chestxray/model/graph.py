"""The classifier as one graph, for runtimes other than torch.

In: `images`, uint8 [N, S, S], canonical, N free. Out: `logits`, float32 [N, K], `maps`, float32
[N, K, h, w], and `features`, float32 [N, C], pooled. Normalisation is inside. torch is traced once,
to ONNX; OpenVINO reads that, so both run the same graph.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chestxray.errors import ArtifactError
from chestxray.model.network import Classifier, to_input
from chestxray.model.runtimes import INPUT, OUTPUTS, needed


class _Graph(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.classifier.explain(to_input(images))


def to_onnx(classifier: Classifier) -> bytes:
    """Give the graph of a classifier, on the CPU and in evaluation mode, as an ONNX file's bytes.

    Raises:
        ArtifactError: the backbone uses what ONNX does not know.
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
        # torch calls its tracing exporter old. The new one needs a further package and, for
        # DenseNet-121, half a minute instead of a second and a half (torch 2.15, 2 cores).
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
            raise ArtifactError(f"the classifier does not become a graph: {reason}") from error
        return file.read_bytes()


def to_openvino(onnx: bytes) -> Any:  # noqa: ANN401 - OpenVINO is optional and ships no types
    """Read an ONNX graph into OpenVINO; gives an `openvino.Model`."""
    return needed("openvino").Core().read_model(onnx)
