"""Patients kept apart: which images train, which choose (val), which judge (test).

Images of one patient look alike, so a patient with images in two parts makes every figure too good.
Whichever way a split came, `check` refuses that. Within this rule, parts are drawn by greedy
stratification of patients after Sechidis, Tsoumakas and Vlahavas (2011): rarest finding first, and
to a part that has none of it before any other, so that rare findings reach every part.

A split is a series of `train`, `val` or `test` over the index of the rows it belongs to. It depends
on the rows and the seed, not on the order of the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import Findings

PARTS: Final = ("train", "val", "test")
# CheXNet's proportions (arXiv 1711.05225), which most patient splits of NIH follow.
PATIENT_SHARES: Final[Mapping[str, float]] = {"train": 0.7, "val": 0.1, "test": 0.2}
# The official lists leave 28,008 patients for both; an eighth of them gives val about the size
# that CheXNet's split gives it.
OFFICIAL_SHARES: Final[Mapping[str, float]] = {"train": 0.875, "val": 0.125}
_EXAMPLES: Final = 5


def official(
    rows: pd.DataFrame, findings: Findings, lists: Mapping[str, frozenset[str]], seed: int
) -> pd.Series[str]:
    """Split by the data set's own lists; val is cut from its training list by patient.

    Args:
        rows: `image`, `patient` and a column a finding.
        findings: to be shared out.
        lists: image names under `train_val` and `test`; more names than rows do no harm.
        seed: draws val.

    Raises:
        SourceError: no lists, an image in none or both of them, or a patient in both.
    """
    if not lists:
        raise SourceError(
            "the official split needs train_val_list.txt and test_list.txt in the tree: put them "
            "there, or draw a split with --split patient"
        )
    in_train = rows["image"].isin(lists["train_val"])
    in_test = rows["image"].isin(lists["test"])
    _refuse(rows["image"][~in_train & ~in_test], "images are in neither official list")
    _refuse(rows["image"][in_train & in_test], "images are in both official lists")
    split = pd.Series("test", index=rows.index, name="split")
    check(rows, split.mask(in_train, "train_val"))
    split[in_train] = _drawn(rows[in_train], findings, OFFICIAL_SHARES, seed)
    return split


def patient(rows: pd.DataFrame, findings: Findings, seed: int) -> pd.Series[str]:
    """Draw 70 % of the patients for train, 10 % for val and 20 % for test.

    Args:
        rows: `image`, `patient` and a column a finding.
        findings: to be shared out.
        seed: of the draw.
    """
    return _drawn(rows, findings, PATIENT_SHARES, seed)


def from_file(rows: pd.DataFrame, path: Path) -> pd.Series[str]:
    """Read the user's own split: a CSV of `image,split` or of `patient,split`.

    The file may name more than the rows have, but every row must be named in it.

    Raises:
        SourceError: not such a table, a part of another name, a name twice, an image that is not
            named, or a patient in two parts.
    """
    table, key = _read_list(path)
    if key == "patient" and not rows[key].isin(table[key]).any():
        # A list may write NIH's patient 00000001 as 1.
        table, rows = (
            t.assign(patient=t[key].str.replace(r"^0+(?=\d+$)", "", regex=True))
            for t in (table, rows)
        )
    wrong = table["split"][~table["split"].isin(PARTS)]
    _refuse(wrong, f"lines of {path} name another part than {', '.join(PARTS)}")
    _refuse(table[key][table[key].duplicated()], f"{key}s stand twice in {path}")
    split = rows[key].map(dict(zip(table[key], table["split"], strict=True)))
    _refuse(rows["image"][split.isna()], f"images have no line in {path}")
    split = split.astype(str).rename("split")
    check(rows, split)
    return split


def check(rows: pd.DataFrame, split: pd.Series[str]) -> None:
    """Raise `SourceError`, naming the patients, where a patient is in two parts."""
    parts = split.groupby(rows["patient"]).nunique()
    _refuse(parts.index[parts > 1], "patients are in more than one part of the split")


def split_sha256(images: Iterable[str], split: Iterable[str]) -> str:
    """Give the SHA-256 of the sorted lines `image<TAB>part`, in hexadecimal."""
    lines = sorted(f"{image}\t{part}\n" for image, part in zip(images, split, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _drawn(
    rows: pd.DataFrame, findings: Findings, shares: Mapping[str, float], seed: int
) -> pd.Series[str]:
    has = (rows[list(findings)] == 1).groupby(rows["patient"]).any().sort_index()
    order = np.random.default_rng(seed).permutation(len(has))
    part = np.empty(len(has), dtype=np.int64)
    part[order] = _stratify(has.to_numpy()[order], np.array(list(shares.values())))
    names = np.array(list(shares))[part]
    return rows["patient"].map(dict(zip(has.index, names, strict=True))).rename("split")


def _stratify(has: npt.NDArray[np.bool_], shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Give each patient a part so that every finding is shared out as the patients are.

    Args:
        has: [patients, findings], who has what, in random order.
        shares: of the parts, summing to 1.
    """
    # Being a patient is what all have in common: the last column, which shares out those without.
    has = np.column_stack([has, np.ones(len(has), dtype=np.bool_)])
    wanted = has.sum(axis=0)[:, None] * shares
    given = np.zeros_like(wanted)
    part = np.full(len(has), -1, dtype=np.int64)
    for column in np.argsort(has.sum(axis=0), kind="stable"):
        for row in np.flatnonzero(has[:, column] & (part < 0)):
            part[row] = _neediest(given[column], wanted[column], shares)
            given[has[row], part[row]] += 1
    return part


def _neediest(
    given: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], shares: npt.NDArray[np.float64]
) -> int:
    """Choose the largest part that has nobody yet, then the part that lacks most."""
    empty = given == 0
    return int(np.argmax(np.where(empty, shares, 0) if empty.any() else wanted - given))


def _read_list(path: Path) -> tuple[pd.DataFrame, str]:
    """Read a split list as text, and tell which column is its key."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError as error:
        raise SourceError(
            f"{path} does not exist: --split takes official, patient or a CSV file"
        ) from error
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise SourceError(f"{path} is no CSV table: {error}") from error
    keys = [key for key in ("image", "patient") if key in table.columns]
    if "split" not in table.columns or not keys:
        raise SourceError(
            f"{path} has the columns {', '.join(table.columns)}: a split list has image,split or "
            f"patient,split"
        )
    table[keys[0]] = table[keys[0]].str.strip()
    return table, keys[0]


def _refuse(names: Iterable[object], what: str) -> None:
    """Raise `SourceError` where there are names, with their count and the first few."""
    found = sorted(str(name) for name in names)
    if found:
        some = ", ".join(found[:_EXAMPLES])
        raise SourceError(f"{len(found)} {what}, such as {some}")
