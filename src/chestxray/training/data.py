"""Training batches: which images in which order.

The images are memory-mapped uint8, so a batch is one indexed copy, and worker processes would cost
more than they save. The order depends on seed and epoch alone (`EpochBatches`), or, where each of
several processes reads its own shards, on their number too (`EpochShards`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from chestxray.dataset.shards import Shards
from chestxray.dataset.store import Dataset

Batch = tuple[Tensor, ...]
"""Images and labels; and in training what a recipe learns beside them, in this order: a teacher's
probabilities, auxiliary targets, masks."""

_COPIED: Final = 4096  # images at a time


@dataclass(frozen=True)
class Share:
    """Which of several processes this is, and so which images of a batch are its own.

    Attributes:
        rank: of the process, from 0.
        of: processes in all.
    """

    rank: int = 0
    of: int = 1

    def own(self, positions: Sequence[int]) -> list[int]:
        """Give every `of`-th of some positions; those of all processes are the whole."""
        return list(positions[self.rank :: self.of])


class Part(TorchDataset[Batch]):
    """One split of a dataset; indexing with a list of positions gives a batch.

    A batch is uint8 images [B, S, S] and float32 labels [B, K] (1, 0, NaN = unknown), and the
    targets of these images.

    Args:
        dataset: of the split.
        split: its name.
        device: that computes. On a GPU with room for them, all images are kept there, so that a
            batch is neither read nor copied.
        targets: what else is learned, each [N, …] for the N images of the split, see `Batch`.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        device: torch.device | None = None,
        targets: Sequence[Tensor] = (),
    ) -> None:
        self.dataset = dataset
        self.rows = dataset.rows(split)
        self.labels = dataset.labels(self.rows)
        self.shards = dataset.images.shard_of(self.rows)
        self.sources = dataset.sources(self.rows)
        self._images = dataset.images
        self._targets = tuple(targets)
        self._resident: Batch | None = None
        if device is not None and fits(len(self.rows) * dataset.images.shape[1] ** 2, device):
            labels = torch.from_numpy(self.labels).to(device)
            more = [of.to(device) for of in self._targets]
            self._resident = _resident(self._images, self.rows, device), labels, *more

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: list[int]) -> Batch:
        if self._resident is not None:
            chosen = torch.tensor(positions, device=self._resident[0].device)
            return tuple(of[chosen] for of in self._resident)
        pixels = torch.from_numpy(self._images[self.rows[positions]])
        labels = torch.from_numpy(self.labels[positions])
        return pixels, labels, *(of[positions] for of in self._targets)

    @property
    def resident(self) -> bool:
        """Whether all images are kept on the GPU."""
        return self._resident is not None

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """All images of the part [N, S, S], copied."""
        images: npt.NDArray[np.uint8] = self._images[self.rows]
        return images


def fits(size: int, device: torch.device) -> bool:
    """Tell whether `size` bytes fit into the free memory of a GPU with as much again left."""
    return device.type == "cuda" and 2 * size < torch.cuda.mem_get_info(device)[0]


def _resident(images: Shards, rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """Copy images [N, S, S] to a device, some at a time, since they may not fit into memory."""
    return torch.cat(
        [
            torch.from_numpy(images[rows[start : start + _COPIED]]).to(device)
            for start in range(0, len(rows), _COPIED)
        ]
    )


class EpochBatches(Sampler[list[int]]):
    """Positions of an epoch's batches; epoch n is the same in a resumed run.

    A short last batch is dropped, since batch normalisation over a few images is noise; it is kept
    where it is the only one.

    Args:
        draws: [N] expected draws of each image, see `sampling`.
        batch_size: positions per batch.
        seed: of the order.
        share: of each batch that this process takes.
    """

    def __init__(
        self,
        draws: npt.NDArray[np.float64],
        batch_size: int,
        seed: int,
        share: Share | None = None,
    ) -> None:
        self.draws = draws
        self.share = share or Share()
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
            yield self.share.own(order[batch * self.batch_size :][: self.batch_size].tolist())


class EpochShards(Sampler[list[int]]):
    """Positions of an epoch's batches, of which each process takes those of its own shards.

    Images that lie on shared storage are then read once an epoch by one process, instead of by
    all. The order of epoch e with seed s and w processes:

    1. the shards are shuffled by the generator of (s, e), and dealt one by one to the process that
       has the fewest images so far, the first of equals;
    2. process r shuffles its images, and draws as often as expected, by the generator of
       (s, e, r + 1);
    3. its part of batch b are the next of them; where they end, it begins again.

    So each epoch deals anew, and w processes see each image once, but for what the last shards
    leave uneven: at most the images of one shard are repeated or left out in a process.

    Args:
        draws: [N] expected draws of each image, see `sampling`.
        shards: int [N], the shard of each image.
        batch_size: positions per batch, of all processes together.
        seed: of the order.
        share: which process this is.
    """

    def __init__(
        self,
        draws: npt.NDArray[np.float64],
        shards: npt.NDArray[np.int64],
        batch_size: int,
        seed: int,
        share: Share | None = None,
    ) -> None:
        self.draws, self.shards, self.seed = draws, shards, seed
        self.share = share or Share()
        self.batch_size = min(batch_size, len(draws))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.draws) // self.batch_size

    def own_shards(self) -> npt.NDArray[np.int64]:
        """Give the shards of this process in this epoch."""
        names, images = np.unique(self.shards, return_counts=True)
        taken = np.zeros(self.share.of, dtype=np.int64)
        own = []
        for place in np.random.default_rng((self.seed, self.epoch)).permutation(len(names)):
            process = int(taken.argmin())
            taken[process] += images[place]
            if process == self.share.rank:
                own.append(names[place])
        return np.array(own, dtype=np.int64)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch, self.share.rank + 1))
        own = np.flatnonzero(np.isin(self.shards, self.own_shards()))
        order = generator.permutation(len(own))
        if (self.draws != 1).any():
            drawn = _systematic(self.draws[own], order, generator.random())
            order = generator.permutation(drawn)
        size = len(self.share.own(range(self.batch_size)))
        for batch in range(len(self)):
            places = np.arange(batch * size, (batch + 1) * size) % len(own)
            yield own[order[places]].tolist()


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


def loader(part: Part, batches: Iterable[list[int]]) -> DataLoader[Batch]:
    """Load the batches of a part whose positions `batches` gives."""
    return DataLoader(
        part,
        sampler=batches,  # a batch takes the place of a single position
        batch_size=None,
        pin_memory=torch.cuda.is_available() and not part.resident,
        # Its own, so that the loader draws nothing from the generator of augmentation and dropout.
        generator=torch.Generator(),
    )


def in_order(part: Part, batch_size: int, share: Share | None = None) -> DataLoader[Batch]:
    """Load a whole part in row order, or this process's share of it."""
    own = (share or Share()).own(range(len(part)))
    starts = range(0, len(own), batch_size)
    return loader(part, [own[start : start + batch_size] for start in starts])
