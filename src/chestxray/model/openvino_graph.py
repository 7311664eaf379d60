"""OpenVINO graphs as files, and those in lower precision, with layers that stay in float32.

The first convolution and the head stay in float32: of the logits' error in bfloat16, leaving out
both took away two thirds in a ResNet and a third in a DenseNet (docs/log.md). OpenVINO leaves a
layer alone that carries its attribute `DisablePrecisionConversion`, which is set in the XML file,
since its Python interface cannot set it. Versions that do not know it compute in bfloat16 there
too, as they did before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

# Only files that OpenVINO wrote here are parsed.
from xml.etree import ElementTree as ET  # nosec B405

from chestxray.errors import ArtifactError
from chestxray.model.engines import INPUT, MOST_MEMORY, needed

_ATTRIBUTE: Final = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
_CONVOLUTIONS: Final = frozenset({"Convolution", "GroupConvolution"})
_HEADS: Final = {"logits": frozenset({"MatMul"}), "maps": _CONVOLUTIONS}
_BODIES: Final = frozenset({"If", "Loop", "TensorIterator"})  # operations with a graph inside

# `Any` below is an `openvino.Model` or one of its nodes: OpenVINO is optional and ships no types.


class GraphFiles(NamedTuple):
    """A graph as OpenVINO stores it.

    Attributes:
        xml: content of the file that describes it.
        weights: content of the file of its constants.
    """

    xml: bytes
    weights: bytes

    @classmethod
    def of(cls, model: Any) -> Self:  # noqa: ANN401
        """Store an `openvino.Model`, as exactly as it computes."""
        with tempfile.TemporaryDirectory() as folder:
            xml = Path(folder) / "graph.xml"
            needed("openvino").save_model(model, xml, compress_to_fp16=False)
            return cls(xml.read_bytes(), xml.with_suffix(".bin").read_bytes())

    def read(self) -> Any:  # noqa: ANN401
        """Give it as an `openvino.Model`."""
        return needed("openvino").Core().read_model(self.xml, self.weights)


def check_memory(model: Any) -> None:  # noqa: ANN401
    """Check that a graph needs no more than `MOST_MEMORY` for one image, before it is compiled.

    Raises:
        ArtifactError: it does, or its operations do not tell.
        RuntimeError: it does not take one image.
    """
    one = model.clone()
    taken = one.input(INPUT)
    one.reshape({taken: [1, *list(taken.get_partial_shape())[1:]]})
    operations = one.get_ordered_ops()
    for node in operations:
        unknown = any(port.get_partial_shape().is_dynamic for port in node.outputs())
        if unknown or node.get_type_name() in _BODIES:
            raise ArtifactError(
                f"the sizes of its {node.get_type_name()} {node.get_friendly_name()!r} are not "
                f"those of one image alone: export the bundle again, or read with its network "
                f"(--engine torch)"
            )
    if (peak := _peak(operations)) > MOST_MEMORY:
        raise ArtifactError(
            f"it takes {peak / 2**30:.1f} GiB for one image, and at most "
            f"{MOST_MEMORY / 2**30:g} GiB are allowed: export the bundle again, or read with its "
            f"network (--engine torch)"
        )


def _peak(operations: Iterable[Any]) -> int:
    """Give the most bytes of tensors that are needed at once, where each is kept to its last use.

    What follows from constants alone is computed when the graph is compiled, and kept to the end.
    """
    constant: set[str] = set()
    readers: dict[tuple[str, int], int] = {}
    live = peak = 0
    for node in operations:
        name, given = node.get_name(), node.input_values()
        sources = [(of.get_node().get_name(), of.get_index()) for of in given]
        if node.get_type_name() != "Parameter" and all(of in constant for of, _ in sources):
            constant.add(name)
        for port in node.outputs():
            readers[name, port.get_index()] = len(port.get_target_inputs())
            live += _bytes(port)
        peak = max(peak, live)
        for source, port in zip(sources, given, strict=True):
            readers[source] -= 1
            if not readers[source] and source[0] not in constant:
                live -= _bytes(port)
    return peak


def _bytes(port: Any) -> int:  # noqa: ANN401
    taken: int = prod(port.get_shape()) * port.get_element_type().size
    return taken


def float32_layers(model: Any) -> set[str]:  # noqa: ANN401
    """Name the layers that stay in float32: each member's first convolution, and the heads."""
    found = _first_of(_CONVOLUTIONS, (_readers(of) for of in model.get_parameters()), _readers)
    for name, kinds in _HEADS.items():
        found |= _first_of(kinds, [[model.output(name).get_node()]], _given)
    return found


def bfloat16_weights(model: Any) -> None:  # noqa: ANN401
    """Store weights in bfloat16, in place, but for those of the layers that stay in float32.

    What has one value a channel, such as a bias, stays as it is: it is small, and costs nothing.
    """
    openvino, kept = needed("openvino"), float32_layers(model)
    for constant in model.get_ops():
        if constant.get_type_name() != "Constant":
            continue
        readers = list(constant.output(0).get_target_inputs())
        is_weights = sum(side > 1 for side in constant.get_output_shape(0)) > 1
        of_kept = any(reader.get_node().get_friendly_name() in kept for reader in readers)
        if constant.get_element_type() != openvino.Type.f32 or of_kept or not is_weights:
            continue
        small = openvino.opset13.constant(constant.data, openvino.Type.bf16)
        wide = openvino.opset13.convert(small, "f32")
        for reader in readers:
            reader.replace_source_output(wide.output(0))


def keep_float32(model: Any) -> GraphFiles:  # noqa: ANN401
    """Store the same model, with the layers that stay in float32 marked for OpenVINO."""
    kept, files = float32_layers(model), GraphFiles.of(model)
    # OpenVINO wrote it on the line before.
    root = ET.fromstring(files.xml)  # noqa: S314  # nosec B314
    for layer in root.iter("layer"):
        if layer.get("name") in kept:
            _mark(layer)
    return files._replace(xml=ET.tostring(root))


def is_marked(layer: Any) -> bool:  # noqa: ANN401
    """Tell whether a node carries the mark of `keep_float32`."""
    return any(str(name).startswith(_ATTRIBUTE["name"]) for name in layer.get_rt_info())


def _mark(layer: ET.Element) -> None:
    info = layer.find("rt_info")
    if info is None:
        info = ET.Element("rt_info")
        layer.insert(1 if layer.find("data") is not None else 0, info)
    ET.SubElement(info, "attribute", _ATTRIBUTE)


def _first_of(
    kinds: frozenset[str],
    starts: Iterable[Iterable[Any]],
    following: Callable[[Any], Iterable[Any]],
) -> set[str]:
    """Name the nodes of some kinds that are met first on each way from the starts."""
    waiting = [node for start in starts for node in start]
    found, seen = set(), set()
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name in seen:
            continue
        seen.add(name)
        if node.get_type_name() in kinds:
            found.add(name)
        else:
            waiting.extend(following(node))
    return found


def _readers(node: Any) -> list[Any]:  # noqa: ANN401
    return [to.get_node() for port in node.outputs() for to in port.get_target_inputs()]


def _given(node: Any) -> list[Any]:  # noqa: ANN401
    return [value.get_node() for value in node.input_values()]
