"""How far a graph's answers lie from torch's in float32, measured on images and never assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.metrics import auroc
from chestxray.model.answer import Engine, Images, Logits, Maps, run_all
from chestxray.progress import progress

TOLERANCE: Final = 1e-4
AUROC_TOLERANCE: Final = 0.002
_NOISE_IMAGES: Final = 8


@dataclass(frozen=True)
class Trial:
    """Images to measure on.

    Attributes:
        name: what they are.
        images: uint8 [N, S, S], canonical; may be memory-mapped.
        labels: float32 [N, K] of 1, 0, NaN; None where they have none.
    """

    name: str
    images: Images
    labels: npt.NDArray[np.float32] | None = None


class Parity(BaseModel):
    """Differences of a graph from torch in float32.

    Attributes:
        images: how many, and `measured_on` which.
        measured_with: the runtime and its arithmetic, which is not the graph's own where this
            processor lacks it.
        probability: largest difference of a calibrated probability.
        map: largest difference of a cell of a class map, in logits.
        auroc: finding → change of its AUROC, None where it is not defined; None without labels.
    """

    model_config = ConfigDict(extra="forbid")

    images: int
    measured_on: str
    measured_with: str
    probability: float
    map: float
    auroc: dict[str, float | None] | None

    def misses(self, exact: bool) -> list[str]:
        """Say in sentences which limits are not kept.

        Args:
            exact: whether the graph is to agree image by image (float32) or in AUROC.
        """
        if exact:
            return [
                f"{what} differ by up to {value:.2g}, at most {TOLERANCE:g} is allowed"
                for what, value in (("probabilities", self.probability), ("maps", self.map))
                if not value <= TOLERANCE  # NaN is a miss
            ]
        return [
            f"AUROC of {finding} changes by {change:+.4f}, at most {AUROC_TOLERANCE:g} is allowed"
            for finding, change in (self.auroc or {}).items()
            if change is not None and not abs(change) <= AUROC_TOLERANCE
        ]


def noise(size: int) -> Trial:
    """Give images that need no dataset: eight of random pixels, always the same."""
    shape = (_NOISE_IMAGES, size, size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Trial(f"{_NOISE_IMAGES} images of random pixels", images)


def outputs(engine: Engine, trial: Trial, label: str) -> tuple[Logits, Maps]:
    """Run an engine over all images of a trial: logits [N, K] and maps [N, K, h, w]."""
    found = []
    with progress(label, len(trial.images)) as advance:
        for answer in run_all(engine, trial.images, batch_size=8):
            found.append((answer.logits, answer.maps))
            advance(len(answer.logits))
    logits, maps = (np.concatenate(of) for of in zip(*found, strict=True))
    return logits, maps


def measure(
    engine: Engine, reference: tuple[Logits, Maps], trial: Trial, calibration: Calibration
) -> Parity:
    """Compare an engine with what torch made of the same images."""
    logits, maps = outputs(engine, trial, "check the graph")
    probabilities, expected = (
        calibration.apply(of.astype(np.float64)) for of in (logits, reference[0])
    )
    changes = None
    if trial.labels is not None:
        findings = list(calibration.calibrators)
        changes = auroc_changes(logits, reference[0], trial.labels, findings)
    return Parity(
        images=len(trial.images),
        measured_on=trial.name,
        measured_with=engine.name,
        probability=float(np.abs(probabilities - expected).max()),
        map=float(np.abs(maps - reference[1]).max()),
        auroc=changes,
    )


def auroc_changes(
    logits: Logits, reference: Logits, labels: npt.NDArray[np.float32], findings: Sequence[str]
) -> dict[str, float | None]:
    """Give finding → AUROC by these logits less AUROC by the reference's, None where undefined."""
    changes: dict[str, float | None] = {}
    for k, finding in enumerate(findings):
        change = auroc(labels[:, k], logits[:, k]) - auroc(labels[:, k], reference[:, k])
        changes[finding] = None if np.isnan(change) else float(change)
    return changes
