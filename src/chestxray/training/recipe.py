"""Recipes: everything that decides how a model is trained, in one YAML file, every key checked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chestxray.artifacts import write_text
from chestxray.errors import RecipeError

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_SHIPPED: Final = files("chestxray.training") / "recipes"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Augment(_Strict):
    """Random changes to training images.

    Attributes:
        flip: probability of a left-right mirror.
        rotate: largest rotation either way, degrees.
        brightness: largest relative change either way, such as 0.1 for 0.9 to 1.1.
    """

    flip: Probability
    rotate: Annotated[float, Field(ge=0, le=180)]
    brightness: Annotated[float, Field(ge=0, lt=1)]


class Loss(_Strict):
    """The loss.

    Attributes:
        kind: `focal` (arXiv 1708.02002) or `bce`, binary cross-entropy.
        gamma: focusing of the focal loss; without meaning for `bce`.
        class_weights: weight each finding's two sides by scikit-learn's `balanced` rule.
    """

    kind: Literal["focal", "bce"]
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    class_weights: bool


class Recipe(_Strict):
    """How to train.

    Attributes:
        name: what reports call it.
        cost: time and machine of a run, as measured.
        expected: what it should score, on which data and split.
        backbone: a timm model that ends in a feature map.
        weights: `imagenet`, `none`, or a timm checkpoint file of that backbone.
        size: side of the image in pixels; the dataset must have been prepared at it.
        dropout: on the pooled features.
        augment: random changes to training images.
        loss: what is minimised.
        sampling: `balanced` draws the 14 findings and No Finding equally often, with replacement;
            `natural` shows each image once an epoch, but for a short last batch.
        learning_rate: of Adam, at the start.
        schedule: `constant`, or `cosine`: the rate falls to zero over `max_epochs`.
        batch_size: images a step.
        max_epochs: passes over the training part, at most.
        patience: epochs without a better validation loss before training stops.
        precision: `auto` takes bfloat16 where the machine computes in it, float32 elsewhere.
        seed: of weights, sampling, augmentation and dropout.
    """

    name: str
    cost: str
    expected: str
    backbone: str
    weights: str
    size: Annotated[int, Field(ge=32, le=2048)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    augment: Augment
    loss: Loss
    sampling: Literal["balanced", "natural"]
    learning_rate: Positive
    schedule: Literal["constant", "cosine"]
    batch_size: Annotated[int, Field(ge=2)]
    max_epochs: Annotated[int, Field(ge=1)]
    patience: Annotated[int, Field(ge=1)]
    precision: Literal["auto", "float32", "bfloat16"]
    seed: Annotated[int, Field(ge=0)]


def shipped() -> list[str]:
    """Name the recipes that come with the package."""
    return sorted(
        Path(file.name).stem for file in _SHIPPED.iterdir() if file.name.endswith(".yaml")
    )


def load(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by its shipped name or its file, with `key=value` overrides.

    Args:
        name: a shipped recipe, or a path ending in `.yaml`.
        overrides: such as `loss.gamma=1` or `max_epochs=3`; values are YAML.

    Raises:
        RecipeError: no such recipe, an unknown key (the nearest right one is named, or all), a
            value out of its range.
    """
    values = _parse(_text(name), name)
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"recipe {name}: {_first_fault(error)}") from error


def save(path: Path, recipe: Recipe) -> None:
    """Write a recipe as it was run, overrides included."""
    write_text(path, yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True))


def _text(name: str) -> str:
    if name in shipped():
        return (_SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise RecipeError(
            f"no recipe {name!r}: give one of {', '.join(shipped())}, or a YAML file"
            f"{_nearest(name, shipped())}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {name} cannot be read as text: {error}") from error


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {name} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {name} must be a mapping of keys to values")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"an override must be key=value, {override!r} is not")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise RecipeError(f"override {override!r}: {parent} has no keys under it")
    try:
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {override!r}: the value is not valid YAML") from error


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = _nearest(key, _keys()) or f"; the keys are {', '.join(_keys())}"
        return f"unknown key {key!r}{near}"
    if fault["type"] == "missing":
        return f"key {key!r} is missing"
    return f"{key} = {fault['input']!r}: {fault['msg'].lower()}"


def _keys() -> list[str]:
    return [
        *Recipe.model_fields,
        *(f"augment.{key}" for key in Augment.model_fields),
        *(f"loss.{key}" for key in Loss.model_fields),
    ]


def _nearest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
