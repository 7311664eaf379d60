"""The soft anatomy of one examination: how much tissue and air the rays cross.

First the measures, which the findings change; then the outside of the body (trunk, neck, arms,
breasts); then the organs; then the vessels of the lungs and the grain between them. The chest wall
and the diaphragm are curves that every drawing keeps to.

Every organ is a plane of path lengths in cm. The rays cross the body; within it the cavity of the
chest; within that the heart, the great vessels and the abdomen. What is left of the cavity is lung.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from chestxray.sources.phantom.canvas import Canvas, Mask, Plane, Points, closed, profile
from chestxray.sources.phantom.population import Exam

LUNG_DENSITY: Final = 0.26  # of aerated lung, over that of water
# Half-width of the cavity over its greatest, by height below the apices over the lungs' height.
_WALL_HEIGHT = np.array([-0.06, 0.0, 0.04, 0.1, 0.2, 0.33, 0.5, 0.7, 0.9, 1.05, 1.2, 1.6])
_WALL_WIDTH = np.array([0.30, 0.40, 0.48, 0.57, 0.69, 0.80, 0.89, 0.96, 0.995, 1.0, 0.98, 0.95])


@dataclass(frozen=True)
class _Measures:
    """The measures of one examination, changed by its findings. Lengths in cm.

    Attributes:
        half: half of the cavity's greatest width.
        height: from the apices to the right dome.
        depth: of the cavity.
        ratio: cardiothoracic ratio.
        sag: how far the costophrenic angles lie under the domes.
        raised: how far the right and left dome are pushed up by loss of volume.
        pulled: shift of the mediastinum by loss of volume.
    """

    half: float
    height: float
    depth: float
    ratio: float
    sag: float
    raised: tuple[float, float]
    pulled: float

    def wall(self, y: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> Plane:
        """Give the half-width of the cavity at heights y."""
        return np.float32(self.half) * profile(y / self.height, _WALL_HEIGHT, _WALL_WIDTH)

    def dome(self, x: Plane) -> Plane:
        """Give the height of the diaphragm's silhouette at each x."""
        domes = []
        for side, raised, lower in ((-1, self.raised[0], 0.0), (1, self.raised[1], 1.2)):
            away = (x * side - 0.50 * self.half) / (0.50 * self.half)
            fall = np.where(
                away > 0, self.sag * np.abs(away) ** 2.1, 0.3 * self.sag * np.abs(away) ** 1.8
            )
            domes.append(self.height - raised + lower + fall)
        left = np.clip(0.5 + x / (0.3 * self.half), 0, 1)
        return np.asarray(domes[0] * (1 - left) + domes[1] * left, np.float32)


def measures(exam: Exam) -> _Measures:
    """Derive the measures of an examination."""
    person, found = exam.patient, exam.findings
    half = person.width / 2
    lean = 1.0 if exam.view == "PA" else 0.96  # lying, the diaphragm stands higher
    height = half * person.slender * exam.inspiration * lean
    sag = 0.27 * half
    side = person.stream("Atelectasis").integers(2)
    raised, pulled = [0.0, 0.0], 0.0
    if "Emphysema" in found:
        height, sag = height * 1.06 + 1.0, 0.10 * half
    if "Atelectasis" in found:
        raised[side] = 2.2 * exam.severity
        pulled = (0.8 if side else -0.8) * exam.severity
    ratio = person.enlarged if "Cardiomegaly" in found else person.heart
    if exam.view == "AP":
        ratio = ratio * 1.05 if "Cardiomegaly" in found else min(ratio * 1.06, 0.485)
    if "Emphysema" in found:
        ratio = max(ratio * 0.93, 0.53) if "Cardiomegaly" in found else ratio * 0.9
    depth = person.depth * person.width * (1.08 if "Emphysema" in found else 1.0)
    return _Measures(half, height, depth, ratio, sag, (raised[0], raised[1]), pulled)


def _body(exam: Exam, canvas: Canvas, size: _Measures) -> Plane:
    """Draw the body; gives the path through it in cm, the cavity of the chest included."""
    return _trunk(exam, canvas, size) + _breasts(exam, canvas, size)


def _trunk(exam: Exam, canvas: Canvas, size: _Measures) -> Plane:
    x, y, fat = canvas.x, canvas.y, exam.patient.fat
    unit = size.half / 14
    flank = size.wall(y) + 2.2 + 1.3 * fat
    neck, slope = 5.6 * unit + 0.3 * fat, 1.0 if exam.view == "PA" else 1.8
    shoulder = profile(
        y / unit,
        [-14, -6.5, -4.8, -3.2 - 0.2 * slope, -1.6 - 0.4 * slope, 0.5, 4, 12],
        np.array([neck, neck, neck + 1.8, neck + 5.5, 16.5 * unit, 19.5 * unit, 18.5 * unit, 0]),
    )
    edge = np.maximum(flank * np.clip((y / unit + 4) / 4, 0, 1), shoulder)
    deep = profile(y / unit, [-14, -4, 0, 6, 12], np.array([0.60, 0.62, 0.80, 0.97, 1.0]))
    thick = (size.depth + 2 * (1.2 + 0.8 * fat)) * deep
    torso = thick * np.sqrt(np.maximum(1 - (np.abs(x) / edge) ** 5, 0))
    return canvas.blur(np.maximum(torso, _arms(exam, canvas, size)).astype(np.float32), 0.25)


def _arms(exam: Exam, canvas: Canvas, size: _Measures) -> Plane:
    rng = exam.patient.stream("arms")
    unit = size.half / 14
    spread = rng.uniform(0.35, 0.8) if exam.view == "PA" else rng.uniform(0.08, 0.3)
    radius = 5.0 * unit + 0.5 * exam.patient.fat
    path = canvas.empty()
    for side in (-1, 1):
        along_x, along_y = side * math.sin(spread), math.cos(spread)
        x, y = side * 17.5 * unit, 3.0 * unit
        left, right = sorted((x - side * radius, side * np.inf))
        rows, columns = canvas.part(left, right, y - radius)
        dx, dy = canvas.x[:, columns] - x, canvas.y[rows] - y
        along = np.clip(dx * along_x + dy * along_y, 0, 30)
        square = (dx - along * along_x) ** 2 + (dy - along * along_y) ** 2
        path[rows, columns] = 2 * np.sqrt(np.maximum(radius**2 - square, 0))
    return path


def _breasts(exam: Exam, canvas: Canvas, size: _Measures) -> Plane:
    person = exam.patient
    rng = person.stream("breasts")
    path = canvas.empty()
    big = person.breast or 0.25 + 0.08 * person.fat
    for side in (-1, 1):
        x = side * (0.56 + rng.uniform(-0.04, 0.04)) * size.half
        y = (0.72 + rng.uniform(-0.03, 0.06)) * size.height + big
        r = (0.40 + 0.13 * big) * size.half
        if exam.supine:
            x, r = x + side * 1.5, r * 1.1
        rows, columns = canvas.part(x - r, x + r, y - 1.5 * r, y + 0.85 * r)
        level = canvas.y[rows]
        above = np.clip((level - (y - 1.6 * r)) / (1.9 * r), 0, 1)
        ry = np.where(level < y, 1.5 * r, 0.85 * r)
        square = ((canvas.x[:, columns] - x) / r) ** 2 + ((level - y) / ry) ** 2
        path[rows, columns] += 4.2 * big * above * np.sqrt(np.maximum(1 - square, 0))
    return path


@dataclass(frozen=True)
class Anatomy:
    """The organs of one examination on a canvas.

    Attributes:
        exam: the examination.
        measures: its measures.
        canvas: the grid.
        body: path through the whole body, cm.
        cavity: path through the chest cavity above the diaphragm, cm.
        lung: path through the lungs, cm.
        airway: path through trachea, bronchi and bowel gas, cm.
        heart: the heart's silhouette, down to where the abdomen covers it.
        thorax: the cavity's silhouette, both lungs and the mediastinum.
        fields: the visible lung fields: right, left.
        hila: where the vessels enter: right (x, y), left (x, y), cm.
    """

    exam: Exam
    measures: _Measures
    canvas: Canvas
    body: Plane
    cavity: Plane
    lung: Plane
    airway: Plane
    heart: Mask
    thorax: Mask
    fields: tuple[Mask, Mask]
    hila: tuple[tuple[float, float], tuple[float, float]]


def anatomy(exam: Exam, canvas: Canvas) -> Anatomy:
    """Draw the organs of an examination."""
    size = measures(exam)
    chest = _cavity(canvas, size)
    under = np.sqrt(np.clip((canvas.y - size.dome(canvas.x)) / (0.30 * size.half), 0, 1))
    cavity = chest * (1 - under)
    coverage, middle = _heart(exam, canvas, size)
    organs = np.maximum(_mediastinum(exam, canvas, size), middle)
    lung = np.maximum(cavity - organs * np.minimum(1, cavity / 6), 0).astype(np.float32)
    thorax = (np.abs(canvas.x) < size.wall(canvas.y)) & (chest > 0.5)
    open_lung = thorax & (under <= 0.02) & (organs < 2.0)
    rims = (canvas.x < 0, canvas.x > 0)
    return Anatomy(
        exam=exam,
        measures=size,
        canvas=canvas,
        body=_body(exam, canvas, size),
        cavity=cavity.astype(np.float32),
        lung=lung,
        airway=_airway(exam, canvas, size) + _bowel(exam, canvas, size) * under,
        heart=(coverage > 0.5) & (canvas.y < size.dome(canvas.x) + 2),
        thorax=thorax & (canvas.y < size.height + size.sag + 1.2),
        fields=(open_lung & rims[0], open_lung & rims[1]),
        hila=(
            (-0.27 * size.half + exam.rotation + size.pulled, 0.46 * size.height),
            (0.29 * size.half + exam.rotation + size.pulled, 0.42 * size.height),
        ),
    )


def _cavity(canvas: Canvas, size: _Measures) -> Plane:
    x, y = canvas.x, canvas.y
    wall = size.wall(y)
    round_wall = np.sqrt(np.maximum(1 - (np.abs(x) / wall) ** 3.6, 0))
    apex = 0.022 * size.half * (np.abs(x) - 0.34 * size.half) ** 2 * 4 / size.half
    over = np.sqrt(np.clip((y - apex) / (0.30 * size.height), 0, 1))
    return np.asarray(size.depth * round_wall * over, np.float32)


def _heart(exam: Exam, canvas: Canvas, size: _Measures) -> tuple[Plane, Plane]:
    rng = exam.patient.stream("heart")
    span = size.ratio * 2 * size.half
    share = rng.uniform(0.27, 0.34)
    right, left = span * share, span * (1 - share)
    top, low = 0.36 * size.height, size.height + 3.2 - 0.7 * max(size.raised)
    tall = low - top
    apex = rng.uniform(0.72, 0.84)
    shape = closed(
        [
            (-0.35 * right, top), (-0.72 * right, top + 0.32 * tall),
            (-1.00 * right, top + 0.62 * tall), (-0.85 * right, top + 0.90 * tall),
            (-0.10 * right, low + 0.6), (0.60 * left, low + 0.7),
            (0.94 * left, top + (apex + 0.13) * tall), (1.00 * left, top + apex * tall),
            (0.86 * left, top + 0.56 * tall), (0.62 * left, top + 0.32 * tall),
            (0.33 * left, top + 0.05 * tall),
        ]
    )  # fmt: skip
    reach = shape[:, 0].max() - shape[:, 0].min()
    shape[:, 0] = shape[:, 0] * (span / reach) + exam.rotation + size.pulled
    coverage = canvas.polygons([shape])
    depth = canvas.domed(coverage, 0.27 * span) * np.float32(0.5 * span + 6)
    return coverage, canvas.blur(depth, 0.1)


def _mediastinum(exam: Exam, canvas: Canvas, size: _Measures) -> Plane:
    rng = exam.patient.stream("mediastinum")
    knob, shift = exam.patient.aorta, exam.rotation + size.pulled
    reach = 0.35 * size.half + knob + 1
    rows, columns = canvas.part(shift - reach, shift + reach)
    x = canvas.x[:, columns] - exam.rotation - size.pulled
    level = canvas.y / size.height
    heights = [-0.4, 0.0, 0.15, 0.3, 0.45, 0.7, 1.0]
    wide = 1.15 if exam.view == "AP" else 1.0
    right = profile(level, heights, np.array([2.8, 2.7, 2.6, 2.9, 3.1, 2.4, 1.5]) * wide)
    left = profile(level, heights, np.array([2.8, 2.9, 2.7, 2.8, 2.9, 2.4, 1.5]) * wide)
    edge = np.where(x < 0, right, left) * (size.half / 14)
    band = 13 * np.sqrt(np.maximum(1 - np.abs(x / edge) ** 3, 0))
    centre = 0.13 * size.half + rng.uniform(-0.2, 0.3)
    aorta = 4.0 * knob * canvas.ball(centre + shift, 0.265 * size.height, knob, 1.15 * knob)
    line = 0.16 * size.half + 0.3 * np.sin(level * 3)
    across = np.sqrt(np.maximum(1 - ((x - line) / (0.8 * knob)) ** 2, 0))
    descending = 1.2 * knob * across * np.clip((level - 0.27) * 8, 0, 1)
    trunk = 9.0 * canvas.ball(
        0.14 * size.half + shift, 0.39 * size.height, 0.125 * size.half, 0.16 * size.half
    )
    shadow = np.maximum(aorta, trunk).astype(np.float32)
    shadow[rows, columns] = np.maximum(np.maximum(band, descending), shadow[rows, columns])
    return canvas.blur(shadow, 0.12)


def _airway(exam: Exam, canvas: Canvas, size: _Measures) -> Plane:
    off = exam.rotation + size.pulled
    carina = 0.34 * size.height
    bend = [(0.1 * off, -9.0), (0.4 * off, 0.0), (off - 0.25, 0.8 * carina), (off - 0.2, carina)]
    main = [np.asarray(bend)]
    for side, (reach, drop) in ((-1, (2.6, 2.6)), (1, (3.6, 2.2))):
        main.append(np.array([(off - 0.2, carina - 0.3), (off + side * reach, carina + drop)]))
    grown = size.half / 14
    tube = canvas.ribbons(main, [1.7 * grown, 1.2 * grown, 1.0 * grown])
    return canvas.blur(tube, 0.2) * np.float32(1.9 * grown)


def _bowel(exam: Exam, canvas: Canvas, size: _Measures) -> Plane:
    """Draw the gastric bubble, with a level when standing, and some gas in the bowel."""
    rng = exam.stream("bowel")
    gas = canvas.empty()
    dome = size.height + 1.2 - size.raised[1]
    if rng.random() < 0.75:
        x, r = rng.uniform(0.30, 0.55) * size.half, rng.uniform(1.5, 3.4)
        y = dome + 1.0 + 0.7 * r
        bubble = canvas.ball(x, y, r * 1.35, r)
        if not exam.supine:
            bubble = bubble * (canvas.y < y + 0.25 * r)
        gas += 4.5 * bubble
    for _ in range(rng.integers(0, 5)):
        x, y = rng.uniform(-0.6, 0.9) * size.half, dome + rng.uniform(5, 11)
        gas += 2.5 * canvas.ball(x, y, rng.uniform(0.8, 2), rng.uniform(0.6, 1.4))
    return canvas.blur(gas, 0.12)


_ORDERS = 5  # generations of branches
_STEPS = 4  # straight pieces that a branch is drawn with
_FINEST = 0.09  # cm
_CONTRAST = 2.0  # a tree stands for the many vessels behind one another


def vessels(scene: Anatomy) -> Plane:
    """Draw the vessels from the hila outwards; gives the path through blood in cm."""
    rng = scene.exam.patient.stream("vessels")
    canvas, unit = scene.canvas, scene.measures.half / 14
    total = canvas.empty()
    for side, hilum in zip((-1, 1), scene.hila, strict=True):
        for _ in range(2):  # arteries and veins cross, so they add up
            curves, widths = _tree(rng, hilum, side, unit)
            total += np.float32(_CONTRAST) * canvas.strokes(curves[::-1], widths[::-1])
        total += _hilum(scene, hilum, side) * np.float32(unit)
    return canvas.blur(total, 0.05)


def _tree(
    rng: np.random.Generator, hilum: tuple[float, float], side: int, unit: float
) -> tuple[Points, Points]:
    """Give the branches, [n, steps + 1, 2] in cm, and their widths [n], order by order."""
    count = 8
    start = np.tile(np.asarray(hilum), (count, 1)) + rng.normal(0, 0.5, (count, 2)) * unit
    heading = np.linspace(-1.35, 1.45, count) + rng.normal(0, 0.15, count)
    width = rng.uniform(0.42, 0.75, count) * unit
    length = rng.uniform(2.6, 4.6, count) * unit
    curves, widths = [], []
    for _ in range(_ORDERS):
        bends = rng.normal(0, 0.14, (_STEPS, len(heading)))
        turned = np.cumsum([heading, *bends], axis=0)[1:]
        steps = np.stack([side * np.cos(turned), np.sin(turned)], 2) * length[:, None] / _STEPS
        places = np.cumsum([start, *steps], axis=0)
        wide = width > _FINEST  # the grain stands for the rest
        curves.append(places.swapaxes(0, 1)[wide])
        widths.append(width[wide])
        fork = rng.uniform(0.25, 0.65, len(heading))
        start = np.concatenate([places[-1], places[-1]])
        heading = np.concatenate([turned[-1] + fork, turned[-1] - rng.uniform(0.1, 0.5, len(fork))])
        width = np.concatenate([width * 0.62, width * 0.74])
        length = np.concatenate([length, length]) * rng.uniform(0.6, 0.95, 2 * len(length))
    return np.concatenate(curves), np.concatenate(widths)


def _hilum(scene: Anatomy, hilum: tuple[float, float], side: int) -> Plane:
    canvas, unit = scene.canvas, scene.measures.half / 14
    x, y = hilum
    upper = canvas.ball(x - side * 0.2 * unit, y - 0.8 * unit, 1.1 * unit, 1.5 * unit)
    lower = canvas.ball(x + side * 0.3 * unit, y + 1.9 * unit, 0.8 * unit, 2.4 * unit)
    return canvas.blur(np.maximum(upper, lower), 0.4 * unit) * np.float32(2.2)


def grain(scene: Anatomy) -> Plane:
    """Give the lung's fine structure: soft noise of small vessels and septa, in cm of tissue."""
    rng = scene.exam.patient.stream("grain")
    old = np.interp(scene.exam.age, [20, 90], [0.8, 1.25])
    return scene.canvas.noise(rng, 1.6, octaves=4) * np.float32(0.11 * old)
