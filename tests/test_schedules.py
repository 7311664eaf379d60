from __future__ import annotations

import numpy as np
import pytest
import torch

from chestxray.training import recipe as recipes
from chestxray.training.schedules import Progress, cosine, one_cycle, plateau, schedule_of


def rates(schedule, epochs: int, values: tuple[float, ...] = (), steps: int = 20) -> np.ndarray:
    return np.array([schedule(Progress(i / steps, epochs, values)) for i in range(epochs * steps)])


def test_cosine_is_torchs_at_every_step():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 100)
    expected = []
    for _ in range(100):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()
    assert np.allclose(rates(cosine, 5), expected, atol=1e-9)


def test_one_cycle_starts_low_peaks_at_three_tenths_and_ends_at_zero():
    of = rates(one_cycle, 10)
    assert of[0] == pytest.approx(1 / 25)
    assert of.argmax() == 60
    assert of.max() == 1
    assert of[-1] < 1e-3
    assert (np.diff(of[:60]) > 0).all()
    assert (np.diff(of[60:]) < 0).all()


@pytest.mark.parametrize(
    ("values", "factor"),
    [
        ((), 1),
        ((3, 2, 1), 1),
        ((1, 2), 1),
        ((1, 2, 1), 0.1),  # no better twice
        ((1, 2, 0.5, 2, 2), 0.1),
        ((1, 1, 1, 1, 1), 0.01),
    ],
)
def test_a_plateau_divides_by_ten_after_two_epochs_without_a_better_value(values, factor):
    assert plateau(Progress(len(values), 30, values)) == pytest.approx(factor)


def test_warm_up_rises_from_zero_and_then_leaves_the_schedule_alone():
    recipe = recipes.load("quick", ["schedule=cosine", "warmup=0.5", "max_epochs=4"])
    of, plain = rates(schedule_of(recipe), 4), rates(cosine, 4)
    assert of[0] == 0
    assert np.allclose(of[:10], plain[:10] * np.arange(10) / 10)
    assert np.allclose(of[10:], plain[10:])
