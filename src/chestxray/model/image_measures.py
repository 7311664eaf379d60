"""Four figures of a radiograph that are watched for drift, beside the probabilities of findings.

| measure      | what it is                                        | moves with               |
|--------------|---------------------------------------------------|--------------------------|
| `brightness` | mean grey value of the canonical image, 0 to 1    | exposure, windowing      |
| `contrast`   | standard deviation of its grey values, 0 to 0.5   | exposure, processing     |
| `look`       | `Template.looks`: edges unlike a whole chest      | views, rotation, cutting |
| `features`   | distance of the pooled features from validation's | all the network sees     |

The first two are of the pixels that the model sees, so they need no model; the others are those by
which the out-of-distribution detector judges, and are missing where a bundle has none.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.drift import MEASURES
from chestxray.model.out_of_distribution import Detector, Images

_WHITE: Final = 255.0
_BATCH: Final = 256  # images at a time


def grey_measures(images: Images) -> dict[str, npt.NDArray[np.float64]]:
    """Give brightness and contrast of canonical images uint8 [N, S, S], float64 [N] each."""
    parts = [
        _grey(images[start : start + _BATCH]) for start in range(0, max(1, len(images)), _BATCH)
    ]
    brightness, contrast = np.concatenate(parts, axis=1) / _WHITE
    return {"brightness": brightness, "contrast": contrast}


def measures_of(
    image: Images, features: npt.NDArray[np.float32], detector: Detector | None
) -> dict[str, float]:
    """Give all measures of one image.

    Args:
        image: uint8 [S, S], canonical.
        features: float32 [C], pooled.
        detector: of the model; without one, look and features are missing.
    """
    figures = list(grey_measures(image[None]).values())
    if detector is not None:
        figures += [detector.template.looks(image[None]), detector.feature_distance(features[None])]
    return {name: float(figure[0]) for name, figure in zip(MEASURES, figures, strict=False)}


def _grey(images: Images) -> npt.NDArray[np.float64]:
    flat = images.reshape(len(images), -1)
    # Of whole numbers, so exact and quicker than in floats.
    sums = flat.sum(axis=1, dtype=np.int64)
    squares = np.einsum("ij,ij->i", flat, flat, dtype=np.int64, casting="unsafe")
    mean = sums / flat.shape[1]
    return np.stack([mean, np.sqrt(np.maximum(squares / flat.shape[1] - mean**2, 0))])
