"""The optimiser of a recipe: which weights learn at which rate, and the average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from chestxray.errors import RecipeError
from chestxray.model.network import Classifier
from chestxray.training.recipe_keys import Recipe
from chestxray.training.registry import OPTIMISERS, loaded

Group = dict[str, Any]
RATE: Final = "full_rate"
"""Key of a group's learning rate before the schedule."""


def adam(groups: list[Group], _recipe: Recipe) -> Optimizer:
    """Make Adam (arXiv 1412.6980)."""
    return Adam(groups, fused=True)


def adamw(groups: list[Group], _recipe: Recipe) -> Optimizer:
    """Make AdamW (arXiv 1711.05101)."""
    return AdamW(groups, fused=True)


def sgd(groups: list[Group], recipe: Recipe) -> Optimizer:
    """Make stochastic gradient descent, with Nesterov's momentum where there is any."""
    return SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)


def optimiser_of(
    classifier: Classifier, recipe: Recipe, auxiliary: nn.Module | None = None
) -> Optimizer:
    """Make the optimiser that a recipe chooses, over all weights of a classifier.

    Args:
        classifier: to train.
        recipe: to train it by.
        auxiliary: another head, which learns as the classifier's does.

    Raises:
        RecipeError: no optimiser of this name, or `layer_decay` and a backbone whose layers timm
            does not name.
    """
    groups = groups_of(classifier, recipe, auxiliary)
    made: Optimizer = loaded(OPTIMISERS[recipe.optimiser])(groups, recipe)
    return made


def groups_of(
    classifier: Classifier, recipe: Recipe, auxiliary: nn.Module | None = None
) -> list[Group]:
    """Group a classifier's weights by learning rate, and by whether they decay.

    Biases and the weights of normalisation, which are vectors, do not decay. The head learns at the
    recipe's rate, and with `layer_decay` each layer of the backbone at that factor of the next.
    """
    depth = _depths(classifier, recipe)
    groups: dict[tuple[int, bool], Group] = {}
    more = () if auxiliary is None else auxiliary.named_parameters(prefix="auxiliary")
    for name, parameter in (*classifier.named_parameters(), *more):
        decays = parameter.ndim > 1
        layers = depth.get(name, 0)
        rate = recipe.learning_rate * recipe.layer_decay**layers
        decay = recipe.weight_decay if decays else 0.0
        new: Group = {"params": [], "lr": rate, RATE: rate, "weight_decay": decay}
        groups.setdefault((layers, decays), new)["params"].append(parameter)
    return list(groups.values())


def _depths(classifier: Classifier, recipe: Recipe) -> dict[str, int]:
    """Give how many layers lie after a weight of the backbone; empty where all learn alike."""
    if recipe.layer_decay == 1:
        return {}
    backbone: Any = classifier.backbone
    if not hasattr(backbone, "group_matcher"):
        raise RecipeError(
            f"timm does not name the layers of {recipe.backbone}, so they cannot learn at "
            f"different rates: use --set layer_decay=1"
        )
    places = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    last = max(places.values())
    return {f"backbone.{name}": last - place + 1 for name, place in places.items()}


class WeightAverage(nn.Module):
    """An exponential moving average of a classifier's weights.

    The decay rises to its full value over the first steps, (1 + n) / (10 + n) after n of them, so
    that the random weights of the start are forgotten.

    Args:
        classifier: to follow; the average starts as its copy.
        decay: per step, in [0, 1).
    """

    def __init__(self, classifier: Classifier, decay: float) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier).requires_grad_(False).eval()
        self.decay = decay

    def train(self, mode: bool = True) -> WeightAverage:  # noqa: ARG002 - nn.Module's
        """Stay in evaluation mode: the average is never trained itself."""
        return super().train(False)

    @torch.no_grad()
    def update(self, classifier: Classifier, steps: int) -> None:
        """Take the weights after `steps` steps in; statistics of normalisation are averaged too."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        own, new = (list(_floats(of)) for of in (self.classifier, classifier))
        torch._foreach_lerp_(own, new, 1 - decay)


def _floats(classifier: nn.Module) -> Iterator[Tensor]:
    return (of for of in classifier.state_dict().values() if of.is_floating_point())
