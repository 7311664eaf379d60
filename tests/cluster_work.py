"""Work that tests give to the workers of a Ray cluster; its processes import this module."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from chestxray.dataset.pixels import Canonical
from chestxray.errors import ArtifactError
from chestxray.model.engines import Answer, Images
from chestxray.reading.inputs import Inputs, PackedRows
from chestxray.reading.reader import Reader
from chestxray.reading.sharded_prediction import BundleChoice

SIDE = 16


def doubled() -> Callable[[int], int]:
    return lambda given: 2 * given


def slow_once(folder: Path) -> Callable[[int], int]:
    """Hang on shard 3, when it is given for the first time, and say in which process."""

    def work(given: int) -> int:
        first = folder / "given"
        if given == 3 and not first.exists():
            first.write_text(str(os.getpid()), encoding="utf-8")
            time.sleep(3600)
        return 2 * given

    return work


def deadly() -> Callable[[int], int]:
    """Die of shard 2, always."""

    def work(given: int) -> int:
        if given == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return given

    return work


def failing() -> Callable[[int], int]:
    def work(given: int) -> int:
        raise ArtifactError(f"shard {given} is bad: do something")

    return work


def device() -> Callable[[int], str]:
    return lambda given: os.environ["CUDA_VISIBLE_DEVICES"]  # noqa: ARG005


class TrivialEngine:
    """Answers at once, whatever the image."""

    name = "trivial"

    def __init__(self, findings: int) -> None:
        self.findings = findings

    def run(self, images: Images) -> Answer:
        logits = np.zeros((len(images), self.findings), np.float32)
        return Answer(
            logits,
            np.zeros((len(images), self.findings, 1, 1), np.float32),
            np.zeros((len(images), 4), np.float32),
        )


class TrivialChoice(BundleChoice):
    """Loads no network."""

    def open(self) -> Reader:
        facts = self.facts()
        return Reader(facts, TrivialEngine(len(facts.card.findings)))


@dataclass(frozen=True)
class BlankPart:
    names: tuple[str, ...]
    size: int
    folder: Path

    def batches(self, size: int, start: int = 0) -> Iterator[list[Canonical]]:
        for begin in range(start, len(self.names), size):
            count = len(self.names[begin : begin + size])
            yield list(np.zeros((count, self.size, self.size), np.uint8))


@dataclass(frozen=True)
class BlankImages:
    """Black images with names that are made when they are needed."""

    count: int
    size: int
    folder: Path

    def __len__(self) -> int:
        return self.count

    def part(self, start: int, stop: int) -> PackedRows:
        names = tuple(f"{number:08d}.png" for number in range(start, stop))
        return cast("PackedRows", BlankPart(names, self.size, self.folder))


def blank_images(count: int, size: int, folder: Path) -> Inputs:
    return cast("Inputs", BlankImages(count, size, folder))
