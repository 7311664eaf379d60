"""Effects of drawn findings: scores on masks against oracles, controls at their expectation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from chestxray.errors import PredictionsError
from chestxray.evaluation.causal import (
    CausalEffects,
    PairedAnswers,
    causal_effects,
    rank_correlation,
)
from chestxray.evaluation.mask_scores import mask_scores
from chestxray.findings import Findings

FINDINGS = Findings(["Mass", "Edema", "Effusion", "Hernia"])
K, SIDE, CELLS = len(FINDINGS), 32, 8


def boxes(count: int, seed: int, side: int = SIDE) -> np.ndarray:
    """Masks: a rectangle each, anywhere."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), bool)
    for mask in masks:
        high, wide = rng.integers(4, 12, 2)
        top, left = rng.integers(0, side - high), rng.integers(0, side - wide)
        mask[top : top + high, left : left + wide] = True
    return masks


def answers(change: np.ndarray, masks: np.ndarray, patients: int, seed: int = 0) -> PairedAnswers:
    """Pairs of each patient with each finding; logits move by the mean of the own map's change."""
    rng = np.random.default_rng(seed)
    n = patients * K
    drawn = np.tile(np.arange(K), patients)
    before = np.repeat(rng.normal(size=(patients, K)), K, axis=0)
    logits = np.stack([before, before + change.mean((2, 3))], axis=1)
    return PairedAnswers(
        findings=FINDINGS,
        patients=np.repeat(np.arange(patients), K),
        drawn=drawn,
        masks=masks,
        logits=logits,
        probabilities=1 / (1 + np.exp(-logits)),
        change=change,
        maps=change[np.arange(n), drawn],
    )


def oracle(patients: int = 6) -> PairedAnswers:
    """The drawn finding's map changes by the mask itself; no other map changes."""
    masks = boxes(patients * K, 1)
    change = np.zeros((patients * K, K, SIDE, SIDE))
    drawn = np.tile(np.arange(K), patients)
    change[np.arange(len(drawn)), drawn] = masks
    return answers(change, masks, patients)


def blind(patients: int = 40, seed: int = 2) -> PairedAnswers:
    """All maps change by noise that knows nothing of the mask."""
    masks = boxes(patients * K, seed)
    change = np.random.default_rng(seed).normal(size=(patients * K, K, CELLS, CELLS))
    return answers(change, masks, patients)


def local(patients: int = 40, seed: int = 3) -> PairedAnswers:
    """All maps change where pixels changed, with random signs, as an untrained convolution's do."""
    masks = boxes(patients * K, seed)
    rng = np.random.default_rng(seed)
    cells = masks.reshape(len(masks), CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).mean((2, 4))
    signs = rng.choice([-1.0, 1.0], (len(masks), K, 1, 1))
    noise = 0.05 * rng.normal(size=(len(masks), K, CELLS, CELLS))
    return answers(signs * cells[:, None] + noise, masks, patients)


def test_a_map_that_is_the_mask_scores_1_and_the_maps_of_other_findings_0() -> None:
    every = causal_effects(oracle(), resamples=100).all
    for score in (every.hit, every.iou):
        assert score.value.value == score.ideal.value == 1
        assert score.other_maps.value == 0
        assert 0 < score.random.value < 0.2
        assert score.over_other_maps.value == 1
        assert score.over_shuffled.low > 0.5
    assert every.rises.value == 1
    assert every.rises.low > 0.5  # exact, where resampling gives no width


def test_maps_that_know_nothing_of_the_mask_score_as_every_control() -> None:
    every = causal_effects(blind(), resamples=300).all
    for score in (every.hit, every.iou):
        for over in (score.over_random, score.over_shuffled, score.over_other_maps):
            assert over.low < 0 < over.high
    assert every.logit.low < 0 < every.logit.high


def test_maps_that_show_where_anything_changed_score_as_the_maps_of_other_findings() -> None:
    """The control that a random position does not give: such maps beat it without any learning."""
    every = causal_effects(local(), resamples=300).all
    for score in (every.hit, every.iou):
        assert score.over_random.low > 0.1
        assert score.over_other_maps.low < 0 < score.over_other_maps.high


def test_random_position_is_the_average_over_all_positions_of_the_mask() -> None:
    given = blind(2)
    placed = mask_scores(given.change, given.drawn, given.masks, given.patients)
    for row in range(3):
        moved = np.array([
            np.roll(given.masks[row], (down, right), (0, 1))
            for down in range(SIDE) for right in range(SIDE)
        ])  # fmt: skip
        maps = np.repeat(given.change[[row]], len(moved), axis=0)
        own = np.repeat(given.drawn[row], len(moved))
        by_hand = mask_scores(maps, own, moved, np.zeros(len(moved), int)).value
        assert placed.random[row] == pytest.approx(by_hand.mean(0), abs=1e-9)


def test_overlap_is_that_of_the_highest_pixels_as_many_as_the_mask_has() -> None:
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, :8, :8] = True
    change = np.zeros((1, 1, SIDE, SIDE))
    change[0, 0, :8, 4:12] = 2 + np.arange(8)  # half of it beside the mask
    change[0, 0, 20:, 20:] = 1  # lower, so that no threshold of area 64 reaches it
    (value,) = mask_scores(change, np.array([0]), mask, np.array([1])).value
    assert value == pytest.approx([0, 32 / 96])


def test_a_map_that_only_falls_points_nowhere() -> None:
    given = oracle(3)
    falling = replace(given, change=-given.change)
    every = causal_effects(falling, resamples=50).all
    assert (every.hit.value.value, every.iou.value.value) == (0, 0)


def test_shuffled_is_the_average_over_the_masks_of_the_same_finding_in_other_patients() -> None:
    given = local(5)
    placed = mask_scores(given.change, given.drawn, given.masks, given.patients)
    others = [row for row in range(5 * K) if given.drawn[row] == 1 and row != 1]
    maps = np.repeat(given.change[[1]], len(others), axis=0)
    own = np.ones(len(others), int)
    by_hand = mask_scores(maps, own, given.masks[others], np.zeros(len(others), int)).value
    assert placed.shuffled[1] == pytest.approx(by_hand.mean(0))


def test_changes_and_crosstalk_are_plain_means() -> None:
    given = local(7)
    effects = causal_effects(given, resamples=50)
    moved = given.probabilities[:, 1] - given.probabilities[:, 0]
    for k, name in enumerate(FINDINGS):
        rows, effect = given.drawn == k, effects.findings[name]
        assert effect.pairs == 7
        for other, place in zip(FINDINGS, range(K), strict=True):
            assert effect.crosstalk[other].value == pytest.approx(moved[rows, place].mean())
        assert effect.probability.value == pytest.approx(moved[rows, k].mean())
        assert effect.probability.value == pytest.approx(effect.crosstalk[name].value)
        assert effect.most_moved == max(
            (other for other in FINDINGS if other != name),
            key=lambda other: abs(effect.crosstalk[other].value or 0),
        )
        largest = max(FINDINGS, key=lambda other: abs(effect.crosstalk[other].value or 0))
        assert effect.own_first == (largest == name)
        assert effect.logit.value == pytest.approx(given.change[rows, k].mean())
    assert effects.all.logit.value == pytest.approx(
        np.mean([effect.logit.value for effect in effects.findings.values()])
    )


def test_pairs_without_a_visible_mask_count_for_logit_and_probability_alone() -> None:
    given = oracle(4)
    masks = given.masks.copy()
    masks[:K] = False
    effects = causal_effects(replace(given, masks=masks), resamples=50)
    assert (effects.all.pairs, effects.all.masked) == (4 * K, 3 * K)
    assert effects.all.hit.value.value == 1
    nothing = causal_effects(replace(given, masks=np.zeros_like(masks)), resamples=50).all
    assert nothing.hit.value.value is None
    assert nothing.logit.value is not None


def test_a_single_finding_or_patient_lacks_its_control_with_a_reason() -> None:
    given = oracle(1)
    one = PairedAnswers(
        Findings(["Mass"]), given.patients[:1], given.drawn[:1], given.masks[:1],
        given.logits[:1, :, :1], given.probabilities[:1, :, :1], given.change[:1, :1],
        given.maps[:1],
    )  # fmt: skip
    effects = causal_effects(one, {"head": [one]}, resamples=50)
    assert effects.all.hit.value.value == 1
    for control in (effects.all.hit.other_maps, effects.all.hit.shuffled):
        assert control.value is None
        assert control.reason
    assert effects.findings["Mass"].most_moved is None
    assert effects.randomized[0].hit.value.value == 1


def test_random_weights_lose_resemblance_and_what_the_model_scores_beyond_other_maps() -> None:
    trained = oracle(30)
    small = replace(local(30, 1), masks=trained.masks)
    effects = causal_effects(trained, {"none": [trained]}, resamples=100)
    assert effects.randomized[0].similarity.value == 1
    mine = local(30, 5)
    effects = causal_effects(mine, {"all": [replace(small, masks=mine.masks)] * 2}, resamples=200)
    (random,) = effects.randomized
    assert random.models == 2
    assert abs(random.similarity.value or 0) < 0.1
    lost = effects.all.iou.value.value - random.iou.value.value
    assert random.iou.lost.value == pytest.approx(lost)


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 9, 4, 5)).round(1)
    expected = [
        spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)
    ]
    assert rank_correlation(first, second) == pytest.approx(expected)
    assert rank_correlation(first, np.zeros_like(first)) == pytest.approx(0)


def test_intervals_are_over_patients_not_pairs() -> None:
    """Each patient's pairs move together: 10 patients with 4 pairs are 10, not 40."""
    given = oracle(10)
    shift = np.repeat(np.random.default_rng(4).normal(size=10), K)
    logits = np.stack([given.logits[:, 0], given.logits[:, 0] + shift[:, None]], axis=1)
    interval = causal_effects(replace(given, logits=logits), resamples=1000).all.logit
    error = shift[::K].std() / np.sqrt(10)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_results_survive_their_json() -> None:
    effects = causal_effects(local(4), {"all layers": [local(4)]}, resamples=50)
    assert CausalEffects.model_validate_json(effects.model_dump_json()) == effects


def test_arrays_that_do_not_fit_are_refused() -> None:
    given = oracle(2)
    with pytest.raises(PredictionsError, match=r"logits of pairs must have the shape \(8, 2, 4\)"):
        replace(given, logits=given.logits[:, :, :3])
    with pytest.raises(PredictionsError, match="no pair"):
        replace(given, **{name: value[:0] for name, value in vars(given).items()
                          if name != "findings"})  # fmt: skip
