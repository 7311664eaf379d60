"""Training batches: which images in which order.

The images are memory-mapped uint8, so a batch is one indexed copy, and worker processes would cost
more than they save. The order depends on seed and epoch alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler
from torch.utils.data import Dataset as TorchDataset

from chestxray.dataset.store import Dataset

Batch = tuple[Tensor, ...]  # images and labels; masks too, see `mask_supervision`


class Part(TorchDataset[Batch]):
    """One split of a dataset; indexing with a list of positions gives a batch.

    A batch is uint8 images [B, S, S] and float32 labels [B, K] (1, 0, NaN = unknown).
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset = dataset
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
        draws: [N] expected draws of each image, see `sampling`.
        batch_size: positions per batch.
        seed: of the order.
    """

    def __init__(self, draws: npt.NDArray[np.float64], batch_size: int, seed: int) -> None:
        self.draws = draws
        self.batch_size = min(batch_size, len(draws))
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.draws) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.draws))
        if (self.draws != 1).any():
            order = generator.permutation(_systematic(self.draws, order, generator.random()))
        for batch in range(len(self)):
            yield order[batch * self.batch_size :][: self.batch_size].tolist()


def _systematic(
    draws: npt.NDArray[np.float64], order: npt.NDArray[np.int64], start: float
) -> npt.NDArray[np.int64]:
    """Draw N positions, each as often as expected, rounded up or down (Madow 1949).

    Draws that are independent of each other would repeat images more and show fewer of them.

    Args:
        draws: [N], expected.
        order: of the N positions, random.
        start: in [0, 1), random.
    """
    count = len(draws)
    ends = np.cumsum(draws[order])
    at = (np.arange(count) + start) / count * ends[-1]
    places = np.searchsorted(ends, at, side="right").clip(max=count - 1)
    drawn: npt.NDArray[np.int64] = order[places]
    return drawn


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
