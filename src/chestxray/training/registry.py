"""What a recipe chooses by name: losses, optimisers, schedules and augmentations.

To add one, add an entry here; a package of your own declares an entry point of the registry's group
(such as `chestxray.losses`), and a script calls `register`. Nothing here imports torch: an entry
names its maker as `module:name`, which is loaded when a training needs it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Generic, TypeVar

from chestxray.errors import RecipeError

Maker = str | Callable[..., Any]
_Entry = TypeVar("_Entry")

_HERE: Final = "chestxray.training"


class Registry(Generic[_Entry]):
    """Entries by name: those shipped, those of other packages, and those of this process.

    Args:
        kind: what an entry is, for errors.
        group: of the entry points by which other packages add entries.
        shipped: entries of this package.
    """

    def __init__(self, kind: str, group: str, shipped: Mapping[str, _Entry]) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, _Entry] = dict(shipped)

    @property
    def names(self) -> list[str]:
        """All names, those of this package first."""
        return list(dict.fromkeys((*self._entries, *sorted(self._points()))))

    def register(self, name: str, entry: _Entry) -> None:
        """Add an entry for this process.

        Raises:
            RecipeError: the name is taken.
        """
        if name in self.names:
            raise RecipeError(f"there is {self.kind} {name!r} already: choose another name")
        self._entries[name] = entry

    def unregister(self, name: str) -> None:
        """Remove an entry that `register` added."""
        del self._entries[name]

    def __getitem__(self, name: str) -> _Entry:
        """Give an entry.

        Raises:
            RecipeError: there is none of this name, or its package cannot be loaded.
        """
        if name in self._entries:
            return self._entries[name]
        points = self._points()
        if name not in points:
            raise RecipeError(self.unknown(name))
        try:
            entry: _Entry = points[name].load()
        except Exception as error:  # a package fails in any way
            raise RecipeError(
                f"{self.kind} {name!r} of {points[name].value} cannot be loaded ({error}): update "
                f"or remove its package"
            ) from error
        return entry

    def unknown(self, name: str) -> str:
        """Say that no entry has this name, and name those there are."""
        return (
            f"there is no {self.kind} {name!r}{nearest(name, self.names)}; choose one of "
            f"{', '.join(self.names)}"
        )

    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}


@dataclass(frozen=True)
class Augmentation:
    """A random change to training images, with a range.

    Attributes:
        help: what it does, and what its number means.
        make: gives for the ends of the range, low and high, a module that changes float images
            [B, 1, S, S] in [0, 1], each image on its own, and draws from torch's generator.
        span: gives the range that a single number stands for.
        least, most: limits of the range.
        off: the number at which it changes nothing; a recipe that does not name it has this.
        pair: whether a recipe may give both ends, `[low, high]`.
    """

    help: str
    make: Maker
    span: Callable[[float], tuple[float, float]]
    least: float
    most: float
    off: float = 0.0
    pair: bool = True

    def fault(self, amount: object) -> str:
        """Say what is wrong with a number or a pair of numbers; empty where nothing is."""
        ends = amount if isinstance(amount, list | tuple) else (amount,)
        numbers = [
            end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)
        ]
        if len(numbers) != len(ends) or len(ends) not in {1, 1 + self.pair}:
            return "it should be a number" + (" or a pair [low, high]" if self.pair else "")
        low, high = self.span(numbers[0]) if len(ends) == 1 else (numbers[0], numbers[1])
        if not self.least <= low <= high <= self.most:
            of = f"it gives the range {low:g} to {high:g}; " if len(ends) == 1 else ""
            return f"{of}it should be a rising range within {self.least:g} to {self.most:g}"
        return ""


def loaded(maker: Maker) -> Callable[..., Any]:
    """Give a maker, imported where it is named as `module:name`."""
    if not isinstance(maker, str):
        return maker
    module, _, name = maker.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def nearest(word: str, words: list[str]) -> str:
    """Give the end of an error that names the nearest known word; empty where none is near."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _up_to(most: float) -> tuple[float, float]:
    return 0.0, most


def _either_way(most: float) -> tuple[float, float]:
    return -most, most


def _around_one(most: float) -> tuple[float, float]:
    return 1 - most, 1 + most


def _at_least(least: float) -> tuple[float, float]:
    return least, 1.0


LOSSES: Final[Registry[Maker]] = Registry(
    "loss",
    "chestxray.losses",
    {
        "bce": f"{_HERE}.losses:bce",
        "focal": f"{_HERE}.losses:focal",
        "asymmetric": f"{_HERE}.losses:asymmetric",
    },
)
"""Name → maker(loss keys of the recipe, weights [K, 2]) → `losses.MultiLabelLoss`."""

OPTIMISERS: Final[Registry[Maker]] = Registry(
    "optimiser",
    "chestxray.optimisers",
    {
        "adam": f"{_HERE}.optimisation:adam",
        "adamw": f"{_HERE}.optimisation:adamw",
        "sgd": f"{_HERE}.optimisation:sgd",
    },
)
"""Name → maker(parameter groups, recipe) → `torch.optim.Optimizer`."""

SCHEDULES: Final[Registry[Maker]] = Registry(
    "schedule",
    "chestxray.schedules",
    {
        "constant": f"{_HERE}.schedules:constant",
        "plateau": f"{_HERE}.schedules:plateau",
        "cosine": f"{_HERE}.schedules:cosine",
        "one_cycle": f"{_HERE}.schedules:one_cycle",
    },
)
"""Name → function(`schedules.Progress`) → factor of the learning rate, asked at every step."""

AUGMENTATIONS: Final[Registry[Augmentation]] = Registry(
    "augmentation",
    "chestxray.augmentations",
    {
        "flip": Augmentation(
            "probability of a left-right mirror",
            f"{_HERE}.augmentation:Flip", _up_to, 0, 1, pair=False,
        ),
        "crop": Augmentation(
            "smallest share of the area that a random crop keeps, enlarged to the whole size; 1 "
            "keeps all",
            f"{_HERE}.augmentation:Crop", _at_least, 0.05, 1, off=1,
        ),
        "rotate": Augmentation(
            "largest rotation in either direction, degrees; corners become black",
            f"{_HERE}.augmentation:Rotate", _either_way, -180, 180,
        ),
        "translate": Augmentation(
            "largest shift along each side, as a share of it; what comes in is black",
            f"{_HERE}.augmentation:Translate", _either_way, -0.5, 0.5,
        ),
        "shear": Augmentation(
            "largest shear along the rows in either direction, degrees",
            f"{_HERE}.augmentation:Shear", _either_way, -45, 45,
        ),
        "gamma": Augmentation(
            "largest change of the exponent of the grey values, such as 0.1 for 0.9 to 1.1; black "
            "stays black",
            f"{_HERE}.augmentation:Gamma", _around_one, 0.01, 1.99,
        ),
        "contrast": Augmentation(
            "largest relative change of all grey values, such as 0.1 for a factor of 0.9 to 1.1; "
            "black stays black",
            f"{_HERE}.augmentation:Contrast", _around_one, 0.01, 1.99,
        ),
        "blur": Augmentation(
            "largest standard deviation of a Gaussian blur, as a share of the side, such as 0.005",
            f"{_HERE}.augmentation:Blur", _up_to, 0, 0.05,
        ),
        "noise": Augmentation(
            "largest standard deviation of Gaussian noise, in grey values of 0 to 1; black stays "
            "black",
            f"{_HERE}.augmentation:Noise", _up_to, 0, 0.5,
        ),
        "erasing": Augmentation(
            "largest share of the area of a rectangle that is filled with the image's mean",
            f"{_HERE}.augmentation:Erasing", _up_to, 0, 0.5,
        ),
        "collimation": Augmentation(
            "largest share of the side that a black border covers, at each side on its own",
            f"{_HERE}.augmentation:Collimation", _up_to, 0, 0.4,
        ),
    },
)  # fmt: skip
"""Name → `Augmentation`; they are applied in this order."""
