"""The monitored validation loss must rank models as the training objective does.

A simulated study: findings of NIH's prevalences, all of them in half of the images; a model's
logit of a finding is an affine function of a normal score whose AUROC is planted. Slope and offset
minimise the training objective, so they are what endless training of that model would give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import norm

from chestxray.training import recipe as recipes
from chestxray.training.callbacks import History
from chestxray.training.losses import class_weights, loss_of
from chestxray.training.sampling import Sampling

# NIH ChestX-ray14's 14 findings, shares of its 112,120 images.
PREVALENCE = np.array(
    [0.103, 0.025, 0.119, 0.177, 0.052, 0.056, 0.013, 0.047, 0.042, 0.021, 0.022, 0.015, 0.030,
     0.002]
)  # fmt: skip


@dataclass
class Study:
    """Labels, and the losses that a recipe trains with and monitors."""

    recipe: recipes.Recipe
    images: int = 20_000

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.labels = self.some_labels()
        self.sampling = Sampling.fit(self.recipe, self.labels)
        weights = class_weights(self.labels, self.sampling.draws(self.labels))
        self.loss = loss_of(self.recipe.loss, weights)

    def some_labels(self) -> np.ndarray:
        sick = self.rng.random((self.images, 1)) < 0.5
        return ((self.rng.random((self.images, 14)) < 2 * PREVALENCE) & sick).astype(np.float32)

    def scores(self, labels: np.ndarray, auroc: float) -> torch.Tensor:
        distance = np.sqrt(2) * norm.ppf(auroc)
        return torch.tensor(labels * distance + self.rng.normal(size=labels.shape)).float()

    def objective(self, logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        """The loss of endless training, over what an epoch draws."""
        draws = self.sampling.draws(labels)
        times = np.bincount(self.rng.choice(len(labels), 200_000, p=draws / draws.sum()))
        drawn = np.repeat(np.arange(len(times)), times)
        return self.loss(logits[drawn], torch.tensor(labels[drawn]))

    def monitored(self, logits: torch.Tensor, labels: np.ndarray) -> float:
        draws = torch.tensor(self.sampling.draws(labels)).float()
        return float(self.loss(logits, torch.tensor(labels), draws))

    def trained(self, auroc: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Slope and offset [14] that minimise the training objective."""
        scores = self.scores(self.labels, auroc)
        draws = torch.tensor(self.sampling.draws(self.labels)).float()
        slope, offset = (torch.zeros(14, requires_grad=True) for _ in range(2))
        optimiser = torch.optim.LBFGS([slope, offset], max_iter=60)

        def step() -> torch.Tensor:
            optimiser.zero_grad()
            loss = self.loss(slope * scores + offset, torch.tensor(self.labels), draws)
            loss.backward()
            return loss

        optimiser.step(step)
        return slope.detach(), offset.detach()

    def validated(self, auroc: float, shift: float) -> tuple[torch.Tensor, np.ndarray]:
        """Logits and labels of new images by a trained model, its logits moved by a constant."""
        slope, offset = self.trained(auroc)
        labels = self.some_labels()
        return slope * self.scores(labels, auroc) + offset + shift, labels


@pytest.fixture(scope="module", params=["focal", "bce"])
def study(request) -> Study:
    return Study(recipes.load("baseline", {"loss.kind": request.param, "max_draws": 1e9}))


def test_the_better_ranker_wins_although_its_logits_are_higher(study):
    """With focal loss AUROC 0.60 with logits moved by -0.5 won, unweighted: 0.097 and 0.089."""
    good, good_labels = study.validated(0.80, shift=0)
    bad, bad_labels = study.validated(0.60, shift=-0.5)
    unweighted = [
        float(study.loss(logits, torch.tensor(labels)))
        for logits, labels in ((good, good_labels), (bad, bad_labels))
    ]
    if study.recipe.loss.kind == "focal":
        assert unweighted[0] > unweighted[1]
    assert study.monitored(good, good_labels) < 0.9 * study.monitored(bad, bad_labels)


def test_the_monitored_loss_estimates_the_training_objective(study):
    """Weights on images drawn at natural prevalence give the mean over what training draws."""
    logits, labels = study.validated(0.75, shift=0.3)
    estimate = study.monitored(logits, labels)
    assert estimate == pytest.approx(float(study.objective(logits, labels)), rel=0.01)


def test_a_trained_model_is_at_the_minimum_of_the_monitored_loss(study):
    slope, offset = study.trained(0.80)
    labels = study.some_labels()
    scores = study.scores(labels, 0.80)
    losses = {
        shift: study.monitored(slope * scores + offset + shift, labels)
        for shift in (-0.5, -0.25, 0, 0.25, 0.5)
    }
    assert min(losses, key=losses.__getitem__) == 0


def test_with_natural_sampling_the_monitored_loss_is_the_plain_mean():
    """As published recipes have it."""
    plain = Study(recipes.load("baseline", {"sampling": "natural"}), images=2_000)
    logits = torch.randn(2_000, 14)
    expected = float(plain.loss(logits, torch.tensor(plain.labels)))
    assert plain.monitored(logits, plain.labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("monitor", "best"), [("loss", 1), ("auroc", 2)])
def test_the_best_epoch_has_the_lowest_loss_or_the_highest_auroc_and_the_first_of_equals(
    monitor, best, tmp_path
):
    history = History(tmp_path / "history.csv", monitor)
    assert history.best_epoch == -1
    val = [(0.5, 0.6), (0.3, 0.7), (0.4, 0.8), (0.3, 0.8)]
    for epoch, (loss, auroc) in enumerate(val):
        for split, higher in (("train", 1.0), ("val", 0.0)):
            row = {"epoch": epoch, "split": split, "loss": loss - higher, "auroc": auroc + higher}
            history.rows.append(row)
    assert history.best_epoch == best
