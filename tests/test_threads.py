from __future__ import annotations

import time

import pytest
import torch

from chestxray.training import fit, threads
from chestxray.training import recipe as recipes
from conftest import TINY


@pytest.fixture(autouse=True)
def _restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6])])
def test_powers_of_two_and_the_limit_are_tried(most, counts):
    assert threads.candidates(most) == counts


@pytest.mark.parametrize("best", [1, 2, 4])
def test_the_fastest_number_of_threads_is_found_and_nothing_else_changes(best):
    """A step that is planted to be ten times faster with one number."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    state = torch.get_rng_state()

    def step():
        torch.rand(3)
        time.sleep(0.01 if torch.get_num_threads() == best else 0.1)

    assert threads.fastest(step, [1, 2, 4]) == best
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_a_given_number_is_taken_and_auto_never_exceeds_the_environments():
    assert threads.choose(2, step=None) == torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert threads.choose("auto", step=None) == 1  # nothing to choose, so nothing is timed


def test_the_number_of_threads_is_recorded_and_kept_on_resume(dataset, tmp_path, monkeypatch):
    """Other numbers of threads add in another order, so the run would not end the same."""
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "fastest", lambda step, _counts: (step(), 2)[1])
    recipe = recipes.load("quick", [*TINY, "max_epochs=1"])
    finished = fit.train(dataset, recipe, tmp_path / "run")
    assert finished.summary["threads"] == 2
    monkeypatch.setattr(threads, "fastest", lambda *_: 1)
    assert fit.train(dataset, recipe, tmp_path / "run", resume=True).summary["threads"] == 2
