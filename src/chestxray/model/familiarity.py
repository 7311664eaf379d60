"""What a model knows, by looks and by features, and how far from it a film may lie.

Two witnesses that fail on different pictures: how strange the film looks (`template`), and how far
its pooled features lie from their nearest neighbours among validation films (Sun et al., arXiv
2204.06507). Validation films are what finishing a run predicts anyway, and no weight was fitted on
them, so a new film lies among them as they lie among each other.

A limit is an order statistic: of how strange validation films look, and training films to a
template fitted on the other half of them; of how far each validation film lies from those of other
patients. So about the stated share of films like those goes beyond it (conformal prediction, Vovk
et al., 2005). It is not the largest distance, since a few films of any hospital are odd, such as
negatives.

    gate.safetensors   the template and the features that are kept, described by the card's `gate`
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
from chestxray.model.template import Images, Template, held_out

Features = npt.NDArray[np.float32]

FILE: Final = "gate.safetensors"
FALSE_ALARMS: Final = 0.02
_MIDWAY: Final = 0.5  # nearer to films than to what is none: never strange, however alike films are
_NEAREST: Final = 5
_FARTHEST: Final = 2.0  # that a cosine distance can be
_EARLIER: Final = "axes"  # a tensor of gates before the template was a discriminant


class Limits(BaseModel):
    """Beyond which a film is unlike what the model knows.

    Attributes:
        look: of how strange a film looks.
        features: of how far its pooled features lie.
        false_alarms: share of films like the validation images that each limit stops, about.
        references: validation images whose features are kept.
        validated_on: validation images that the limits are fitted on, beside training films.
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
        template: of how training films look.
        references: float16 [M, C], features of validation images, of length 1.
        limits: to both.
    """

    template: Template
    references: npt.NDArray[np.float16]
    limits: Limits

    @classmethod
    def fit(
        cls, films: Images, val: Images, features: Features, patients: npt.NDArray[np.generic]
    ) -> Self:
        """Fit the template on M training films, and the limits on these and N validation images.

        Args:
            films: uint8 [M, S, S], M ≥ 2, in the order of patients.
            val: uint8 [N, S, S].
            features: float32 [N, C], of the validation images, pooled.
            patients: [N], whose each validation image is: several of one patient are much alike.
        """
        template = Template.fit(films)
        looks = np.concatenate([held_out(films), template.strangeness(val)[:, 0]])
        references, count = _unit(features).astype(np.float16), len(val)
        apart = _distances(features, references)
        apart[patients[:, None] == patients] = _FARTHEST
        limits = Limits(
            look=max(_limit(looks), _MIDWAY),
            features=_limit(_of_nearest(apart)),
            false_alarms=(count + 1 - _rank(count)) / (count + 1),
            references=count,
            validated_on=count,
        )
        return cls(template, references, limits)

    def feature_distance(self, features: Features) -> npt.NDArray[np.float64]:
        """Give the mean cosine distance of each of float32 [N, C] to its nearest references."""
        return _of_nearest(_distances(features, self.references))

    def save(self, path: Path) -> None:
        """Write the tensors."""
        parts = {field.name: getattr(self.template, field.name) for field in fields(Template)}
        with written(path) as temporary:
            save_file({**parts, "references": self.references}, temporary)

    @classmethod
    def load(cls, path: Path, limits: Limits) -> Self | None:
        """Read the tensors of a file whose hash was checked; None for a gate of an earlier kind.

        Raises:
            KeyError: a tensor is missing.
            SafetensorError: it is no such file.
        """
        found = load_file(path)
        if _EARLIER in found:
            return None
        template = Template(**{field.name: found[field.name] for field in fields(Template)})
        return cls(template, found["references"], limits)


def _unit(features: Features) -> Features:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), np.float32)


def _distances(features: Features, references: npt.NDArray[np.float16]) -> Features:
    return np.asarray(1 - _unit(features) @ references.astype(np.float32).T, np.float32)


def _of_nearest(distances: Features) -> npt.NDArray[np.float64]:
    nearest = np.sort(distances, axis=1)[:, :_NEAREST]
    return np.asarray(nearest.mean(axis=1, dtype=np.float64))


def _rank(count: int) -> int:
    """Which of the sorted distances is the limit; the largest where there are too few."""
    return min(count, math.ceil((count + 1) * (1 - FALSE_ALARMS)))


def _limit(distances: npt.NDArray[np.float64]) -> float:
    return max(float(np.sort(distances)[_rank(len(distances)) - 1]), 1e-6)
