"""Training speed: the trainer's arithmetic beside plain float32, and the loader's share of a step.

Prints images per second of DenseNet-121 at 224 px for plain float32 channels-first, float32
channels-last, and bfloat16 channels-last, measured in turns in one run, since the machine may be
shared; and the loader's time per batch as a share of the fastest step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from chestxray.model.network import Classifier, to_input
from chestxray.sources.nih import FINDINGS
from chestxray.training.data import EpochBatches, loader
from chestxray.training.loop import resolve
from chestxray.training.losses import FocalLoss

SIZE, BATCH, ROUNDS = 224, 16, 4
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Packed(torch.utils.data.Dataset):
    """An indexed copy from a memory map, as a part of a dataset makes."""

    def __init__(self, folder: Path, count: int) -> None:
        path = folder / "images.npy"
        images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIZE, SIZE))
        images[:] = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
        images.flush()
        self.images = np.load(path, mmap_mode="r")
        self.labels = np.zeros((count, len(FINDINGS)), np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.images[positions]), torch.from_numpy(self.labels[positions])


def stepper(channels_last: bool, bfloat16: bool) -> Callable[[torch.Tensor, torch.Tensor], None]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network: nn.Module = Classifier("densenet121", FINDINGS, SIZE, dropout=0.5).train().to(DEVICE)
    network = network.to(memory_format=layout)
    loss = FocalLoss(torch.ones(len(FINDINGS), 2), 2.0).to(DEVICE)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        inputs = to_input(images.to(DEVICE)).contiguous(memory_format=layout)
        optimiser.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bfloat16):
            value = loss(network(inputs), labels.to(DEVICE))
        value.backward()
        optimiser.step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return step


T = TypeVar("T")


def timed(work: Callable[..., T], *arguments: object) -> tuple[float, T]:
    start = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - start, result


def main() -> None:
    steps = {
        "float32 channels-first": stepper(channels_last=False, bfloat16=False),
        "float32 channels-last": stepper(channels_last=True, bfloat16=False),
    }
    if resolve("auto", DEVICE) == "bfloat16":
        steps["bfloat16 channels-last"] = stepper(channels_last=True, bfloat16=True)
    else:
        print("bfloat16: this processor has no instructions for it, training uses float32")
    times: dict[str, list[float]] = {name: [] for name in (*steps, "loader")}
    with tempfile.TemporaryDirectory() as folder:
        part = Packed(Path(folder), 64 * BATCH)
        batches = iter(loader(part, EpochBatches(np.ones(len(part)), BATCH, seed=0)))
        for _ in range(ROUNDS + 1):
            duration, batch = timed(next, batches)
            times["loader"].append(duration)
            for name, step in steps.items():
                times[name].append(timed(step, *batch)[0])
    # The first round warms up.
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    plain = median["float32 channels-first"]
    for name in steps:
        rate, ratio = BATCH / median[name], plain / median[name]
        print(f"{name}: {rate:.1f} images/s, {ratio:.2f} x plain float32 channels-first")
    fastest = min(median[name] for name in steps)
    print(f"loader: {median['loader'] / fastest:.2%} of the fastest step")


if __name__ == "__main__":
    main()
