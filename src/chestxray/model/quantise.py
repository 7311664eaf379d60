"""Smaller arithmetic for an OpenVINO graph: bfloat16 weights, and int8 that heeds AUROC.

int8 is post-training quantisation by NNCF on validation images: all convolutions but the first, on
whose input rounding costs most; then those are put back into float32 whose rounding moves some
finding's AUROC most, until none moves by more than allowed or nothing helps.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.errors import ArtifactError
from chestxray.model.answer import Images, Logits
from chestxray.model.parity import AUROC_TOLERANCE, auroc_changes
from chestxray.model.runtimes import INPUT, OUTPUTS, needed, quantised

_CALIBRATION_IMAGES: Final = 128
_RANKING_IMAGES: Final = 32
_ROUNDS: Final = 24


def bfloat16(model: Any) -> None:  # noqa: ANN401 - OpenVINO ships no types
    """Store the weights of an `openvino.Model` in bfloat16, in place; half the file."""
    openvino = needed("openvino")
    for constant in model.get_ops():
        if constant.get_type_name() != "Constant":
            continue
        weights = constant.data
        if constant.get_element_type() != openvino.Type.f32 or weights.size == 1:
            continue
        readers = list(constant.output(0).get_target_inputs())
        small = openvino.opset13.constant(weights, openvino.Type.bf16)
        wide = openvino.opset13.convert(small, "f32")
        for reader in readers:
            reader.replace_source_output(wide.output(0))


def int8(model: Any, images: Images) -> Any:  # noqa: ANN401
    """Give an `openvino.Model` quantised to int8 but for its first convolution, whatever it costs.

    Args:
        model: in float32.
        images: uint8 [N, S, S] of validation, which tell the ranges of values.
    """
    nncf = _nncf()
    count = min(_CALIBRATION_IMAGES, len(images))
    with contextlib.redirect_stdout(sys.stderr):  # NNCF's progress
        return nncf.quantize(
            model,
            nncf.Dataset(range(count), lambda place: images[place : place + 1]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=count,
            ignored_scope=_first_convolution(model),
        )


def careful_int8(
    model: Any,  # noqa: ANN401
    images: Images,
    labels: npt.NDArray[np.float32],
    reference: Logits,
    findings: list[str],
) -> Any:  # noqa: ANN401
    """Give an `openvino.Model` of which as much is int8 as AUROC allows.

    Args:
        model: in float32.
        images: uint8 [N, S, S] of validation, on which it is calibrated and judged.
        labels: float32 [N, K] of 1, 0, NaN.
        reference: float32 [N, K], torch's logits of these images.
        findings: the K names.

    Raises:
        ArtifactError: AUROC allows nothing.
    """
    nncf = _nncf()

    def image(place: int) -> Images:
        return images[place : place + 1]

    def validate(compiled: Any, places: Iterable[int]) -> tuple[float, list[list[Any]]]:  # noqa: ANN401
        """Give 1 less the largest change of an AUROC, and the outputs image by image."""
        order = list(places)
        found = [compiled({INPUT: image(place)}) for place in order]
        each = [[np.array(of[name]) for name in OUTPUTS] for of in found]
        logits = np.concatenate([of[0] for of in each])
        changes = auroc_changes(logits, reference[order], labels[order], findings).values()
        return 1 - max((abs(of) for of in changes if of is not None), default=0.0), each

    count = len(images)
    every = nncf.Dataset(range(count), image)
    with contextlib.redirect_stdout(sys.stderr):
        found = nncf.quantize_with_accuracy_control(
            model,
            every,
            every,
            validate,
            max_drop=AUROC_TOLERANCE,
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=min(_CALIBRATION_IMAGES, count),
            ignored_scope=_first_convolution(model),
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                max_num_iterations=_ROUNDS, ranking_subset_size=min(_RANKING_IMAGES, count)
            ),
        )
    if not quantised(found):
        raise ArtifactError(
            f"int8 in any layer changes some finding's AUROC on these {count} validation images by "
            f"more than {AUROC_TOLERANCE:g}: use fp32, or --force to have int8 in all layers"
        )
    return found


def _first_convolution(model: Any) -> Any:  # noqa: ANN401
    nodes = (node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution")
    return _nncf().IgnoredScope(names=[next(nodes).get_friendly_name()])


def _nncf() -> ModuleType:
    nncf = needed("nncf")
    logging.getLogger("nncf").setLevel(logging.WARNING)
    return nncf
