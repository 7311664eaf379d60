"""Run a classifier over canonical images, a batch at a time: float32, no gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from chestxray.model.network import Classifier, to_input

Logits = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float32]


def device() -> torch.device:
    """Give the device to compute on: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batches(
    classifier: Classifier, images: npt.NDArray[np.uint8], batch_size: int = 32
) -> Iterator[tuple[Logits, Maps]]:
    """Give logits and class maps for images in their order.

    Args:
        classifier: in evaluation mode, on any device.
        images: uint8 [N, S, S], canonical; may be memory-mapped.
        batch_size: images held at a time.

    Yields:
        Logits float32 [b, K] and class maps float32 [b, K, h, w] (logits), b ≤ `batch_size`.
    """
    place = classifier.mean.device
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(np.array(images[start : start + batch_size]))
        with torch.inference_mode():
            inputs = to_input(batch.to(place)).contiguous(memory_format=torch.channels_last)
            logits, maps = classifier.explain(inputs)
        yield logits.cpu().numpy(), maps.cpu().numpy()
