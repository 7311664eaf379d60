"""A graph of lower precision: what is sound passes, what does harm is refused with the figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.calibrators import Logistic
from chestxray.findings import Findings
from chestxray.model.bfloat16 import Bfloat16Engine, _Rounding
from chestxray.model.engines import Answer, Images
from chestxray.model.heatmaps import HeatScale
from chestxray.model.network import Classifier
from chestxray.model.parity import (
    FEWEST_IMAGES,
    AurocChange,
    Parity,
    Trial,
    auroc_changes,
    measure,
    relative_difference,
)
from chestxray.model.parity_images import phantoms, trial_of
from chestxray.model.torch_engine import TorchEngine
from chestxray.sources.nih import FINDINGS

FILMS = 114


def area(labels: np.ndarray, scores: np.ndarray) -> float:
    """AUROC by the ranks of Mann and Whitney."""
    present = labels == 1
    ranks = rankdata(scores)[present]
    count = int(present.sum())
    return float((ranks.sum() - count * (count + 1) / 2) / (count * (len(labels) - count)))


class Table:
    """An engine of which the logits are known: image i gives row i."""

    def __init__(self, name: str, logits: np.ndarray) -> None:
        self.name = name
        self._logits = logits.astype(np.float32)

    def run(self, images: Images) -> Answer:
        rows = images.reshape(len(images), -1).view(np.uint16)[:, 0]
        logits = self._logits[rows]
        nothing = np.zeros((*logits.shape, 1, 1), np.float32)
        return Answer(logits, nothing, nothing[..., 0, 0])


def films(count: int) -> Images:
    """Images that carry their own number."""
    return np.arange(count, dtype=np.uint16).view(np.uint8).reshape(count, 1, 2)


def calibration(findings: int, slope: float = 1.0) -> Calibration:
    line = Logistic(family="platt", slope=slope, offset=-2.0)
    return Calibration(calibrators={f"finding {k}": line for k in range(findings)})


def scale(findings: int, logits: float = 1.0) -> HeatScale:
    """Heat 0 at a class map of 0, and 1 at so many logits."""
    ones = np.ones(findings, np.float32)
    return HeatScale(0 * ones, logits * ones, ones)


def study(seed: int, noise: float, fall: float = 0.0, count: int = FILMS) -> Parity:
    """Measure a graph whose logits differ by noise, or which ranks worse, on films as the sample's.

    Ten findings of a prevalence of 0.05 to 0.25 and an AUROC of about 0.8; all films besides those
    of validation have no labels.
    """
    rng = np.random.default_rng(seed)
    prevalence = np.linspace(0.05, 0.25, 10)
    labels = (rng.random((count, 10)) < prevalence).astype(np.float32)
    exact = rng.normal(size=(count + 256, 10))
    exact[:count] += 1.2 * labels
    rounded = exact + noise * rng.normal(size=exact.shape)
    rounded[:count] -= fall * labels
    trial = Trial("films", films(len(exact)), labels)
    return measure(
        Table("graph", rounded), Table("torch", exact), trial, calibration(10), scale(10), 64
    )


def test_a_sound_graph_passes_where_any_swap_of_neighbours_would_refuse_it():
    """The rule before asked each finding's AUROC to stay within 0.002."""
    found = [study(seed, noise=0.03) for seed in range(8)]
    moved = [max(abs(of.value) for of in one.auroc.values() if of) for one in found]
    assert np.mean(np.array(moved) > 0.002) > 0.9
    assert [one.misses(exact=False) for one in found] == [[]] * 8


def test_near_ties_that_change_places_are_no_harm():
    labels = np.zeros((FILMS, 1), np.float32)
    labels[10:96:12] = 1
    exact = np.linspace(-2, 2, FILMS + 64)[:, None]
    swapped = exact.copy()
    for place in (10, 46):  # a film with the finding and the one above it
        swapped[[place, place + 1]] = swapped[[place + 1, place]]
    trial = Trial("films", films(len(exact)), labels)
    found = measure(Table("graph", swapped), Table("torch", exact), trial, calibration(1), scale(1))
    assert found.auroc["finding 0"].value > 0.002
    assert found.misses(exact=False) == []
    back = measure(Table("torch", exact), Table("graph", swapped), trial, calibration(1), scale(1))
    assert back.auroc["finding 0"].value < -0.002
    assert back.misses(exact=False) == []


def test_noise_that_costs_ranking_is_refused_though_each_probability_is_near():
    """Noise as large as the scores' spread, of findings so rare that probabilities hardly move."""
    harmed = study(3, noise=1.0, count=400)
    quiet = harmed.model_copy(update={"probability": 0.001})
    [miss] = [of for of in quiet.misses(exact=False) if "mean AUROC" in of]
    assert harmed.mean_auroc.value < -0.03
    assert f"−{-harmed.mean_auroc.value:.4f}" in miss


def test_a_finding_alone_that_is_harmed_is_named_with_its_interval():
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 10)) < 0.2).astype(np.float32)
    exact = rng.normal(size=labels.shape) + 1.2 * labels
    worse = exact.copy()
    worse[:, 4] -= 0.15 * labels[:, 4]
    trial = Trial("films", films(2000), labels)
    found = measure(
        Table("graph", worse), Table("torch", exact), trial, calibration(10), scale(10), 500
    )
    assert found.mean_auroc.low > -0.01
    ranked = found.model_copy(update={"probability": 0.0}).misses(exact=False)
    assert len(ranked) == 1
    assert ranked[0].startswith("AUROC of finding 4 changes by −0.0")
    assert "a fall of more than 0.002 is shown" in ranked[0]


def test_too_few_films_to_exclude_harm_are_refused_as_such():
    found = study(1, noise=0.3, count=40)
    assert any("do not exclude a fall by 0.01" in of for of in found.misses(exact=False))
    none = study(1, noise=0.0, count=6)
    assert any("no finding has 5 patients" in of for of in none.misses(exact=False))


def test_one_film_among_all_whose_probability_jumps_is_enough():
    exact = np.zeros((FEWEST_IMAGES, 1))
    jumped = exact.copy()
    jumped[-1] = 1.0  # an image without a label
    labels = (np.arange(40)[:, None] % 4 == 0).astype(np.float32)
    trial = Trial("films", films(len(exact)), labels)
    found = measure(Table("graph", jumped), Table("torch", exact), trial, calibration(1), scale(1))
    expected = 1 / (1 + np.exp(1)) - 1 / (1 + np.exp(2))
    assert found.probability == pytest.approx(expected)
    assert "probabilities differ by up to 0.15" in found.misses(exact=False)[0]
    gone = np.where(jumped == 1, np.nan, jumped)
    broken = measure(Table("graph", gone), Table("torch", exact), trial, calibration(1), scale(1))
    assert any("probabilities differ by up to nan" in of for of in broken.misses(exact=False))


def test_a_rare_finding_that_is_destroyed_below_every_other_limit_is_refused():
    """With 4 patients it has no interval, and its probabilities cannot change by 0.05."""
    rng = np.random.default_rng(2)
    count = 300
    common = (rng.random(count) < 0.4).astype(np.float32)
    rare = np.zeros(count, np.float32)
    rare[:4] = 1
    right = np.stack([common * 2.0 + rng.normal(size=count), rare * 2.0 - 5.2], 1)
    wrong = right.copy()
    wrong[:, 1] = rng.normal(-8, 0.5, count)
    labels = np.stack([common, rare], 1)
    trial = Trial("films", films(count), labels)
    rules = trial, calibration(2), scale(2)
    found = measure(Table("graph", wrong), Table("torch", right), *rules)
    assert found.probability < 0.05
    assert [*map(str, found.misses(exact=False))] == [
        f"log-odds of probabilities differ by up to {found.log_odds:.2g}, at most 0.5 is allowed"
    ]
    sound = right + rng.normal(0, 0.02, right.shape)
    assert not measure(Table("graph", sound), Table("torch", right), *rules).misses(exact=False)


def test_a_difference_that_is_no_number_in_any_output_is_none_that_agrees():
    good = Answer(np.ones((2, 3)), np.ones((2, 3, 2, 2)) * 50, np.ones((2, 4)))
    assert relative_difference(good, good) == 0
    for place, of in enumerate(good):
        broken = Answer(
            *(np.full_like(of, np.nan) if k == place else g for k, g in enumerate(good))
        )
        assert np.isnan(relative_difference(broken, good))
        moved = Answer(*(g + 1.0 if k == place else g for k, g in enumerate(good)))
        assert relative_difference(moved, good) == pytest.approx(1 / of.max())


def test_what_is_computed_in_place_is_rounded_too():
    with _Rounding(), torch.no_grad():
        x = torch.nn.functional.conv2d(torch.rand(1, 1, 8, 8), torch.rand(2, 1, 3, 3))
        x.add_(1 / 3)
        torch.relu_(x)
    assert torch.equal(x, x.bfloat16().float())


def test_few_images_say_little_of_the_largest_change():
    few = Parity(
        images=FEWEST_IMAGES - 1, measured_on="x", measured_with="y", probability=0.0, log_odds=0.0,
        map=0.0, heat=0.0, peak=0.0, features=0.0, auroc={},
        mean_auroc=AurocChange(value=0.0, low=0.0, high=0.0),
    )  # fmt: skip
    assert few.misses(exact=False) == ["127 images were compared, at least 128 are needed"]


def test_a_change_of_auroc_is_that_of_the_ranking_and_bound_to_the_patient():
    rng = np.random.default_rng(5)
    labels = (rng.random((90, 3)) < 0.3).astype(np.float32)
    labels[:, 2] = np.nan
    before, after = rng.normal(size=(2, 90, 3))
    patients = np.arange(90) // 3
    changes = auroc_changes(after, before, labels, patients, ("a", "b", "c"))
    for k, finding in enumerate("ab"):
        expected = area(labels[:, k], after[:, k]) - area(labels[:, k], before[:, k])
        assert changes[finding].value == pytest.approx(expected)
    assert changes["c"] is None
    apart = auroc_changes(after, before, labels, np.arange(90), ("a", "b", "c"))
    alone = auroc_changes(after[:, :1], before[:, :1], labels[:, :1], np.arange(90), ("a",))
    assert apart["a"].low != changes["a"].low
    assert apart["a"].low < alone["a"].low < apart["a"].value  # two findings share the error


def test_a_dataset_gives_validation_with_labels_then_training_then_phantoms(dataset):
    found = trial_of(dataset, Findings(("Mass", "Effusion", "Unheard of")))
    val, train = dataset.rows("val"), dataset.rows("train")
    assert np.array_equal(found.images[: len(val)], dataset.images[val])
    assert np.array_equal(found.unlabelled[: len(train)], dataset.images[train])
    assert len(found.images) >= FEWEST_IMAGES
    place = dataset.findings.index("Mass")
    assert np.array_equal(found.labels[:, 0], dataset.labels(val)[:, place])
    assert np.isnan(found.labels[:, 2]).all()
    assert found.patients.tolist() == dataset.index["patient"].iloc[val].tolist()


def test_phantoms_are_drawn_the_same_each_time():
    drawn = phantoms(2, 32)
    assert drawn.shape == (2, 32, 32)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, phantoms(2, 32))
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.fixture(scope="module")
def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier("resnet10t", FINDINGS, 32).eval()


def test_emulated_bfloat16_rounds_as_torchs_own(network, dataset):
    """Between float32 and autocast, which rounds the first convolution too."""
    images = dataset.images[:6]
    exact, emulated = (of.run(images) for of in (TorchEngine(network), Bfloat16Engine(network)))
    autocast = TorchEngine(network, bfloat16=True).run(images)
    spread = exact.features.std()
    errors = [np.abs(of.features - exact.features).max() / spread for of in (emulated, autocast)]
    assert 1e-4 < errors[0] < 2 * errors[1] < 0.1
    assert np.array_equal(TorchEngine(network).run(images).logits, exact.logits)  # nothing is left


def test_emulated_bfloat16_rounds_all_but_the_first_convolution_and_the_head(network, dataset):
    """Independent of the emulation: the layers of a ResNet by hooks, one by one."""
    seen = {}

    def keep(name: str):
        # Not as copies, which would be rounded too.
        return lambda _, given, found: seen.update({name: (given[0], found)})

    stem, later = network.backbone.conv1[0], network.backbone.layer4[0].conv2
    handles = [
        of.register_forward_hook(keep(name)) for name, of in (("stem", stem), ("later", later))
    ]
    found = Bfloat16Engine(network).run(dataset.images[:2])
    for handle in handles:
        handle.remove()
    given, out = seen["stem"]
    assert not torch.equal(given, given.bfloat16().float())
    assert torch.equal(out, stem(given).bfloat16().float())
    given, out = seen["later"]
    assert torch.equal(given, given.bfloat16().float())
    with torch.no_grad():
        sums = torch.nn.functional.conv2d(given, later.weight.bfloat16().float(), None, 1, 1)
    assert torch.allclose(out, sums, rtol=2**-8, atol=1e-6)
    assert torch.equal(out, out.bfloat16().float())
    head = torch.from_numpy(found.features) @ network.head.weight.T + network.head.bias
    assert np.allclose(found.logits, head.detach().numpy(), atol=1e-5)


def coarse(network: Classifier, bits: int) -> Classifier:
    """A copy whose weights keep so many bits after the leading one."""
    torch.manual_seed(0)
    copy = Classifier("resnet10t", FINDINGS, 32).eval()
    state = {}
    for name, of in network.state_dict().items():
        if of.is_floating_point() and of.ndim > 1:
            scale = 2.0 ** (torch.floor(torch.log2(of.abs().clamp_min(1e-20))) - bits)
            of = torch.round(of / scale) * scale  # noqa: PLW2901
        state[name] = of
    copy.load_state_dict(state)
    return copy


def test_rounding_to_two_bits_is_refused_and_bfloat16_is_not(dataset, network: Classifier):
    """Labels that the network itself ranks well, so that worse ranking shows."""
    images = dataset.images[np.arange(len(dataset.images))]
    exact = TorchEngine(network).run(images).logits
    spread = exact.std(0)
    noise = np.random.default_rng(0).normal(size=exact.shape)
    noisy = exact / spread + noise
    labels = (noisy > np.quantile(noisy, 0.8, axis=0)).astype(np.float32)
    slope = 1 / spread
    lines = {
        finding: Logistic(family="platt", slope=float(s), offset=float(-s * middle))
        for finding, s, middle in zip(FINDINGS, slope, exact.mean(0), strict=True)
    }
    trial = Trial("phantoms", images, labels)
    given = TorchEngine(network), trial, Calibration(calibrators=lines), scale(len(FINDINGS), 9), 40
    assert measure(Bfloat16Engine(network), *given).misses(exact=False) == []
    harmed = measure(TorchEngine(coarse(network, 2)), *given)
    assert harmed.mean_auroc.value < -0.005
    assert any("probabilities differ by up to" in of for of in harmed.misses(exact=False))
