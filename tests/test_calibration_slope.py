"""The calibration slope on new images, whatever loss the model was trained with."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from chestxray.evaluation.calibrators import offset, smoothed
from conftest import REPOSITORY


@pytest.fixture(scope="module")
def simulation():
    path = REPOSITORY / "benchmarks/calibration.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_calibration", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_100_images_calibrate_a_focal_model_as_well_as_one_of_cross_entropy(simulation):
    """Slope 1 after the link leaves the same error, where slope 1 on the logits is 2.6 off."""
    focal = simulation.measured("focal", 100, 2, ("slope 1", "link"))
    plain = simulation.measured("cross-entropy", 100, 2, ("link",))
    assert focal["slope 1"][0] == pytest.approx(2.65, abs=0.15)
    assert focal["link"][0] == pytest.approx(1, abs=0.05)
    assert focal["link"][1] == pytest.approx(plain["link"][1], rel=0.05)


@pytest.mark.parametrize("weights", [1 / 20, 3, 12])
def test_an_offset_behind_the_link_undoes_class_weights_exactly(simulation, weights):
    eta, labels = simulation.drawn(2000, np.random.default_rng(0))
    logits = simulation.minimiser(eta + np.log(weights))
    target = smoothed(labels[:, 0] > 0.5)
    x = simulation.FOCAL.log_odds(logits)[:, 0]
    assert offset(x, target).apply(x) == pytest.approx(
        offset(eta[:, 0], target).apply(eta[:, 0]), abs=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(("images", "repetitions"), [(100, 10), (1_000, 4), (11_000, 1)])
@pytest.mark.parametrize("model", ["cross-entropy", "focal", "focal, balanced", "overconfident"])
def test_the_median_slope_on_new_images_is_near_1(simulation, model, images, repetitions):
    slope, excess = simulation.measured(model, images, repetitions, ("link",))["link"]
    assert slope == pytest.approx(1, abs=0.15 if images == 100 else 0.05)
    # Balanced draws over 14 findings are not an exact offset: what is left does not fall with n.
    rest = 0.0005 if model == "focal, balanced" else 0.0
    assert excess < {100: 0.02, 1_000: 0.002, 11_000: 0.0005}[images] + rest
