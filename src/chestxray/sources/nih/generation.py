"""Tells the 2017 label table from the corrected one of 2020 by its content.

In 2017 `Follow-up #` was the `_NNN` of the file name; in 2020 NIH put each patient's visits in
order of time and left the file names as they were, so that it differs in 24,106 of 112,120 rows,
which belong to 3,154 of the 13,302 patients who have more than one image. The name of the table
proves nothing: copies called `Data_Entry_2017.csv` with rows of 2020 are common.
"""

from __future__ import annotations

from typing import Final

import pandas as pd

from chestxray.sources.collection import Generation

_LEAST_DIFFERENCES: Final = 3  # fewer may be somebody's edits
_LEAST_SHARE: Final = 0.01
# A patient with several images differs with probability 0.24 in 2020; that 30 such patients all
# agree happens in one table of 3,000.
_LEAST_PATIENTS: Final = 30


def generation(rows: pd.DataFrame, ages_of_2017: bool) -> Generation:
    """Tell the generation of a label table.

    Args:
        rows: with `image`, `patient`, `follow_up`.
        ages_of_2017: some age is written as only the 2017 table has it.

    Returns:
        `unknown` where the rows are too few, or contradict both generations.
    """
    suffix = pd.to_numeric(rows["image"].str.extract(r"_(\d{3})(?:\.\w+)?$")[0], errors="coerce")
    named = suffix.notna()
    suffix, follow_up = suffix[named], rows["follow_up"][named]
    differ = int((suffix != follow_up).sum())
    if differ >= max(_LEAST_DIFFERENCES, _LEAST_SHARE * len(suffix)):
        return "v2020"
    if differ:
        return "unknown"
    several = rows["patient"][named][suffix > 0].nunique()
    return "2017" if several and (ages_of_2017 or several >= _LEAST_PATIENTS) else "unknown"
