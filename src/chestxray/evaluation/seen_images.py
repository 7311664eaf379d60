"""May a model have seen the radiographs that it is measured on? From what its card records.

A card records the names of the data sets that a model learned from, and the SHA-256 of its list of
training images, not the list; and the same of every model that it started from or learned from. So
a model that was trained on this dataset is recognised by the parts of its split, and one that was
trained on a published list (`sources.public_lists`) by the names of the images, or by the numbers
of their patients where these are those of the list's data set: then it is known how many of the
measured images it has seen. Of another split, and of a data set that is known to
share radiographs with this one (`sources.overlaps`), it cannot be told which images were seen:
`chestxray overlap` finds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict

from chestxray.sources.overlaps import is_known, may_share, public_model, title
from chestxray.sources.public_lists import PublicList, by_name, by_sha256, official_test

Overlap = Literal["none", "unknown", "certain"]
Through = Literal["training", "weights", "teacher", "selection", "calibration"]

_DRAWN: Final = frozenset({"phantoms"})  # sources whose radiographs are drawn anew for each model
_WORSE: Final[tuple[Overlap, ...]] = ("none", "unknown", "certain")
_HOW: Final = {
    "training": "The model was trained on",
    "weights": "The network that the model started from was trained on",
    "teacher": "The teacher that the model learned from was trained on",
    "selection": "The model was chosen by its results on",
    "calibration": "The model was calibrated on",
}
_TOO_GOOD: Final = {
    "selection": "all figures are somewhat too good",
    "calibration": "probabilities and calls are too good",
}


class Seen(BaseModel):
    """A list of images that a model learned from, directly or through another model.

    Attributes:
        through: its own training, the weights that it started from, its teacher; or the choice of
            its epoch, or its calibration, from which the weights learned nothing.
        model: identity of the other model; None of its own training.
        sources: names of the data sets; empty where they are not recorded.
        synthetic: some of their radiographs are drawn.
        training_list_sha256: `list_sha256` of the images' names; empty where it is not known.
        labels: whether the labels of these images were learned from too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    through: Through = "training"
    model: str | None = None
    sources: tuple[str, ...]
    synthetic: bool
    training_list_sha256: str
    labels: bool = True

    @property
    def drawn(self) -> bool:
        """Whether all of the radiographs are drawn, so that they are nobody's."""
        return self.synthetic and {*self.sources} <= _DRAWN

    @property
    def published(self) -> PublicList | None:
        """The list where it is a published one."""
        return by_sha256(self.training_list_sha256)


@dataclass(frozen=True)
class Evaluated:
    """The images that a model is measured on.

    Attributes:
        parts: image names by part of the split: all parts, also those that are not measured.
        measured: names of the images that are measured, by name of their data set.
        patients: their patients, in the same order, by name of those data sets whose patients are
            those of another one.
        patients_of: name of this other data set.
    """

    parts: Mapping[str, Iterable[str]]
    measured: Mapping[str, Collection[str]]
    patients: Mapping[str, Collection[str]] = field(default_factory=dict)
    patients_of: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rows: pd.DataFrame,
        sources: Sequence[str],
        measured: Iterable[str],
        patients_of: Mapping[str, str] | None = None,
    ) -> Self:
        """Take images by name.

        Args:
            rows: of all images, indexed by name: `split`, `source` where there are several, and
                `patient` where `patients_of` is given.
            sources: names of the data sets.
            measured: names of the images that are measured.
            patients_of: of each data set whose patients are those of another one, that one.
        """
        parts = {str(part): rows.index[rows["split"] == part] for part in rows["split"].unique()}
        names, others = pd.Index(measured), dict(patients_of or {})
        if len(sources) < 2:
            by_set = {(*sources, "")[0]: names}
        else:
            there = rows["source"].loc[names]
            by_set = {name: names[there == name] for name in there.unique()}
        patients = {name: rows["patient"].loc[by_set[name]] for name in others if name in by_set}
        return cls(parts, by_set, patients, others)

    def held(self, listed: PublicList, of: str) -> npt.NDArray[np.float64]:
        """Tell which measured images of a data set are in a published list.

        Args:
            listed: the list.
            of: name of the data set.

        Returns:
            float64 [n]: 1 in the list, 0 not in it, NaN where neither name nor patient tells.
        """
        held = listed.holds(self.measured[of])
        other = self.patients_of.get(of)
        if other is None or title(other) != title(listed.set):
            return held
        return np.where(np.isnan(held), listed.holds_patients(self.patients[of]), held)

    @property
    def images(self) -> int:
        """How many are measured."""
        return sum(map(len, self.measured.values()))


class SeenImages(BaseModel):
    """That a model has, or may have, seen radiographs that it is measured on.

    Attributes:
        through: as of `Seen`.
        certain: it is known to have learned the labels of images that are measured.
        same_source: the data sets are the same; otherwise they are known to share radiographs.
        trained_on: title of the data set that was learned from; empty where it is not recorded.
        evaluated_on: title of the data set that is measured on.
        images: how many of the measured images it has seen; None where that cannot be told.
        public_list: title of the published list that these are in; None where it is another.
        sentence: the same in words, and what to do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    through: Through
    certain: bool
    same_source: bool
    trained_on: str
    evaluated_on: str
    images: int | None = None
    public_list: str | None = None
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


class Fit(Protocol):
    """What a card says of images that a model was fitted on after its training."""

    @property
    def source(self) -> str: ...  # noqa: D102

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
        learned = (each for each in of.seen if each.through != "selection")
        found |= dict.fromkeys((own, *learned))
    return tuple(found)


def all_tuned_on(origins: Iterable[Origin], fits: Iterable[Fit | None]) -> tuple[Seen, ...]:
    """Give all lists of images that a model was chosen by, fitted or calibrated on.

    Where an earlier version did not record the list of a fit, the data set's title alone is known.
    """
    chosen = (each for of in origins for each in of.seen if each.through == "selection")
    fitted = (each for of in fits if of is not None for each in of.seen or (_titled(of.source),))
    return tuple(dict.fromkeys((*chosen, *fitted)))


def public_seen(model: str, through: Through = "training") -> tuple[Seen, ...]:
    """Give what a public model has seen, as far as the registry knows (`sources.overlaps`).

    Args:
        model: any of its names, such as that of its repository.
        through: `training` for the model itself; `weights` or `teacher` for one that started or
            learned from it.

    Returns:
        What it was trained on; for the model itself, also what it was chosen by. Empty for a model
        that the registry does not know, or of which it knows no data set.
    """
    about = public_model(model)
    if about is None or not about.sets:
        return ()
    learned = Seen(
        through=through,
        model=None if through == "training" else about.model,
        sources=about.sets,
        synthetic=False,
        training_list_sha256=by_name(about.training_list).images_sha256
        if about.training_list
        else "",
        labels=about.with_labels,
    )
    if about.selection_list is None or through != "training":
        return (learned,)
    chosen = by_name(about.selection_list)
    selection = Seen(
        through="selection",
        sources=(chosen.set,),
        synthetic=False,
        training_list_sha256=chosen.images_sha256,
    )
    return (learned, selection)


def list_sha256(images: Iterable[str]) -> str:
    """Give the SHA-256 over sorted image names, each followed by a newline, in UTF-8."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(images)).encode()).hexdigest()


def seen_images(seen: Iterable[Seen], images: Evaluated) -> tuple[SeenImages, ...]:
    """Tell which of the images that a model learned from may be among those it is measured on.

    Args:
        seen: all lists that it learned from.
        images: that it is measured on.

    Returns:
        One for each list and pair of data sets; empty where there is nothing to tell.
    """
    unions = _unions(images.parts)
    found: dict[SeenImages, None] = {}
    for of in seen:
        whole = unions.get(of.training_list_sha256)
        if whole is not None:  # whatever the source is called: the folder names that of a table
            found |= dict.fromkeys(_in_parts(of, whole, images))
        elif of.through not in {"weights", "teacher"} or not of.drawn:
            found |= dict.fromkeys(_in_sets(of, images))
    return tuple(found)


def seen_names(seen: Iterable[Seen], images: Evaluated) -> frozenset[str]:
    """Give the names of the measured images that a model is known to have learned with labels.

    Args:
        seen: all lists that it learned from, or that it was tuned on.
        images: that it is measured on.
    """
    unions = _unions(images.parts)
    names: set[str] = set()
    for of in (each for each in seen if each.labels):
        whole = unions.get(of.training_list_sha256)
        for ours, measured in images.measured.items():
            if whole is not None:
                names |= whole.intersection(measured)
            elif of.published is not None and _related(of.published.set, ours):
                held = images.held(of.published, ours) == 1
                names.update(np.asarray(measured, dtype=object)[held])
    return frozenset(names)


def verdict(found: Iterable[SeenImages]) -> Overlap:
    """Give the worst of what `seen_images` found."""
    how: list[Overlap] = ["certain" if each.certain else "unknown" for each in found]
    return max(how, key=_WORSE.index, default="none")


def shares_a_set(seen: Iterable[Seen], sources: Iterable[str]) -> bool:
    """Tell whether a model learned from one of these data sets, or from one that shares with it."""
    return any(_related(theirs, ours) for of in seen for theirs in of.sources for ours in sources)


def exposures(seen: Iterable[Seen]) -> tuple[str, ...]:
    """Say how many images of a data set's official test are in the published lists of a model."""
    return tuple(
        f"{_HOW[of.through]} {listed.official_test:,} of the {official_test(listed.set):,} images "
        f"of {title(listed.set)}'s official test{'' if of.labels else ', without labels'}: they "
        f"are in {listed.title}."
        for of in seen
        if (listed := of.published) is not None and listed.official_test
    )


def _related(theirs: str, ours: str) -> bool:
    return title(theirs) == title(ours) or may_share(theirs, ours)


def _in_parts(of: Seen, whole: frozenset[str], images: Evaluated) -> Iterator[SeenImages]:
    """Tell of a list that is parts of this split."""
    count = sum(len(whole.intersection(names)) for names in images.measured.values())
    here = " + ".join(map(title, images.measured))
    listed = None if of.published is None else of.published.title
    if count:
        yield SeenImages(
            through=of.through,
            certain=of.labels,
            same_source=True,
            trained_on=here,
            evaluated_on=here,
            images=count,
            public_list=listed,
            sentence=f"{_told(of, count, images)}: {_because(of, listed)}.",
        )


def _in_sets(of: Seen, images: Evaluated) -> Iterator[SeenImages]:
    """Tell of a list of another split or data set, by names and by what the registry knows."""
    published = of.published
    if of.through == "training" and not of.sources and {*images.measured} - _DRAWN:
        yield _unrecorded(images)
    for theirs in of.sources:
        for ours, names in images.measured.items():
            unclear = len(names)
            if published is not None and title(published.set) == title(theirs):
                held = images.held(published, ours)
                unclear = int(np.isnan(held).sum())
                if count := int((held == 1).sum()):
                    yield from _in_public_list(of, published, ours, count, images)
            if unclear and _related(theirs, ours):
                yield _unclear(of, title(theirs), title(ours))


def _in_public_list(
    of: Seen, listed: PublicList, ours: str, count: int, images: Evaluated
) -> Iterator[SeenImages]:
    """Tell of images whose names are in a published list."""
    theirs, told = title(listed.set), _told(of, count, images)
    if _related(listed.set, ours):
        sentence = f"{told}: {_because(of, listed.title)}."
    elif is_known(ours) or ours in _DRAWN:
        return
    else:
        sentence = (
            f"{told}, if these are images of {theirs}, as their names say: they are in "
            f"{listed.title}. Then {_effect(of)}."
        )
    yield SeenImages(
        through=of.through,
        certain=of.labels and _related(listed.set, ours),
        same_source=theirs == title(ours),
        trained_on=theirs,
        evaluated_on=title(ours),
        images=count,
        public_list=listed.title,
        sentence=sentence,
    )


def _unclear(of: Seen, theirs: str, ours: str) -> SeenImages:
    """Tell of data sets by which it cannot be told which images were seen."""
    subject = _HOW[of.through]
    if theirs == ours and of.through in _TOO_GOOD:
        sentence = (
            f"{subject} images of {theirs}, which may be among those that are measured here: then "
            f"{_effect(of)}. Leave them out."
        )
    elif theirs == ours and not of.training_list_sha256:
        sentence = (
            f"{subject} {theirs}, and it is not recorded on which of its images: they may be among "
            f"those that are measured here, and then {_effect(of)}."
        )
    elif theirs == ours:
        sentence = (
            f"{subject} {theirs} with another split: its training images may be among those that "
            f"are measured here, and then {_effect(of)}. Use the split that it was trained with."
        )
    else:
        sentence = (
            f"{subject} {theirs}, which shares radiographs with {ours}: images that are measured "
            f"here may be among them, and then {_effect(of)}. Find them with `chestxray overlap`, "
            f"and leave them and their patients out (--leave-out)."
        )
    return SeenImages(
        through=of.through,
        certain=False,
        same_source=theirs == ours,
        trained_on=theirs,
        evaluated_on=ours,
        sentence=sentence,
    )


def _unrecorded(images: Evaluated) -> SeenImages:
    """Tell of a model of which no data set is recorded."""
    return SeenImages(
        through="training",
        certain=False,
        same_source=False,
        trained_on="",
        evaluated_on=" + ".join(map(title, images.measured)),
        sentence="It is not recorded which images the model was trained on: those that are "
        "measured here may be among them, and then all figures are too good.",
    )


def _told(of: Seen, count: int, images: Evaluated) -> str:
    share = f"{count:,} of the {images.images:,} images that are measured here"
    return f"{_HOW[of.through]} {share}{'' if of.labels else ', without labels'}"


def _because(of: Seen, listed: str | None) -> str:
    if listed is None:
        return _effect(of)
    advice = "; `chestxray validate` leaves them out" if of.labels else ""
    return f"they are in {listed}, so that {_effect(of)}{advice}"


def _effect(of: Seen) -> str:
    if not of.labels:
        return "all figures may be too good"
    return _TOO_GOOD.get(of.through, "all figures are too good")


def _titled(source: str) -> Seen:
    return Seen(
        through="calibration",
        sources=tuple(source.split(" + ")),
        synthetic=False,
        training_list_sha256="",
    )


def _unions(parts: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Give the images of every set of parts by their `list_sha256`."""
    there = [names for of in parts.values() if (names := frozenset(of))]
    some = (of for count in range(len(there)) for of in combinations(there, count + 1))
    unions = (frozenset().union(*of) for of in some)
    return {list_sha256(names): names for names in unions}
