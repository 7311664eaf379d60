"""Trees in the layouts of smaller public data sets, made of phantoms whose findings are known.

A film counts as one with tuberculosis, or with a nodule, where it shows any finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from public_trees import Film


def placed(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def lung(pixels: np.ndarray, side: int) -> np.ndarray:
    """A mask of the left or right half, without the borders."""
    mask = np.zeros_like(pixels)
    middle = mask.shape[1] // 2
    columns = slice(8, middle - 4) if side == 0 else slice(middle + 4, -8)
    mask[8:-8, columns] = 255
    return mask


def shenzhen(root: Path, made: Sequence[Film]) -> Path:
    """RGB copies of grey images; the readings are in Shenzhen's spellings."""
    words = {"M": ("male {}yrs", "male , {}yrs \t"), "F": ("female {}yrs", "femal {}yrs")}
    for film in made:
        name = f"CHNCXR_{film.number + 1:04d}_{int(bool(film.findings))}"
        grey = film.pixels
        placed(root / f"CXR_png/{name}.png", png(cv2.merge([grey, grey, grey])))
        line = words[film.sex][film.number % 2].format(film.age)
        text = f"{line}\r\n{'PTB in the right upper field' if film.findings else 'normal'}"
        placed(root / f"ClinicalReadings/{name}.txt", text.encode())
    return root


def montgomery(root: Path, made: Sequence[Film]) -> Path:
    """Masks of both lungs; the readings name the first image of a patient who has several."""
    first: dict[int, str] = {}
    for film in made:
        stem = f"MCUCXR_{film.number + 1:04d}"
        name = f"{stem}_{int(bool(film.findings))}"
        placed(root / f"CXR_png/{name}.png", png(film.pixels))
        for side, folder in enumerate(("leftMask", "rightMask")):
            placed(root / f"ManualMask/{folder}/{name}.png", png(lung(film.pixels, side)))
        text = f"Patient's Sex: {film.sex} \nPatient's Age: {film.age:03d}Y\n"
        again = first.setdefault(film.patient, name)
        text += f"NO REPORT (same pt as {again})\n" if again != name else "normal\n"
        placed(root / f"ClinicalReadings/{name}.txt", text.encode())
    return root
