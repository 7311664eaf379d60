"""What a model makes of canonical images, whichever engine computes it.

An engine is float32 at its ends, keeps the order of its images, and may be called from several
threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]
Heat = npt.NDArray[np.float32]


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
        name: the runtime, its version and its arithmetic, in words, and the export it runs, if one.
            Engines of one name give the same answers.
    """

    name: str

    def run(self, images: Images) -> Answer:
        """Answer to canonical images uint8 [B, S, S]."""
        ...


def run_all(engine: Engine, images: Images, batch_size: int = 32) -> Iterator[Answer]:
    """Give what an engine makes of images uint8 [N, S, S], at most `batch_size` at a time."""
    for start in range(0, len(images), batch_size):
        yield engine.run(images[start : start + batch_size])


def heatmaps(maps: Maps, slopes: Logits, probabilities: Probabilities, scale: float) -> Heat:
    """Turn class maps into heatmaps on one absolute scale.

    A heatmap is the positive part of the class map in calibrated log-odds, weighted by the
    finding's probability, so that an improbable finding does not glow, and divided by one constant
    of the model: 1 means the same evidence in every image and for every finding.

    Args:
        maps: float32 [B, K, h, w] in logits.
        slopes: float32 [K], calibrated log-odds a logit, above 0.
        probabilities: [B, K] in [0, 1], calibrated.
        scale: the bundle's `heat_scale`, in log-odds.

    Returns:
        float32 [B, K, h, w], at least 0.
    """
    weights = slopes * probabilities.astype(np.float32) / np.float32(scale)
    heat: Heat = np.maximum(maps, 0) * weights[:, :, None, None]
    return heat
