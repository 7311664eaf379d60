"""Lines, tubes and pacemakers, and the marks and collimation around the body."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from chestxray.sources.phantom.anatomy import Anatomy
from chestxray.sources.phantom.canvas import Plane, Points, bent
from chestxray.sources.phantom.population import Exam

_CHANCES = {
    "PA": {"leads": 0.02, "central": 0.05, "windpipe": 0.0, "stomach": 0.01, "pacemaker": 0.02},
    "AP": {"leads": 0.45, "central": 0.45, "windpipe": 0.22, "stomach": 0.22, "pacemaker": 0.03},
}


def devices(scene: Anatomy) -> Plane:
    """Draw lines, tubes and pacemakers; gives their attenuation (a line integral, no unit)."""
    rng = scene.exam.stream("devices")
    chances = _CHANCES[scene.exam.view]
    plane = scene.canvas.empty()
    draw = {"leads": _leads, "central": _central, "windpipe": _windpipe, "stomach": _stomach,
            "pacemaker": _pacemaker}  # fmt: skip
    for name, chance in chances.items():
        if rng.random() < chance:
            plane += draw[name](scene, rng)
    return plane


def _thread(scene: Anatomy, curve: Points, width: float, strength: float) -> Plane:
    return scene.canvas.strokes([curve], [width]) * np.float32(strength / width)


def _leads(scene: Anatomy, rng: np.random.Generator) -> Plane:
    size, canvas = scene.measures, scene.canvas
    plane = canvas.empty()
    for _ in range(int(rng.integers(2, 5))):
        side = rng.choice([-1, 1])
        x, y = side * rng.uniform(0.4, 1.0) * size.half, rng.uniform(0.02, 1.1) * size.height
        plane += 0.7 * (canvas.ball(x, y, 0.55) > 0.1) + 0.5 * (canvas.ball(x, y, 0.3) > 0.1)
        away = [(x + rng.normal(0, 4), y + step * rng.uniform(3, 6)) for step in (1, 2, 3)]
        plane += _thread(scene, bent([(x, y), *away]), 0.14, 0.45)
    return canvas.blur(np.asarray(plane, np.float32), 0.04)


def _central(scene: Anatomy, rng: np.random.Generator) -> Plane:
    off, high = scene.exam.rotation, scene.measures.height
    tip = (off - 1.9, rng.uniform(0.32, 0.48) * high)
    if rng.random() < 0.5:  # from the neck
        points = [(-4.5, -9.0), (-3.6, -3.0), (off - 2.4, 0.12 * high), tip]
    else:  # from the arm, under the clavicle
        points = [(-19.0, 5.0), (-11.0, 1.0), (-5.0, 1.5), (off - 2.3, 0.16 * high), tip]
    return _thread(scene, bent(points, 40), 0.2, 0.32)


def _windpipe(scene: Anatomy, rng: np.random.Generator) -> Plane:
    tip = rng.uniform(0.12, 0.26) * scene.measures.height
    off = scene.exam.rotation
    curve = bent([(0.0, -10.0), (0.3 * off, -3.0), (off - 0.2, tip)])
    return _thread(scene, curve, 0.95, 0.28) - _thread(scene, curve, 0.6, 0.16)


def _stomach(scene: Anatomy, rng: np.random.Generator) -> Plane:
    off, high = scene.exam.rotation, scene.measures.height
    points = [(0.3, -10.0), (off + 0.4, 0.3 * high), (off + 0.9, 0.8 * high),
              (2.2, high + 1.5), (rng.uniform(3, 6), high + 5.5)]  # fmt: skip
    return _thread(scene, bent(points, 40), 0.24, 0.2)


def _pacemaker(scene: Anatomy, rng: np.random.Generator) -> Plane:
    canvas, high = scene.canvas, scene.measures.height
    x, y = rng.uniform(0.55, 0.7) * scene.measures.half, rng.uniform(0.12, 0.24) * high
    box = 2.2 * (canvas.ball(x, y, 2.2, 1.9) > 0.15).astype(np.float32)
    points = [
        (x, y),
        (3.2, 0.06 * high),
        (-1.6, 0.25 * high),
        (-1.9, 0.6 * high),
        (3.0, 0.92 * high),
    ]
    return canvas.blur(box, 0.05) + _thread(scene, bent(points, 50), 0.22, 0.8)


def finish(exam: Exam, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Add collimation and side marker to a finished image, uint8 [pixels, pixels]."""
    rng = exam.stream("film")
    pixels = len(image)
    image = _collimated(exam, rng, image)
    scale = pixels / 256
    # "L" stands on the patient's left, the right of the image.
    text, x = (
        ("L", rng.uniform(0.86, 0.94)) if rng.random() < 0.8 else ("R", rng.uniform(0.03, 0.1))
    )
    at = (int(x * pixels), int(rng.uniform(0.07, 0.17) * pixels))
    tone = int(rng.integers(200, 256))
    size = scale * rng.uniform(0.32, 0.5)
    thick = max(1, round(1.3 * scale))
    if rng.random() < 0.3:
        centre = (at[0] + int(4 * scale), at[1] - int(4 * scale))
        cv2.circle(image, centre, int(7 * scale), tone, max(1, round(0.7 * scale)), cv2.LINE_AA)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, tone, thick, cv2.LINE_AA)
    if exam.view == "AP" and rng.random() < 0.35:
        word = ("AP", "PORTABLE", "SUPINE")[int(rng.integers(3))]
        at = (int(rng.uniform(0.03, 0.6) * pixels), int(rng.uniform(0.04, 0.09) * pixels))
        cv2.putText(image, word, at, cv2.FONT_HERSHEY_SIMPLEX, 0.27 * scale, tone, 1, cv2.LINE_AA)
    return image


def _collimated(
    exam: Exam, rng: np.random.Generator, image: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    if rng.random() < 0.55:
        return image
    pixels = len(image)
    near = rng.uniform(0, 0.05, 4) * (rng.random(4) < 0.6) * (1.6 if exam.view == "AP" else 1)
    corners = np.array([(near[0], near[1]), (1 - near[2], near[1]),
                        (1 - near[2], 1 - near[3]), (near[0], 1 - near[3])])  # fmt: skip
    turn = np.radians(rng.normal(0, 1.0))
    rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    corners = ((corners - 0.5) @ rotation.T + 0.5) * pixels
    open_part = np.zeros_like(image)
    cv2.fillPoly(open_part, [np.round(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    beyond = 255 if rng.random() < 0.1 else int(rng.integers(0, 14))
    share = open_part.astype(np.float32) / 255
    return np.round(image * share + beyond * (1 - share)).astype(np.uint8)
