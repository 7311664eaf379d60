"""Which column of a user's table holds what: as the user states, as a YAML file says, or guessed.

The file is `<table>.columns.yaml` or `columns.yaml`, in the folder of the table:

    table: labels.csv
    columns:
      image: file
      patient: pid
      view: projection
      findings: [Effusion, Pneumothorax]    # one column per finding
    name: hospital                          # from here on, everything is optional
    title: Chest radiographs of our hospital, 2024
    label_origin: Read by one radiologist.
    uncertain: ignore
    blank: unknown
    views: frontal

What `ReadOptions` say comes before the file, and the file before a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chestxray import plain_yaml
from chestxray.artifacts import write_text
from chestxray.errors import SourceError
from chestxray.sources.collection import Blank, ReadOptions, Uncertain
from chestxray.sources.files import Tree
from chestxray.sources.table_files import is_table, table_stem

FINDINGS: Final = "findings"
TABLE: Final = "table"
_TITLES: Final[dict[str, tuple[str, ...]]] = {
    "image": (
        "image", "imagepath", "path", "filepath", "fpath", "pngpath", "dicompath", "imagefile",
        "imagefilename", "file", "filename", "imagename", "dicomfile", "imageindex", "imageid",
        "dicomid", "sopinstanceuid", "sopuid", "instanceuid",
    ),
    "patient": (
        "patient", "patientid", "pid", "patid", "ptid", "subject", "subjectid", "person",
        "personid", "mrn", "patientnumber", "patientkey", "patientuid",
    ),
    "study": (
        "study", "studyid", "studyinstanceuid", "studyuid", "accession", "accessionnumber", "exam",
        "examid", "examination",
    ),
    "view": (
        "view", "projection", "viewposition", "imageview", "viewpos", "viewpositiondicom",
        "frontallateral",
    ),
    "age": ("age", "patientage", "ageyears", "ageinyears", "patientageyears"),
    "sex": ("sex", "gender", "patientsex", "patientgender", "patientsexdicom"),
    "follow_up": (
        "followup", "followupnumber", "visit", "visitnumber", "studydate", "studydatedicom",
        "examdate", "acquisitiondate",
    ),
    "split": ("split", "partition", "subset", "dataset", "set", "fold"),
    "labels": (
        "labels", "label", "findings", "findinglabels", "finding", "findinglabel", "diagnoses",
        "diagnosis", "positives", "problems",
    ),
}  # fmt: skip
OURS: Final = tuple(_TITLES)
_GIVEN, _GUESSED = "given", "guessed"


class _Settings(BaseModel):
    """The YAML file beside a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = ""
    columns: dict[str, str | list[str] | None] = Field(default_factory=dict)
    name: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9_-]{0,31})?$")
    title: str = ""
    citation: str = ""
    licence: str = ""
    label_origin: str = ""
    uncertain: Uncertain | None = None
    blank: Blank | None = None
    views: str | None = None
    patient_per_image: bool = False


@dataclass(frozen=True)
class TableColumns:
    """Which column of a table holds what.

    Attributes:
        table: the file.
        columns: its column titles by our names; those that it has.
        how: how each of them is known, by our names: `given`, `guessed`, or the file's name.
        findings: the titles of the columns that hold one finding each; or, where there is a column
            of labels, the findings to take from it, all where empty.
        settings: what the YAML file says, or the defaults.
        patient_per_image: each image belongs to a different patient.
    """

    table: Path
    columns: Mapping[str, str]
    how: Mapping[str, str]
    findings: tuple[str, ...]
    settings: _Settings
    patient_per_image: bool

    @property
    def settings_name(self) -> str:
        """Say how the YAML file beside the table is to be called, for people."""
        return f"columns.yaml, or {table_stem(self.table)}.columns.yaml"


def _settings_file(table: Path) -> Path | None:
    """Give the YAML file that describes a table's columns; None where there is none.

    Raises:
        SourceError: a YAML file describes a table that is not beside it.
    """
    for path in settings_files(table):
        described = _read_settings(path).table
        if described in {"", table.name}:
            return path
        if not table.with_name(described).is_file():
            raise SourceError(
                f"{path.name} describes the table {described!r}, which is not beside it: correct "
                f"`table:`, or leave it out"
            )
    return None


def settings_files(table: Path) -> list[Path]:
    """Give the YAML files beside a table that may describe it, its own before the folder's."""
    names = (f"{table_stem(table)}.columns", "columns")
    paths = [table.with_name(name + end) for name in names for end in (".yaml", ".yml")]
    return [path for path in paths if path.is_file()]


def choose_table(tree: Path, scanned: Tree | None, wanted: str) -> Path:
    """Choose the table: the one that is asked for, the one with a YAML file, or the only one.

    Args:
        tree: a folder, or the table.
        scanned: the files of the folder; None where `tree` is the table.
        wanted: path of the table inside the folder; empty where it is not stated.

    Raises:
        SourceError: no table, several, or not the one that is asked for.
    """
    if scanned is None:
        if not is_table(tree.name):
            raise SourceError(f"{tree} is not a table: give a .csv, .tsv or .parquet file")
        return tree
    tables = sorted([*scanned.tables, *scanned.other_tables])
    if wanted:
        path = scanned.root / wanted
        if path not in tables:
            raise SourceError(f"{tree} has no table {wanted}: it has {_names(tables, scanned)}")
        return path
    described = [table for table in tables if _settings_file(table) is not None]
    for found in (described, tables):
        if len(found) == 1:
            return found[0]
    if not tables:
        raise SourceError(f"{tree} has no table: put a .csv, .tsv or .parquet file into it")
    raise SourceError(
        f"{tree} has {len(tables)} tables ({_names(tables, scanned)}): name the one that holds the "
        f"labels with --columns table=…"
    )


def choose_columns(table: Path, titles: Sequence[str], options: ReadOptions) -> TableColumns:
    """Decide which column holds what, by the titles alone.

    Raises:
        SourceError: a name that is not ours, a column that the table does not have, the same column
            twice, or a settings file that is not valid.
    """
    path = _settings_file(table)
    settings = _Settings() if path is None else _read_settings(path)
    stated = _stated(settings, "" if path is None else path.name, options)
    columns: dict[str, str] = {}
    how: dict[str, str] = {}
    for name in OURS:
        wanted, source = stated.get(name, (None, _GUESSED))
        if wanted:
            columns[name], how[name] = _title(str(wanted), titles, table), source
        elif name not in stated:
            guess = _guess(name, [title for title in titles if title not in columns.values()])
            if guess is not None:
                columns[name], how[name] = guess, _GUESSED
    twice = [title for title in columns.values() if list(columns.values()).count(title) > 1]
    if twice:
        names = " and ".join(name for name, title in columns.items() if title == twice[0])
        raise SourceError(f"columns: {names} cannot both be {twice[0]!r}")
    findings = _listed(stated.get(FINDINGS, (None, ""))[0])
    if findings and how.get("labels") == _GUESSED and set(findings) <= set(titles):
        del columns["labels"], how["labels"]
    if "labels" not in columns:
        findings = [_title(name, titles, table) for name in findings]
    return TableColumns(
        table=table,
        columns=columns,
        how=how,
        findings=tuple(findings),
        settings=settings,
        patient_per_image=options.patient_per_image or settings.patient_per_image,
    )


def has_image_and_patient(titles: Sequence[str]) -> bool:
    """Tell whether the titles alone show which columns hold images and patients."""
    return all(_guess(name, titles) is not None for name in ("image", "patient"))


def write_columns(columns: TableColumns, path: Path) -> None:
    """Write the YAML file that confirms which column holds what.

    The name and title of the data set are written only where they were stated.

    Args:
        columns: as `table.find_columns` gives them.
        path: of the file. It is read beside the table, as `<table>.columns.yaml` or `columns.yaml`.
    """
    about = columns.settings
    mapping: dict[str, str | list[str]] = {
        name: columns.columns[name] for name in OURS if name in columns.columns
    }
    if columns.findings:
        mapping[FINDINGS] = list(columns.findings)
    content = about.model_copy(
        update={
            "table": columns.table.name,
            "columns": mapping,
            "patient_per_image": columns.patient_per_image,
        }
    ).model_dump(exclude_defaults=True)
    write_text(
        path,
        f"# Which column of {columns.table.name} holds what. Check it, correct it, and keep it\n"
        f"# beside the table as {columns.settings_name}.\n"
        + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=False),
    )


def _names(tables: list[Path], tree: Tree) -> str:
    some = ", ".join(table.relative_to(tree.root).as_posix() for table in tables[:8])
    return some + (", …" if len(tables) > 8 else "") if tables else "none"


_Stated = Mapping[str, tuple[str | Sequence[str] | None, str]]


def _stated(settings: _Settings, file: str, options: ReadOptions) -> _Stated:
    """Collect what the YAML file and the options say, by our names, and who says it."""
    stated: dict[str, tuple[str | Sequence[str] | None, str]] = {
        name: (column, file) for name, column in settings.columns.items()
    }
    stated |= {name: (column, _GIVEN) for name, column in options.columns.items()}
    unknown = sorted(set(stated) - {*OURS, FINDINGS, TABLE})
    if unknown:
        raise SourceError(
            f"columns: {', '.join(unknown)} is not one of {', '.join(OURS)}, {FINDINGS}, {TABLE}"
        )
    return stated


def _listed(findings: str | Sequence[str] | None) -> list[str]:
    if isinstance(findings, str):
        findings = findings.split(";")
    return [name.strip() for name in findings or () if name.strip()]


def _guess(name: str, titles: Sequence[str]) -> str | None:
    """Guess the column of one of our names by its title; the most telling title comes first."""
    plain = {_plain(title): title for title in reversed(titles)}
    return next((plain[word] for word in _TITLES[name] if word in plain), None)


def _plain(title: str) -> str:
    return re.sub(r"[^a-z0-9]", "", title.casefold())


def _title(wanted: str, titles: Sequence[str], table: Path) -> str:
    """Find a column by its title, or by a spelling of it that only one column has."""
    if wanted in titles:
        return wanted
    alike = [title for title in titles if _plain(title) == _plain(wanted)]
    if len(alike) == 1:
        return alike[0]
    raise SourceError(f"{table.name} has no column {wanted!r}: its columns are {', '.join(titles)}")


def _read_settings(path: Path) -> _Settings:
    try:
        content = plain_yaml.load(plain_yaml.text_of(path))
        return _Settings.model_validate(content or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SourceError(f"{path} is not readable YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:2]) or "the file"
        raise SourceError(
            f"{path}: {where}: {first['msg']}; allowed keys are {', '.join(_Settings.model_fields)}"
        ) from error
