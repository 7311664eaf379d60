"""View, sex and age, learned beside the findings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from chestxray.dataset import Dataset
from chestxray.errors import RecipeError
from chestxray.model import bundle as bundles
from chestxray.model.network import to_input
from chestxray.training import recipe as recipes
from chestxray.training import train
from chestxray.training.auxiliary import AuxiliaryHead, auxiliary_targets, check_auxiliary

INDEX = pd.DataFrame(
    {"view": ["PA", "AP", "", "AP"], "sex": ["F", "M", "F", ""], "age": [50.0, np.nan, 70, 30]}
)
TINY = {"backbone": "resnet10t", "size": 32, "batch_size": 32, "max_epochs": 1}


def test_what_the_index_does_not_state_is_unknown():
    wanted = [[0, 1, 0], [1, 0, np.nan], [np.nan, 1, 1], [1, np.nan, -1]]
    assert np.array_equal(auxiliary_targets(INDEX), wanted, equal_nan=True)


def test_the_loss_is_that_of_each_target_on_the_images_where_it_is_known():
    torch.manual_seed(0)
    head, features = AuxiliaryHead(5), torch.randn(4, 5, requires_grad=True)
    targets = torch.from_numpy(auxiliary_targets(INDEX))
    loss = head.loss(features, targets)
    p, (view, sex) = head.linear(features).detach(), targets.T[:2].numpy()
    each = [
        log_loss(of[~np.isnan(of)], column.sigmoid().numpy()[~np.isnan(of)].astype(float))
        for of, column in ((view, p[:, 0]), (sex, p[:, 1]))
    ]
    age = ((p[[0, 2, 3], 2] - torch.tensor([0.0, 1, -1])) ** 2).mean().item() / 2
    assert loss.item() == pytest.approx(np.mean([*each, age]), abs=1e-6)


def test_unknown_targets_have_no_gradient():
    head, features = AuxiliaryHead(5), torch.randn(2, 5, requires_grad=True)
    nothing = torch.tensor([[float("nan")] * 3, [0, 1, 0.5]])
    (gradient,) = torch.autograd.grad(head.loss(features, nothing), features)
    assert (gradient[0] == 0).all()
    assert gradient[1].abs().min() > 0
    assert head.loss(features, torch.full((2, 3), float("nan"))).item() == 0


def test_a_dataset_that_states_nothing_of_it_is_refused(dataset: Dataset):
    recipe = recipes.load("quick", {"auxiliary_weight": 0.1})
    check_auxiliary(dataset, recipe)
    bare = dataclasses.replace(dataset, index=dataset.index.assign(view="", sex="", age=np.nan))
    with pytest.raises(RecipeError, match=r"auxiliary_weight = 0\.1: .* states neither view"):
        check_auxiliary(bare, recipe)
    check_auxiliary(bare, recipes.load("quick"))


def test_features_tell_sex_better_where_they_learned_it_and_the_bundle_has_no_trace(
    dataset: Dataset, tmp_path
):
    """With masks, mixup and clipping, so that all targets meet in one batch."""
    kept, scores = [], []
    for weight in (0.0, 3.0):
        more = {"auxiliary_weight": weight, "mask_weight": 0.1, "mixup": 0.1, "clip": 1.0}
        values = {**TINY, "max_epochs": 4, "learning_rate": 2e-3, **more}
        done = train(dataset, "quick", tmp_path / f"{weight:g}", values)
        network = bundles.load(done.bundle).classifier
        kept.append({*network.state_dict()})
        scores.append(_sex_auroc(network, dataset))
    assert kept[0] == kept[1]
    assert scores[1] > scores[0] + 0.02


def _sex_auroc(network, dataset: Dataset) -> float:
    """AUROC for sex on other patients, by logistic regression on the features."""
    features, sexes = [], []
    for split in ("train", "val"):
        rows = dataset.rows(split)
        with torch.inference_mode():
            images = to_input(torch.from_numpy(np.array(dataset.images[rows])))
            features.append(network.explain(images)[2].numpy())
        sexes.append((dataset.index["sex"].iloc[rows] == "F").to_numpy())
    scale = features[0].std(0) + 1e-6
    fitted = LogisticRegression(max_iter=2000).fit(features[0] / scale, sexes[0])
    return roc_auc_score(sexes[1], fitted.decision_function(features[1] / scale))
