"""What a client wants to know of a radiograph: the query parameters of `POST /v1/read`, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from chestxray.findings import Findings
from chestxray.serving.content_negotiation import DICOM, DICOM_PARTS, JSON, JSON_LINES
from chestxray.serving.http_errors import ProblemError
from chestxray.serving.responses import Heatmaps
from chestxray.serving.result_objects import KINDS

_ALL_PARTS: Final = ("sr", "sc", "seg")


class ReadOptions(NamedTuple):
    """What is wanted.

    Attributes:
        form: media type of the answer.
        findings: as the model names them; all of them by default.
        heatmaps: how the answer has them.
        display: whether it has the radiograph as PNG.
        force: whether a radiograph is read that the gate refuses.
        objects: kinds of DICOM objects, in their order in the answer.
    """

    form: str
    findings: tuple[str, ...]
    heatmaps: Heatmaps = "none"
    display: bool = False
    force: bool = False
    objects: tuple[str, ...] = ()

    @property
    def is_dicom(self) -> bool:
        """Whether the answer consists of DICOM objects."""
        return self.form in (DICOM, DICOM_PARTS)

    @property
    def is_json(self) -> bool:
        """Whether the answer is a `ReadResult`."""
        return self.form in (JSON, JSON_LINES)

    def check(self) -> ReadOptions:
        """Give these options where they fit together.

        Raises:
            ProblemError: a parameter is not of this form of answer (422).
        """
        if not self.is_json and (self.heatmaps != "none" or self.display):
            raise invalid("heatmaps and display belong to application/json: leave them out")
        return self


def some_findings(wanted: Sequence[str], findings: Findings) -> tuple[str, ...]:
    """Find the model's names of the findings that are wanted; all where none is named.

    Args:
        wanted: names under any spelling of the vocabulary; one text may have several, with commas.
        findings: of the model.

    Raises:
        ProblemError: the model does not have one (422).
    """
    if not wanted:
        return tuple(findings)
    places = set()
    for name in (name.strip() for text in wanted for name in text.split(",")):
        place = findings.place(name)
        if place is None:
            raise invalid(
                f"findings: {name[:64]!r} is not a finding of this model, which has "
                f"{', '.join(findings)}"
            )
        places.add(place)
    return tuple(findings[place] for place in sorted(places))


def some_objects(wanted: str | None, form: str) -> tuple[str, ...]:
    """Check which DICOM objects are wanted; without a choice one report, or the usual parts.

    Raises:
        ProblemError: one is unknown, or the form of the answer has no place for them (422).
    """
    if form not in (DICOM, DICOM_PARTS):
        if wanted is not None:
            raise invalid(f"objects belong to {DICOM}: send it as Accept, or leave objects out")
        return ()
    if wanted is None:
        return ("sr",) if form == DICOM else _ALL_PARTS
    named = [name.strip() for name in wanted.split(",")]
    unknown = [name for name in named if name not in KINDS]
    if unknown:
        raise invalid(f"objects: {unknown[0][:64]!r} is none of {', '.join(KINDS)}")
    if form == DICOM and len(set(named)) > 1:
        raise invalid(f"objects: {DICOM} has room for one: Accept {DICOM_PARTS} for several")
    return tuple(kind for kind in KINDS if kind in named)


def invalid(detail: str) -> ProblemError:
    """Make the error of a parameter."""
    return ProblemError(422, "invalid-parameter", f"{detail[:1].upper()}{detail[1:]}.")
