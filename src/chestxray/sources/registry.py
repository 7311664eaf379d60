"""The sources that are known, and which of them a raw tree belongs to."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.brax import BRAX
from chestxray.sources.chestx_det import CHESTX_DET, CHESTX_DET10
from chestxray.sources.chexpert import CHEXPERT
from chestxray.sources.chexpert_plus import CHEXPERT_PLUS
from chestxray.sources.collection import (
    LEADING_COLUMNS,
    UNCERTAIN,
    Collection,
    ReadOptions,
    Source,
    SourceCard,
)
from chestxray.sources.files import radiographs, scan, scanned_once, unnamed_files
from chestxray.sources.jsrt import JSRT
from chestxray.sources.long_tailed import MIMIC_LONG_TAILED, NIH_LONG_TAILED
from chestxray.sources.mimic import MIMIC
from chestxray.sources.nih import NIH
from chestxray.sources.nih.adjudicated import GOOGLE
from chestxray.sources.openi import OPENI
from chestxray.sources.padchest import PADCHEST
from chestxray.sources.phantom.tree import PHANTOMS
from chestxray.sources.rsna import RSNA
from chestxray.sources.siim import SIIM
from chestxray.sources.table import TABLE_SOURCE, columns_of
from chestxray.sources.table_columns import TABLE
from chestxray.sources.tuberculosis import MONTGOMERY, SHENZHEN
from chestxray.sources.vindr import VINDR

ENTRY_POINTS: Final = "chestxray.sources"
_SHIPPED: Final[tuple[Source, ...]] = (
    NIH, PHANTOMS, CHEXPERT, MIMIC, PADCHEST, RSNA, SIIM, VINDR,
    GOOGLE, NIH_LONG_TAILED, MIMIC_LONG_TAILED, BRAX, CHEXPERT_PLUS,
    SHENZHEN, MONTGOMERY, CHESTX_DET, CHESTX_DET10, OPENI, JSRT,
)  # fmt: skip
_LAST: Final[Source] = TABLE_SOURCE  # reads any table, so it is asked only where no other fits


def registered() -> dict[str, Source]:
    """Give all sources by name: those shipped, those of other packages, and last `table`.

    A source that cannot be loaded is left out.

    Raises:
        SourceError: the source of another package has a name that is taken.
    """
    return _loaded()[0]


def _loaded() -> tuple[dict[str, Source], dict[str, str]]:
    """Load all sources; gives those that can be used, and what is wrong with the others."""
    known = {source.name: source for source in _SHIPPED}
    broken: dict[str, str] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            source: Source = point.load()
            name = source.name
        except Exception as error:  # noqa: BLE001 - a package fails in any way
            broken[point.name] = (
                f"the source {point.name} of {point.value} cannot be loaded ({error}): update or "
                f"remove its package"
            )
            continue
        if name in {*known, _LAST.name}:
            raise SourceError(
                f"two sources are called {name}, one of them from {point.value}: remove that "
                f"package"
            )
        known[name] = source
    return {**known, _LAST.name: _LAST}, broken


def cards() -> dict[str, SourceCard]:
    """List the sources: by name, what is to be known of each data set and its default policies."""
    return {name: source.card for name, source in registered().items()}


def recognise(tree: Path) -> Source:
    """Give the source that recognises a tree by its content; `table` where no other does.

    Raises:
        SourceError: nothing is there, or no source or several recognise it; or none does, and one
            that might cannot be loaded.
    """
    if not tree.exists():
        raise SourceError(f"{tree} does not exist: give a folder of radiographs, or a label table")
    known, broken = _loaded()
    with scanned_once():
        return _recognised(tree, known, broken)


def _recognised(tree: Path, known: Mapping[str, Source], broken: Mapping[str, str]) -> Source:
    found = [s for s in known.values() if s is not _LAST and s.recognises(tree)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(source.name for source in found)
        raise SourceError(f"{tree} matches several sources ({names}): choose with --source")
    if _LAST.recognises(tree):
        return _LAST
    if broken:
        raise SourceError(f"no source recognises {tree}, and {'; '.join(broken.values())}")
    columns = columns_of(tree)
    if tree.is_dir() and not columns and not radiographs(scan(tree)):
        raise SourceError(
            f"{tree} holds no image: give a folder with radiographs (PNG, JPEG or DICOM) and their "
            f"label table"
        )
    raise SourceError(
        f"{tree} is not a recognised data set (`chestxray prepare --list-sources` shows them). To "
        f"read your own table, put it beside the images and name its columns: --source "
        f"{_LAST.name} --columns image=…,patient=…,labels=…{columns}"
    )


def read(
    tree: str | Path, source: str | None = None, options: ReadOptions | None = None
) -> Collection:
    """Read a raw tree, or a label table alone.

    Args:
        tree: a folder, or a label table.
        source: name of the source; recognised by the content when None, `table` where the options
            are only a table's.
        options: what the user asks of the source.

    Raises:
        SourceError: no source of that name, none that recognises the tree, or what it raises.
    """
    options = options or ReadOptions()
    tree = Path(tree)
    with scanned_once():
        chosen = _chosen(tree, source, options)
        if unheeded := _unheeded(chosen, options):
            raise SourceError(f"{tree} is read by the source {chosen.name}: {unheeded[0]}")
        collection = _checked(chosen.read(tree, options), chosen.name)
        return replace(collection, problems=(*collection.problems, *unnamed_files()))


def options_of_each(
    trees: Sequence[Path], source: str | None, options: ReadOptions | None
) -> list[ReadOptions]:
    """Give each of several trees the options that its source heeds.

    Raises:
        SourceError: no source heeds the rule of readers or labelers, or one cannot be chosen.
    """
    options = options or ReadOptions()
    asked = [name for name in _OF_SOME if getattr(options, name) is not None]
    if not asked or len(trees) == 1:
        return [options] * len(trees)
    chosen = [_chosen(tree, source, options) for tree in trees]
    each = [options] * len(trees)
    for name in asked:
        heeding = [_UNHEEDED[name] not in _unheeded(one, options) for one in chosen]
        if not any(heeding):
            raise SourceError(_UNHEEDED[name])
        each = [
            of if heeds else _without(of, name) for of, heeds in zip(each, heeding, strict=True)
        ]
    return each


def _without(options: ReadOptions, name: str) -> ReadOptions:
    """Take one of `_OF_SOME` out of the options."""
    return replace(options, readers=None) if name == "readers" else replace(options, labelers=None)


_OF_SOME: Final = ("readers", "labelers")  # of several trees those that heed them get them
_UNHEEDED: Final = {
    "readers": "--readers is for a data set whose table has the labels of several people for an "
    "image, such as VinDr-CXR; leave the option out",
    "labelers": "--labelers is for a data set that physicians labelled in part and a program in "
    "part, such as PadChest; leave the option out",
    "columns": "--columns names the columns of a table of your own, and the columns of a public "
    "data set are fixed; leave the option out, or name --source table",
    "table": "--columns table=… chooses among several label tables of a data set, and this one has "
    "one set of labels; leave the option out",
    "patient_per_image": "--patient-per-image is for a table of your own without a column of "
    "patients; leave the option out",
}


def _unheeded(source: Source, options: ReadOptions) -> list[str]:
    """Say why a shipped source would ignore options; those of other packages check their own."""
    asked = {
        "readers": options.readers is not None,
        "labelers": options.labelers is not None,
        "columns": bool(set(options.columns) - {TABLE}),
        "table": TABLE in options.columns,
        "patient_per_image": options.patient_per_image,
    }
    if not any(source is each for each in (*_SHIPPED, _LAST)):
        return []
    return [why for name, why in _UNHEEDED.items() if asked[name] and name not in source.card.heeds]


def _chosen(tree: Path, source: str | None, options: ReadOptions) -> Source:
    """Give the source of this name, or the one that fits the options or the content."""
    if source is None and (options.columns or options.patient_per_image):
        return _LAST  # other sources have these options only where they are named
    if source is None:
        return recognise(tree)
    return named(source)


def named(name: str) -> Source:
    """Give the source of a name.

    Raises:
        SourceError: there is none, or it cannot be loaded.
    """
    known, broken = _loaded()
    if name in broken and name not in known:
        raise SourceError(broken[name])
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        rule = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
        raise SourceError(f"unknown source {name!r}: {rule}")
    return known[name]


def _checked(collection: Collection, source: str) -> Collection:
    """Give a collection back if it keeps the rules of `Collection.rows`.

    Raises:
        SourceError: it breaks one, or is called like the data set of a shipped source.
    """
    if collection.name != source and collection.name in {each.name for each in _SHIPPED}:
        raise SourceError(
            f"the name {collection.name!r} belongs to a data set that is read by the source "
            f"{collection.name}: state another one with `name:` in columns.yaml beside the table, "
            f"or rename the folder"
        )
    wrong = _wrong_rows(collection) or _wrong_labels(collection)
    if wrong:
        raise SourceError(
            f"the source {source} gives rows that break a rule: {wrong}; this is an error of the "
            f"source: correct it, or update its package"
        )
    return collection


def _wrong_rows(collection: Collection) -> str:
    """State the first rule that the columns of the rows break; empty where none is broken."""
    rows = collection.rows
    missing = [name for name in (*LEADING_COLUMNS, *collection.findings) if name not in rows]
    if missing:
        return f"the columns {', '.join(missing)} are missing"
    for name in ("image", "patient", "path"):
        if not _is_text(rows[name]):
            odd = (value for value in rows[name] if not isinstance(value, str))
            first = next(odd, rows[name].dtype)
            return f"the column {name} must hold text in every row, not {first!r}"
    for name in ("image", "patient"):
        count = int((rows[name] == "").sum())
        if count:
            return f"the column {name} must not be empty, as it is in {count} rows"
    twice = rows["image"][rows["image"].duplicated()]
    return f"each image has one row, but {twice.iloc[0]!r} has several" if len(twice) else ""


def _wrong_labels(collection: Collection) -> str:
    """State the first rule that the labels break; empty where none is broken."""
    for finding in collection.findings:
        column = collection.rows[finding]
        if column.dtype.kind != "f":
            return f"the labels of {finding} must be of the type float, not {column.dtype}"
        values = column.to_numpy(dtype=np.float64)
        if (values == UNCERTAIN).any():
            return (
                f"the labels of {finding} hold {UNCERTAIN:.0f} (left open): the source must apply "
                f"the policies with `resolve`"
            )
        odd = values[~(np.isnan(values) | (values == 0) | (values == 1))]
        if len(odd):
            return f"a label is 0, 1 or NaN, but {finding} holds {odd[0]:g}"
    return ""


def _is_text(column: pd.Series) -> bool:
    kind = pd.api.types.infer_dtype(column, skipna=False)
    return kind in {"string", "empty"} and not column.isna().any()
