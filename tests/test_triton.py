"""The model repository for Triton, read as Triton's documentation says, and a client of it.

No Triton runs here. A server of the Open Inference Protocol stands in for it: it knows nothing of
chestxray, takes name, types and shapes from `config.pbtxt`, and runs the graph by onnxruntime.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the export extra")
pytest.importorskip("onnx", reason="needs the export extra")

import onnxruntime
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

import chestxray
from chestxray.cli.export import export as export_verb
from chestxray.errors import ArtifactError
from chestxray.model.triton import check_place
from conftest import REPOSITORY

GUIDE = (REPOSITORY / "docs/export.md").read_text(encoding="utf-8")
ONNX = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)"}


def model_config() -> Any:
    """Triton's message ModelConfig, as far as `config.pbtxt` uses it, with its field numbers."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference")
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8")):
        types.value.add(name=name, number=number)
    types.value.add(name="TYPE_FP32", number=11)
    for name in ("ModelInput", "ModelOutput"):
        tensor = file.message_type.add(name=name)
        tensor.field.add(name="name", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
        tensor.field.add(
            name="data_type", number=2, type=kinds.TYPE_ENUM, type_name=".inference.DataType",
            label=kinds.LABEL_OPTIONAL,
        )  # fmt: skip
        number = 4 if name == "ModelInput" else 3
        tensor.field.add(
            name="dims", number=number, type=kinds.TYPE_INT64, label=kinds.LABEL_REPEATED
        )
    file.message_type.add(name="ModelDynamicBatching")
    config = file.message_type.add(name="ModelConfig")
    for name, number, kind, of, label in (
        ("name", 1, kinds.TYPE_STRING, "", kinds.LABEL_OPTIONAL),
        ("backend", 17, kinds.TYPE_STRING, "", kinds.LABEL_OPTIONAL),
        ("max_batch_size", 4, kinds.TYPE_INT32, "", kinds.LABEL_OPTIONAL),
        ("input", 5, kinds.TYPE_MESSAGE, ".inference.ModelInput", kinds.LABEL_REPEATED),
        ("output", 6, kinds.TYPE_MESSAGE, ".inference.ModelOutput", kinds.LABEL_REPEATED),
        ("dynamic_batching", 11, kinds.TYPE_MESSAGE, ".inference.ModelDynamicBatching",
         kinds.LABEL_OPTIONAL),
    ):  # fmt: skip
        config.field.add(name=name, number=number, type=kind, label=label, type_name=of or None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    return found()


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command wrote `exported` and `models`."""
    out = tmp_path_factory.mktemp("triton")
    export_verb(run / "bundle", out / "exported", "onnx", triton=out / "models")
    return out


def config_of(folder: Path) -> Any:
    text = (folder / "models/chestxray/config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config())


def test_the_repository_has_tritons_layout_and_the_exports_graph(folder: Path):
    files = {str(path.relative_to(folder / "models")) for path in folder.glob("models/**/*.*")}
    assert files == {"chestxray/config.pbtxt", "chestxray/1/model.onnx"}
    graph = (folder / "models/chestxray/1/model.onnx").read_bytes()
    assert graph == (folder / "exported/graph.onnx").read_bytes()


def test_the_configuration_is_that_of_the_graph(folder: Path):
    config = config_of(folder)
    session = onnxruntime.InferenceSession(folder / "models/chestxray/1/model.onnx")
    assert (config.name, config.backend) == ("chestxray", "onnxruntime")
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    for told, real in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [of.name for of in told] == [of.name for of in real]
        for ours, theirs in zip(told, real, strict=True):
            types = ours.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
            name = types[ours.data_type].name
            assert ONNX[name] == theirs.type
            assert list(ours.dims) == theirs.shape[1:]
            assert isinstance(theirs.shape[0], str)  # the batch, which Triton adds, is open


def test_a_batch_of_any_size_up_to_the_largest_gives_what_each_image_gives(folder: Path, dataset):
    config = config_of(folder)
    session = onnxruntime.InferenceSession(folder / "models/chestxray/1/model.onnx")
    images = dataset.images[np.arange(config.max_batch_size)]
    whole = session.run(None, {"images": images})
    for place in (0, config.max_batch_size - 1):
        alone = session.run(None, {"images": images[place : place + 1]})
        for ours, theirs in zip(whole, alone, strict=True):
            assert np.allclose(ours[place], theirs[0], atol=1e-5)


class Protocol(BaseHTTPRequestHandler):
    """POST /v2/models/NAME/infer with JSON tensors (Open Inference Protocol, version 2)."""

    def do_POST(self) -> None:
        config, session = self.server.model
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (tensor,) = request["inputs"]
        assert self.path == f"/v2/models/{config.name}/infer"
        assert tensor["name"] == config.input[0].name
        assert tensor["datatype"] == "UINT8"
        assert tensor["shape"][1:] == list(config.input[0].dims)
        assert tensor["shape"][0] <= config.max_batch_size
        images = np.array(tensor["data"], np.uint8).reshape(tensor["shape"])
        names = [of.name for of in config.output]
        found = session.run(names, {config.input[0].name: images})
        outputs = [
            {"name": name, "datatype": "FP32", "shape": of.shape, "data": of.ravel().tolist()}
            for name, of in zip(names, found, strict=True)
        ]
        body = json.dumps({"model_name": config.name, "outputs": outputs}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Protocol)
    graph = folder / "models/chestxray/1/model.onnx"
    served.model = config_of(folder), onnxruntime.InferenceSession(graph)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_the_guides_client_gets_the_readers_probabilities(run, folder: Path, phantoms, server):
    image = cv2.imread(str(next(phantoms.rglob("*.png"))), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(folder / "radiograph.png"), image)
    whole, client = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(client.strip().splitlines()) <= 30
    definitions = whole.split("card = json.load")[0]
    done = subprocess.run(
        [sys.executable, "-c", definitions + client, server],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    ours = chestxray.load(run / "bundle", "torch").read(image, force=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(ours.probabilities)
    for finding, probability, _ in rows:
        assert float(probability) == pytest.approx(ours.probabilities[finding], abs=1e-5)


def test_a_folder_of_other_things_is_not_replaced_and_only_onnx_is_taken(run, tmp_path):
    (tmp_path / "chestxray").mkdir()
    with pytest.raises(ArtifactError, match="not a model of Triton"):
        check_place(tmp_path)
    with pytest.raises(ArtifactError, match="--format onnx"):
        export_verb(run / "bundle", tmp_path / "out", "openvino", triton=tmp_path / "models")
    assert not (tmp_path / "out").exists()
