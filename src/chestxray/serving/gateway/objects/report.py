"""The report of findings: for each a group with its certainty, its threshold, and the call.

One TID 1501 group for a finding, as IHE's AI Results profile has it: within a single group nothing
would tie a certainty to its finding. A refusal is a report without groups that says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydicom import Dataset
from pydicom.sr.coding import Code

from chestxray.errors import RefusedError
from chestxray.notices import Notice
from chestxray.reading.reader import Reading
from chestxray.serving.gateway.objects import codes, content
from chestxray.serving.gateway.objects.content import CONTAINS
from chestxray.serving.gateway.objects.document import document, shown, tracking
from chestxray.serving.gateway.objects.identity import NOTHING_SAID, Model
from chestxray.serving.gateway.objects.source import Source


def report(
    source: Source,
    model: Model,
    outcome: Reading | RefusedError,
    thresholds: Mapping[str, float | None],
) -> Dataset:
    """Make the report of a reading or a refusal.

    Args:
        source: the image.
        model: that read it.
        outcome: what it said.
        thresholds: finding → probability from which it is called, None without one.
    """
    if isinstance(outcome, RefusedError):
        notes = [_note("Not read" if n.refuses else "Warning", n) for n in outcome.notices]
        return document("sr", source, model, (), [*notes, NOTHING_SAID])
    groups = list(_groups(source, model, outcome, thresholds))
    return document("sr", source, model, groups, warnings(outcome))


def warnings(reading: Reading) -> list[str]:
    """Say why not to trust a reading."""
    return [_note("Warning", notice) for notice in reading.warnings]


def _note(head: str, notice: Notice) -> str:
    """Say what the gate said, with its code, for people and programs."""
    return f"{head} ({notice.code}): {notice}"


def percent(name: Code, share: float) -> bytes:
    """Say a share in [0, 1] in percent."""
    return content.number(name, 100 * float(share), codes.PERCENT)


def _groups(
    source: Source, model: Model, reading: Reading, thresholds: Mapping[str, float | None]
) -> Iterator[bytes]:
    image = content.image(CONTAINS, codes.MEASURED_IN, shown(source))
    for finding, probability in reading.probabilities.items():
        items = [
            *tracking("sr", source, model, finding),
            percent(codes.CERTAINTY, probability),
        ]
        threshold = thresholds[finding]
        if threshold is not None:
            items.append(percent(codes.THRESHOLD, threshold))
        call = codes.CALLS[reading.calls[finding]]
        items += [content.coded(CONTAINS, codes.CALLED, call), image]
        yield content.container(codes.GROUP, items, template="1501")
