"""The source `table`: radiographs with a table of one's own, with any column names.

The table is CSV, TSV or Parquet. It has a row per image, with a patient, labels (see
`table_labels`), and perhaps study, view, age, sex, follow-up and split. Which column holds what is
stated with `ReadOptions.columns` or in a YAML file beside the table, or guessed (`table_columns`);
`Collection.facts` states it. Radiographs are PNG, JPEG or DICOM, found as `files.find_named` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from chestxray.errors import SourceError
from chestxray.sources.assembly import find_files, official_lists
from chestxray.sources.collection import (
    LEADING_COLUMNS,
    Blank,
    Collection,
    Problem,
    ReadOptions,
    SourceCard,
    no_boxes,
    one_row_per_image,
    only_views,
    policies,
    problem,
    resolve,
)
from chestxray.sources.demographics import OLDEST, follow_ups, in_years, sexes, views
from chestxray.sources.files import Tree, cleaned_paths, scan
from chestxray.sources.headers import with_headers
from chestxray.sources.table_columns import (
    OURS,
    TABLE,
    TableColumns,
    choose_columns,
    choose_table,
    has_image_and_patient,
    settings_files,
    write_columns,
)
from chestxray.sources.table_files import is_table, table_stem, text_table, titles
from chestxray.sources.table_labels import TableLabels, finding_columns, from_columns, from_words

__all__ = ["TABLE_SOURCE", "TableColumns", "find_columns", "write_columns"]

_PARTS: Final = {
    **dict.fromkeys(("train", "training", "development"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "tune"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}


class _Table:
    name: Final = "table"
    card: Final = SourceCard(
        title="a table of your own",
        licence="Yours; its terms are not known here.",
        label_origin="Not stated.",
        heeds=("table", "columns", "patient_per_image"),
    )

    def recognises(self, tree: Path) -> bool:
        scanned = scan(tree) if tree.is_dir() else None
        if scanned.settings if scanned else is_table(tree.name) and settings_files(tree):
            return True
        try:
            return has_image_and_patient(titles(choose_table(tree, scanned, "")))
        except SourceError:
            return False

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        columns, text, scanned, problems = _open(tree, options)
        raw, found = _usable(text, columns)
        problems += found
        raw, told = _one_spelling_of_patients(raw, columns)
        rows, found = _described(raw, columns)
        problems += found
        labels = _labels(raw, columns)
        problems += labels.problems
        settings = columns.settings
        card = replace(
            self.card,
            title=settings.title or tree.resolve().name,
            citation=settings.citation,
            licence=settings.licence or self.card.licence,
            label_origin=settings.label_origin or self.card.label_origin,
        )
        applied = _policies(card, options, columns, labels)
        values, found = _resolved(rows, labels, applied, options.blank or settings.blank)
        problems += found
        stated = options.blank or settings.blank
        ruled = {} if stated else {"blank labels": f"{labels.blank}, {labels.reason}"}
        if counted := labels.counted(applied):
            ruled["neither 1 nor 0"] = counted
        rows = pd.concat([rows, values], axis=1)
        rows, found, dropped = _with_files(rows, raw, columns, scanned)
        problems += found
        if columns.patient_per_image:
            rows["patient"] = rows["image"]
        split = rows.pop("split")
        official, found = _official(rows, split, columns)
        problems += found
        rows, found = one_row_per_image(rows)
        problems += found
        rows, found = with_headers(rows)
        problems += found
        rows, found = only_views(rows, applied["views"])
        problems += found
        return Collection(
            name=settings.name or _short_name(tree),
            card=card,
            findings=labels.findings,
            rows=rows.sort_values("image", ignore_index=True),
            boxes=no_boxes(),
            official=official,
            problems=tuple(problems),
            policies=applied,
            facts={**_facts(columns, text), **labels.facts, **ruled, **told, **dropped},
        )


TABLE_SOURCE: Final = _Table()


def columns_of(tree: Path) -> str:
    """Name the columns of the only table in a tree, for an error; empty where there is none."""
    try:
        table = choose_table(tree, scan(tree) if tree.is_dir() else None, "")
        return f" ({table.name} has the columns {', '.join(titles(table))})"
    except SourceError:
        return ""


def _short_name(tree: Path) -> str:
    """Name a data set after its folder or table; two of one name share their patients."""
    plain = table_stem(tree) if tree.is_file() else tree.resolve().name
    return re.sub(r"[^a-z0-9_-]+", "-", plain.casefold()).strip("-_")[:32] or _Table.name


def find_columns(tree: Path, options: ReadOptions | None = None) -> TableColumns:
    """Decide which column of a table holds what, without looking for its images.

    Args:
        tree: a folder with one table, or the table.
        options: what the user says; the rest is read from the YAML file beside the table, or
            guessed.

    Returns:
        The columns, to be written with `write_columns` and confirmed.

    Raises:
        SourceError: no table or several, or a column that it does not have.
    """
    return _open(tree, options or ReadOptions())[0]


def _open(
    tree: Path, options: ReadOptions
) -> tuple[TableColumns, pd.DataFrame, Tree | None, list[Problem]]:
    """Find and read the table, and decide which column holds what."""
    if not tree.exists():
        raise SourceError(f"{tree} does not exist: give a folder with a table, or the table")
    scanned = scan(tree) if tree.is_dir() else None
    table = choose_table(tree, scanned, options.columns.get(TABLE, ""))
    text = text_table(table)
    columns = choose_columns(table, list(text.columns), options)
    if "image" not in columns.columns:
        raise SourceError(
            f"{table.name}: no column was recognised as the image column (its columns are "
            f"{', '.join(text.columns)}): name it with --columns image=…"
        )
    if columns.patient_per_image and "patient" in columns.columns:
        raise SourceError(
            f"{table.name} has the patient column {columns.columns['patient']!r}: leave out "
            f"--patient-per-image, or state that this is not the patient with --columns patient="
        )
    columns, problems = _with_label_columns(columns, text)
    columns = _without_false_split(columns, text)
    return columns, text, scanned, problems


def _with_label_columns(
    columns: TableColumns, text: pd.DataFrame
) -> tuple[TableColumns, list[Problem]]:
    """Guess which columns hold labels, unless that is stated."""
    mapped = dict(columns.columns)
    if columns.how.get("labels") == "guessed" and finding_columns(text[[mapped["labels"]]])[0]:
        del mapped["labels"]  # a column of 0 and 1 is a finding, whatever its title
    columns = replace(columns, columns=mapped)
    if columns.findings or "labels" in mapped:
        return columns, []
    chosen, problems = finding_columns(
        text[[title for title in text.columns if title not in mapped.values()]]
    )
    if not chosen:
        mixed = [name for found in problems for name in found.examples]
        raise SourceError(
            f"{columns.table.name}: no column was recognised as the label column (its columns are "
            f"{', '.join(text.columns)}): name a column of labels with --columns labels=…, or one "
            f"column per finding with --columns 'findings=A;B;C'"
            + (
                f". Not used, because they mix labels with other values: {', '.join(mixed)}"
                if mixed
                else ""
            )
        )
    return replace(columns, findings=tuple(chosen)), problems


def _without_false_split(columns: TableColumns, text: pd.DataFrame) -> TableColumns:
    """Drop a column that was guessed to hold the split where it holds other values."""
    title = columns.columns.get("split")
    if title is None or columns.how["split"] != "guessed":
        return columns
    if set(text[title].str.casefold().unique()) <= {*_PARTS, ""}:
        return columns
    return replace(columns, columns={k: v for k, v in columns.columns.items() if k != "split"})


def _usable(text: pd.DataFrame, columns: TableColumns) -> tuple[pd.DataFrame, list[Problem]]:
    """Leave out rows that name no image or no patient; a patient is never guessed."""
    image = text[columns.columns["image"]]
    if "patient" not in columns.columns and not columns.patient_per_image:
        raise SourceError(
            f"{columns.table.name}: no column was recognised as the patient column (its columns "
            f"are {', '.join(text.columns)}). Radiographs of one patient look alike: without "
            f"patients, those of one patient end up in both training and test, and every result "
            f"looks better than it is. Name the column with --columns patient=…, or, if each image "
            f"belongs to a different patient, state that with --patient-per-image"
        )
    problems = problem(
        "no-image",
        (text.index[image == ""] + 2).map("line {}".format),
        "the row names no image: left out",
        loses=True,
    )
    kept = image != ""
    if "patient" in columns.columns:
        lacking = kept & (text[columns.columns["patient"]] == "")
        problems += problem(
            "no-patient", image[lacking], "the row names no patient: left out", loses=True
        )
        kept &= ~lacking
    if not kept.any():
        raise SourceError(f"no row of {columns.table.name} names an image and a patient")
    return text[kept].reset_index(drop=True), problems


def _one_spelling_of_patients(
    raw: pd.DataFrame, columns: TableColumns
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Write a patient's whole number without the `.0` that spreadsheets add, and say so."""
    title = columns.columns.get("patient")
    if title is None:
        return raw, {}
    patient = raw[title].str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
    changed = patient != raw[title]
    if not changed.any():
        return raw, {}
    example = f"{raw[title][changed].iloc[0]} is patient {patient[changed].iloc[0]}"
    return raw.assign(**{title: patient}), {"patient numbers": f"read without .0: {example}"}


def _described(raw: pd.DataFrame, columns: TableColumns) -> tuple[pd.DataFrame, list[Problem]]:
    """Read all that is not a label; what cannot be read becomes unknown."""
    image = raw[columns.columns["image"]]

    def written(name: str) -> pd.Series:
        title = columns.columns.get(name)
        return pd.Series("", raw.index, dtype="str") if title is None else raw[title]

    age, sex = written("age"), written("sex")
    years = pd.Series(in_years(age), raw.index)
    wrong = years.isna() & (age != "")
    problems = problem(
        "impossible-age",
        image[wrong] + " (" + age[wrong] + ")",
        f"the age is not a number from 0 to {OLDEST:.0f} years: taken as unknown",
        loses=False,
    )
    known, odd = sexes(sex)
    problems += problem(
        "unknown-sex",
        image[odd] + " (" + sex[odd] + ")",
        "the sex is not M or F: taken as unknown",
        loses=False,
    )
    order, odd = follow_ups(written("follow_up"), written("patient"))
    problems += problem(
        "unknown-follow-up",
        image[odd] + " (" + written("follow_up")[odd] + ")",
        "the follow-up is not a whole number or a date: 0 is used",
        loses=False,
    )
    rows = pd.DataFrame(
        {
            "image": image,
            "path": "",
            "patient": written("patient"),
            "study": written("study"),
            "follow_up": order,
            "age": years,
            "sex": known,
            "view": views(written("view")),
        }
    )
    return rows[list(LEADING_COLUMNS)].assign(split=written("split").str.casefold()), problems


def _labels(raw: pd.DataFrame, columns: TableColumns) -> TableLabels:
    image = raw[columns.columns["image"]]
    if "labels" in columns.columns:
        return from_words(raw[columns.columns["labels"]], image, columns.findings)
    return from_columns(raw[list(columns.findings)], image)


def _policies(
    card: SourceCard, options: ReadOptions, columns: TableColumns, labels: TableLabels
) -> dict[str, str]:
    """Take what the options say, then the YAML file, then what suits the table."""
    about = columns.settings
    blank: Blank = about.blank or labels.blank
    card = replace(
        card,
        uncertain=about.uncertain or card.uncertain,
        blank=blank,
        views=about.views or card.views,
    )
    return policies(card, options)


def _resolved(
    rows: pd.DataFrame, labels: TableLabels, applied: Mapping[str, str], stated: str | None
) -> tuple[pd.DataFrame, list[Problem]]:
    """Apply the policies; an empty cell of labels is negative only where the user says so."""
    values = resolve(pd.DataFrame(labels.values, columns=list(labels.findings)), applied)
    unknown = labels.unknown
    problems: list[Problem] = []
    if stated != "negative":
        unknown = unknown | labels.empty[:, None]
        problems = problem(
            "no-label",
            rows["image"][labels.empty],
            "the row has no label: all findings are unknown; write No Finding where there is none",
            loses=True,
        )
    return values.mask(unknown), problems


def _with_files(
    rows: pd.DataFrame, raw: pd.DataFrame, columns: TableColumns, tree: Tree | None
) -> tuple[pd.DataFrame, list[Problem], dict[str, str]]:
    """Find the files, and name the images by file, or by path where file names repeat."""
    written = raw[columns.columns["image"]]
    if tree is None:
        return rows.assign(image=_keys(cleaned_paths(written))), [], {}
    advice = "name another column with --columns image=…"
    found, problems, facts = find_files(written, tree, columns.table, advice)
    here = found != ""
    path = f"{tree.root.as_posix()}/" + found[here]
    kept = rows[here].assign(image=_keys(found[here]), path=path).reset_index(drop=True)
    return kept, problems, facts


def _keys(paths: pd.Series) -> pd.Series:
    """Name images by file where that is unique in the collection, otherwise all by path."""
    names = paths.str.replace(r"^.*/", "", regex=True)
    return names if names.nunique() == paths.nunique() else paths


def _official(
    rows: pd.DataFrame, split: pd.Series, columns: TableColumns
) -> tuple[dict[str, frozenset[str]], list[Problem]]:
    """Read the column that states the data set's own split."""
    if "split" not in columns.columns:
        return {}, []
    parts = split.map(_PARTS)
    odd = parts.isna() & (split != "")
    title = columns.columns["split"]
    if odd.any():
        raise SourceError(
            f"the column {title!r} names the split {split[odd].iloc[0]!r}: allowed are train, val "
            f"and test"
        )
    return official_lists(rows, parts.fillna(""), f"the column {title!r}")


def _facts(columns: TableColumns, text: pd.DataFrame) -> dict[str, str]:
    """State which column holds what, and which are not read."""
    used = {*columns.columns.values(), *columns.findings}
    rest = [title for title in text.columns if title not in used]
    facts = {"label table": columns.table.name}
    for name in OURS:
        if name in columns.columns and name != "labels":
            facts[f"column {name}"] = f"{columns.columns[name]} ({columns.how[name]})"
    if columns.patient_per_image:
        facts["column patient"] = "none: each image belongs to a different patient (given)"
    if rest:
        facts["columns not read"] = ", ".join(title or "(untitled)" for title in rest)
    return facts
