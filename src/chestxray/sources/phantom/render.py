"""One examination in, one radiograph with its truth out.

The body is drawn upright on a canvas a little larger than the film, exposed, and then laid onto
the film with the pose's tilt and shift. Masks take the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.sources.nih.labels import FINDINGS
from chestxray.sources.phantom.anatomy import Anatomy, anatomy
from chestxray.sources.phantom.canvas import Canvas, Mask, Plane
from chestxray.sources.phantom.devices import devices, film
from chestxray.sources.phantom.exposure import BONE, LUNG_DENSITY, WATER, grey, sharpened
from chestxray.sources.phantom.population import Exam
from chestxray.sources.phantom.signs import Sign, sign
from chestxray.sources.phantom.skeleton import skeleton
from chestxray.sources.phantom.vessels import grain, vessels

_MARGIN: Final = 1.10  # the canvas over the film: room for tilt and shift


@dataclass(frozen=True)
class Phantom:
    """A radiograph and what is truly in it.

    Attributes:
        image: uint8 [pixels, pixels], bright = dense.
        masks: of each finding shown, bool [pixels, pixels], in the findings' order.
        heart: the heart's silhouette, bool [pixels, pixels].
        thorax: the inner chest's silhouette, bool [pixels, pixels].
        centimetres: side of a pixel in cm.
    """

    image: npt.NDArray[np.uint8]
    masks: dict[str, Mask]
    heart: Mask
    thorax: Mask
    centimetres: float


def render(exam: Exam, pixels: int = 256) -> Phantom:
    """Draw one examination.

    Args:
        exam: who, how, and with which findings (see `population`).
        pixels: side of the picture, at least 32.
    """
    scale = pixels / exam.field
    above = 0.085 if exam.view == "AP" else 0.11  # of the field lies above the apices
    top = -(above + (_MARGIN - 1) / 2) * exam.field
    canvas = Canvas(round(pixels * _MARGIN), scale, top)
    scene = anatomy(exam, canvas)
    signs = {finding: sign(scene, finding) for finding in FINDINGS if finding in exam.findings}
    plane = sharpened(grey(scene, _attenuation(scene, list(signs.values()))), 0.12 * scale)
    way = _laid(exam, canvas, pixels)
    picture = np.round(np.clip(_moved(plane, way, pixels), 0, 1) * 255).astype(np.uint8)
    return Phantom(
        image=film(exam, picture),
        masks={finding: _moved_mask(drawn.mask, way, pixels) for finding, drawn in signs.items()},
        heart=_moved_mask(scene.heart, way, pixels),
        thorax=_moved_mask(scene.thorax, way, pixels),
        centimetres=exam.field / pixels,
    )


def _attenuation(scene: Anatomy, signs: list[Sign]) -> Plane:
    seen = np.minimum(scene.lung / 3, 1)  # vessels end where the lung does
    blood = (vessels(scene) * np.float32(1 - LUNG_DENSITY) + grain(scene)) * seen
    water = scene.body - scene.lung * np.float32(1 - LUNG_DENSITY) - scene.airway
    for drawn in signs:
        blood = blood * drawn.vessels
        water = water + drawn.water
    tissue = np.maximum(water + blood, 0) * np.float32(WATER)
    return np.asarray(tissue + skeleton(scene) * np.float32(BONE) + devices(scene), np.float32)


def _laid(exam: Exam, canvas: Canvas, pixels: int) -> npt.NDArray[np.float64]:
    """Give the affine map from film pixels to canvas pixels."""
    matrix = cv2.getRotationMatrix2D((pixels / 2 - 0.5, pixels / 2 - 0.5), exam.tilt, 1.0)
    spare = (canvas.side - pixels) / 2
    room = 0.9 * spare
    for axis in (0, 1):
        matrix[axis, 2] += spare + np.clip(exam.shift[axis] * canvas.scale, -room, room)
    return np.asarray(matrix, np.float64)


def _moved(plane: Plane, way: npt.NDArray[np.float64], pixels: int) -> Plane:
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(plane, way, (pixels, pixels), flags=how, borderMode=cv2.BORDER_REPLICATE),
        np.float32,
    )


def _moved_mask(mask: Mask, way: npt.NDArray[np.float64], pixels: int) -> Mask:
    return np.asarray(_moved(mask.astype(np.float32), way, pixels) > 0.5, bool)
