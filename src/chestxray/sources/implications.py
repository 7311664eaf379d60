"""What a present finding says of broader and of finer ones, by the vocabulary.

A present finding makes the broader ones present that its row does not mention: laminar atelectasis
is atelectasis. An uncertain one makes them uncertain. A broader one never makes a finer one
present; where a row names the broader alone, the finer ones are unknown (`open_finer`), since a
report that says atelectasis does not say which. A label that the data set states stays as it is;
one that it leaves open does not, where a finer finding is present.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from chestxray.findings import Findings, canonical, implied, key
from chestxray.sources.collection import UNCERTAIN
from chestxray.sources.table_labels import TableLabels


def imply(labels: TableLabels) -> tuple[TableLabels, dict[str, str]]:
    """Make present or uncertain what such a finding implies and its row does not mention.

    Args:
        labels: as the data set has them, before the policies.

    Returns:
        The labels, and a fact for people that counts what was filled in; empty where nothing was.
    """
    values, unknown = labels.values.copy(), labels.unknown.copy()
    facts = {}
    for word, value in (("present", 1.0), ("uncertain", UNCERTAIN)):
        before = np.isnan(values)
        for place, broader in _broader_places(labels.findings):
            here = (labels.values[:, place] == value)[:, None] & np.isnan(values[:, broader])
            if value == UNCERTAIN:
                here &= ~unknown[:, broader]
            values[:, broader] = np.where(here, value, values[:, broader])
            unknown[:, broader] &= ~here
        filled = (before & ~np.isnan(values)).sum(axis=0)
        told = [f"{name} {n}" for name, n in zip(labels.findings, filled, strict=True) if n]
        if told:
            facts[f"{word} by a finer finding"] = ", ".join(told)
    return replace(labels, values=values, unknown=unknown), facts


def open_finer(labels: TableLabels) -> TableLabels:
    """Make unknown what a row leaves open: it names a broader finding and nothing finer of it.

    What is finer still is then open as well: a fracture may be a fracture of a rib, which may be a
    callus.

    For data sets whose rows name findings by the finest word that fits.

    Args:
        labels: as the data set has them, before `imply`.
    """
    unknown = labels.unknown.copy()
    present = labels.values == 1
    finer_than: dict[int, list[int]] = {}
    for place, broader in _broader_places(labels.findings):
        for at in broader:
            finer_than.setdefault(at, []).append(place)
    opened = np.zeros_like(unknown)
    from_broad_to_fine = sorted(_broader_places(labels.findings), key=lambda one: len(one[1]))
    for place, broader in from_broad_to_fine:
        open_ = np.isnan(labels.values[:, place])
        for at in broader:
            named = present[:, at] & ~present[:, finer_than[at]].any(axis=1)
            open_ &= named | opened[:, at]
        opened[:, place] = open_
    unknown |= opened
    return replace(labels, unknown=unknown)


def _broader_places(findings: Findings) -> list[tuple[int, list[int]]]:
    """Give the place of each finding and those of the findings that it implies."""
    places = {key(name): place for place, name in enumerate(findings)}
    found = []
    for place, name in enumerate(findings):
        broader = [places[key(b)] for b in implied(canonical(name)) if key(b) in places]
        if broader:
            found.append((place, broader))
    return found
