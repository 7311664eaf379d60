"""Training batches: which images in which order, and their augmentation.

The images are memory-mapped uint8, so a batch is one indexed copy, and worker processes would cost
more than they save. The order depends on seed and epoch alone. Augmentation works on a whole batch,
on its device.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from kornia.augmentation import (
    ImageSequential,
    RandomBrightness,
    RandomHorizontalFlip,
    RandomRotation,
)
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler
from torch.utils.data import Dataset as TorchDataset

from chestxray.dataset.store import Dataset
from chestxray.training.recipe import Augment

Batch = tuple[Tensor, Tensor]


class Part(TorchDataset[Batch]):
    """One split of a dataset; indexing with a list of positions gives a batch.

    A batch is uint8 images [B, S, S] and float32 labels [B, K] (1, 0, NaN = unknown).
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.rows = dataset.rows(split)
        self.labels = dataset.labels(self.rows)
        self._images = dataset.images

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: list[int]) -> Batch:
        images = self._images[self.rows[positions]]
        return torch.from_numpy(images), torch.from_numpy(self.labels[positions])

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """All images of the part [N, S, S], copied."""
        images: npt.NDArray[np.uint8] = self._images[self.rows]
        return images


class EpochBatches(Sampler[list[int]]):
    """Positions of an epoch's batches; epoch n is the same in a resumed run.

    A short last batch is dropped, since batch normalisation over a few images is noise; it is kept
    where it is the only one.

    Args:
        weights: [N] relative chances of being drawn (with replacement), None to show each once.
        count: N.
        batch_size: positions per batch.
        seed: of the order.
    """

    def __init__(
        self, weights: npt.NDArray[np.float64] | None, count: int, batch_size: int, seed: int
    ) -> None:
        self.weights = weights
        self.count = count
        self.batch_size = min(batch_size, count)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.weights is None:
            order = generator.permutation(self.count)
        else:
            chances = self.weights / self.weights.sum()
            order = generator.choice(self.count, size=self.count, p=chances)
        for batch in range(len(self)):
            yield order[batch * self.batch_size :][: self.batch_size].tolist()


def balanced_weights(labels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Give weights [N] that draw each finding, and No Finding, about equally often.

    The weight of an image is the sum, over the findings it shows, of 1 / (images that show the
    finding). Drawing by these weights is drawing a finding first and then one of its images.

    Args:
        labels: [N, K] of 1, 0, NaN; an unknown label counts as not shown.
    """
    shown = labels == 1
    classes = np.column_stack([shown, ~shown.any(axis=1)])
    counts = classes.sum(axis=0)
    weights: npt.NDArray[np.float64] = (classes[:, counts > 0] / counts[counts > 0]).sum(axis=1)
    return weights


def loader(part: Part, batches: Sampler[list[int]]) -> DataLoader[Batch]:
    """Load the batches of a part whose positions `batches` gives."""
    return DataLoader(
        part,
        sampler=batches,  # a batch takes the place of a single position
        batch_size=None,
        pin_memory=torch.cuda.is_available(),
        # Its own, so that the loader draws nothing from the generator of augmentation and dropout.
        generator=torch.Generator(),
    )


def in_order(part: Part, batch_size: int) -> DataLoader[Batch]:
    """Load a whole part in row order."""
    return loader(part, BatchSampler(SequentialSampler(part), batch_size, drop_last=False))


def augmentation(augment: Augment) -> nn.Module:
    """Build the module that augments float images [B, 1, S, S] in [0, 1], each image on its own.

    A rotation fills the corners with black, as outside the collimator. Values stay in [0, 1].
    """
    steps: list[nn.Module] = [RandomHorizontalFlip(p=augment.flip)]
    if augment.rotate:
        steps.append(RandomRotation(degrees=augment.rotate, p=1.0))
    if augment.brightness:
        span = (1 - augment.brightness, 1 + augment.brightness)
        steps.append(RandomBrightness(brightness=span, p=1.0))
    module: nn.Module = ImageSequential(*steps)
    return module
