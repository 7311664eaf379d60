"""The body around the chest: trunk, neck, shoulders, arms and breasts, as path lengths in cm."""

from __future__ import annotations

import math

import numpy as np

from chestxray.sources.phantom.canvas import Canvas, Plane, profile
from chestxray.sources.phantom.measures import Measures
from chestxray.sources.phantom.population import Exam


def body(exam: Exam, canvas: Canvas, size: Measures) -> Plane:
    """Draw the body; gives the path through it in cm, the cavity of the chest included."""
    return _trunk(exam, canvas, size) + _breasts(exam, canvas, size)


def _trunk(exam: Exam, canvas: Canvas, size: Measures) -> Plane:
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


def _arms(exam: Exam, canvas: Canvas, size: Measures) -> Plane:
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


def _breasts(exam: Exam, canvas: Canvas, size: Measures) -> Plane:
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
