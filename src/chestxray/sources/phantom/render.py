"""One examination in, one radiograph with its truth out.

The body is drawn upright on a canvas a little larger than the radiograph, exposed, and then moved
onto the radiograph with the tilt and the shift of the pose. Masks are moved in the same way.

Exposure turns path lengths into grey values: Beer-Lambert, scatter, quantum noise, the logarithm
of the detector. The coefficients are effective ones for a chest beam of about 120 kV behind the
patient's own filtration: water 0.19 / cm, aerated lung a quarter of that, dense bone 0.40 / cm
more than the water that it displaces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.sources.nih.tables import FINDINGS
from chestxray.sources.phantom.anatomy import LUNG_DENSITY, Anatomy, anatomy, grain, vessels
from chestxray.sources.phantom.canvas import Canvas, Mask, Plane
from chestxray.sources.phantom.devices import devices, finish
from chestxray.sources.phantom.population import Exam
from chestxray.sources.phantom.signs import Sign, sign
from chestxray.sources.phantom.skeleton import skeleton

_MARGIN: Final = 1.10  # side of the canvas over that of the image: room for tilt and shift
_WATER: Final = 0.19
_BONE: Final = 0.40  # beyond the water that it displaces
_GRID_LETS_THROUGH: Final = {"PA": 0.16, "AP": 0.24}  # portable exposures use no grid
_QUANTA: Final = 0.0040


@dataclass(frozen=True)
class Phantom:
    """A radiograph and its truth.

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
        pixels: side of the image, at least 32.
    """
    scene = anatomy(exam, canvas_of(exam, pixels))
    signs = {finding: sign(scene, finding) for finding in FINDINGS if finding in exam.findings}
    primary = np.exp(-attenuation(tissues(scene), list(signs.values())))
    return develop(scene, signs, primary + scatter(scene, primary), pixels)


def canvas_of(exam: Exam, pixels: int) -> Canvas:
    """Give the canvas that an examination is drawn on for a radiograph of `pixels` a side."""
    above = 0.085 if exam.view == "AP" else 0.11  # of the field lies above the apices
    top = -(above + (_MARGIN - 1) / 2) * exam.field
    return Canvas(round(pixels * _MARGIN), pixels / exam.field, top)


class Tissues(NamedTuple):
    """What the rays cross before any sign is drawn.

    Attributes:
        blood: vessels and grain of the lungs, cm of water.
        water: all other soft tissue, cm of water.
        bone: attenuation of the skeleton, a line integral without unit.
        devices: attenuation of lines, tubes and pacemakers.
    """

    blood: Plane
    water: Plane
    bone: Plane
    devices: Plane


def tissues(scene: Anatomy) -> Tissues:
    """Draw what does not depend on the signs."""
    seen = np.minimum(scene.lung / 3, 1)  # vessels end where the lung does
    return Tissues(
        blood=(vessels(scene) * np.float32(1 - LUNG_DENSITY) + grain(scene)) * seen,
        water=scene.body - scene.lung * np.float32(1 - LUNG_DENSITY) - scene.airway,
        bone=skeleton(scene) * np.float32(_BONE),
        devices=devices(scene),
    )


def attenuation(crossed: Tissues, signs: Sequence[Sign]) -> Plane:
    """Give the line integrals of attenuation with some signs drawn."""
    blood, water = crossed.blood, crossed.water
    for drawn in signs:
        blood = blood * drawn.vessels
        water = water + drawn.water
    tissue = np.maximum(water + blood, 0) * np.float32(_WATER)
    return np.asarray(tissue + crossed.bone + crossed.devices, np.float32)


def scatter(scene: Anatomy, primary: Plane) -> Plane:
    """Give the scattered radiation: a wide blur of what passes through the body.

    Args:
        scene: the anatomy.
        primary: the share of the radiation that passes straight through, 0 to 1.
    """
    share = np.float32(_GRID_LETS_THROUGH[scene.exam.view])
    return np.asarray(share * scene.canvas.blur(np.minimum(primary, 0.4), 4.0), np.float32)


def develop(scene: Anatomy, signs: Mapping[str, Sign], signal: Plane, pixels: int) -> Phantom:
    """Turn the radiation behind the body into a radiograph with its truth.

    Args:
        scene: the anatomy.
        signs: finding → sign that was drawn.
        signal: radiation on the canvas, over that without a body.
        pixels: side of the image.
    """
    exam = scene.exam
    plane = _sharpened(_grey(exam, signal), _sharpness(scene.canvas))
    way = _laid(exam, scene.canvas, pixels)
    grey_values = np.round(np.clip(_moved(plane, way, pixels), 0, 1) * 255).astype(np.uint8)
    return Phantom(
        image=finish(exam, grey_values),
        masks={finding: _moved_mask(drawn.mask, way, pixels) for finding, drawn in signs.items()},
        heart=_moved_mask(scene.heart, way, pixels),
        thorax=_moved_mask(scene.thorax, way, pixels),
        centimetres=exam.field / pixels,
    )


def spread(scene: Anatomy, changed: Mask, pixels: int) -> Mask:
    """Give the pixels of the radiograph that a change of some pixels of the canvas can alter.

    Sharpening carries a change as far as its kernel reaches, the pose by one pixel more.

    Args:
        scene: the anatomy.
        changed: bool, the size of the canvas.
        pixels: side of the radiograph.
    """
    reach = math.ceil(4 * _sharpness(scene.canvas)) + 1  # OpenCV ends a Gaussian at 4 deviations
    kernel = np.ones((2 * reach + 1,) * 2, np.uint8)
    wider = cv2.dilate(changed.astype(np.float32), kernel)
    way = _laid(scene.exam, scene.canvas, pixels)
    return np.asarray(_moved(np.asarray(wider, np.float32), way, pixels) > 0, bool)


def _laid(exam: Exam, canvas: Canvas, pixels: int) -> npt.NDArray[np.float64]:
    """Give the affine map from the pixels of the image to those of the canvas."""
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


def _grey(exam: Exam, signal: Plane) -> Plane:
    """Turn the radiation behind the body into grey values from 0 (black) to 1.

    The grey scale is anchored on the patient's own thickness and not on the histogram: a finding
    changes the image where it is and nowhere else.
    """
    quanta = exam.stream("quanta").standard_normal(signal.shape, np.float32)
    density = -np.log(signal) + np.float32(_QUANTA * exam.noise) / np.sqrt(signal) * quanta
    wall = 2 * (1.2 + 0.8 * exam.patient.fat)
    deep = exam.patient.depth * exam.patient.width
    lung = _WATER * (wall + LUNG_DENSITY * deep)
    haze = _GRID_LETS_THROUGH[exam.view] * 1.2 * math.exp(-lung)  # most scatter is the lungs'
    clear = -math.log(math.exp(-lung) + haze)
    dense = -math.log(math.exp(-_WATER * (wall + deep) - 0.5) + haze)
    place = (density - clear) / (dense - clear)
    return _characteristic_curve(np.asarray(place * exam.contrast + exam.brightness, np.float32))


def _characteristic_curve(place: Plane) -> Plane:
    """Apply the characteristic curve of film: a long toe in air, a shoulder in the abdomen."""
    known = np.array([-2.5, -1.0, -0.4, 0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0, 1.25, 2.0])
    value = np.array([0.0, 0.01, 0.03, 0.08, 0.16, 0.25, 0.37, 0.49, 0.60, 0.72, 0.82, 0.95])
    table = np.interp(np.linspace(-2.5, 2.0, 1024), known, value).astype(np.float32)
    index = np.clip((place + 2.5) * (1023 / 4.5), 0, 1023)
    return np.asarray(table[index.astype(np.int32)], np.float32)


def _sharpness(canvas: Canvas) -> float:
    """Give the standard deviation of the sharpening in pixels of the canvas."""
    return max(0.12 * canvas.scale, 0.5)


def _sharpened(plane: Plane, pixels: float) -> Plane:
    """Sharpen edges a little, as every digital system does."""
    soft = cv2.GaussianBlur(plane, (0, 0), pixels)
    return np.asarray(plane + np.float32(0.35) * (plane - soft), np.float32)
