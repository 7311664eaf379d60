"""What each source of a dataset says of each finding, and by which rule.

A rule is how the data set's own labels became 1, 0 or unknown: under which name it labels the
finding, what happened to findings that a row does not mention (blank) or leaves open (uncertain),
or that the vocabulary implies a broader finding from a finer one (see `dataset.combine`). What a
source cannot say is unknown, never absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from chestxray.dataset.manifest import SourceRecord
from chestxray.dataset.store import Dataset
from chestxray.findings import Findings, canonical, implied, key

_OF_LABELS: Final = ("blank", "uncertain", "readers", "labelers")  # the policies that decide labels


@dataclass(frozen=True)
class LabelCount:
    """A finding in one source.

    Attributes:
        source: short name of the data set.
        finding: as the dataset names it.
        positive, negative, unknown: images by label.
        patients: that the positive images are of.
        rule: behind the labels, in words.
    """

    source: str
    finding: str
    positive: int
    negative: int
    unknown: int
    patients: int
    rule: str


def label_counts(dataset: Dataset) -> list[LabelCount]:
    """Count the labels of every source and finding, in the order of the manifest.

    Args:
        dataset: whose index is counted: the images that could be read.
    """
    records = {record.name: record for record in dataset.manifest.sources}
    own = {
        name: [
            finding for of in dataset.manifest.sources if of.name == name for finding in of.findings
        ]
        for name in records
    }
    named = dataset.index["source"].to_numpy(dtype=object)
    people = dataset.index["patient"].to_numpy(dtype=object)
    found = []
    for name, record in records.items():
        rows = np.flatnonzero(named == name)
        labels, of = dataset.labels(rows), people[rows]
        for finding, y in zip(dataset.findings, labels.T, strict=True):
            positive, negative = int((y == 1).sum()), int((y == 0).sum())
            rule = _rule(finding, record, own[name], negative)
            unknown, patients = len(y) - positive - negative, len({*of[y == 1]})
            found.append(LabelCount(name, finding, positive, negative, unknown, patients, rule))
    return found


def _rule(finding: str, record: SourceRecord, own: Sequence[str], negative: int) -> str:
    """Say how a source's labels of a finding came to be.

    Args:
        finding: as the dataset names it.
        record: of the source.
        own: findings that it labels, as it names them; empty where an earlier version did not
            record them.
        negative: images without the finding.
    """
    names = Findings(dict.fromkeys(own))
    place = names.place(finding)
    if place is not None:
        spelled = "" if names[place] == finding else f" as {names[place]}"
        policies = ", ".join(
            f"{name}: {record.policies[name]}" for name in _OF_LABELS if name in record.policies
        )
        rules = [record.rules[name] for name in (names[place], "") if name in record.rules]
        return "; ".join([f"labelled{spelled}", *([policies] if policies else []), *rules])
    if not own and negative:
        return "labelled"
    wanted = key(finding)
    finer = [name for name in names if wanted in {key(of) for of in implied(canonical(name))}]
    if finer:
        return f"not labelled: present where {' or '.join(finer)} is, else unknown"
    return "not labelled: unknown"
