"""Which images belong to which group: the axes that NIH's label table can tell patients apart by.

An image whose table says nothing on an axis belongs to no group of it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray.evaluation.labels import Pairs
from chestxray.findings import FINDINGS

RULES: Final = {
    "sex": "as the label table says",
    "age": "years at the radiograph; each band against 40–59, which has the most images of NIH",
    "view": "PA standing, AP mostly in bed",
    "visit": "first: Follow-up # is 0; counted in the whole data set, not in the part evaluated",
    "company": "images with this finding alone, or with others of the 14; the images without it "
    "are the same in both groups",
}
CONTRASTS: Final = {
    "sex": (("female", "male"),),
    "age": tuple((band, "40–59") for band in ("0–17", "18–39", "60–79", "80+")),
    "view": (("AP", "PA"),),
    "visit": (("follow-up", "first"),),
    "company": (("alone", "with others"),),
}

_BANDS: Final = {"0–17": (0, 18), "18–39": (18, 40), "40–59": (40, 60), "60–79": (60, 80),
                 "80+": (80, np.inf)}  # fmt: skip

Mask = npt.NDArray[np.bool_]


def members(axis: str, pairs: Pairs, finding: str) -> dict[str, Mask]:
    """Tell which images belong to each group of an axis, for one finding: bool [n] each."""
    about = pairs.about
    if axis == "company":
        place = FINDINGS.index(finding)
        present = pairs.labels[:, place] == 1
        others = np.delete(pairs.labels, place, axis=1)
        alone, accompanied = (others == 0).all(axis=1), (others == 1).any(axis=1)
        return {"alone": ~present | alone, "with others": ~present | accompanied}
    if axis == "age":
        age = about["age"].to_numpy(dtype=np.float64)
        return {name: (low <= age) & (age < high) for name, (low, high) in _BANDS.items()}
    if axis == "visit":
        follow_up = about["follow_up"].to_numpy(dtype=np.float64)
        return {"first": follow_up == 0, "follow-up": follow_up > 0}
    codes = {"female": "F", "male": "M"} if axis == "sex" else {"PA": "PA", "AP": "AP"}
    told = about[axis].to_numpy(dtype=object)
    return {name: told == code for name, code in codes.items()}
