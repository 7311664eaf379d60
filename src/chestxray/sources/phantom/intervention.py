"""Pairs of phantoms: the same radiograph of the same patient without and with one finding.

Anatomy, pose, exposure, devices and noise are those of one examination; only the finding differs
(an intervention in the sense of Pearl, Causality, 2009, section 3.2). So whatever a model says
differently about the two radiographs, the finding caused.

A pair keeps to that exactly: outside `Pair.reach` all pixels are equal. For that it leaves out two
things of which `render` draws more. Scattered radiation is that of the radiograph without the
finding, since scatter carries a change over the whole field, and a change of attenuation below
`_LEAST`, less than half a grey level, is dropped.

What a finding moves besides its own shadow belongs to its reach:

    Cardiomegaly   the heart's outline, and the lung, vessels and airway that it covers
    Emphysema      everything below the neck: the domes sink, ribs and vessels follow
    Atelectasis    one dome, and with the mediastinum the heart, the hila and their vessels
    Pneumothorax   the lung beside the air: it collapses and becomes a little denser
    all others     nothing: their reach is their shadow with its faint margin
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.errors import SourceError
from chestxray.sources.nih.tables import FINDINGS
from chestxray.sources.phantom.anatomy import Anatomy, anatomy
from chestxray.sources.phantom.canvas import Mask
from chestxray.sources.phantom.population import Exam, exams, patient
from chestxray.sources.phantom.render import (
    Tissues,
    attenuation,
    canvas_of,
    develop,
    scatter,
    spread,
    tissues,
)
from chestxray.sources.phantom.signs import sign

SEED: Final = 20_171  # far from the small seeds that trees are drawn with
MOVED: Final = ("Atelectasis", "Cardiomegaly", "Emphysema")  # findings that change the anatomy
_LEAST: Final = 0.003  # attenuation; at most 0.43 grey levels at the steepest of the curve


@dataclass(frozen=True)
class Pair:
    """One radiograph drawn twice.

    Attributes:
        exam: the examination, without the finding.
        finding: the one that differs.
        without: uint8 [pixels, pixels], bright = dense.
        with_finding: the same radiograph with the finding.
        mask: bool [pixels, pixels], where the finding can be seen, as `render` gives it; all
            False where it lies outside the radiograph or is too faint.
        reach: bool [pixels, pixels], what drawing it can change; all other pixels are equal.
    """

    exam: Exam
    finding: str
    without: npt.NDArray[np.uint8]
    with_finding: npt.NDArray[np.uint8]
    mask: Mask
    reach: Mask


def pairs(
    patients: int,
    findings: Sequence[str] = FINDINGS,
    pixels: int = 256,
    seed: int = SEED,
) -> Iterator[Pair]:
    """Draw pairs of patients who have nothing else: each patient with each finding.

    The first examination of patients 1, 2, 3, … of the population `seed` is drawn, in its own view,
    without any finding and with each finding alone. The default seed is that of no usual tree, so
    that no pair shows a patient that a model was trained on.

    Args:
        patients: how many, at least 1; there is one pair a patient and finding.
        findings: of NIH's fourteen.
        pixels: side of the radiographs, at least 32.
        seed: of the population.

    Yields:
        The pairs, patient by patient, in the findings' order.

    Raises:
        SourceError: a number out of its range, or a finding that phantoms cannot show.
    """
    if patients < 1 or pixels < 32:
        raise SourceError(
            f"patients must be at least 1 and pixels at least 32, not {patients} and {pixels}"
        )
    unknown = [finding for finding in findings if finding not in FINDINGS]
    if unknown:
        raise SourceError(
            f"phantoms cannot show {', '.join(unknown)}: choose from {', '.join(FINDINGS)}"
        )
    return (
        pair
        for number in range(1, patients + 1)
        for pair in pairs_of(exams(patient(seed, number))[0], findings, pixels)
    )


def pairs_of(exam: Exam, findings: Sequence[str], pixels: int = 256) -> Iterator[Pair]:
    """Draw one examination without any finding, and with each of some findings alone.

    Args:
        exam: who and how; its own findings are not drawn.
        findings: each of NIH's fourteen.
        pixels: side of the radiographs, at least 32.
    """
    bare = replace(exam, findings=frozenset())
    scene = anatomy(bare, canvas_of(bare, pixels))
    crossed = tissues(scene)
    plain = attenuation(crossed, ())
    haze = scatter(scene, np.exp(-plain))
    without = develop(scene, {}, np.exp(-plain) + haze, pixels).image
    for finding in findings:
        there, through = _changed(scene, crossed, finding)
        drawn = sign(there, finding)
        full = attenuation(through, [drawn])
        differs = np.abs(full - plain) > _LEAST
        signal = np.exp(-np.where(differs, full, plain)) + haze
        phantom = develop(there, {finding: drawn}, signal, pixels)
        mask, reach = phantom.masks[finding], spread(there, differs, pixels)
        yield Pair(bare, finding, without, phantom.image, mask, reach)


def _changed(scene: Anatomy, crossed: Tissues, finding: str) -> tuple[Anatomy, Tissues]:
    """Give anatomy and tissues with a finding; drawn anew only where it changes the anatomy."""
    exam = replace(scene.exam, findings=frozenset({finding}))
    if finding not in MOVED:
        return replace(scene, exam=exam), crossed
    there = anatomy(exam, scene.canvas)
    return there, tissues(there)
