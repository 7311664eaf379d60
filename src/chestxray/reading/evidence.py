"""Whether a heatmap points to a place in the radiograph, and the words where it does not.

A probability comes from the whole class map. It can be high enough for a call although no place
stands out; the heatmap of such a call must not be taken for a location.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

WEAK: Final = 0.25
"""The peak of a heatmap below which its evidence is too weak to point to a place."""

SPREAD: Final = 0.5
"""The share of a heatmap at half of its peak or more, above which it points to no place."""

NO_PLACE: Final = "no localised evidence"


def no_place(heat: npt.NDArray[np.floating[Any]]) -> str | None:
    """Say why a heatmap points to no place; None where it does.

    Args:
        heat: [h, w], at least 0; 1 is the end of the finding's scale.

    Returns:
        A sentence without a full stop, which begins with `NO_PLACE`.
    """
    peak = float(heat.max())
    if peak < WEAK:
        return f"{NO_PLACE}: the heatmap peaks at {peak:.2f}, below {WEAK} of its scale"
    share = float(np.mean(heat >= peak / 2))
    if share > SPREAD:
        return f"{NO_PLACE}: the evidence is spread over {share:.0%} of the image"
    return None
