"""Findings as values, and the vocabulary that knows their names.

`Findings` is an ordered list of finding names. A dataset, a recipe's run, a bundle, a table of
predictions and its metrics each carry their own, so that one finding works as well as forty.

The vocabulary (`vocabulary.json`) knows, for the findings that public data sets label: a canonical
name, the spellings of other data sets, a description, codes (SNOMED CT, DICOM, RadLex), and which
broader findings a finding implies. A name outside it is allowed everywhere; it only lacks these.

Names are the same finding only where the data sets mean the same: `Pleural Other` of CheXpert holds
`Pleural_Thickening` and more, so the second implies the first and never the other way round. A code
is given only where a published source has it for just this meaning: PS3.16 of DICOM (CID 6101 to
6113, 645, 3700) or a value set of HL7. Six of SNOMED CT (diaphragmatic hernia, interstitial lung
disease, tuberculosis, and the fractures) rest on agreeing public code lists and examples alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final, Self

from pydantic_core import CoreSchema, core_schema

from chestxray.errors import FindingsError

NO_FINDING: Final = "No Finding"
"""The label of an image on which none of a data set's findings was named. Not a finding."""

_LONGEST: Final = 64  # characters; a DICOM Code Meaning holds no more (PS3.5, VR LO)
_RESERVED: Final = frozenset(
    {
        "image", "path", "source", "patient", "study", "follow_up", "age", "sex", "view", "width",
        "height", "split", "status", "reason", "called", "model", "images", "patients", "bytes",
    }
)  # fmt: skip
_FORBIDDEN: Final = frozenset("|,;\"'`<>\\{}[]=")


@dataclass(frozen=True)
class Code:
    """A code of a finding.

    Attributes:
        value: such as `60046008`.
        scheme: the coding scheme's designator in DICOM (PS3.16 section 8): `SCT` for SNOMED CT,
            `DCM`, `RADLEX`.
        meaning: the code's own words, such as `Pleural effusion`.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Term:
    """An entry of the vocabulary.

    Attributes:
        name: canonical, such as `Effusion`.
        description: one sentence in plain English; empty where there is none.
        synonyms: spellings of other data sets.
        codes: the preferred one first; empty where no public source agrees on one.
        implies: canonical names of the broader findings that are present wherever this one is.
    """

    name: str
    description: str
    synonyms: tuple[str, ...]
    codes: tuple[Code, ...]
    implies: tuple[str, ...]


class Findings(tuple[str, ...]):
    r"""An ordered list of finding names, valid once constructed.

    A `Findings` is a tuple of text: it is hashable, can be indexed, sliced and compared, and is
    written to JSON as a list. The order is that of the columns of every array [n, K] beside it.

    Args:
        names: at least one, no two of which mean the same finding.

    Raises:
        FindingsError: no name, a name that cannot be a column or a DICOM Code Meaning (empty, over
            64 characters, control characters or one of ``|,;"'`<>\\{}[]=``), a name that the
            tables use for something else, or the same finding twice.
    """

    __slots__ = ()

    def __new__(cls, names: Iterable[str]) -> Self:
        """Check the names and keep them in their order."""
        if isinstance(names, str):
            raise FindingsError(
                f"findings are a list of names, not a single text: give [{names!r}]"
            )
        given = tuple(names)
        if not given:
            raise FindingsError("the list of findings is empty: name at least one")
        first: dict[str, str] = {}
        for name in given:
            _check(name)
            if key(name) in first:
                same = first[key(name)]
                raise FindingsError(f"{same!r} and {name!r} are the same finding: keep one of them")
            first[key(name)] = name
        return super().__new__(cls, given)

    def __repr__(self) -> str:
        return f"Findings({list(self)!r})"

    def place(self, name: str) -> int | None:
        """Give the position of a finding under any of its spellings, None where it is not here."""
        wanted = key(name)
        return next((i for i, own in enumerate(self) if key(own) == wanted), None)

    def common(self, other: Iterable[str]) -> list[tuple[int, int]]:
        """Match findings by meaning.

        Args:
            other: names in their own order.

        Returns:
            Positions `(here, in other)` of the findings that both have, in the order of this list.
        """
        places = {key(name): place for place, name in reversed(list(enumerate(other)))}
        return [(i, places[key(name)]) for i, name in enumerate(self) if key(name) in places]

    def union(self, other: Iterable[str]) -> Findings:
        """Give these findings followed by those of `other` that are not among them."""
        return Findings((*self, *(name for name in other if self.place(name) is None)))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:  # noqa: ANN401
        """Let pydantic read a list of names and write one."""
        del source, handler
        return core_schema.no_info_after_validator_function(
            cls._validated,
            core_schema.list_schema(core_schema.str_schema()),
            serialization=core_schema.plain_serializer_function_ser_schema(
                list, return_schema=core_schema.list_schema(core_schema.str_schema())
            ),
        )

    @classmethod
    def _validated(cls, names: list[str]) -> Self:
        try:
            return cls(names)
        except FindingsError as error:
            raise ValueError(str(error)) from error


def key(name: str) -> str:
    """Give a text that is the same for all spellings of a finding.

    Letter case, underscores and white space do not count: `Pleural_Thickening`, `pleural
    thickening` and `P.T.` have the same key. The whole name is matched, never a part of it.
    """
    folded = _fold(name)
    term = _by_spelling().get(folded)
    return folded if term is None else _fold(term.name)


def canonical(name: str) -> str:
    """Give a finding's canonical name, and `NO_FINDING` for its spellings, such as `No_Finding`.

    A name outside the vocabulary is given back with single spaces.
    """
    stripped = " ".join(name.split())
    if _fold(name) in _NO_FINDING:
        return NO_FINDING
    term = _by_spelling().get(_fold(name))
    return stripped if term is None else term.name


def term(name: str) -> Term | None:
    """Give the vocabulary's entry of a finding under any spelling; None where there is none."""
    return _by_spelling().get(_fold(name))


def vocabulary() -> Mapping[str, Term]:
    """Give all terms by canonical name, in the order of the file."""
    return _terms()


def implied(name: str) -> tuple[str, ...]:
    """Give the canonical names of all findings that a finding implies, the nearest first."""
    found: list[str] = []
    queue = list(_implies(name))
    while queue:
        broader = queue.pop(0)
        if broader not in found:
            found.append(broader)
            queue += _implies(broader)
    return tuple(found)


def label(name: str) -> str:
    """Write a finding for people: `Pleural_Thickening` as `Pleural thickening`."""
    return name.replace("_", " ").capitalize() if "_" in name else name


def probability_column(finding: str) -> str:
    """Name the column of a finding in `predictions.csv`, such as `prob_Effusion`."""
    return f"prob_{finding}"


_NO_FINDING: Final = frozenset({"no finding", "nofinding", "no findings"})


def _check(name: object) -> None:
    if not isinstance(name, str):
        raise FindingsError(f"the name of a finding is text, not {type(name).__name__}: {name!r}")
    if not name or name != " ".join(name.split()):
        raise FindingsError(
            f"the name of a finding must not be empty and must have single spaces: {name!r}"
        )
    if len(name) > _LONGEST:
        raise FindingsError(
            f"the name of a finding has at most {_LONGEST} characters; {name[:32]!r}… has "
            f"{len(name)}"
        )
    if not name.isprintable() or _FORBIDDEN & set(name):
        signs = " ".join(sorted(_FORBIDDEN))
        raise FindingsError(
            f"the name of a finding has no control characters and none of {signs}: {name!r}"
        )
    if _fold(name).replace(" ", "_") in _RESERVED or _fold(name) in _NO_FINDING:
        raise FindingsError(
            f"{name!r} cannot name a finding, since tables use it for something else: rename it"
        )


@lru_cache(maxsize=4096)
def _fold(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _implies(name: str) -> tuple[str, ...]:
    known = term(name)
    return () if known is None else known.implies


@cache
def _terms() -> dict[str, Term]:
    text = (files("chestxray") / "vocabulary.json").read_text(encoding="utf-8")
    return {
        name: Term(
            name=name,
            description=entry.get("description", ""),
            synonyms=tuple(entry.get("synonyms", ())),
            codes=tuple(Code(*code) for code in entry.get("codes", ())),
            implies=tuple(entry.get("implies", ())),
        )
        for name, entry in json.loads(text).items()
    }


@cache
def _by_spelling() -> dict[str, Term]:
    return {spelling: term for term in _terms().values() for spelling in _spellings(term)}


def _spellings(term: Term) -> Iterator[str]:
    yield _fold(term.name)
    for synonym in term.synonyms:
        yield _fold(synonym)
