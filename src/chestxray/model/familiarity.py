"""What a model has seen: the look and the features of its training images, and limits to both.

Two witnesses that fail on different pictures: the thumbnail's distance from a template (`template`)
and the distance of the last pooled features to their nearest neighbours among training images (Sun
et al., arXiv 2204.06507). A limit is an order statistic of distances on validation images, which
neither was fitted on, so at most the stated share of films like those goes beyond it (split
conformal prediction, Vovk et al., 2005).

    gate.safetensors   template and reference features, described by the card's `gate`
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file, save_file

from chestxray.artifacts import written
from chestxray.model.template import Images, Template

Features = npt.NDArray[np.float32]

FILE: Final = "gate.safetensors"
FALSE_ALARMS: Final = 0.02
_NEAREST: Final = 5


class Limits(BaseModel):
    """Distances beyond which a film is unlike what the model knows.

    Attributes:
        look: of the thumbnail.
        features: of the pooled features.
        false_alarms: share of films like the validation images that each limit may stop at most.
        references: training images whose features are kept.
        validated_on: validation images.
    """

    model_config = ConfigDict(extra="forbid")

    look: float = Field(gt=0, allow_inf_nan=False)
    features: float = Field(gt=0, allow_inf_nan=False)
    false_alarms: float = Field(gt=0, le=1)
    references: int = Field(ge=1)
    validated_on: int = Field(ge=1)


@dataclass(frozen=True)
class Familiarity:
    """What was fitted.

    Attributes:
        template: of small images.
        references: float16 [M, C], features of training images, of length 1.
        limits: fitted on validation.
    """

    template: Template
    references: npt.NDArray[np.float16]
    limits: Limits

    @classmethod
    def fit(cls, train: Features, template: Template, val: tuple[Images, Features]) -> Self:
        """Keep references and fit the limits.

        Args:
            train: pooled features float32 [M, C] of training images that are to be references.
            template: fitted on training images.
            val: validation images uint8 [N, S, S] and their pooled features float32 [N, C].
        """
        references = _unit(train).astype(np.float16)
        count = len(val[0])
        limits = Limits(
            look=_limit(template.distance(val[0])),
            features=_limit(_nearest(val[1], references)),
            false_alarms=(count + 1 - _rank(count)) / (count + 1),
            references=len(references),
            validated_on=count,
        )
        return cls(template, references, limits)

    def feature_distance(self, features: Features) -> npt.NDArray[np.float64]:
        """Give the mean cosine distance of each of float32 [N, C] to its nearest references."""
        return _nearest(features, self.references)

    def save(self, path: Path) -> None:
        """Write the tensors."""
        parts = {field.name: getattr(self.template, field.name) for field in fields(Template)}
        with written(path) as temporary:
            save_file({**parts, "references": self.references}, temporary)

    @classmethod
    def load(cls, path: Path, limits: Limits) -> Self:
        """Read the tensors of a file whose hash was checked.

        Raises:
            KeyError: a tensor is missing.
            SafetensorError: it is no such file.
        """
        found = load_file(path)
        template = Template(**{field.name: found[field.name] for field in fields(Template)})
        return cls(template, found["references"], limits)


def _unit(features: Features) -> Features:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), np.float32)


def _nearest(features: Features, references: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    distances = 1 - _unit(features) @ references.astype(np.float32).T
    near = np.sort(distances, axis=1)[:, :_NEAREST]
    return np.asarray(near.mean(axis=1, dtype=np.float64))


def _rank(count: int) -> int:
    """Which of the sorted distances is the limit; the largest where there are too few."""
    return min(count, math.ceil((count + 1) * (1 - FALSE_ALARMS)))


def _limit(distances: npt.NDArray[np.float64]) -> float:
    return max(float(np.sort(distances)[_rank(len(distances)) - 1]), 1e-6)
