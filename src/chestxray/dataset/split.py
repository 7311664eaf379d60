"""Patients are kept apart: which images train, which choose (val), which judge (test).

Images of one patient look alike, so a patient with images in two parts makes every figure too good.
Wherever a split comes from, `check` refuses that. Within this rule, parts are drawn by greedy
stratification of patients after Sechidis, Tsoumakas and Vlahavas (2011): rarest finding first, and
to a part that has none of it before any other, so that rare findings reach every part.
scikit-learn's StratifiedGroupKFold is not used, since it stratifies one label, not several.

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
from chestxray.sources.collection import Problem, problem
from chestxray.table_limits import open_text

INDEX: Final = "index.parquet"
"""The index of a prepared dataset, whose column `split` is the split."""

PARTS: Final = ("train", "val", "test")
AUTO: Final = "auto"
# CheXNet's proportions (arXiv 1711.05225), which most patient splits of NIH follow.
_PATIENT_SHARES: Final[Mapping[str, float]] = {"train": 0.7, "val": 0.1, "test": 0.2}
# Where official lists have no val: NIH's leave 28,008 patients for train and val, an eighth of
# which gives val about the size that CheXNet's split gives it.
_OFFICIAL_SHARES: Final[Mapping[str, float]] = {"train": 0.875, "val": 0.125}
_EXAMPLES: Final = 5

Lists = Mapping[str, frozenset[str]]
"""A data set's official lists: image keys by part."""


def assign(
    rows: pd.DataFrame,
    findings: Findings,
    how: str,
    seed: int,
    lists: Mapping[str, Lists],
    groups: pd.Series[str] | None = None,
) -> pd.Series[str]:
    """Split the rows of one or several sources; linked patients get one part.

    Drawn parts are drawn for linked patients together. Where lists give linked patients different
    parts, all of them get `test` if one has it, else `val`.

    Args:
        rows: `image`, `source`, `patient` and a column per finding.
        findings: to be distributed evenly.
        how: `official`, `patient`, or the path of a dataset or a CSV file, see `from_dataset` and
            `from_file`.
        seed: of what is drawn.
        lists: the official lists by source; a source without lists gets its patients drawn.
        groups: a name per row, equal for linked patients; each patient alone when None.

    Raises:
        SourceError: no source has official lists, the lists of a source's trees do not fit
            together, or what `official` and `from_file` raise.
    """
    groups = rows["patient"] if groups is None else groups
    split = _assigned(rows, findings, how, seed, lists, groups)
    _refuse(rows["image"][~split.isin(PARTS)], "image", f"in none of {', '.join(PARTS)}")
    return split


def _assigned(
    rows: pd.DataFrame,
    findings: Findings,
    how: str,
    seed: int,
    lists: Mapping[str, Lists],
    groups: pd.Series[str],
) -> pd.Series[str]:
    if how == "patient":
        return patient(rows.assign(patient=groups), findings, seed)
    if how != "official":
        read = from_dataset if Path(how).is_dir() else from_file
        return _together(read(rows, Path(how)), groups)
    _check_schemes(lists)
    if len(lists) == 1 or not any(lists.values()):
        return _together(official(rows, findings, next(iter(lists.values()), {}), seed), groups)
    return _official_of_several(rows, findings, lists, groups, seed)


def _check_schemes(lists: Mapping[str, Lists]) -> None:
    """Refuse a source of which one tree has a val of its own and another has it still to draw."""
    for source, of in lists.items():
        if "train_val" in of and not {"train", "val"}.isdisjoint(of):
            raise SourceError(
                f"the official lists of the source {source} mix two schemes, train_val,test and "
                f"{','.join(part for part in PARTS if part in of)}: use trees whose lists name the "
                f"same parts, give the trees different names, or draw a split with --split patient"
            )


def resolved(how: str, lists: Mapping[str, Lists]) -> str:
    """Give `official` for `auto` where a source has official lists, else `patient`."""
    if how != AUTO:
        return how
    return "official" if any(lists.values()) else "patient"


def without_lists(lists: Mapping[str, Lists]) -> list[str]:
    """Name the sources whose patients the official split draws, for they have no lists."""
    return [name for name, of in lists.items() if not of] if any(lists.values()) else []


def stated(rows: pd.DataFrame, how: str, lists: Mapping[str, Lists]) -> pd.Series[bool]:
    """Tell which rows have their part from a list; the parts of the others are drawn."""
    listed = {name: bool(of) for name, of in lists.items()}
    if how == "official":
        return rows["source"].map(listed)
    return pd.Series(how != "patient", index=rows.index)


def official(rows: pd.DataFrame, findings: Findings, lists: Lists, seed: int) -> pd.Series[str]:
    """Split by a data set's own lists; without a list `val`, it is cut from training by patient.

    Args:
        rows: `image`, `patient` and a column per finding.
        findings: to be distributed evenly.
        lists: image keys under `train_val` (or `train`), `test` and possibly `val`; names of other
            images are ignored.
        seed: draws val.

    Raises:
        SourceError: no lists, an image in none or in several of them, or a patient in several.
    """
    if not lists:
        raise SourceError(
            "the official split needs the data set's official lists, for NIH train_val_list.txt "
            "and test_list.txt: put them into the tree, or draw a split with --split patient"
        )
    listed = pd.DataFrame({part: rows["image"].isin(names) for part, names in lists.items()})
    count = listed.sum(axis=1)
    _refuse(rows["image"][count == 0], "image", "not in any official list")
    _refuse(rows["image"][count > 1], "image", "in more than one official list")
    split = listed.idxmax(axis=1).astype(str).rename("split")
    check(rows, split)
    if "val" not in lists:
        rest = split != "test"
        split[rest] = draw(rows[rest], findings, _OFFICIAL_SHARES, seed)
    return split


def patient(rows: pd.DataFrame, findings: Findings, seed: int) -> pd.Series[str]:
    """Draw 70 % of the patients for train, 10 % for val and 20 % for test.

    Args:
        rows: `patient` and a column per finding.
        findings: to be distributed evenly.
        seed: of the draw.
    """
    return draw(rows, findings, _PATIENT_SHARES, seed)


def from_file(rows: pd.DataFrame, path: Path) -> pd.Series[str]:
    """Read a user's own split: a CSV file with the columns `image,split` or `patient,split`.

    Keys are those of the dataset: with several sources `<source>/<key>`. The file may name more
    than the rows have, but must name every row. A file may write patient 00000001 as 1.

    Raises:
        SourceError: not such a table, an unknown part, a key twice, an image that is not named, or
            a patient in two parts.
    """
    table, key = _read_list(path)
    wanted = rows[key]
    if key == "patient" and not wanted.isin(table[key]).all():
        table[key], wanted = (_without_zeros(names) for names in (table[key], wanted))
    wrong = table["split"][~table["split"].isin(PARTS)]
    _refuse(wrong, "value", f"in the column split of {path}, but not one of {', '.join(PARTS)}")
    _refuse(table[key][table[key].duplicated()], key, f"more than once in {path}")
    split = wanted.map(dict(zip(table[key], table["split"], strict=True)))
    _refuse(
        rows["image"][split.isna()],
        "image",
        f"not in {path} (by {key}; with several sources a key is <source>/<key>)",
    )
    split = split.astype(str).rename("split")
    check(rows, split)
    return split


def from_dataset(rows: pd.DataFrame, folder: Path) -> pd.Series[str]:
    """Keep the split of a prepared dataset, so that figures before and after compare.

    An image of the dataset keeps its part, and so does a new image of one of its patients. The
    patients that the dataset does not have go to train: val and test stay what they were.

    Raises:
        SourceError: no such dataset, or a patient is in two parts.
    """
    split = in_dataset(rows, folder).fillna("train").astype(str).rename("split")
    check(rows, split)
    return split


def in_dataset(rows: pd.DataFrame, folder: Path) -> pd.Series:
    """Give the part that a dataset states for each image, or else for its patient, else NaN.

    Args:
        rows: `image`, `source` and `patient`.
        folder: of the dataset; images and patients are compared within their source.

    Raises:
        SourceError: there is no such dataset.
    """
    index = folder / INDEX
    if not index.is_file():
        raise SourceError(
            f"{folder} is not a prepared dataset (it has no {INDEX}): --split takes auto, "
            f"official, patient, a dataset or a CSV file"
        )
    kept = pd.read_parquet(index, columns=["image", "source", "patient", "split"])
    part = pd.Series(pd.NA, index=rows.index, dtype=object)
    for key in ("image", "patient"):
        stated = dict(zip(_full(kept, key), kept["split"], strict=True))
        part = part.fillna(_full(rows, key).map(stated))
    return part


def _full(rows: pd.DataFrame, key: str) -> pd.Series[str]:
    """Give keys as several sources have them, `<source>/<key>`."""
    several = len(set(rows["source"])) > 1
    return rows[key] if several else rows["source"] + "/" + rows[key]


def empty_parts(split: pd.Series[str]) -> list[str]:
    """Name the parts that have no image."""
    return [part for part in PARTS if not (split == part).any()]


def one_sided(index: pd.DataFrame, findings: Findings) -> list[Problem]:
    """Report findings that have no positive or no negative in val or test.

    Args:
        index: a column per finding, and `split`.
        findings: the columns.
    """
    lacking = []
    for part in ("val", "test"):
        labels = index.loc[index["split"] == part, list(findings)]
        for value, word in ((1, "positive"), (0, "negative")):
            without = ~(labels == value).any()
            lacking += [
                f"{name} ({part}: no {word})" for name in without.index[without] if len(labels)
            ]
    return problem(
        "one-sided-finding",
        lacking,
        "a finding has only positives or only negatives among the known labels of val or test: "
        "without both, the finding is not assessed (val) or has no AUROC (test)",
        loses=False,
    )


def check(rows: pd.DataFrame, split: pd.Series[str]) -> None:
    """Raise `SourceError`, naming the patients, where a patient is in two parts."""
    parts = split.groupby(rows["patient"]).nunique()
    _refuse(parts.index[parts > 1], "patient", "in more than one split")


def split_sha256(images: Iterable[str], split: Iterable[str]) -> str:
    """Give the SHA-256 of the sorted lines `image<TAB>part`, in hexadecimal."""
    lines = sorted(f"{image}\t{part}\n" for image, part in zip(images, split, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _official_of_several(
    rows: pd.DataFrame,
    findings: Findings,
    lists: Mapping[str, Lists],
    groups: pd.Series[str],
    seed: int,
) -> pd.Series[str]:
    """Follow the lists of the sources that have them, then draw the patients of the others."""
    listed = stated(rows, "official", lists)
    followed = pd.concat(
        [
            official(of, findings, lists[str(name)], seed)
            for name, of in rows[listed].groupby("source")
        ]
    )
    followed = _together(followed, groups[listed])
    # A patient without a list who is linked to one with a list follows that list.
    part_of = dict(zip(groups[followed.index], followed, strict=True))
    linked = groups[~listed].map(part_of)
    rest = rows.assign(patient=groups).loc[linked.index[linked.isna()]]
    drawn = patient(rest, findings, seed) if len(rest) else linked.dropna()
    return pd.concat([followed, linked.dropna(), drawn[rest.index]])[rows.index].rename("split")


def _together(split: pd.Series[str], groups: pd.Series[str]) -> pd.Series[str]:
    """Give every image of a group the last of its parts in the order of `PARTS`."""
    rank = split.map({part: rank for rank, part in enumerate(PARTS)})
    last = rank.groupby(groups.loc[split.index]).transform("max")
    return last.map(dict(enumerate(PARTS))).rename("split")


def draw(
    rows: pd.DataFrame, findings: Findings, shares: Mapping[str, float], seed: int
) -> pd.Series[str]:
    """Draw patients for parts, so that every finding is distributed as the patients are.

    Args:
        rows: `patient` and a column per finding.
        findings: to be distributed evenly.
        shares: part → its share of the patients, summing to 1.
        seed: of the draw.
    """
    has = (rows[list(findings)] == 1).groupby(rows["patient"]).any().sort_index()
    order = np.random.default_rng(seed).permutation(len(has))
    part = np.empty(len(has), dtype=np.int64)
    part[order] = _stratify(has.to_numpy()[order], np.array(list(shares.values())))
    names = np.array(list(shares))[part]
    return rows["patient"].map(dict(zip(has.index, names, strict=True))).rename("split")


def _stratify(has: npt.NDArray[np.bool_], shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Give each patient a part so that every finding is distributed as the patients are.

    Args:
        has: [patients, findings], who has what, in random order.
        shares: of the parts, summing to 1.
    """
    # Every patient has the last column: it distributes those without a finding.
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
    """Read a split list as text, and name its key column."""
    try:
        with open_text(path) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError as error:
        raise SourceError(
            f"{path} does not exist: --split takes auto, official, patient, a dataset or a CSV file"
        ) from error
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise SourceError(f"{path} is not a CSV table: {error}") from error
    keys = [key for key in ("image", "patient") if key in table.columns]
    if "split" not in table.columns or not keys:
        raise SourceError(
            f"{path} has the columns {', '.join(table.columns)}: a split list has the columns "
            f"image,split or patient,split"
        )
    return table.assign(**{key: table[key].str.strip() for key in (keys[0], "split")}), keys[0]


def _without_zeros(keys: pd.Series[str]) -> pd.Series[str]:
    return keys.str.replace(r"(^|/)0+(?=\d+$)", r"\1", regex=True)


def _refuse(names: Iterable[object], noun: str, what: str) -> None:
    """Raise `SourceError` where there are names, with their count and the first few."""
    found = sorted(str(name) for name in names)
    if found:
        counted = f"1 {noun} is" if len(found) == 1 else f"{len(found)} {noun}s are"
        raise SourceError(f"{counted} {what}, such as {', '.join(found[:_EXAMPLES])}")
