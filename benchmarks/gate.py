"""What the gate lets through and what it catches, on a part of a dataset.

Usage: python benchmarks/gate.py BUNDLE DATASET [--split test] [--engine EXPORT]

Radiographs as they are show the false alarms; the same turned, as negatives, mirrored, and parts of
them enlarged to a whole picture show what is caught, and under which code. Parts are cut from the
dataset's canonical images. `!` marks a code that refuses.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

import chestxray
from chestxray.dataset.store import Dataset
from chestxray.errors import Notice
from chestxray.reading.judged_image import JudgedImage
from chestxray.reading.reader import Reader

Image = npt.NDArray[np.uint8]
BATCH = 32


def part(top: float, left: float, height: float, width: float) -> Callable[[Image], Image]:
    """Cut a part, told in fractions of the side; what is not square is framed in black."""

    def cut(image: Image) -> Image:
        side = len(image)
        y, x = round(top * side), round(left * side)
        piece = image[y : y + round(height * side), x : x + round(width * side)]
        scale = 2 * side / max(piece.shape)
        return cv2.resize(piece, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)

    return cut


KINDS: dict[str, Callable[[Image], Image]] = {
    "as they are: false alarms": lambda image: image,
    "mirrored": np.fliplr,
    "turned 90": lambda image: np.rot90(image, 3),
    "turned 180": lambda image: np.rot90(image, 2),
    "turned 270": lambda image: np.rot90(image, 1),
    "negatives": lambda image: 255 - image,
    "upper left third": part(0, 0, 1 / 3, 1 / 3),
    "lower right third": part(2 / 3, 2 / 3, 1 / 3, 1 / 3),
    "upper left half of the side": part(0, 0, 0.5, 0.5),
    "lower right half of the side": part(0.5, 0.5, 0.5, 0.5),
    "middle half of the side": part(0.25, 0.25, 0.5, 0.5),
    "middle 0.8 of the side": part(0.1, 0.1, 0.8, 0.8),
    "left half": part(0, 0, 1, 0.5),
    "upper half": part(0, 0, 0.5, 1),
    "lower half": part(0.5, 0, 0.5, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--engine", default="auto")
    given = parser.parse_args()
    reader = chestxray.load(given.bundle, given.engine)
    if reader.bundle.detector is None:
        parser.error(f"{given.bundle} has no gate")
    dataset = Dataset.open(given.dataset)
    images = dataset.images[dataset.rows(given.split)]
    print(f"{len(images)} images of the {given.split} part, limits {reader.bundle.card.gate}")
    print("| images | refused | warned | passed | codes |\n|---|---|---|---|---|")
    for kind, change in KINDS.items():
        notices = list(judged(reader, images, change))
        refused = np.mean([any(notice.refuses for notice in of) for of in notices])
        noticed = np.mean([bool(of) for of in notices])
        codes = Counter(n.code + "!" * n.refuses for of in notices for n in of)
        told = ", ".join(f"{code} {count}" for code, count in codes.most_common())
        shares = f"{refused:.3f} | {noticed - refused:.3f} | {1 - noticed:.3f}"
        print(f"| {kind} | {shares} | {told} |", flush=True)


def judged(
    reader: Reader, images: Image, change: Callable[[Image], Image]
) -> Iterator[tuple[Notice, ...]]:
    for start in range(0, len(images), BATCH):
        altered = [np.ascontiguousarray(change(image)) for image in images[start : start + BATCH]]
        yield from reader.read_judged(
            [JudgedImage.of_array(image, reader.size) for image in altered]
        )[2]


if __name__ == "__main__":
    main()
