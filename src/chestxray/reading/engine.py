"""Chooses the engine: torch on a GPU, OpenVINO on a CPU where it is installed, else torch."""

from __future__ import annotations

import importlib.util
from typing import Final

import numpy as np

from chestxray.errors import ArtifactError, MissingExtraError
from chestxray.model.bundle import Bundle
from chestxray.model.engines import Engine, OpenVinoEngine, last_line
from chestxray.model.export import to_onnx, to_openvino
from chestxray.model.parity import TOLERANCE, noise
from chestxray.model.torch_engine import TorchEngine, device

_NEEDED: Final = ("onnx", "openvino")


def choose(bundle: Bundle, choice: str = "auto") -> Engine:
    """Make the engine for a bundle.

    Args:
        bundle: its classifier is moved to the GPU if torch computes there.
        choice: `auto`, `torch` or `openvino`.

    Raises:
        ArtifactError: the exported classifier does not agree with torch.
        MissingExtraError: OpenVINO is asked for by name and not installed.
    """
    if choice == "openvino":
        return _openvino(bundle)
    if choice == "auto" and device().type == "cpu" and _installed():
        try:
            return _openvino(bundle)
        except (ArtifactError, MissingExtraError):  # only torch can run it, or OpenVINO is broken
            pass
    return TorchEngine(bundle.classifier.to(device()))


def _installed() -> bool:
    return all(importlib.util.find_spec(package) is not None for package in _NEEDED)


def _openvino(bundle: Bundle) -> Engine:
    """Convert the classifier, which takes a second or two, and compare it with torch."""
    images = noise(bundle.card.size).images[:1]
    try:
        engine = OpenVinoEngine(to_openvino(to_onnx(bundle.classifier.cpu())))
        found = engine.run(images)
    except RuntimeError as error:  # OpenVINO's own, of many lines
        raise ArtifactError(
            f"OpenVINO cannot run this model ({last_line(error)}): read with torch"
        ) from error
    pairs = zip(found, TorchEngine(bundle.classifier).run(images), strict=True)
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    if not difference <= TOLERANCE:
        raise ArtifactError(
            f"OpenVINO and torch differ by {difference:.2g} logits on this model, more than "
            f"{TOLERANCE:g}: read with torch"
        )
    return engine
