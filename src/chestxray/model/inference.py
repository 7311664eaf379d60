"""What turns canonical images into answers: the engines, torch's among them.

An engine is float32 at its ends, keeps the order of its images, and may be called from several
threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from chestxray.model.network import Classifier, to_input

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]


class Answer(NamedTuple):
    """What a model makes of B images; K findings, C features, maps of h × w.

    Attributes:
        logits: float32 [B, K].
        maps: float32 [B, K, h, w], in logits.
        features: float32 [B, C], the last feature map's means, which the head is fed with.
    """

    logits: Logits
    maps: Maps
    features: Features


class Engine(Protocol):
    """Runs one model.

    Attributes:
        name: the runtime, its version and its arithmetic, in words.
    """

    name: str

    def run(self, images: Images) -> Answer:
        """Answer to canonical images uint8 [B, S, S]."""
        ...


class TorchEngine:
    """The classifier itself, on the device it lies on.

    Args:
        classifier: in evaluation mode.
        bfloat16: compute in bfloat16 where torch deems it safe; a processor without instructions
            for it emulates them, many times slower.
    """

    def __init__(self, classifier: Classifier, bfloat16: bool = False) -> None:
        self.classifier = classifier
        self.bfloat16 = bfloat16
        self.name = f"torch {torch.__version__}, {'bfloat16' if bfloat16 else 'float32'}"

    def run(self, images: Images) -> Answer:
        """See `Engine.run`."""
        place = self.classifier.mean.device
        with (
            torch.inference_mode(),
            torch.autocast(place.type, torch.bfloat16, enabled=self.bfloat16),
        ):
            batch = to_input(torch.from_numpy(np.array(images)).to(place))
            found = self.classifier.explain(batch.contiguous(memory_format=torch.channels_last))
        return Answer(*(of.float().cpu().numpy() for of in found))


def device() -> torch.device:
    """Give the device to compute on: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batches(classifier: Classifier, images: Images, batch_size: int = 32) -> Iterator[Answer]:
    """Answer to images in their order.

    Args:
        classifier: in evaluation mode, on any device.
        images: uint8 [N, S, S], canonical; may be memory-mapped.
        batch_size: images held at a time.

    Yields:
        The answer to at most `batch_size` of them.
    """
    return run_all(TorchEngine(classifier), images, batch_size)


def run_all(engine: Engine, images: Images, batch_size: int = 32) -> Iterator[Answer]:
    """Give what an engine makes of images uint8 [N, S, S], at most `batch_size` at a time."""
    for start in range(0, len(images), batch_size):
        yield engine.run(images[start : start + batch_size])
