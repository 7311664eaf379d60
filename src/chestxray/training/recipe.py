"""Recipes: everything that decides how a model is trained, in one YAML file, every key checked.

A recipe file states what differs from the defaults of `Recipe` (see `recipe_keys`). Nothing here
imports torch, so that a wrong key is answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from chestxray import plain_yaml
from chestxray.artifacts import write_text
from chestxray.errors import RecipeError
from chestxray.training.recipe_keys import Augment, Loss, Recipe, keys
from chestxray.training.registry import nearest

__all__ = [
    "Augment", "Loss", "Overrides", "Recipe", "load", "names", "nearest", "save", "shipped", "show",
]  # fmt: skip

Overrides = Mapping[str, Any] | Iterable[str]
_Faults = Callable[[Mapping[str, Any]], list[str]]

_SHIPPED: Final = files("chestxray.training") / "recipes"
DEFAULT: Final = "baseline"
_LINE: Final = 100  # characters
_SHOWN: Final = 200  # characters of a value in an error

_REPLACED: Final = {
    "augment.brightness": "it is now augment.gamma, which keeps black, and augment.contrast",
}
"""Keys of earlier versions, with what to write instead."""


def names() -> list[str]:
    """Name the recipes that come with the package."""
    return sorted(
        Path(file.name).stem for file in _SHIPPED.iterdir() if file.name.endswith(".yaml")
    )


def shipped() -> list[Recipe]:
    """Give the recipes that come with the package, with description, cost and expected score."""
    return [load(name) for name in names()]


def show(recipe: str | Path | Recipe, overrides: Overrides = ()) -> str:
    """Give a recipe as YAML with every key, defaults and overrides filled in.

    Raises:
        RecipeError: as `load` says.
    """
    values = load(recipe, overrides).model_dump()
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=_LINE)


def load(
    recipe: str | Path | Recipe, overrides: Overrides = (), more_faults: _Faults = lambda _: []
) -> Recipe:
    """Read a recipe by its shipped name or its file, with overrides.

    Args:
        recipe: a shipped recipe's name, a YAML file, or a recipe to override.
        overrides: texts such as `loss.gamma=1` whose values are YAML, or a mapping of keys to
            values, such as `{"loss.gamma": 1}` or `{"loss": {"gamma": 1}}`.
        more_faults: says what else is wrong with the keys and values, before they are checked.

    Raises:
        RecipeError: no such recipe; or all the unknown keys, each with the nearest right one, all
            the impossible values, and `more_faults`.
    """
    title, values = _source(recipe)
    faults = [*_override(values, overrides), *more_faults(values)]
    found = None
    try:
        found = Recipe.model_validate(values)
    except ValidationError as error:
        faults += [_fault(details["loc"], details) for details in error.errors()]
    if found is None or faults:
        raise RecipeError(_listed(title, faults))
    return found


def save(path: Path, recipe: Recipe) -> None:
    """Write a recipe with every key, as it is run."""
    write_text(path, show(recipe))


def _source(recipe: str | Path | Recipe) -> tuple[str, dict[str, Any]]:
    """Give what to call a recipe in errors, and its keys before any override."""
    if isinstance(recipe, Recipe):
        return f"recipe {recipe.name}", recipe.model_dump()
    values = _parsed(_text(str(recipe)), str(recipe))
    return f"recipe {recipe}", {"name": Path(recipe).stem, **values}


def _text(name: str) -> str:
    if name in names():
        return (_SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise RecipeError(
            f"unknown recipe {name!r}{nearest(name, names())}; give one of "
            f"{', '.join(names())}, or a YAML file"
        )
    try:
        return plain_yaml.text_of(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe {name} cannot be read as text: {error}") from error


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        values = plain_yaml.load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {name} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {name} must be a mapping of keys to values")
    return values


def _override(values: dict[str, Any], overrides: Overrides) -> list[str]:
    """Set keys in place; give what is wrong with the overrides that cannot be set."""
    if isinstance(overrides, Mapping):
        return [fault for key, value in overrides.items() for fault in _set(values, key, value)]
    faults: list[str] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        try:
            value = plain_yaml.load(text)
        except yaml.YAMLError:
            faults.append(f"override {_short(override)}: the value is not valid YAML")
            continue
        if equals:
            faults += _set(values, key, value)
        else:
            faults.append(f"override {override!r}: write it as key=value")
    return faults


def _set(values: dict[str, Any], key: str, value: Any) -> list[str]:  # noqa: ANN401 - YAML's
    """Set a dotted key; a mapping sets the keys under it and leaves its other keys alone."""
    if isinstance(value, Mapping):
        pairs = ((f"{key}.{below}", of) for below, of in value.items())
        return [fault for pair in pairs for fault in _set(values, *pair)]
    *parents, last = key.split(".")
    branch: Any = values
    for parent in parents:
        branch = branch.setdefault(parent, {})
        if not isinstance(branch, dict):
            return [f"{key}: {parent} has no keys under it"]
    branch[last] = value
    return []


def _fault(place: tuple[int | str, ...], details: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in place)
    if key in _REPLACED:
        return f"unknown key {key!r}: {_REPLACED[key]}"
    if details["type"] == "extra_forbidden":
        near = nearest(key, keys()) or f"; the keys are {', '.join(keys())}"
        return f"unknown key {key!r}{near}"
    rule = str(details["msg"]).replace("Input should", "it should")
    return f"{key} = {_short(details['input'])}: {rule}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _listed(title: str, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"{title}: {faults[0]}"
    return "\n  ".join([f"{title} has {len(faults)} errors:", *faults])
