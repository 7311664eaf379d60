"""Training speed: the engine's step against plainer ones, measured in turns in one run.

    python benchmarks/training.py            # on the processor: DenseNet-121 at 224 px
    python benchmarks/training.py --small    # the same for resnet10t at 128 px
    python benchmarks/training.py --gpu      # on a GPU, in less than 8 minutes

On the processor, four steps work on the same batches: plain float32 channels-first, float32
channels-last, a plain step (augmentation by kornia, boolean indexing in the loss, one
question to the device per step, Adam without fusion), and the engine's. Also the loader's time per
batch as a share of the engine's step.

On a GPU, the engine trains from images that are resident there, at growing batch sizes, and says
which share of the time the GPU computes; beside it a plain loop decodes PNG files in workers and
trains in float32. `cv2` decodes them, at 1024 px as NIH ships them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from kornia import augmentation as kornia
from torch import nn
from torch.profiler import ProfilerActivity, profile

from chestxray.model.network import Classifier, to_input
from chestxray.sources.nih import FINDINGS
from chestxray.training import recipe as recipes
from chestxray.training.data import EpochBatches, loader
from chestxray.training.lightning_module import Task
from chestxray.training.loop import classifier_of
from chestxray.training.losses import FocalLoss
from chestxray.training.optimisation import optimiser_of
from chestxray.training.precision import depthwise_in_float32, resolve
from chestxray.training.sampling import Sampling

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDS = 5
GPU_STEPS = 40
Step = Callable[[torch.Tensor, torch.Tensor], None]
T = TypeVar("T")


class Packed(torch.utils.data.Dataset):
    """An indexed copy from a memory map, as a part of a dataset makes."""

    resident = False

    def __init__(self, folder: Path, count: int, size: int) -> None:
        path = folder / "images.npy"
        images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size))
        images[:] = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
        images.flush()
        self.images = np.load(path, mmap_mode="r")
        self.labels = np.zeros((count, len(FINDINGS)), np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.images[positions]), torch.from_numpy(self.labels[positions])


def plain(backbone: str, size: int, channels_last: bool) -> Step:
    """A step in float32 without augmentation."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network: nn.Module = Classifier(backbone, FINDINGS, size).train().to(DEVICE)
    network = network.to(memory_format=layout)
    loss = FocalLoss(torch.ones(len(FINDINGS), 2), 2.0).to(DEVICE)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        inputs = to_input(images.to(DEVICE)).contiguous(memory_format=layout)
        optimiser.zero_grad()
        loss(network(inputs), labels.to(DEVICE)).backward()
        optimiser.step()

    return step


def earlier(backbone: str, size: int) -> Step:
    """A plain step: kornia, boolean indexing, one question to the device, Adam unfused."""
    network = Classifier(backbone, FINDINGS, size).train().to(DEVICE)
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    augment = kornia.ImageSequential(
        kornia.RandomHorizontalFlip(p=0.5),
        kornia.RandomRotation(degrees=10.0, p=1.0),
        kornia.RandomGamma(gamma=(0.9, 1.1), gain=(0.9, 1.1), p=1.0),
    )
    bfloat16 = resolve("auto", DEVICE) == "bfloat16"

    def cost(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known, present = ~torch.isnan(labels), labels == 1
        log_truth = nn.functional.logsigmoid(torch.where(present, logits, -logits).float())
        each = -((1 - log_truth.exp()) ** 2.0) * log_truth
        return each[known].sum() / known.sum().clamp(min=1)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.no_grad():
            inputs = augment(to_input(images.to(DEVICE)))
        optimiser.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bfloat16):
            value = cost(
                network(inputs.contiguous(memory_format=torch.channels_last)), labels.to(DEVICE)
            )
        if not torch.isfinite(value):
            raise ArithmeticError
        value.backward()
        optimiser.step()

    return step


def engine(recipe: recipes.Recipe) -> Step:
    """The engine's own step: `Task`, its optimiser, averaged weights."""
    classifier = classifier_of(recipe, FINDINGS, resumed=True).to(DEVICE)
    depthwise_in_float32(classifier).__enter__()  # to the end of the benchmark
    task = Task(classifier, recipe, np.ones((len(FINDINGS), 2)), Sampling()).to(DEVICE).train()
    optimiser = optimiser_of(classifier, recipe)
    bfloat16 = resolve(recipe.precision, DEVICE) == "bfloat16"
    count = [0]

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimiser.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bfloat16):
            value = task.training_step((images, labels), 1)
        value.backward()
        optimiser.step()
        count[0] += 1
        if task.average is not None:
            task.average.update(classifier, count[0])

    return step


def clock_of() -> Callable[[], float]:
    """The processor's time where one thread computes, since other processes may share the core."""
    alone = DEVICE.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def timed(work: Callable[..., T], *arguments: object) -> tuple[float, T]:
    clock = clock_of()
    start = clock()
    result = work(*arguments)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start, result


def on_processor(backbone: str, size: int, batch_size: int) -> None:
    settings = {"backbone": backbone, "size": size, "loss.kind": "focal", "learning_rate": 1e-4}
    steps = {
        "float32 channels-first": plain(backbone, size, channels_last=False),
        "float32 channels-last": plain(backbone, size, channels_last=True),
        "plain step": earlier(backbone, size),
        "engine": engine(recipes.load(recipes.Recipe(), settings)),
    }
    times: dict[str, list[float]] = {name: [] for name in (*steps, "loader")}
    with tempfile.TemporaryDirectory() as folder:
        part = Packed(Path(folder), 2 * ROUNDS * batch_size, size)
        batches = iter(loader(part, EpochBatches(np.ones(len(part)), batch_size, seed=0)))
        for _ in range(ROUNDS + 1):
            duration, batch = timed(next, batches)
            times["loader"].append(duration)
            for name, step in steps.items():
                times[name].append(timed(step, *batch)[0])
    # The first round warms up.
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    print(f"{backbone}, {size} px, batches of {batch_size}, {torch.get_num_threads()} threads")
    print(f"seconds by {clock_of().__name__}")
    slowest, before = median["float32 channels-first"], median["plain step"]
    for name in steps:
        rate = batch_size / median[name]
        print(
            f"{name}: {rate:.1f} images/s, {slowest / median[name]:.2f} x channels-first, "
            f"{before / median[name]:.2f} x plain step"
        )
    print(f"loader: {median['loader'] / median['engine']:.2%} of the engine's step")


class Decoded(torch.utils.data.Dataset):
    """PNG files that are decoded whenever they are drawn, as plain training loops do."""

    def __init__(self, folder: Path, files: int, count: int, size: int) -> None:
        rng = np.random.default_rng(0)
        self.files, self.count, self.size = files, count, size
        self.folder = folder
        for place in range(files):
            smooth = cv2.resize(rng.integers(0, 256, (64, 64), dtype=np.uint8), (1024, 1024))
            noisy = np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"{place}.png"), noisy)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        file = self.folder / f"{place % self.files}.png"
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        small = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(small), torch.zeros(len(FINDINGS))


def on_gpu(size: int) -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, densenet121, {size} px")
    images = torch.randint(0, 256, (16384, size, size), dtype=torch.uint8, device=DEVICE)
    labels = torch.zeros(len(images), len(FINDINGS), device=DEVICE)
    for batch_size in (128, 256, 512):
        step = engine(recipes.load("strong", {"size": size, "progressive": [], "weights": "none"}))

        def some(count: int, step: Step = step, batch_size: int = batch_size) -> None:
            for _ in range(count):
                chosen = torch.randint(0, len(images), (batch_size,), device=DEVICE)
                step(images[chosen], labels[chosen])

        timed(some, 10)  # warms up
        seconds, _ = timed(some, GPU_STEPS)
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            whole, _ = timed(some, 10)
        busy = sum(of.device_time_total for of in seen.key_averages()) / 1e6 / whole
        memory = torch.cuda.max_memory_allocated() / 2**30
        rate = GPU_STEPS * batch_size / seconds
        print(
            f"engine, batches of {batch_size}: {rate:.0f} images/s, GPU busy {busy:.0%}, "
            f"{memory:.0f} GiB at most"
        )
    with tempfile.TemporaryDirectory() as folder:
        decoded = Decoded(Path(folder), 256, 64 * 64, size)
        batches = torch.utils.data.DataLoader(decoded, 64, num_workers=16, pin_memory=True)
        step, done, start = plain("densenet121", size, channels_last=False), 0, 0.0
        for place, (pixels, known) in enumerate(batches):
            step(pixels, known)
            if place == 8:  # warmed up
                torch.cuda.synchronize()
                start = time.perf_counter()
            done += len(pixels) if place > 8 else 0
        torch.cuda.synchronize()
    print(f"plain float32 loop that decodes: {done / (time.perf_counter() - start):.0f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="resnet10t at 128 px")
    parser.add_argument("--gpu", action="store_true", help="on a GPU")
    asked = parser.parse_args()
    if asked.gpu:
        on_gpu(224)
    elif asked.small:
        on_processor("resnet10t", 128, 32)
    else:
        on_processor("densenet121", 224, 16)


if __name__ == "__main__":
    main()
