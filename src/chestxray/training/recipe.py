"""Recipes: everything that decides how a model is trained, in one YAML file, every key checked.

A recipe file states what differs from the defaults of `Recipe`. Nothing here imports torch, so that
a wrong key is answered at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chestxray import plain_yaml
from chestxray.artifacts import write_text
from chestxray.errors import RecipeError

Overrides = Mapping[str, Any] | Iterable[str]
_Faults = Callable[[Mapping[str, Any]], list[str]]

_Probability = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_SHIPPED: Final = files("chestxray.training") / "recipes"
DEFAULT: Final = "baseline"
_LINE: Final = 100  # characters
_SHOWN: Final = 200  # characters of a value in an error

_REPLACED: Final = {
    "augment.brightness": "it is now augment.gamma, which keeps black, and augment.contrast",
}
"""Keys of earlier versions, with what to write instead."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Augment(_Strict):
    """Random changes to training images.

    Attributes:
        flip: probability of a left-right mirror.
        rotate: largest rotation in either direction, degrees.
        gamma: largest change of the exponent in either direction, such as 0.1 for grey values in
            [0, 1] to the power of 0.9 to 1.1; brightens or darkens the middle greys.
        contrast: largest relative change of all grey values, such as 0.1 for a factor of 0.9 to
            1.1. Black stays black in both.
    """

    flip: _Probability = 0.5
    rotate: Annotated[float, Field(ge=0, le=180)] = 10.0
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.1
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Loss(_Strict):
    """The loss.

    Attributes:
        kind: `focal` (arXiv 1708.02002) or `bce`, binary cross-entropy.
        gamma: focusing of the focal loss; `bce` ignores it.
        class_weights: weight both classes of each finding by scikit-learn's `balanced` rule.
    """

    kind: Literal["focal", "bce"] = "bce"
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    class_weights: bool = False


class Recipe(_Strict):
    """How to train.

    Attributes:
        name: what reports call it; a file without one is named after the file.
        description: one sentence that says what it is.
        cost: time and machine of a run, as measured.
        expected: what it should score, on which data and split.
        backbone: a timm model that ends in a feature map.
        weights: `imagenet`, `none`, or a timm checkpoint file of that backbone.
        size: side of the images in pixels; the dataset must have been prepared at this size.
        dropout: probability of dropping a pooled feature.
        augment: random changes to training images.
        loss: what is minimised.
        sampling: `balanced` draws each finding and No Finding equally often, as far as `max_draws`
            allows; `natural` shows each image once per epoch, except for a short last batch.
        max_draws: with balanced sampling, the most draws of one image per epoch.
        learning_rate: of Adam, at the start.
        schedule: `constant`, or `cosine`: the rate falls to zero over `max_epochs`.
        batch_size: images per step.
        max_epochs: passes over the training split, at most.
        monitor: what chooses the best epoch on validation: the lowest `loss`, or the highest mean
            `auroc`.
        patience: epochs without a better value of the monitor before training stops.
        precision: `auto` takes bfloat16 where the machine has instructions for it, float32
            elsewhere.
        seed: of weights, sampling, augmentation and dropout.
    """

    name: str = "unnamed"
    description: str = ""
    cost: str = "not measured"
    expected: str = "not measured"
    backbone: str = "densenet121.tv_in1k"
    weights: str = "imagenet"
    size: Annotated[int, Field(ge=32, le=2048)] = 224
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augment: Augment = Augment()
    loss: Loss = Loss()
    sampling: Literal["balanced", "natural"] = "natural"
    max_draws: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    learning_rate: _Positive = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    batch_size: Annotated[int, Field(ge=2)] = 32
    max_epochs: Annotated[int, Field(ge=1)] = 30
    monitor: Literal["loss", "auroc"] = "loss"
    patience: Annotated[int, Field(ge=1)] = 5
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: Annotated[int, Field(ge=0)] = 0


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
        near = nearest(key, _keys()) or f"; the keys are {', '.join(_keys())}"
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


def _keys() -> list[str]:
    return [
        *Recipe.model_fields,
        *(f"augment.{key}" for key in Augment.model_fields),
        *(f"loss.{key}" for key in Loss.model_fields),
    ]


def nearest(word: str, words: list[str]) -> str:
    """Give the end of an error that names the nearest known word; empty where none is near."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
