"""torch as an engine: the classifier itself, on its device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from chestxray.errors import ConfigError
from chestxray.model.engines import Answer, Images, run_all
from chestxray.model.ensemble import Network
from chestxray.model.network import to_input


class TorchEngine:
    """The classifier itself, on its device.

    Args:
        classifier: in evaluation mode.
        bfloat16: compute in bfloat16 where autocast does; a processor without instructions for it
            emulates them, many times slower.
    """

    def __init__(self, classifier: Network, bfloat16: bool = False) -> None:
        self.classifier = classifier
        self.bfloat16 = bfloat16
        arithmetic = "bfloat16" if bfloat16 else "float32"
        self.name = f"torch {torch.__version__}, {arithmetic} on {device_of(classifier).type}"

    def run(self, images: Images) -> Answer:
        """See `Engine.run`."""
        place = device_of(self.classifier)
        with (
            torch.inference_mode(),
            torch.autocast(place.type, torch.bfloat16, enabled=self.bfloat16),
        ):
            batch = to_input(torch.from_numpy(np.array(images)).to(place))
            found = self.classifier.explain(batch.contiguous(memory_format=torch.channels_last))
        return Answer(*(of.float().cpu().numpy() for of in found))


def device(name: str = "auto") -> torch.device:
    """Give the device to compute on.

    Args:
        name: `cpu`, `cuda`, `cuda:N` or `mps`; `auto` is the GPU where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = ["cpu"]
    if torch.cuda.is_available():
        here += ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        here.append("mps")
    if name not in here:
        raise ConfigError(f"there is no device {name!r} here, but: auto, {', '.join(here)}")
    return torch.device(name)


def device_of(classifier: Network) -> torch.device:
    """Give the device that a classifier is on."""
    return next(classifier.parameters()).device


def batches(classifier: Network, images: Images, batch_size: int = 32) -> Iterator[Answer]:
    """Run a classifier over images, in their order.

    Args:
        classifier: in evaluation mode, on any device.
        images: uint8 [N, S, S], canonical; may be memory-mapped.
        batch_size: images held at a time.

    Yields:
        The answer to each batch of at most `batch_size` images.
    """
    return run_all(TorchEngine(classifier), images, batch_size)
