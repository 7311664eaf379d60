from __future__ import annotations

from itertools import chain

import numpy as np
import torch

from chestxray.training.data import EpochBatches, Part, in_order, loader
from chestxray.training.precision import resolve


def test_a_part_gives_the_rows_of_its_split_and_no_other(dataset):
    for split in ("train", "val", "test"):
        part = Part(dataset, split)
        assert set(dataset.index["split"].iloc[part.rows]) == {split}
        images, labels = part[[0, 2]]
        assert np.array_equal(images.numpy(), dataset.images[part.rows[[0, 2]]])
        assert np.array_equal(labels.numpy(), dataset.labels(part.rows[[0, 2]]))


def test_an_epoch_has_the_same_order_however_one_came_to_it():
    uneven = np.random.default_rng(0).random(50)
    for draws in (np.ones(50), uneven / uneven.mean()):
        through, direct = (EpochBatches(draws, 8, seed=3) for _ in range(2))
        orders = []
        for epoch in range(4):
            through.set_epoch(epoch)
            orders.append(list(through))
        direct.set_epoch(3)
        assert list(direct) == orders[3]
        assert orders[2] != orders[3]


def test_natural_order_shows_each_image_once():
    assert sorted(chain(*EpochBatches(np.ones(36), 6, seed=0))) == list(range(36))


def test_each_image_is_drawn_as_often_as_expected_rounded_up_or_down():
    uneven = np.random.default_rng(0).random(400) ** 3
    draws = uneven / uneven.mean()
    for seed in range(5):
        times = np.bincount(list(chain(*EpochBatches(draws, 1, seed))), minlength=400)
        assert (times >= np.floor(draws)).all()
        assert (times <= np.ceil(draws)).all()
    means = np.mean(
        [np.bincount(list(chain(*EpochBatches(draws, 1, s))), minlength=400) for s in range(400)],
        axis=0,
    )
    assert np.abs(means - draws).max() < 0.12  # 5 standard errors of a share of 400


def test_which_images_share_a_batch_is_random():
    """The draws are sorted into neighbours before they are shuffled."""
    order = list(chain(*EpochBatches(np.array([0.5, 1.5] * 200), 4, seed=0)))
    again = np.flatnonzero(np.diff(order) == 0)
    assert len(again) < 10


def test_the_loader_reads_validation_in_row_order_and_whole(dataset):
    part = Part(dataset, "val")
    labels = torch.cat([labels for _, labels in in_order(part, 8)])
    assert np.array_equal(labels.numpy(), part.labels)


def test_the_loader_drops_a_short_last_training_batch_unless_it_is_the_only_one(dataset):
    part = Part(dataset, "train")
    size = len(part) // 2 - 1
    for wanted, sizes in ((size, [size, size]), (10**6, [len(part)])):
        batches = EpochBatches(np.ones(len(part)), wanted, seed=0)
        assert [len(labels) for _, labels in loader(part, batches)] == sizes
        assert len(batches) == len(sizes)


def test_bfloat16_is_chosen_only_where_the_processor_has_it(monkeypatch):
    cpu = torch.device("cpu")
    for capability, expected in (("amx_bf16", "bfloat16"), ("avx2", "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capability: {c: True})
        assert resolve("auto", cpu) == expected
    assert resolve("bfloat16", cpu) == "bfloat16"
