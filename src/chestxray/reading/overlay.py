"""A heatmap laid over its radiograph, on the one absolute scale of all heatmaps."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

COLOURS: Final = "inferno"
"""The colour map, by its name in matplotlib."""

# The colours of heat 0 to 1, float32 [256, 3] RGB in [0, 1].
_PALETTE: Final = (
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[
        :, 0, ::-1
    ].astype(np.float32)
    / 255
)
_OPACITY: Final = 0.65


def blend(image: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Lay a heatmap over a radiograph.

    Colour and opacity both grow with the heat, so that the radiograph is unchanged where there is
    none.

    Args:
        image: [S, S].
        heat: [h, w], at least 0; 1 and more is full colour.

    Returns:
        RGB uint8 [S, S, 3].
    """
    side = image.shape[0]
    smooth = cv2.resize(heat.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    smooth = np.clip(smooth, 0, 1)
    colour = _PALETTE[np.minimum(smooth * 256, 255).astype(np.intp)]
    opacity = _OPACITY * np.sqrt(smooth)[..., None]
    grey = np.repeat(image[..., None] / 255, 3, axis=2)
    blended: npt.NDArray[np.uint8] = np.rint(
        255 * ((1 - opacity) * grey + opacity * colour)
    ).astype(np.uint8)
    return blended
