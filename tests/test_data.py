from __future__ import annotations

from itertools import chain

import numpy as np
import torch

from chestxray.training.data import EpochBatches, Part, balanced_weights, in_order, loader
from chestxray.training.fit import resolve


def test_a_part_gives_the_rows_of_its_split_and_no_other(dataset):
    for split in ("train", "val", "test"):
        part = Part(dataset, split)
        assert set(dataset.index["split"].iloc[part.rows]) == {split}
        images, labels = part[[0, 2]]
        assert np.array_equal(images.numpy(), dataset.images[part.rows[[0, 2]]])
        assert np.array_equal(labels.numpy(), dataset.labels(part.rows[[0, 2]]))


def test_an_epoch_has_the_same_order_however_one_came_to_it():
    weights = np.random.default_rng(0).random(50)
    for chances in (None, weights):
        through, direct = (EpochBatches(chances, 50, 8, seed=3) for _ in range(2))
        orders = []
        for epoch in range(4):
            through.set_epoch(epoch)
            orders.append(list(through))
        direct.set_epoch(3)
        assert list(direct) == orders[3]
        assert orders[2] != orders[3]


def test_natural_order_shows_each_image_once():
    assert sorted(chain(*EpochBatches(None, 36, 6, seed=0))) == list(range(36))


def test_balanced_sampling_draws_rare_and_common_findings_equally_often():
    generator = np.random.default_rng(0)
    labels = np.zeros((4000, 3), np.float32)
    labels[np.arange(4000), generator.choice(3, 4000, p=[0.9, 0.09, 0.01])] = 1
    labels[:2000] = 0  # half of the images show nothing
    order = list(chain(*EpochBatches(balanced_weights(labels), 4000, 8, seed=0)))
    drawn = labels[order]
    shares = [*drawn.mean(axis=0), (drawn.sum(axis=1) == 0).mean()]
    assert np.allclose(shares, 0.25, atol=0.03)


def test_the_loader_reads_validation_in_row_order_and_whole(dataset):
    part = Part(dataset, "val")
    labels = torch.cat([labels for _, labels in in_order(part, 8)])
    assert np.array_equal(labels.numpy(), part.labels)


def test_the_loader_drops_a_short_last_training_batch_unless_it_is_the_only_one(dataset):
    part = Part(dataset, "train")
    size = len(part) // 2 - 1
    for wanted, sizes in ((size, [size, size]), (10**6, [len(part)])):
        batches = EpochBatches(None, len(part), wanted, seed=0)
        assert [len(labels) for _, labels in loader(part, batches)] == sizes
        assert len(batches) == len(sizes)


def test_bfloat16_is_chosen_only_where_the_processor_has_it(monkeypatch):
    cpu = torch.device("cpu")
    for capability, expected in (("amx_bf16", "bfloat16"), ("avx2", "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capability: {c: True})
        assert resolve("auto", cpu) == expected
    assert resolve("bfloat16", cpu) == "bfloat16"
