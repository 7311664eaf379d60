"""A model repository for Triton Inference Server, and for others that read its layout.

    out/
      chestxray/
        config.pbtxt      name, backend, inputs and outputs
        1/
          model.onnx

The layout and the fields of `config.pbtxt` are those of Triton's documentation ("Model Repository",
"Model Configuration"). Dimensions are without the batch, which Triton adds. Requests that arrive
together are computed together.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from chestxray.artifacts import write_text, written
from chestxray.errors import ArtifactError
from chestxray.model.engines import needed

NAME: Final = "chestxray"
CONFIG: Final = "config.pbtxt"
_VERSION: Final = "1"
_GRAPH: Final = "model.onnx"
_MOST_IN_A_BATCH: Final = 32


def write_repository(out: Path, onnx: bytes) -> Path:
    """Write an ONNX graph as a model repository; a graph in its place is replaced.

    Args:
        out: the folder of the repository; other models in it stay as they are.
        onnx: bytes of an ONNX file whose inputs and outputs begin with the batch.

    Returns:
        The folder of the model.

    Raises:
        ArtifactError: there is something else in the model's place.
        MissingExtraError: onnx is not installed.
    """
    check_place(out)
    model = out / NAME
    folder = model / _VERSION
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / _GRAPH) as temporary:
        temporary.write_bytes(onnx)
    write_text(model / CONFIG, configuration(onnx))  # last: without it the model is not loaded
    return model


def check_place(out: Path) -> None:
    """Refuse a repository in which the model's folder holds something else.

    Raises:
        ArtifactError: it does.
    """
    model = out / NAME
    if model.exists() and not (model / CONFIG).is_file():
        raise ArtifactError(f"{model} exists and is not a model of Triton: give another folder")


def configuration(onnx: bytes) -> str:
    """Give `config.pbtxt` for an ONNX graph, as protobuf's text format."""
    graph = needed("onnx").load_model_from_string(onnx).graph
    lines = [
        f'name: "{NAME}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {_MOST_IN_A_BATCH}",
        f"input [\n{_tensors(graph.input)}\n]",
        f"output [\n{_tensors(graph.output)}\n]",
        "dynamic_batching { }",
    ]
    return "\n".join(lines) + "\n"


def _tensors(described: Iterable[Any]) -> str:
    return ",\n".join(map(_tensor, described))


def _tensor(of: Any) -> str:  # noqa: ANN401 - onnx is optional
    """Describe an input or an output; -1 is a dimension that the graph leaves open."""
    names = needed("onnx").TensorProto.DataType
    word = names.Name(of.type.tensor_type.elem_type).replace("FLOAT", "FP32")
    _, *sides = of.type.tensor_type.shape.dim
    dims = ", ".join(str(side.dim_value or -1) for side in sides)
    return f'  {{ name: "{of.name}", data_type: TYPE_{word}, dims: [ {dims} ] }}'
