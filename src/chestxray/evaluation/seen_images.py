"""May a model have seen the radiographs that it is measured on? From what its card records.

A card records the names of the data sets that a model learned from, and the SHA-256 of its list of
training images, not the list; and the same of every model that it started from or learned from. So
a model that was trained on this dataset is recognised by the parts of its split. Of another split,
and of a data set that is known to share radiographs with this one (`sources.overlaps`), it cannot
be told which images were seen: `chestxray overlap` finds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from chestxray.sources.overlaps import may_share, title

Overlap = Literal["none", "unknown", "certain"]
Through = Literal["training", "weights", "teacher", "calibration"]

_DRAWN: Final = frozenset({"phantoms"})  # sources whose radiographs are drawn anew for each model
_WORSE: Final[tuple[Overlap, ...]] = ("none", "unknown", "certain")
_HOW: Final = {
    "training": "The model was trained on",
    "weights": "The network that the model started from was trained on",
    "teacher": "The teacher that the model learned from was trained on",
    "calibration": "The model was calibrated on",
}


class Seen(BaseModel):
    """A list of images that a model learned from, directly or through another model.

    Attributes:
        through: its own training, the weights that it started from, its teacher, or its
            calibration, from which the weights learned nothing.
        model: identity of the other model; None of its own training.
        sources: names of the data sets; empty where they are not recorded.
        synthetic: some of their radiographs are drawn.
        training_list_sha256: `list_sha256` of the images' names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    through: Through = "training"
    model: str | None = None
    sources: tuple[str, ...]
    synthetic: bool
    training_list_sha256: str

    @property
    def drawn(self) -> bool:
        """Whether all of the radiographs are drawn, so that they are nobody's."""
        return self.synthetic and {*self.sources} <= _DRAWN


@dataclass(frozen=True)
class Evaluated:
    """The images that a model is measured on.

    Attributes:
        sources: names of their data sets.
        parts: image names by part of the split: all parts, also those that are not measured.
        wanted: names of the parts that are measured.
    """

    sources: tuple[str, ...]
    parts: Mapping[str, Iterable[str]]
    wanted: frozenset[str]


class SeenImages(BaseModel):
    """That a model has, or may have, seen radiographs that it is measured on.

    Attributes:
        through: as of `Seen`.
        certain: it was trained on whole parts that are measured.
        same_source: the data sets are the same; otherwise they are known to share radiographs.
        trained_on: title of the data set that was learned from.
        evaluated_on: title of the data set that is measured on.
        sentence: the same in words, and what to do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    through: Through
    certain: bool
    same_source: bool
    trained_on: str
    evaluated_on: str
    sentence: str


class Origin(Protocol):
    """What a card says of the origin of some weights, as far as it is used here."""

    @property
    def policies(self) -> Mapping[str, object]: ...  # noqa: D102

    @property
    def synthetic(self) -> bool: ...  # noqa: D102

    @property
    def training_list_sha256(self) -> str | None: ...  # noqa: D102

    @property
    def seen(self) -> tuple[Seen, ...]: ...  # noqa: D102


def all_seen(origins: Iterable[Origin]) -> tuple[Seen, ...]:
    """Give all lists of images behind some weights: of their trainings, then through others."""
    found: dict[Seen, None] = {}
    for of in origins:
        own = Seen(
            sources=tuple(of.policies),
            synthetic=of.synthetic,
            training_list_sha256=of.training_list_sha256 or "",
        )
        found |= dict.fromkeys((own, *of.seen))
    return tuple(found)


def list_sha256(images: Iterable[str]) -> str:
    """Give the SHA-256 over sorted image names, each followed by a newline, in UTF-8."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(images)).encode()).hexdigest()


def seen_images(seen: Iterable[Seen], images: Evaluated) -> tuple[SeenImages, ...]:
    """Tell which of the images that a model learned from may be among those it is measured on.

    Args:
        seen: all lists that it learned from.
        images: that it is measured on.

    Returns:
        One for each pair of data sets and way of learning; empty where there is nothing to tell.
    """
    unions = _unions(images.parts)
    found: dict[SeenImages, None] = {}
    for of in seen:
        whole = unions.get(of.training_list_sha256)
        if whole is not None:  # whatever the source is called: the folder names that of a table
            if whole & images.wanted:
                here = " + ".join(map(title, images.sources))
                found[_told(of, here, here, certain=True)] = None
            continue
        if of.through in {"weights", "teacher"} and of.drawn:
            continue
        for theirs in of.sources:
            for ours in images.sources:
                same = title(theirs) == title(ours)
                if same or may_share(theirs, ours):
                    found[_told(of, title(theirs), title(ours), same=same)] = None
    return tuple(found)


def verdict(found: Iterable[SeenImages]) -> Overlap:
    """Give the worst of what `seen_images` found."""
    how: list[Overlap] = ["certain" if each.certain else "unknown" for each in found]
    return max(how, key=_WORSE.index, default="none")


def _told(
    of: Seen, theirs: str, ours: str, *, certain: bool = False, same: bool = False
) -> SeenImages:
    subject = _HOW[of.through]
    if certain:
        sentence = f"{subject} images that are measured here: all figures are too good."
    elif same and of.through == "calibration":
        sentence = (
            f"{subject} images of {theirs}, which may be among those that are measured here, so "
            f"that probabilities and calls are too good. Leave them out."
        )
    elif same:
        sentence = (
            f"{subject} {theirs} with another split: its training images may be among those that "
            f"are measured here, so that all figures are too good. Use the split that it was "
            f"trained with."
        )
    else:
        sentence = (
            f"{subject} {theirs}, which shares radiographs with {ours}: images that are measured "
            f"here may have been seen in training, so that all figures are too good. Find them "
            f"with `chestxray overlap`, and leave them and their patients out."
        )
    return SeenImages(
        through=of.through,
        certain=certain,
        same_source=certain or same,
        trained_on=theirs,
        evaluated_on=ours,
        sentence=sentence,
    )


def _unions(parts: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Give every set of parts by the `list_sha256` of its images together."""
    there = {part: names for part, of in parts.items() if (names := frozenset(of))}
    some = (of for count in range(len(there)) for of in combinations(there, count + 1))
    return {
        list_sha256(frozenset().union(*(there[part] for part in of))): frozenset(of) for of in some
    }
