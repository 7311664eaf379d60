"""What tables do not state, read from the headers of image files; no pixel is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from chestxray.progress import progress
from chestxray.sources.collection import Problem, problem
from chestxray.sources.demographics import in_years, sexes, views
from chestxray.sources.table_files import IMAGE_SUFFIXES
from chestxray.storage import opened


class _Header(NamedTuple):
    """The texts of a DICOM header; empty where they are not stated."""

    view: str = ""
    age: str = ""
    sex: str = ""


def with_headers(
    rows: pd.DataFrame, *, describe: bool = False
) -> tuple[pd.DataFrame, list[Problem]]:
    """Take a view that is not stated from the file's header, where the file is DICOM.

    A lateral radiograph without a stated view would be trained as a frontal one.

    Args:
        rows: `image`, `path` (empty where there is no file) and `view`; for `describe` also `age`
            and `sex`.
        describe: take an age and a sex that are not stated as well. An age of 0 stands for one that
            is not known: data sets of adults write 000Y.

    Returns:
        The rows, and which views were read from a header.
    """
    lacking = rows["view"] == ""
    if describe:
        lacking |= rows["age"].isna() | (rows["sex"] == "")
    asked = rows["path"][lacking & (rows["path"] != "") & ~rows["path"].map(_is_picture)]
    if asked.empty:
        return rows, []
    with progress("read DICOM headers", len(asked)) as advance:
        read = []
        for path in asked:
            read.append(_header(path))
            advance()
    headers = pd.DataFrame(read, index=asked.index, columns=list(_Header._fields), dtype="str")
    if describe:
        age = pd.Series(in_years(headers["age"]), headers.index).replace(0.0, np.nan)
        sex = sexes(headers["sex"])[0].replace("", np.nan)
        rows = rows.assign(
            age=rows["age"].fillna(age), sex=rows["sex"].replace("", np.nan).fillna(sex).fillna("")
        )
    found = views(headers["view"])[rows["view"][headers.index] == ""]
    found = found[found != ""]
    return rows.assign(view=found.reindex(rows.index).fillna(rows["view"])), problem(
        "view-from-header",
        rows["image"][found.index] + " (" + found + ")",
        "the table does not state the view: that of the DICOM header is used",
        loses=False,
    )


def sides(path: str) -> tuple[int, int] | None:
    """Give an image's width and height in pixels, None where its header does not state them."""
    if not _is_picture(path):
        return _dicom_sides(path)
    try:
        with opened(path) as file, Image.open(file, formats=["PNG", "JPEG"]) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _is_picture(path: str) -> bool:
    return path.casefold().endswith(IMAGE_SUFFIXES)


def _header(path: str) -> _Header:
    """Read the view (ViewPosition, or the meaning of its code), the age and the sex."""
    # Loads pydicom's dictionary in 0.2 s, for DICOM alone.
    from chestxray.dicom_elements import MalformedError, read_header  # noqa: PLC0415

    try:
        header = read_header(Path(path))
        code = header.first("ViewCodeSequence")
        view = header.text("ViewPosition") or ("" if code is None else code.text("CodeMeaning"))
        return _Header(view, header.text("PatientAge"), header.text("PatientSex"))
    except (MalformedError, OSError):
        return _Header()


def _dicom_sides(path: str) -> tuple[int, int] | None:
    from chestxray.dicom_elements import MalformedError, read_header  # noqa: PLC0415 - as above

    try:
        header = read_header(Path(path))
        width, height = header.word("Columns", 0), header.word("Rows", 0)
    except (MalformedError, OSError):
        return None
    return (width, height) if width and height else None
