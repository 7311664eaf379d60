"""Which engine reads: torch on a GPU, OpenVINO on a processor where it is installed, else torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final, Literal

import numpy as np

from chestxray.errors import ArtifactError
from chestxray.model.bundle import Bundle
from chestxray.model.export import open_engine, read_export
from chestxray.model.graph import to_onnx, to_openvino
from chestxray.model.inference import Engine, TorchEngine, device
from chestxray.model.parity import TOLERANCE, noise
from chestxray.model.runtimes import OpenVinoEngine

Choice = Literal["auto", "torch", "openvino"]

_NEEDED: Final = ("onnx", "openvino")


def choose(bundle: Bundle, choice: Choice | Path = "auto") -> Engine:
    """Make the engine for a bundle.

    Args:
        bundle: its classifier is moved to the GPU where torch is to compute there.
        choice: `auto`, a runtime by name, or the folder of an export of this very model, which
            may be of lower precision.

    Raises:
        ArtifactError: the export is of another model or altered, or the classifier does not become
            a graph that agrees with torch.
        MissingExtraError: OpenVINO is asked for by name and not installed.
    """
    if isinstance(choice, Path):
        _check_model(bundle, choice)
        return open_engine(choice)
    if choice == "openvino":
        return _openvino(bundle)
    if choice == "auto" and device().type == "cpu" and _installed():
        try:
            return _openvino(bundle)
        except ArtifactError:  # a backbone that torch alone can run
            pass
    return TorchEngine(bundle.classifier.to(device()))


def _installed() -> bool:
    return all(importlib.util.find_spec(package) is not None for package in _NEEDED)


def _openvino(bundle: Bundle) -> Engine:
    """Convert the classifier, which takes a second or two, and hold it against torch."""
    engine = OpenVinoEngine(to_openvino(to_onnx(bundle.classifier.cpu())))
    images = noise(bundle.card.size).images[:1]
    pairs = zip(engine.run(images), TorchEngine(bundle.classifier).run(images), strict=True)
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    if not difference <= TOLERANCE:
        raise ArtifactError(
            f"OpenVINO and torch differ by {difference:.2g} logits on this model, more than "
            f"{TOLERANCE:g}: read with torch"
        )
    return engine


def _check_model(bundle: Bundle, folder: Path) -> None:
    exported = read_export(folder).model
    if exported != bundle.identity:
        raise ArtifactError(
            f"{folder} is an export of {exported}, the bundle is {bundle.identity}: export this "
            f"bundle anew"
        )
