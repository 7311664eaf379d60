"""The reader: one radiograph in, one `Reading` out, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from chestxray.dataset import pixels
from chestxray.errors import ImageError
from chestxray.model import bundle
from chestxray.model.bundle import Bundle
from chestxray.model.inference import Engine
from chestxray.model.network import heatmaps
from chestxray.reading.engine import Choice, choose
from chestxray.sources.collection import SYNTHETIC

Film = str | Path | npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Reading:
    """What a model says of one radiograph.

    Attributes:
        probabilities: finding → calibrated probability in [0, 1].
        calls: finding → whether the probability reaches the finding's threshold; None where
            validation allowed no threshold.
        heatmaps: finding → float32 [h, w] over the canonical square image, at least 0, on one
            scale for every image and finding (1 is full colour).
        warnings: why not to trust it, if so.
        model: identity of the weights.
    """

    probabilities: dict[str, float]
    calls: dict[str, bool | None]
    heatmaps: dict[str, npt.NDArray[np.float32]]
    warnings: tuple[str, ...]
    model: str


class Reader:
    """Reads radiographs with one bundle, by one engine."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine
        self.findings = tuple(bundle.card.findings)
        self.size = bundle.card.size
        self._slopes = torch.tensor(list(bundle.card.heat_slopes.values()))
        self.warnings = tuple(_warnings(bundle))

    @classmethod
    def load(cls, folder: Path, engine: Choice | Path = "auto") -> Reader:
        """Load a bundle folder; see `chestxray.load`."""
        loaded = bundle.load(folder)
        return cls(loaded, choose(loaded, engine))

    def read(self, film: Film) -> Reading:
        """Read one radiograph.

        Args:
            film: a PNG, JPEG or DICOM file, or a grey array [H, W] of uint8 or uint16 in which
                bright is dense, 16 bits scaled to the full range.

        Raises:
            ImageError: the file does not become a radiograph, or the array is of another kind.
        """
        image = pixels.decode(Path(film)) if isinstance(film, str | Path) else _checked(film)
        probabilities, heat = self.read_batch(pixels.canonical(image, self.size)[None])
        return self._reading(probabilities[0], heat[0])

    def read_batch(
        self, images: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """Read canonical images uint8 [B, S, S].

        Returns:
            Calibrated probabilities [B, K] and heatmaps [B, K, h, w], in the order of `findings`.
        """
        logits, maps = self.engine.run(images)
        probabilities = self.bundle.card.calibration.apply(logits.astype(np.float64))
        heat = heatmaps(
            torch.from_numpy(maps),
            self._slopes,
            torch.from_numpy(probabilities).float(),
            self.bundle.card.heat_scale,
        )
        return probabilities, heat.numpy()

    def call(self, finding: str, probability: float) -> bool | None:
        """Say whether a probability reaches the finding's threshold, None without one."""
        threshold = self.bundle.card.thresholds[finding]
        return None if threshold is None else probability >= threshold

    def _reading(
        self, probabilities: npt.NDArray[np.float64], heat: npt.NDArray[np.float32]
    ) -> Reading:
        by_name = dict(zip(self.findings, probabilities.tolist(), strict=True))
        return Reading(
            probabilities=by_name,
            calls={finding: self.call(finding, p) for finding, p in by_name.items()},
            heatmaps=dict(zip(self.findings, heat, strict=True)),
            warnings=self.warnings,
            model=self.bundle.identity,
        )


def _warnings(bundle: Bundle) -> Iterator[str]:
    """Say what every reading of this bundle suffers from."""
    if bundle.card.trained_on.source == SYNTHETIC:
        yield "the model was trained on synthetic radiographs alone: it knows nothing of real ones"
    for finding, reason in bundle.card.calibration.unfitted.items():
        yield f"{finding}: the probability is not calibrated, {reason}"


def _checked(film: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> npt.NDArray[Any]:
    """Refuse an array that would turn black or wrap around on its way to 8 bits."""
    array = np.asarray(film)
    if array.ndim != 2 or not array.size or array.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            "array",
            f"must be grey [height, width] of uint8 or uint16, this is {array.dtype} "
            f"{list(array.shape)}: scale it to 0 to 255 or 0 to 65535 first",
        )
    return array
