from __future__ import annotations

import gzip
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chestxray.sources.nih import FINDINGS
from chestxray.training import recipe as recipes
from chestxray.training.data import EpochBatches
from chestxray.training.sampling import Labels, Sampling

NO_LIMIT = 1e9


def sampling(labels: Labels, most: float) -> Sampling:
    return Sampling.fit(recipes.Recipe(sampling="balanced", max_draws=most), labels)


@pytest.fixture
def labels() -> Labels:
    """4,000 images: half show nothing, the others one of three findings, 90, 9 or 1 % of them."""
    generator = np.random.default_rng(0)
    labels = np.zeros((4000, 3), np.float32)
    labels[np.arange(4000), generator.choice(3, 4000, p=[0.9, 0.09, 0.01])] = 1
    labels[:2000] = 0
    return labels


def test_balanced_sampling_draws_rare_and_common_findings_equally_often(labels):
    draws = sampling(labels, NO_LIMIT).draws(labels)
    drawn = labels[list(chain(*EpochBatches(draws, 8, seed=0)))]
    shares = [*drawn.mean(axis=0), (drawn.sum(axis=1) == 0).mean()]
    assert np.allclose(shares, 0.25, atol=0.01)


@pytest.mark.parametrize("most", [1, 1.5, 4, 20, NO_LIMIT])
def test_no_image_is_drawn_more_often_than_the_limit_and_an_epoch_keeps_its_length(labels, most):
    draws = sampling(labels, most).draws(labels)
    assert np.isclose(draws.mean(), 1)
    assert draws.max() <= most * (1 + 1e-9)
    order = np.array(list(chain(*EpochBatches(draws, 1, seed=1))))
    assert np.bincount(order).max() <= np.ceil(most)


def test_images_under_the_limit_keep_their_ratios(labels):
    free, limited = (sampling(labels, most).draws(labels) for most in (NO_LIMIT, 4))
    under = limited < 4
    ratios = limited[under] / free[under]
    assert under.any()
    assert not under.all()
    assert np.allclose(ratios, ratios[0])


def test_natural_sampling_shows_each_image_once(labels):
    natural = Sampling.fit(recipes.Recipe(), labels)
    assert natural.draws(labels).tolist() == [1] * 4000
    assert natural.summary(labels) == {
        "images": 4000, "effective_images": 4000.0, "distinct_share": 1.0, "largest_repetition": 1.0
    }  # fmt: skip


def test_an_image_without_any_known_label_is_not_no_finding_and_is_never_drawn():
    unknown = np.nan
    labels = np.array(
        [[1, 0], [0, 1], [0, 0], [unknown, 0], [unknown, unknown], [unknown, unknown]], np.float32
    )
    draws = sampling(labels, NO_LIMIT).draws(labels)
    # Three classes are drawn alike, and No Finding has two images: one of them is half known.
    assert np.allclose(draws, [2, 2, 1, 1, 0, 0])
    limited = sampling(labels, 1).draws(labels)
    assert np.allclose(limited, [1.5, 1.5, 1.5, 1.5, 0, 0])


def test_expected_draws_follow_from_the_labels_alone(labels):
    fitted = sampling(labels, 4)
    order = np.random.default_rng(1).permutation(4000)[:100]
    assert np.array_equal(fitted.draws(labels[order]), fitted.draws(labels)[order])
    never_seen = np.array([[1, 1, 1]], np.float32)
    assert 0 < fitted.draws(never_seen)[0] <= 4


def test_the_summary_is_kishs_effective_size_and_what_an_epoch_shows(labels):
    fitted = sampling(labels, 4)
    draws, summary = fitted.draws(labels), fitted.summary(labels)
    assert summary["effective_images"] == pytest.approx(4000**2 / (draws**2).sum(), abs=0.1)
    assert summary["largest_repetition"] == 4
    shown = [len(set(chain(*EpochBatches(draws, 1, seed)))) / 4000 for seed in range(20)]
    assert np.mean(shown) == pytest.approx(summary["distinct_share"], abs=0.005)


def test_on_the_real_label_table_the_limit_doubles_the_effective_sample(real: Path):
    """Without it an epoch draws each radiograph with Hernia over 40 times."""
    folder = real / "nih-metadata"
    table = pd.read_csv(folder / "Data_Entry_2017_v2020.csv.gz")
    with gzip.open(folder / "train_val_list.txt.gz", "rt") as listed:
        texts = table.loc[table["Image Index"].isin(set(listed.read().split())), "Finding Labels"]
    labels = np.column_stack([texts.str.contains(name) for name in FINDINGS]).astype(np.float32)
    free, limited = (
        sampling(labels, most).summary(labels)
        for most in (NO_LIMIT, recipes.load("baseline").max_draws)
    )
    assert free["images"] == 86524
    assert free["largest_repetition"] > 40
    assert limited["largest_repetition"] == 4
    assert limited["effective_images"] > 2 * free["effective_images"]
    assert limited["distinct_share"] > free["distinct_share"] + 0.04
