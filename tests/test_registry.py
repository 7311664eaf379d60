"""A loss, an optimiser, a schedule and an augmentation of one's own, from outside the package."""

from __future__ import annotations

import sys

import pytest
import torch

from chestxray.errors import RecipeError
from chestxray.training import fit
from chestxray.training import recipe as recipes
from chestxray.training.losses import MultiLabelLoss
from chestxray.training.registry import (
    AUGMENTATIONS,
    LOSSES,
    OPTIMISERS,
    SCHEDULES,
    Augmentation,
    Registry,
)
from conftest import TINY

CALLS: list[str] = []


class SquaredError(MultiLabelLoss):
    """Brier's score."""

    def cost(self, log_present, log_absent):
        CALLS.append("loss")
        return (1 - log_present.exp()) ** 2, (1 - log_absent.exp()) ** 2


def brier(choice, weights):
    return SquaredError(weights, choice.smoothing)


def adagrad(groups, _recipe):
    CALLS.append("optimiser")
    return torch.optim.Adagrad(groups)


def halves(progress):
    CALLS.append("schedule")
    return 0.5**progress.epochs


class Negative(torch.nn.Module):
    def __init__(self, low, high):
        super().__init__()
        CALLS.append(f"augmentation {low:g} to {high:g}")

    def forward(self, images):
        return 1 - images


@pytest.fixture
def registered():
    """One entry in each registry."""
    negative = Augmentation("the negative", Negative, lambda most: (0.0, most), 0, 1)
    entries = [
        (LOSSES, "brier", brier), (OPTIMISERS, "adagrad", adagrad), (SCHEDULES, "halves", halves),
        (AUGMENTATIONS, "negative", negative),
    ]  # fmt: skip
    for registry, name, entry in entries:
        registry.register(name, entry)
    yield
    for registry, name, _ in entries:
        registry.unregister(name)


@pytest.mark.usefixtures("registered")
def test_a_run_uses_a_loss_optimiser_schedule_and_augmentation_of_ones_own(dataset, tmp_path):
    CALLS.clear()
    changes = {
        "loss.kind": "brier", "optimiser": "adagrad", "schedule": "halves",
        "augment.negative": 0.5, "max_epochs": 1,
    }  # fmt: skip
    recipe = recipes.load(recipes.load("quick", TINY), changes)
    finished = fit.train(dataset, recipe, tmp_path / "run")
    assert set(CALLS) == {"loss", "optimiser", "schedule", "augmentation 0 to 0.5"}
    assert finished.summary["best_epoch"] == 0
    assert recipes.load(tmp_path / "run/recipe.yaml") == recipe


@pytest.mark.usefixtures("registered")
def test_the_range_and_the_name_of_ones_own_augmentation_are_checked():
    with pytest.raises(RecipeError, match=r"augment.negative = 3: .*within 0 to 1"):
        recipes.load("quick", ["augment.negative=3"])
    with pytest.raises(RecipeError, match=r"did you mean 'augment\.negative'"):
        recipes.load("quick", ["augment.negativ=1"])
    with pytest.raises(RecipeError, match="there is loss 'brier' already"):
        LOSSES.register("brier", brier)


def test_a_package_adds_a_loss_by_an_entry_point(tmp_path, monkeypatch):
    """Named without being imported, loaded when a training needs it."""
    (tmp_path / "ward_losses.py").write_text("def zero(choice, weights): return 0\n")
    info = tmp_path / "ward_losses-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ward-losses\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[chestxray.losses]\nzero = ward_losses:zero\nbroken = ward_losses:none\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert recipes.load("quick", ["loss.kind=zero"]).loss.kind == "zero"
    assert "ward_losses" not in sys.modules
    assert LOSSES["zero"](None, None) == 0
    with pytest.raises(RecipeError, match=r"'broken' of ward_losses:none cannot be loaded"):
        LOSSES["broken"]


@pytest.mark.parametrize("registry", [LOSSES, OPTIMISERS, SCHEDULES], ids=lambda of: of.kind)
def test_every_shipped_entry_can_be_loaded(registry: Registry):
    from chestxray.training.registry import loaded

    assert all(callable(loaded(registry[name])) for name in registry.names)


@pytest.mark.parametrize(
    "name", [pytest.param("small", marks=pytest.mark.slow), "strong", "chexnet"]
)
def test_a_shipped_recipe_trains_at_a_small_size(name, dataset, tmp_path):
    """All that the recipe chooses, but for backbone, weights and size."""
    changes = [*TINY[:3], "weights=none", "max_epochs=2", "learning_rate=0.001"]
    changes += ["progressive=[[16, 1]]"] * (name in {"small", "strong"})
    changes += ["members=[{}, {}, {method: ridge}]"] * (name == "small")
    finished = fit.train(dataset, recipes.load(name, changes), tmp_path / "run")
    assert finished.history["auroc"].notna().all()
