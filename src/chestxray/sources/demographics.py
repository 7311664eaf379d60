"""Age, sex, view and follow-up as tables write them → years, `M` or `F`, `PA`, numbers."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

OLDEST: Final = 120.0  # years; NIH's table of 2017 has 155 and 414, the corrected one ends at 95
_UNITS_PER_YEAR: Final = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}
_SEXES: Final = {
    "M": "M", "MALE": "M", "MAN": "M", "F": "F", "FEMALE": "F", "WOMAN": "F",
}  # fmt: skip
_NOT_STATED: Final = frozenset(
    {"", "U", "UNK", "UNKNOWN", "O", "OTHER", "N", "NA", "NAN", "NONE", "NULL", "NOT STATED"}
)
_NO_DIRECTION: Final = frozenset(
    {
        "ERECT",
        "UPRIGHT",
        "STANDING",
        "SITTING",
        "SUPINE",
        "HORIZONTAL",
        "PORTABLE",
        "MOBILE",
        "PROJECTION",
        "VIEW",
    }
)
_VIEWS: Final = {
    "PA": "PA", "POSTEROANTERIOR": "PA", "POSTEROANTERIOR PA": "PA", "POSTERO ANTERIOR": "PA",
    "AP": "AP", "ANTEROPOSTERIOR": "AP", "ANTERO POSTERIOR": "AP",
    "L": "LATERAL", "LL": "LATERAL", "RL": "LATERAL", "LAT": "LATERAL", "LATERAL": "LATERAL",
    "LLAT": "LATERAL", "RLAT": "LATERAL", "LEFT LATERAL": "LATERAL", "RIGHT LATERAL": "LATERAL",
    "LATERAL LEFT": "LATERAL", "LATERAL RIGHT": "LATERAL",
    "FRONTAL": "", "F": "",
}  # fmt: skip


def in_years(ages: pd.Series) -> npt.NDArray[np.float64]:
    """Turn ages as written into years: `57`, `57.0`, and DICOM's `060Y`, `011M`, `003W`, `005D`.

    Args:
        ages: text.

    Returns:
        Years [n], NaN where the text is not an age or the age is over `OLDEST`.
    """
    codes, distinct = pd.factorize(ages)  # each distinct age is read once
    parts = pd.Series(distinct, dtype=ages.dtype).str.extract(r"^(\d+(?:\.\d*)?)\s*([YMWDymwd]?)$")
    numbers = pd.to_numeric(parts[0], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    units = parts[1].str.upper().map(_UNITS_PER_YEAR).to_numpy(dtype=np.float64, na_value=np.nan)
    years: npt.NDArray[np.float64] = numbers / units
    years[years > OLDEST] = np.nan
    return years[codes]


def sexes(written: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Normalise sexes.

    Args:
        written: text.

    Returns:
        `M`, `F`, or empty where unknown or not stated; and whether each value was not understood.
    """
    codes, distinct = pd.factorize(written)
    words = [_words(value) for value in distinct]
    known = np.array([_SEXES.get(word, "") for word in words], dtype=object)[codes]
    odd = np.array([word not in {*_SEXES, *_NOT_STATED} for word in words], dtype=bool)[codes]
    return pd.Series(known, written.index, dtype="str"), pd.Series(odd, written.index)


def views(written: pd.Series) -> pd.Series:
    """Normalise views.

    Args:
        written: text, such as `AP_horizontal`, `Postero-anterior`, `LL`.

    Returns:
        `PA`, `AP`, `LATERAL`; empty where unknown, or frontal without a direction; another view
        in capitals, such as `COSTAL`.
    """
    codes, distinct = pd.factorize(written)
    names = np.array([_view(_words(value)) for value in distinct], dtype=object)[codes]
    return pd.Series(names, written.index, dtype="str")


def follow_ups(written: pd.Series, patient: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Read numbers as they are; number the dates of each patient from 0, in order of time.

    Args:
        written: text, such as `3`, `20240131`, `2024-01-31`.
        patient: text.

    Returns:
        int64, and whether each value is not understood.
    """
    digits = written.str.replace(r"^(\d{4})-(\d\d)-(\d\d).*$", r"\1\2\3", regex=True)
    number = pd.to_numeric(digits, errors="coerce")
    usable = (number >= 0) & (number % 1 == 0)
    dates = digits.str.fullmatch(r"(?:19|20|21|22)\d{6}") & usable
    if usable.any() and dates[usable].all():
        number = number.groupby(patient).rank("dense") - 1
    return number.where(usable, 0).astype("int64"), ~usable & (written != "")


def _words(value: object) -> str:
    """Give a value in capitals, its words separated by single spaces."""
    return " ".join(re.findall(r"[A-Z0-9]+", str(value).upper()))


def _view(words: str) -> str:
    if words in _NOT_STATED:
        return ""
    plain = " ".join(word for word in words.split() if word not in _NO_DIRECTION)
    return _VIEWS.get(plain, words)
