"""Several raw trees become one: one list of findings, unique keys, and linked patients.

- The findings are the union in order of first appearance, matched through the vocabulary. Where a
  source cannot say, a label is NaN, except what the vocabulary implies: a source with `Nodule`
  present says `Lung Lesion` present. A negative finer label says nothing of the coarser one, and a
  coarser label says nothing of a finer one. A finding that a source does label keeps its labels.
- With several sources, `image` and `patient` become `<source>/<key>`, so that patient 17 of one
  source is not patient 17 of another. Trees of one source share its patients.
- The same radiograph in two sources, by the SHA-256 of the decoded pixels, links their patients:
  `dataset.split` keeps linked patients in one part. So does an altered copy, which is looked for
  between sources that are known to share radiographs (`sources.overlaps`). Twice in one source, it
  links its patients where their parts are drawn; parts that a list states stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from chestxray.dataset.split import Lists
from chestxray.errors import SourceError
from chestxray.findings import Findings, canonical, implied, key
from chestxray.sources.collection import MAX_EXAMPLES, Collection, Problem, problem
from chestxray.sources.overlaps import may_share


@dataclass(frozen=True)
class Combined:
    """One or several collections as one.

    Attributes:
        collections: in the order given.
        findings: the union.
        rows: as `Collection.rows`, with `source`, and the columns of the union of findings.
        boxes: as `Collection.boxes`.
        masks: as `Collection.masks`.
        official: lists of image keys by source; empty for a source without lists.
        problems: of all collections, with the source's name where there are several.
    """

    collections: tuple[Collection, ...]
    findings: Findings
    rows: pd.DataFrame
    boxes: pd.DataFrame
    masks: pd.DataFrame
    official: dict[str, Lists]
    problems: tuple[Problem, ...]


def combine(collections: Sequence[Collection]) -> Combined:
    """Combine collections; a single one keeps its keys, findings and order.

    Raises:
        SourceError: two trees of one source hold an image of the same key.
    """
    findings = collections[0].findings
    for other in collections[1:]:
        findings = findings.union(other.findings)
    named = len({collection.name for collection in collections}) > 1
    rows = pd.concat([_rows(each, findings, named=named) for each in collections])
    if len(collections) > 1:
        _check_unique(rows)
        rows = rows.sort_values("image", kind="stable")
    return Combined(
        tuple(collections),
        findings,
        rows.reset_index(drop=True),
        _regions([each.boxes for each in collections], collections, findings, named=named),
        _regions([each.masks for each in collections], collections, findings, named=named),
        _official(collections, named=named),
        (
            *_problems(collections, named=named),
            *_overlaps(collections),
            *_only_present(rows, findings),
        ),
    )


@dataclass(frozen=True)
class _Duplicates:
    """Images with equal decoded pixels.

    Attributes:
        across: keys of one radiograph that is in two or more sources.
        within: keys of one radiograph that a source with stated parts lists more than once.
        linked: keys of one radiograph that a source with drawn parts lists more than once.
        groups: a name for each row's patient, equal for linked patients.
        altered: two keys of one radiograph, in two sources, that differ by size, crop, compression
            or grey values.
    """

    across: tuple[tuple[str, ...], ...]
    within: tuple[tuple[str, ...], ...]
    linked: tuple[tuple[str, ...], ...]
    groups: pd.Series[str]
    altered: tuple[tuple[str, str], ...] = ()

    def problems(self, split: Mapping[str, str]) -> list[Problem]:
        """Report them; `split` is the final part of each image."""
        apart = [names for names in self.within if len({split[name] for name in names}) > 1]
        return [
            *problem(
                "same-image-in-two-sources",
                map(" = ".join, self.across),
                "the same radiograph is in more than one source (equal decoded pixels): both are "
                "kept, and their patients are kept in one split",
                loses=False,
            ),
            *problem(
                "altered-copy-in-two-sources",
                map(" = ".join, self.altered),
                "the same radiograph is in two sources in different form (size, crop, compression "
                "or grey values): both are kept, and their patients are kept in one split",
                loses=False,
            ),
            *problem(
                "same-image-twice",
                map(" = ".join, self.linked),
                "the same radiograph is listed more than once in a source (equal decoded pixels): "
                "all are kept, and their patients are kept in one split",
                loses=False,
            ),
            *problem(
                "same-image-twice",
                map(" = ".join, self.within),
                "the same radiograph is listed more than once in a source (equal decoded pixels): "
                "all are kept",
                loses=False,
            ),
            *problem(
                "same-image-in-two-parts",
                map(" = ".join, apart),
                "the same radiograph of a source is in more than one split, because "
                "the source lists it for different patients: all are kept",
                loses=False,
            ),
        ]


def duplicates(
    rows: pd.DataFrame,
    sha256: Sequence[str],
    drawn: Iterable[str] = (),
    altered: Iterable[tuple[str, str]] = (),
) -> _Duplicates:
    """Find images with equal decoded pixels, and link the patients that share one.

    Args:
        rows: `image`, `source` and `patient`.
        sha256: of each row's decoded pixels; empty where it could not be read.
        drawn: the sources whose parts are drawn. Patients of any other source are linked only
            through a radiograph that another source has too.
        altered: pairs of images that are one radiograph, in equal or in different form.
    """
    drawn = frozenset(drawn)
    hashes = pd.Series(list(sha256), index=rows.index)
    same = rows[(hashes != "") & hashes.duplicated(keep=False)]
    across, within, linked = [], [], []
    links = _Links()
    for _, group in same.groupby(hashes[same.index], sort=False):
        names = tuple(group["image"])
        if len(set(group["source"])) > 1:
            across.append(names)
            links.join(group["patient"])
        for source, of in group.groupby("source"):
            if len(of) > 1 and source in drawn:
                linked.append(tuple(of["image"]))
                links.join(of["patient"])
            elif len(of) > 1:
                within.append(tuple(of["image"]))
    by_name = dict(zip(rows["image"], hashes, strict=True))
    altered = tuple(sorted(pair for pair in altered if len({by_name[name] for name in pair}) > 1))
    patients = rows.set_index("image")["patient"] if altered else rows["patient"]
    for pair in altered:
        links.join(patients[list(pair)])
    return _Duplicates(
        tuple(sorted(across)),
        tuple(sorted(within)),
        tuple(sorted(linked)),
        rows["patient"].map(links.root),
        altered,
    )


class _Links:
    """Disjoint sets of patients (union-find); a set is named by its first patient by name."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def root(self, patient: str) -> str:
        while (above := self._above.get(patient, patient)) != patient:
            patient = above
        return patient

    def join(self, patients: Iterable[str]) -> None:
        first, *others = sorted({self.root(patient) for patient in patients})
        self._above.update(dict.fromkeys(others, first))


def _rows(collection: Collection, findings: Findings, *, named: bool) -> pd.DataFrame:
    rows = collection.rows
    own = collection.findings
    labels = {}
    for finding in findings:
        place = own.place(finding)
        labels[finding] = _implied(rows, own, finding) if place is None else rows[own[place]]
    others = rows.drop(columns=list(own)).assign(source=collection.name)
    if named:
        others["image"] = collection.name + "/" + others["image"]
        others["patient"] = (collection.patients_of or collection.name) + "/" + others["patient"]
    return pd.concat([others, pd.DataFrame(labels, index=rows.index)], axis=1)


def _only_present(rows: pd.DataFrame, findings: Findings) -> list[Problem]:
    """Report the findings that a source has present but never absent, where another has both."""
    labels = rows[list(findings)].set_axis(rows["source"].to_numpy())
    present, absent = ((labels == value).groupby(level=0).sum() for value in (1, 0))
    one_sided = (present > 0) & (absent == 0) & (absent.sum() > 0)
    images = rows["source"].value_counts()
    found = [
        f"{finding} of {source} ({present.loc[source, finding]} present, "
        f"{images[source] - present.loc[source, finding]} unknown)"
        for finding in findings
        for source in present.index[one_sided[finding]]
    ]
    return problem(
        "only-present",
        found,
        "a source has a finding present or unknown, never absent: its images count only as "
        "positives in training and in figures over all sources, so that a model that tells the "
        "sources apart looks good at it; look at the figures of each source",
        loses=False,
    )


def _implied(rows: pd.DataFrame, own: Findings, finding: str) -> pd.Series[float]:
    """Give a label that a source has no column for: 1 where a finer label of it is 1, else NaN."""
    wanted = key(finding)
    finer = [name for name in own if wanted in {key(broad) for broad in implied(canonical(name))}]
    present = (rows[finer] == 1).any(axis=1)
    return pd.Series(np.where(present, 1.0, np.nan), index=rows.index)


def _check_unique(rows: pd.DataFrame) -> None:
    twice = rows["image"][rows["image"].duplicated()].unique()
    if len(twice):
        of = rows["source"][rows["image"] == twice[0]].iloc[0]
        raise SourceError(
            f"{len(twice)} image {'key is' if len(twice) == 1 else 'keys are'} in more than one "
            f"tree of the source {of}, such as {', '.join(twice[:MAX_EXAMPLES])}: keep each image "
            f"in one tree; if they are different radiographs from your own tables, give the trees "
            f"different names, which then become different sources"
        )


def _regions(
    tables: Sequence[pd.DataFrame],
    collections: Sequence[Collection],
    findings: Findings,
    *,
    named: bool,
) -> pd.DataFrame:
    """Join the boxes or the masks of collections, with the keys and findings of the union."""
    joined = []
    for table, collection in zip(tables, collections, strict=True):
        if len(collections) > 1 and len(table):  # pandas warns of joining tables that are empty
            image, finding = (table[column] for column in ("image", "finding"))
            places = {name: findings.place(name) for name in finding.unique()}
            spelled = {name: name if at is None else findings[at] for name, at in places.items()}
            image = f"{collection.name}/" + image if named else image
            joined.append(table.assign(image=image, finding=finding.map(spelled)))
    return pd.concat(joined, ignore_index=True) if joined else tables[0]


def _official(collections: Sequence[Collection], *, named: bool) -> dict[str, Lists]:
    """Merge the lists of trees of one source."""
    lists: dict[str, dict[str, frozenset[str]]] = {}
    for collection in collections:
        of = lists.setdefault(collection.name, {})
        for part, names in collection.official.items():
            keys = {f"{collection.name}/{name}" for name in names} if named else names
            of[part] = of.get(part, frozenset()) | keys
    return dict(lists)


def _problems(collections: Sequence[Collection], *, named: bool) -> list[Problem]:
    return [
        replace(found, sentence=f"{each.name}: {found.sentence}") if named else found
        for each in collections
        for found in each.problems
    ]


def sharing_sources(collections: Sequence[Collection]) -> list[tuple[str, str]]:
    """Give the pairs of sources that are known to share radiographs, by name."""
    about = {each.name: each.card for each in collections}
    return [
        (one, other)
        for one, other in combinations(about, 2)
        if may_share(about[one].title, about[other].title)
        or not {other, about[other].title}.isdisjoint(about[one].overlaps)
        or not {one, about[one].title}.isdisjoint(about[other].overlaps)
    ]


def _overlaps(collections: Sequence[Collection]) -> list[Problem]:
    """Report sources that are known to share radiographs."""
    return problem(
        "known-overlap",
        map(" and ".join, sharing_sources(collections)),
        "these sources are known to share radiographs: equal ones are linked, and altered copies "
        "where images are packed with 48 pixels a side or more; a patient of whom they hold "
        "different radiographs may be in two splits, unless both name the patient alike",
        loses=False,
    )
