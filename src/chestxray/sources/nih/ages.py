"""NIH's ages → years: `57`, and the older `060Y`, `011M`, `005D`, which the 2017 table has."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

OLDEST: Final = 120.0  # years; the 2017 table has 155 and 414, the corrected one ends at 95
_UNITS_A_YEAR: Final = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}


def in_years(ages: pd.Series) -> npt.NDArray[np.float64]:
    """Turn ages as written into years.

    Args:
        ages: strings.

    Returns:
        Years [n], NaN where the string is no age or the age is over `OLDEST`.
    """
    codes, different = pd.factorize(ages)  # each different age is read once
    parts = pd.Series(different, dtype=ages.dtype).str.extract(r"^(\d+(?:\.\d*)?)\s*([YMWDymwd]?)$")
    numbers = pd.to_numeric(parts[0], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    units = parts[1].str.upper().map(_UNITS_A_YEAR).to_numpy(dtype=np.float64, na_value=np.nan)
    years: npt.NDArray[np.float64] = numbers / units
    years[years > OLDEST] = np.nan
    return years[codes]


def are_of_2017(ages: pd.Series) -> bool:
    """Tell whether ages are written as only the 2017 table has them: with a unit, or over 120."""
    units = ages.str.match(r"^\d+\s*[YMWDymwd]$")
    years = pd.to_numeric(ages, errors="coerce")
    return bool(units.any() or (years > OLDEST).any())
