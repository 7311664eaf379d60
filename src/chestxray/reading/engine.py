"""Chooses the engine: torch on a GPU; on a CPU the fastest one that answers as torch does.

The candidates on a CPU are OpenVINO in float32, OpenVINO in bfloat16, and torch. Each OpenVINO
engine is compared with torch when it is made. float32 must agree within `TOLERANCE`. bfloat16 must
have kept all limits of `model.parity` when the bundle was finished, as its card records, and here
no output may differ by more than `COARSE`: so the record says that the rounding does no harm, and
the check that this is the same network. It is only tried where OpenVINO reports that the processor
has the instructions.

Which is fastest is measured on one image. A later candidate replaces an earlier one only where it
is clearly faster, whatever else runs on the machine. What was chosen is kept (`kept_engines`): so
the same machine chooses the same engine each time, and a graph is converted and compared once. That
holds for OpenVINO that is asked for by its name too.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from chestxray.errors import ArtifactError, ConfigError, MissingExtraError
from chestxray.model.bundle import Bundle
from chestxray.model.engines import (
    Arithmetic,
    Engine,
    Images,
    OpenVinoEngine,
    has_bfloat16,
    last_line,
)
from chestxray.model.export import to_onnx, to_openvino
from chestxray.model.openvino_graph import GraphFiles, keep_float32
from chestxray.model.parity import COARSE, TOLERANCE, noise, relative_difference
from chestxray.model.torch_engine import TorchEngine, device
from chestxray.reading import kept_engines

_log = logging.getLogger(__name__)
_NEEDED: Final = ("onnx", "openvino")
_ROUNDS: Final = 3
_CLEARLY: Final = 1.5
"""Times as fast as an earlier candidate that a later one must be."""


class Candidate(NamedTuple):
    """An engine that answers as torch does.

    Attributes:
        engine: which computes.
        graph: that OpenVINO compiled; None of torch.
        arithmetic: in which it computes.
    """

    engine: Engine
    graph: GraphFiles | None = None
    arithmetic: Arithmetic = "f32"


class _DisagreesError(ArtifactError):
    """OpenVINO answers otherwise than torch does: it will do so again."""


def choose(
    bundle: Bundle,
    choice: str = "auto",
    threads: int | None = None,
    place: str = "auto",
    wanted: str | None = None,
    kept: bool = True,
) -> Engine:
    """Make the engine for a bundle.

    Args:
        bundle: its classifier is moved to the GPU if torch computes there.
        choice: `auto`, `torch`, or `openvino`, which is OpenVINO in float32.
        threads: that `openvino` computes with; all cores when None.
        place: where torch computes, as `device` takes it.
        wanted: name of the engine that `auto` shall take if it is possible here.
        kept: whether an engine may be taken that was kept before, and kept when it is chosen or
            made.

    Raises:
        ConfigError: there is no such device here, or OpenVINO is to compute on another than the
            CPU.
        ArtifactError: the exported classifier does not agree with torch.
        MissingExtraError: OpenVINO is asked for by name and not installed.
    """
    chosen = device(place)
    if choice == "openvino":
        if place not in ("auto", "cpu"):
            raise ConfigError(f"OpenVINO computes on the CPU, not on {place}: take engine torch")
        return _named_openvino(bundle, threads, kept)
    if choice == "auto" and chosen.type == "cpu" and _installed():
        return _auto(bundle, place, wanted, kept)
    return TorchEngine(bundle.classifier.to(chosen))


def _named_openvino(bundle: Bundle, threads: int | None, kept: bool) -> Engine:
    before = kept_engines.find_openvino(bundle, threads) if kept else None
    if before is not None:
        return before
    engine, graph, _ = _openvino(bundle, to_onnx(bundle.classifier.cpu()), threads)
    if kept:
        kept_engines.keep(bundle, kept_engines.OPENVINO, engine.name, graph, "f32")
    return engine


def _auto(bundle: Bundle, place: str, wanted: str | None, kept: bool) -> Engine:
    before = kept_engines.find(bundle, place) if kept else None
    if before is not None and wanted in (None, before.name):
        return before.engine or TorchEngine(bundle.classifier.cpu())
    found, whole = candidates(bundle)
    engines = [of.engine for of in found]
    for engine in engines:
        if engine.name == wanted:
            return engine
    best = fastest(engines, noise(bundle.card.size).images[:1])
    if kept and before is None and whole:
        _, graph, arithmetic = found[engines.index(best)]
        kept_engines.keep(bundle, place, best.name, graph, arithmetic)
    return best


def candidates(bundle: Bundle) -> tuple[list[Candidate], bool]:
    """Make the engines that answer as torch does on this machine's processor.

    Returns:
        The engines, torch as the last; and whether each could be tried. OpenVINO that failed may
        have lacked memory, or room for a file, so that the next start may find more.
    """
    found, whole = [], True
    try:
        onnx = to_onnx(bundle.classifier.cpu())
        found.append(_openvino(bundle, onnx))
        if has_bfloat16() and passes_bfloat16(bundle):
            found.append(_in_bfloat16(bundle, onnx))
    except _DisagreesError:
        pass
    except (ArtifactError, MissingExtraError):  # only torch can run it, or OpenVINO is broken
        whole = False
    except (OSError, MemoryError) as error:
        _log.warning("the graph for OpenVINO could not be made: %s", last_line(error))
        whole = False
    return [*found, Candidate(TorchEngine(bundle.classifier))], whole


def fastest(engines: Sequence[Engine], images: Images) -> Engine:
    """Give the first engine, or a later one that is clearly faster on these images.

    The least of a few runs counts, taken in turns: other work on the machine only adds to a time.
    """
    if len(engines) == 1:
        return engines[0]
    times = [[_seconds(engine, images) for engine in engines] for _ in range(_ROUNDS)]
    least = np.min(times, axis=0)
    best = 0
    for place in range(1, len(engines)):
        if least[place] * _CLEARLY < least[best]:
            best = place
    return engines[best]


def passes_bfloat16(bundle: Bundle) -> bool:
    """Tell whether the bundle records that its network kept all limits in bfloat16."""
    record = bundle.card.bfloat16
    return record is not None and not record.misses(exact=False)


def check_agrees(engine: Engine, bundle: Bundle, images: Images, exact: bool) -> None:
    """Compare an engine with torch in float32.

    Args:
        engine: of the bundle's classifier.
        bundle: with the classifier on the CPU.
        images: uint8 [N, S, S].
        exact: whether outputs must agree within `TOLERANCE`, or within `COARSE` only.

    Raises:
        ArtifactError: it does not agree, or the runtime cannot run it.
    """
    try:
        found = engine.run(images)
    except RuntimeError as error:
        raise _cannot_run(error) from error
    expected = TorchEngine(bundle.classifier).run(images)
    limit = TOLERANCE if exact else COARSE
    difference = relative_difference(found, expected, logits=1.0 if exact else None)
    if not difference <= limit:
        raise _DisagreesError(
            f"outputs of {engine.name} and torch differ by {difference:.2g} on this model, more "
            f"than {limit:g}: read with torch"
        )


def _openvino(bundle: Bundle, onnx: bytes, threads: int | None = None) -> Candidate:
    """Convert the classifier, which takes a second or two, and compare it with torch."""
    try:
        graph = GraphFiles.of(to_openvino(onnx))
        engine = OpenVinoEngine(graph.read(), threads=threads)
    except RuntimeError as error:
        raise _cannot_run(error) from error
    check_agrees(engine, bundle, noise(bundle.card.size).images[:1], exact=True)
    return Candidate(engine, graph)


def _in_bfloat16(bundle: Bundle, onnx: bytes) -> Candidate:
    """Likewise in bfloat16."""
    try:
        graph = keep_float32(to_openvino(onnx))
        engine = OpenVinoEngine(graph.read(), "bf16")
    except RuntimeError as error:
        raise _cannot_run(error) from error
    check_agrees(engine, bundle, noise(bundle.card.size).images, exact=False)
    return Candidate(engine, graph, "bf16")


def _cannot_run(error: RuntimeError) -> ArtifactError:
    """Shorten OpenVINO's own message, which has many lines."""
    return ArtifactError(f"OpenVINO cannot run this model ({last_line(error)}): read with torch")


def _installed() -> bool:
    return all(importlib.util.find_spec(package) is not None for package in _NEEDED)


def _seconds(engine: Engine, images: Images) -> float:
    start = time.perf_counter()
    engine.run(images)
    return time.perf_counter() - start
