"""The labels of a user's table, in one of three layouts → 1, 0, uncertain and not mentioned.

- One column per finding: 1, 0, yes, no, true, false, -1 for uncertain, or blank.
- One column of words with a separator: `Effusion|Mass`, `Effusion; Mass` or `Effusion, Mass`.
- One column of lists: `['Effusion', 'Mass']` as Python or JSON writes them.

A blank cell in a column per finding differs from an explicit 0, so it is unknown by default; where
no column has a single 0, only positives were entered, and a blank is a negative. In a column of
words or lists a finding that is not named is negative by default, since the list is meant to be
complete; an empty cell says nothing, and all its findings are unknown.

Names are canonical ones where the vocabulary knows them. `No Finding` is not a finding: it makes
the findings absent that its row does not mention, except devices, which it does not exclude.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import FindingsError, SourceError
from chestxray.findings import NO_FINDING, Findings, canonical, implied, key
from chestxray.sources.collection import UNCERTAIN, Blank, Problem, problem

_DEVICES: Final = "Support Devices"
_OPEN: Final = 2.0  # a value that stays unknown whatever the policies say
_VALUES: Final = {
    **dict.fromkeys(("1", "1.0", "yes", "y", "true", "t", "positive", "pos", "present", "x"), 1.0),
    **dict.fromkeys(("0", "0.0", "no", "n", "false", "f", "negative", "neg", "absent"), 0.0),
    **dict.fromkeys(
        ("-1", "-1.0", "uncertain", "possible", "maybe", "equivocal", "indeterminate", "?"),
        UNCERTAIN,
    ),
    **dict.fromkeys(("", "nan", "na", "n/a", "none", "null", "<na>", "not mentioned"), np.nan),
    **dict.fromkeys(("unknown", "unk", "u", "not assessed", "missing"), _OPEN),
}
_NOTHING_FOUND: Final = frozenset(
    {"normal", "none", "nothing", "negative", "no abnormality", "healthy"}
)
_NO_CELL: Final = frozenset({"nan", "na", "n/a", "null", "<na>"})
_SEPARATORS: Final = ("|", ";", ",")
_MOST_FINDINGS: Final = 400  # more different words are free text, not labels
_LONGEST_LIST: Final = 10_000  # characters
_SAMPLE: Final = 2_000  # rows that decide whether it is worth reading a whole column
_BECOMES: Final = {
    "zeros": "absent", "ones": "present", "ignore": "unknown",
    "negative": "absent", "unknown": "unknown",
}  # fmt: skip
_ALLOWED: Final = "1, 0, yes, no, true, false, -1 (uncertain) or blank"


@dataclass(frozen=True)
class TableLabels:
    """The labels of a table, before the policies.

    Attributes:
        findings: canonical names, in the order of the columns, or by name for words.
        values: float64 [n, K]: 1, 0, `UNCERTAIN`, NaN for not mentioned.
        unknown: bool [n, K], labels that no policy may decide: contradictions, unreadable values,
            and values that say that the finding is unknown.
        empty: bool [n], rows that say nothing of any finding.
        blank: the policy for what is not mentioned that suits the table.
        reason: why that policy, for people.
        problems: everything that could not be used as it is.
        facts: how the labels were read, for people.
        rules: of this data set beside the policies, by finding, and under "" for all findings.
    """

    findings: Findings
    values: npt.NDArray[np.float64]
    unknown: npt.NDArray[np.bool_]
    empty: npt.NDArray[np.bool_]
    blank: Blank
    reason: str
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)

    def counted(self, applied: Mapping[str, str]) -> str:
        """Count the labels that are neither 1 nor 0, and say what they become; empty for none.

        Args:
            applied: the policies `uncertain` and `blank`.
        """
        read = ~self.unknown
        counts = {
            f"uncertain ({_BECOMES[applied['uncertain']]})": (self.values == UNCERTAIN) & read,
            f"blank ({_BECOMES[applied['blank']]})": np.isnan(self.values) & read,
            "stated as unknown, contradictory or unreadable (unknown)": self.unknown,
        }
        return ", ".join(f"{int(of.sum())} {name}" for name, of in counts.items() if of.any())


def finding_columns(text: pd.DataFrame) -> tuple[list[str], list[Problem]]:
    """Guess the columns that hold one finding each: those whose values are all labels.

    Args:
        text: the columns whose meaning is not known yet.

    Returns:
        Their titles, and the columns that hold labels and something else, which are not taken.
    """
    chosen, mixed = [], []
    for title in text.columns:
        if not _can_be_finding(str(title)):
            continue
        sample = text[title].iloc[:_SAMPLE].str.casefold()
        share = sample.isin(list(_VALUES)).mean()
        if share < 0.5 or not text[title].any():
            continue
        odd = sorted(v for v in map(str, text[title].unique()) if v.casefold() not in _VALUES)
        if odd:
            mixed.append(f"{title} (such as {odd[0][:20]})")
        else:
            chosen.append(str(title))
    return chosen, problem(
        "not-a-finding",
        mixed,
        f"a column has labels and other values: not read. If it is a finding, correct it to "
        f"{_ALLOWED}, or name it with --columns findings=…",
        loses=True,
    )


def from_columns(text: pd.DataFrame, images: pd.Series) -> TableLabels:
    """Read one column per finding.

    Args:
        text: a column per finding, and perhaps one for `No Finding`.
        images: a name for each row, for problems.

    Raises:
        SourceError: no finding, two columns for the same one, a title that cannot be a finding's
            name, or a column without any label.
    """
    names = {str(title): canonical(str(title)) for title in text.columns}
    titles = [title for title, name in names.items() if name != NO_FINDING]
    findings = _named(titles, [names[title] for title in titles])
    problems: list[Problem] = []
    values = np.empty((len(text), len(titles)))
    for place, title in enumerate(titles):
        values[:, place], found = _column(text[title], images)
        problems += found
    normal = np.zeros(len(text), dtype=bool)
    for title, name in names.items():
        if name == NO_FINDING:
            column, found = _column(text[title], images)
            normal |= column == 1
            problems += found
    unknown = values == _OPEN
    values[unknown] = np.nan
    no_negatives = not (values == 0).any()
    found = _apply_no_finding(values, unknown, normal, findings, images)
    facts = {"labels": f"one column per finding: {', '.join(findings)}"}
    renamed = [f"{t!r} is {f}" for t, f in zip(titles, findings, strict=True) if t != f]
    if renamed:
        facts["renamed findings"] = ", ".join(renamed)
    return TableLabels(
        findings=findings,
        values=values,
        unknown=unknown,
        empty=np.zeros(len(text), dtype=bool),
        blank="negative" if no_negatives else "unknown",
        reason="since no label is 0" if no_negatives else "since other labels are 0",
        problems=problems + found,
        facts=facts,
        rules={"": "blank is absent beside No Finding"} if NO_FINDING in names.values() else {},
    )


def from_words(cells: pd.Series, images: pd.Series, chosen: Sequence[str] = ()) -> TableLabels:
    """Read one column of words with a separator, or of lists.

    Args:
        cells: text.
        images: a name for each row, for problems.
        chosen: the findings to take, all where empty.

    Raises:
        SourceError: no finding, or so many that the column holds free text.
    """
    codes, distinct = pd.factorize(cells)
    texts = ["" if str(cell).casefold() in _NO_CELL else str(cell) for cell in distinct]
    lists = any(cell.startswith("[") for cell in texts)
    mark = next((mark for mark in _SEPARATORS if any(mark in cell for cell in texts)), None)
    read = [listed(cell) if lists else _split(cell, mark) for cell in texts]
    named = {word for words in read for word in words or () if not _is_normal(word)}
    taken = [canonical(name) for name in chosen] or sorted({canonical(word) for word in named})
    if len(taken) > _MOST_FINDINGS:
        raise SourceError(
            f"the column {cells.name!r} has {len(taken)} different labels, such as "
            f"{', '.join(taken[:3])}: name those to use with --columns 'findings=A;B;C'"
        )
    findings = _named(list(chosen) or taken, taken)
    place = {name: i for i, name in enumerate(findings)}
    each = np.full((len(read), len(findings)), np.nan)
    for row, words in enumerate(read):
        here = [place[canonical(word)] for word in words or () if canonical(word) in place]
        each[row, here] = 1
    normal = np.array([any(map(_is_normal, words or ())) for words in read], dtype=bool)
    bad = np.array([words is None for words in read], dtype=bool)[codes]
    empty = np.array([cell == "" for cell in texts], dtype=bool)[codes]
    values = each[codes]
    unknown = np.zeros(values.shape, dtype=bool)
    unknown[bad] = True
    problems = problem(
        "unreadable-labels",
        images[bad] + " (" + cells[bad].str.slice(0, 40) + ")",
        "the labels are not a list of names: all findings of the row are unknown",
        loses=True,
    )
    problems += _apply_no_finding(values, unknown, normal[codes], findings, images)
    how = "lists" if lists else f"words separated by {mark}" if mark else "one word each"
    facts = {"labels": f"column {cells.name!r}, {how}: {', '.join(findings)}"}
    other = sorted(word for word in named if word not in place and canonical(word) in place)
    if other:
        facts["renamed findings"] = ", ".join(f"{word!r} is {canonical(word)}" for word in other)
    return TableLabels(
        findings=findings,
        values=values,
        unknown=unknown,
        empty=empty,
        blank="negative",
        reason="since the labels of a row are meant to be complete",
        problems=problems,
        facts=facts,
    )


def _named(written: Sequence[str], names: Sequence[str]) -> Findings:
    """Make findings of canonical names; say which written names clash."""
    first: dict[str, str] = {}
    for title, name in zip(written, names, strict=True):
        other = first.setdefault(key(name), title)
        if other != title:
            raise SourceError(
                f"the columns {other!r} and {title!r} are both the finding {name}: remove one"
            )
    try:
        return Findings(names)
    except FindingsError as error:
        raise SourceError(
            f"{error}; correct the table, or choose its findings with --columns 'findings=A;B;C'"
        ) from error


def _can_be_finding(title: str) -> bool:
    """Tell whether a column may be guessed to be a finding by its title."""
    if canonical(title) == NO_FINDING:
        return True
    if title.casefold() in {"", "index", "id", "row", "number", "count"}:
        return False
    if title.casefold().startswith("unnamed:"):
        return False
    try:
        Findings([canonical(title)])
    except FindingsError:
        return False
    return True


def _column(column: pd.Series, images: pd.Series) -> tuple[npt.NDArray[np.float64], list[Problem]]:
    """Read one column of labels; each distinct value is read once."""
    codes, distinct = pd.factorize(column)
    each = np.array([_VALUES.get(str(value).casefold(), np.inf) for value in distinct])
    if len(each) and np.isinf(each).all():
        raise SourceError(
            f"the column {column.name!r} holds no label: a label is {_ALLOWED}, not "
            f"{', '.join(str(value) for value in distinct[:3])}"
        )
    values = each[codes]
    odd = np.isinf(values)
    values[odd] = _OPEN
    return values, problem(
        "unknown-value",
        images[odd] + " (" + str(column.name) + ": " + column[odd] + ")",
        f"a label is not {_ALLOWED}: taken as unknown",
        loses=True,
    )


def _apply_no_finding(
    values: npt.NDArray[np.float64],
    unknown: npt.NDArray[np.bool_],
    normal: npt.NDArray[np.bool_],
    findings: Findings,
    images: pd.Series,
) -> list[Problem]:
    """Make what rows of `No Finding` do not mention absent, and what they contradict unknown."""
    excluded = np.array([_DEVICES not in {name, *implied(name)} for name in findings])
    here = normal[:, None] & excluded
    contradicted = here & (values == 1)
    values[here & np.isnan(values) & ~unknown] = 0
    values[contradicted] = np.nan
    unknown |= contradicted
    rows = contradicted.any(axis=1)
    return problem(
        "contradiction",
        images[rows],
        "No Finding is stated beside a finding, which is taken as unknown",
        loses=True,
    )


def _is_normal(word: str) -> bool:
    return canonical(word) == NO_FINDING or word.casefold() in _NOTHING_FOUND


def _split(cell: str, mark: str | None) -> list[str]:
    words = cell.split(mark) if mark else [cell]
    return [word.strip() for word in words if word.strip()]


def listed(cell: str) -> list[str] | None:
    """Read a list of names as JSON or Python writes it; None where it is not one."""
    if not cell:
        return []
    if len(cell) > _LONGEST_LIST:
        return None
    for parse in (json.loads, ast.literal_eval):  # neither runs anything
        try:
            found = parse(cell)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(found, list | tuple | set) and all(isinstance(w, str) for w in found):
            return [word.strip() for word in found if word.strip()]
    return None
