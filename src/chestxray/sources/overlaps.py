"""Which data sets share radiographs, and which public models have seen which.

The facts are in `overlaps.json`, each with its source. A set that was drawn from another shares its
radiographs with that one, and may share them with every other set that was drawn from it: RSNA
Pneumonia and SIIM-ACR are both parts of NIH ChestX-ray14.

A set is known by the name of its source, by its title, or by another name it goes by; letter case
and signs do not count. A name that is not in the registry is a set of its own.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from chestxray.sources.public_lists import PublicList, public_lists

_FILE: Final = "overlaps.json"


@dataclass(frozen=True)
class Relation:
    """A set whose radiographs come from another one.

    Attributes:
        inside: name of the set.
        of: name of the set that it was drawn from.
        images: how many, or which.
        map: how an image of one is found in the other.
        fact: where this is known from.
    """

    inside: str
    of: str
    images: str
    map: str
    fact: str


@dataclass(frozen=True)
class SeenBy:
    """What a public model was trained on.

    Attributes:
        model: its name.
        sets: names of the data sets; empty where none of the registry is known.
        with_labels: whether it learned their labels.
        images: how many, or which.
        fact: where this is known from.
        aliases: other names of it, such as those of repositories.
        training_list: name of the published list that it was trained on, see `public_lists`; None
            where there is none.
        selection_list: name of the one that its epoch was chosen by.
    """

    model: str
    sets: tuple[str, ...]
    with_labels: bool
    images: str
    fact: str
    aliases: tuple[str, ...] = ()
    training_list: str | None = None
    selection_list: str | None = None


@cache
def relations() -> tuple[Relation, ...]:
    """Give all relations of sets, in the order of the registry."""
    return tuple(
        Relation(each["set"], each["from"], each["images"], each["map"], each["fact"])
        for each in _registry()["drawn_from"]
    )


@cache
def public_models() -> tuple[SeenBy, ...]:
    """Give what is known of the training lists of public models."""
    return tuple(
        SeenBy(
            model=each["model"],
            sets=tuple(each["saw"]),
            with_labels=each["with_labels"],
            images=each["images"],
            fact=each["fact"],
            aliases=tuple(each.get("aliases", ())),
            training_list=each.get("training_list"),
            selection_list=each.get("selection_list"),
        )
        for each in _registry()["models"]
    )


def public_model(name: str) -> SeenBy | None:
    """Give a public model under any of its names; None where it is not in the registry."""
    wanted = _key(name)
    named = {_key(alias): of for of in public_models() for alias in (of.model, *of.aliases)}
    return named.get(wanted)


def is_known(name: str) -> bool:
    """Tell whether a set is in the registry, under any of its names."""
    return _key(name) in _named()


def nearest(name: str) -> tuple[str, ...]:
    """Give the names of the sets that are most like a name that is not known, the nearest first."""
    keys = difflib.get_close_matches(_key(name), _named(), n=9, cutoff=0.6)
    return tuple(dict.fromkeys(_named()[key] for key in keys))[:3]


def title(name: str) -> str:
    """Give the title of a set under any of its names; the name itself where it is not known."""
    known: dict[str, dict[str, str]] = _registry()["sets"]
    found = _named().get(_key(name))
    return name if found is None else known[found]["title"]


def may_share(one: str, other: str) -> bool:
    """Tell whether two different sets may hold the same radiographs.

    Args:
        one: a set, under any of its names.
        other: another one; a set is not said to share radiographs with itself.
    """
    a, b = _name(one), _name(other)
    return a != b and not _origins(a).isdisjoint(_origins(b))


def sharing(name: str, others: Iterable[str] = ()) -> tuple[str, ...]:
    """Give the titles of the sets that may hold radiographs of a set.

    Those that it was drawn from come first, then those that were drawn from it, then the others.

    Args:
        name: of the set, any.
        others: titles of further sets, such as those that a card names; each is given once.
    """
    own = _name(name)
    above = _origins(own) - {own}
    known = [each for each in _registry()["sets"] if may_share(own, each)]
    ranked = sorted(known, key=lambda each: (each not in above, own not in _origins(each)))
    titles = {_name(each): title(each) for each in [*ranked, *others]}
    return tuple(titles.values())


def page() -> str:
    """Write the tables of the page `docs/overlaps.md`."""
    sets = [
        "| set | drawn from | images | how to match them | known from |",
        "|---|---|---|---|---|",
    ]
    sets += [
        f"| {title(of.inside)} | {title(of.of)} | {of.images or 'not stated'} | {of.map} | "
        f"{of.fact} |"
        for of in relations()
    ]
    models = ["| model | trained on | images | known from |", "|---|---|---|---|"]
    models += [
        f"| {of.model} | {_trained(of)} | {of.images} | {of.fact} |" for of in public_models()
    ]
    lists = [
        "| list | images | patients | in NIH's official test | SHA-256 of its names | known from |",
        "|---|---|---|---|---|---|",
    ]
    lists += [
        f"| {of.title} | {of.images:,} | {of.patients:,} | {of.official_test:,} | "
        f"`{of.images_sha256[:12]}…` | {_place(of)}; {of.fact} |"
        for of in public_lists()
    ]
    return "\n".join(
        [
            *sets,
            *("", "## What public models have seen", "", *models),
            *("", "## Published lists", "", *lists, ""),
        ]
    )


def _place(of: PublicList) -> str:
    return f"[{of.file}]({of.url}){f' @{of.commit[:7]}' if of.commit else ''}"


def _trained(of: SeenBy) -> str:
    names = ", ".join(title(name) for name in of.sets) or "none of these sets, or not known"
    return names if of.with_labels or not of.sets else f"{names}, without labels"


@cache
def _registry() -> dict[str, Any]:
    text = (files("chestxray.sources") / _FILE).read_text(encoding="utf-8")
    registry: dict[str, Any] = json.loads(text)
    return registry


@cache
def _named() -> dict[str, str]:
    """Give the name of each set in the registry by every key that it goes by."""
    return {
        _key(alias): name
        for name, about in _registry()["sets"].items()
        for alias in (name, about["title"], *about.get("aliases", ()))
    }


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.casefold())


def _name(name: str) -> str:
    """Give the registry's name of a set; a key of its own where it is not known."""
    return _named().get(_key(name), _key(name))


@cache
def _origins(name: str) -> frozenset[str]:
    """Give a set and all sets that it was drawn from, directly or not."""
    above = [relation.of for relation in relations() if relation.inside == name]
    return frozenset({name}).union(*map(_origins, above))
