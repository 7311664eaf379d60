"""The out-of-distribution detector: is an image like the chest radiographs that a model knows?

It has two measures that fail on different images: how unusual the image looks (`Template`), and how
far its pooled features lie from their nearest neighbours among validation images (Sun et al.,
arXiv 2204.06507).

The look is described by edges: 8 × 8 cells, each with the strength of edges in 8 directions from
dark to bright (histograms of oriented gradients, Dalal and Triggs, CVPR 2005), so that brightness
and contrast do not matter. Linear discriminant analysis (Hariharan et al., ECCV 2012) separates the
training images from what can be made from them that is not a whole, upright, positive radiograph:
enlarged parts, rotated images, and negatives. No other images take part in the fit, and yet
photographs, text and drawn radiographs of other body parts stand out. What does not stand out: the
lower half of a radiograph framed in black, and little less than a whole one (see docs/log.md).
Mirror images are fitted too: a mirrored radiograph looks like a patient whose heart is on the
right, so nothing here can separate the two.

A limit is an order statistic: of the looks of validation images, and of training images under a
template fitted on the other half of them; of the feature distances between validation images of
different patients. No weight was fitted on validation images, so a new image lies among them as
they lie among each other, and about the stated share of such images exceeds the limit (conformal
prediction, Vovk et al., 2005). The limit is not the largest distance, since a few images of any
hospital are unusual, such as negatives.

    gate.safetensors   the template and the kept features, described by the card's `gate`
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Final, Self

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file, save_file

from chestxray.artifacts import written
from chestxray.errors import BundleError
from chestxray.evaluation.drift import Distribution

_Floats = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]

FILE: Final = "gate.safetensors"
# Rotations by 0, 90, 180, 270 degrees counterclockwise, of the image and then of its negative.
STATES: Final = tuple(
    (degrees, negative) for negative in (False, True) for degrees in range(0, 360, 90)
)

_SIDE: Final = 32  # of the thumbnail; small, so that sharpness does not separate parts from wholes
_CELLS: Final = 8  # per side
_WAYS: Final = 8  # directions of an edge
_QUARTER: Final = _WAYS // 4
_BATCH: Final = 256  # images described at a time
_PARTS: Final = len(STATES) - 1  # of each image, as many as it has other states
_PART: Final = (0.3, 0.75)  # side of a part, as a fraction of the image's
_SHRINKAGE: Final = 0.5  # of the covariance towards a multiple of the identity
_FALSE_ALARMS: Final = 0.02
_LOWEST_LIMIT: Final = 0.5  # of a look: halfway between whole radiographs and what is not one
_NEAREST: Final = 5
_FARTHEST: Final = 2.0  # the largest cosine distance


@dataclass(frozen=True)
class Template:
    """The fitted discriminant; D numbers describe an image.

    Attributes:
        weights: float32 [D].
        bias: float32 [1].
    """

    weights: _Floats
    bias: _Floats

    @classmethod
    def fit(cls, images: Images) -> Self:
        """Fit on canonical images uint8 [N, S, S], N ≥ 1; the same images give the same fit."""
        whole = _with_mirrored(_described(images))
        parts = _with_mirrored(_described(_parts(images)))
        # To undo a state is to put an upright image into another one: this gives all seven.
        turned = [_undone(whole, *state) for state in STATES[1:]]
        typical, wanted = _moments(whole)
        strange, unwanted = _moments(np.concatenate([parts, *turned]))
        spread = (wanted + unwanted) / 2
        middling = np.trace(spread) / len(spread) + 1e-9
        shrunk = (1 - _SHRINKAGE) * spread + _SHRINKAGE * middling * np.eye(len(spread))
        weights = np.linalg.solve(shrunk, strange - typical)
        weights /= max(float(weights @ (strange - typical)), 1e-9)
        return cls(weights.astype(np.float32), np.array([-typical @ weights], dtype=np.float32))

    def looks(self, images: Images) -> npt.NDArray[np.float64]:
        """Give how unusual each image looks as it is, float64 [N]: `strangeness`, column 0."""
        cells = _described(images).reshape(len(images), -1)
        return np.asarray(cells @ self.weights + self.bias, np.float64)

    def strangeness(self, images: Images) -> npt.NDArray[np.float64]:
        """Give how unusual each image looks in each of `STATES`, float64 [N, 8].

        The mean is 0 for whole, upright, positive radiographs and 1 for parts of them, rotated ones
        and negatives. Column i is for the image after `STATES[i]` has been undone, so column 0 is
        for the image as it is.

        Args:
            images: uint8 [N, S, S], canonical.
        """
        cells = _described(images)
        columns = [
            _undone(cells, *state).reshape(len(cells), -1) @ self.weights for state in STATES
        ]
        return np.asarray(np.stack(columns, axis=1) + self.bias, np.float64)


def held_out(images: Images) -> npt.NDArray[np.float64]:
    """Give how unusual each of [N, S, S], N ≥ 2, looks to a template fitted on the other half.

    Where the images of a patient are neighbours, the halves share at most one patient.
    """
    halves = np.array_split(images, 2)
    fits = [Template.fit(half) for half in halves]
    looks = [fit.strangeness(half)[:, 0] for fit, half in zip(fits[::-1], halves, strict=True)]
    return np.concatenate(looks)


def _described(images: Images) -> _Floats:
    """Give float32 [N, cells, cells, ways], each of length 1; a blank image is all 0."""
    small = np.stack(
        [cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for image in images]
    )
    return np.concatenate(
        [_edges(small[at : at + _BATCH].astype(np.float32)) for at in range(0, len(small), _BATCH)]
    )


def _edges(small: _Floats) -> _Floats:
    down, right = np.gradient(small, axis=(1, 2))
    way = np.arctan2(down, right) * (_WAYS / (2 * math.pi))
    whole = np.floor(way)
    after, strength = way - whole, np.hypot(down, right)
    row = np.arange(_SIDE) // (_SIDE // _CELLS)
    cell = np.arange(len(small))[:, None, None] * _CELLS**2 + row[:, None] * _CELLS + row
    cells = np.zeros((len(small), _CELLS, _CELLS, _WAYS))
    # An edge between two ways counts for both, by how near it is to each.
    for step, share in ((0, 1 - after), (1, after)):
        place = cell * _WAYS + (whole.astype(int) + step) % _WAYS
        counted = np.bincount(place.ravel(), (strength * share).ravel(), cells.size)
        cells += counted.reshape(cells.shape)
    length = np.sqrt(cells.sum(axis=(1, 2, 3), keepdims=True))
    return np.asarray(np.sqrt(cells) / np.maximum(length, 1e-3), np.float32)


def _undone(cells: _Floats, degrees: int, negative: bool) -> _Floats:
    """Give the description of images after a state has been undone."""
    quarters = degrees // 90
    ways = quarters * _QUARTER + (_WAYS // 2 if negative else 0)
    return np.roll(np.rot90(cells, -quarters, axes=(1, 2)), ways, axis=-1)


def _with_mirrored(cells: _Floats) -> _Floats:
    ways = (_WAYS // 2 - np.arange(_WAYS)) % _WAYS
    return np.concatenate([cells, cells[:, :, ::-1][..., ways]])


def _parts(images: Images) -> Images:
    """Cut squares out of each image, many of them at its edges, [N × parts, side, side]."""
    draws, size = np.random.default_rng(0), images.shape[1]
    parts = []
    for image, _ in product(images, range(_PARTS)):
        side = round(size * draws.uniform(*_PART))
        y, x = (np.clip(draws.uniform(-0.25, 1.25, 2), 0, 1) * (size - side)).round().astype(int)
        part = image[y : y + side, x : x + side]
        parts.append(cv2.resize(part, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
    return np.stack(parts)


def _moments(cells: _Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Give mean [D] and covariance [D, D]."""
    flat = cells.reshape(len(cells), -1)
    mean = flat.mean(axis=0, dtype=np.float64)
    off = flat - mean.astype(np.float32)
    return mean, np.asarray(off.T @ off, np.float64) / len(flat)


class Limits(BaseModel):
    """The values above which an image is unlike those that the model knows.

    Attributes:
        look: of how unusual it looks.
        features: of the distance of its pooled features.
        false_alarms: approximate share of images like the validation images above each limit.
        references: number of validation images whose features are kept.
        validated_on: number of validation images that the limits are fitted on, beside training
            images.
        looks: of the validation images; None in bundles of earlier versions.
        distances: of the features of validation images from those of other patients; likewise.
    """

    model_config = ConfigDict(extra="forbid")

    look: float = Field(gt=0, allow_inf_nan=False)
    features: float = Field(gt=0, allow_inf_nan=False)
    false_alarms: float = Field(gt=0, le=1)
    references: int = Field(ge=1)
    validated_on: int = Field(ge=1)
    looks: Distribution | None = None
    distances: Distribution | None = None


@dataclass(frozen=True)
class Detector:
    """The fitted detector.

    Attributes:
        template: of the look of training images.
        references: float16 [M, C], features of validation images, scaled to length 1.
        limits: of both measures.
    """

    template: Template
    references: npt.NDArray[np.float16]
    limits: Limits

    @classmethod
    def fit(
        cls, train: Images, val: Images, features: _Floats, patients: npt.NDArray[np.generic]
    ) -> Self:
        """Fit the template on M training images, and the limits on these and N validation images.

        Args:
            train: uint8 [M, S, S], M ≥ 2, in the order of patients.
            val: uint8 [N, S, S].
            features: float32 [N, C], of the validation images, pooled.
            patients: [N], of the validation images: images of one patient are much alike, so they
                do not count as neighbours.
        """
        template = Template.fit(train)
        seen = template.looks(val)
        looks = np.concatenate([held_out(train), seen])
        references, count = _unit(features).astype(np.float16), len(val)
        apart = _distances(features, references)
        apart[patients[:, None] == patients] = _FARTHEST
        nearest = _of_nearest(apart)
        limits = Limits(
            look=max(_limit(looks), _LOWEST_LIMIT),
            features=_limit(nearest),
            false_alarms=(count + 1 - _rank(count)) / (count + 1),
            references=count,
            validated_on=count,
            looks=Distribution.of(seen, patients),
            distances=Distribution.of(nearest, patients),
        )
        return cls(template, references, limits)

    def feature_distance(self, features: _Floats) -> npt.NDArray[np.float64]:
        """Give the mean cosine distance of each of float32 [N, C] to its nearest references.

        Raises:
            BundleError: the references have another number of features.
        """
        if features.shape[1] != self.references.shape[1]:
            raise BundleError(
                f"{FILE} is for {self.references.shape[1]} features, the network has "
                f"{features.shape[1]}: copy the whole bundle again, or train again"
            )
        return _of_nearest(_distances(features, self.references))

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
            SafetensorError: it is not such a file.
            ValueError: a tensor of another type or shape, or a value that is not finite.
        """
        found = load_file(path)
        _check_tensors(found, limits)
        template = Template(**{field.name: found[field.name] for field in fields(Template)})
        return cls(template, found["references"], limits)


def _check_tensors(found: dict[str, npt.NDArray[np.generic]], limits: Limits) -> None:
    """Raise `ValueError` for a tensor of another type or shape, or with a value not finite."""
    features = found["references"].size // limits.references
    wanted = {
        "weights": (np.float32, (_CELLS**2 * _WAYS,)),
        "bias": (np.float32, (1,)),
        "references": (np.float16, (limits.references, features)),
    }
    for name, (kind, shape) in wanted.items():
        tensor = found[name]
        if tensor.dtype != kind or tensor.shape != shape or not np.isfinite(tensor).all():
            raise ValueError(
                f"{name} must be {np.dtype(kind)} {list(shape)} of finite values, it is "
                f"{tensor.dtype} {list(tensor.shape)}"
            )


def _unit(features: _Floats) -> _Floats:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), np.float32)


def _distances(features: _Floats, references: npt.NDArray[np.float16]) -> _Floats:
    return np.asarray(1 - _unit(features) @ references.astype(np.float32).T, np.float32)


def _of_nearest(distances: _Floats) -> npt.NDArray[np.float64]:
    nearest = np.sort(distances, axis=1)[:, :_NEAREST]
    return np.asarray(nearest.mean(axis=1, dtype=np.float64))


def _rank(count: int) -> int:
    """Tell which of the sorted distances is the limit; the largest where there are too few."""
    return min(count, math.ceil((count + 1) * (1 - _FALSE_ALARMS)))


def _limit(distances: npt.NDArray[np.float64]) -> float:
    return max(float(np.sort(distances)[_rank(len(distances)) - 1]), 1e-6)
