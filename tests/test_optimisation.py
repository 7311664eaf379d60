from __future__ import annotations

import copy

import pytest
import torch

from chestxray.errors import RecipeError
from chestxray.model import bundle as bundles
from chestxray.model.network import Classifier
from chestxray.training import checkpoint_files, fit, loop
from chestxray.training import recipe as recipes
from chestxray.training.callbacks import BEST
from chestxray.training.lightning_module import Task
from chestxray.training.optimisation import RATE, WeightAverage, groups_of, optimiser_of
from chestxray.training.precision import depthwise_in_float32, precision_of
from chestxray.training.registry import AUGMENTATIONS
from conftest import TINY


def tiny(*changes: str) -> recipes.Recipe:
    return recipes.load("quick", [*TINY, *changes])


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier("resnet10t", ("A", "B"), 32)


def test_every_weight_is_in_one_group_and_only_matrices_decay(classifier):
    groups = groups_of(classifier, tiny("weight_decay=0.1"))
    inside = [id(p) for group in groups for p in group["params"]]
    assert sorted(inside) == sorted(id(p) for p in classifier.parameters())
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in classifier.named_parameters():
        vector = name.endswith("bias") or ".bn" in name or "downsample.2" in name
        if vector:
            assert decay[id(parameter)] == 0, name
    assert (
        decay[id(classifier.head.weight)] == decay[id(classifier.backbone.conv1[0].weight)] == 0.1
    )


def test_each_layer_learns_more_slowly_than_the_one_after_it(classifier):
    groups = groups_of(classifier, tiny("layer_decay=0.5", "learning_rate=1"))
    rate = {id(p): group[RATE] for group in groups for p in group["params"]}
    backbone = classifier.backbone
    order = [
        backbone.conv1[0], backbone.layer1[0].conv1, backbone.layer2[0].conv1,
        backbone.layer3[0].conv1, backbone.layer4[0].conv1, classifier.head,
    ]  # fmt: skip
    rates = [rate[id(layer.weight)] for layer in order]
    assert rates[-1] == 1
    assert rates == sorted(rates)
    assert len(set(rates)) == len(rates)
    assert rates[-2] == 0.5


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_an_optimiser_lowers_a_loss_by_its_rates(classifier, name):
    network = copy.deepcopy(classifier)
    optimiser = optimiser_of(network, tiny(f"optimiser={name}", "learning_rate=0.001"))
    images = torch.rand(4, 1, 32, 32)
    losses = []
    for _ in range(15):
        loss = (network.train()(images) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_average_of_weights_is_the_exponential_mean_of_their_course(classifier):
    network = copy.deepcopy(classifier)
    average = WeightAverage(network, 0.9)
    expected = network.head.bias.detach().clone()
    for step in range(1, 60):
        with torch.no_grad():
            network.head.bias.copy_(torch.tensor([step, -step]))
            network.backbone.conv1[1].running_mean.fill_(step)
        average.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.head.bias.detach()
    assert torch.allclose(average.classifier.head.bias, expected, rtol=1e-5)
    assert average.classifier.backbone.conv1[1].running_mean[0] == pytest.approx(
        expected[0].item(), rel=1e-4
    )
    assert not average.train().classifier.training


def test_validation_and_the_bundle_use_the_averaged_weights(dataset, tmp_path):
    fit.train(dataset, tiny("ema=0.9", "max_epochs=1"), tmp_path / "run")
    state = checkpoint_files.load(tmp_path / "run/checkpoints" / BEST)["state_dict"]
    saved = bundles.load(tmp_path / "run/bundle").classifier.state_dict()
    assert all(torch.equal(state[f"average.classifier.{name}"], saved[name]) for name in saved)
    assert not torch.equal(state["classifier.head.weight"], saved["head.weight"])


def test_frozen_epochs_train_the_head_alone(dataset, tmp_path):
    fit.train(dataset, tiny("freeze=1", "max_epochs=1"), tmp_path / "frozen")
    after = bundles.load(tmp_path / "frozen/bundle").classifier.state_dict()
    torch.manual_seed(0)
    before = loop.classifier_of(tiny(), dataset.findings, resumed=False).state_dict()
    for name in before:
        assert torch.equal(after[name], before[name]) == (not name.startswith("head.")), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_of_several_batches_are_averaged_and_clipped(
    dataset, tmp_path, monkeypatch, precision
):
    """Steps of the optimiser are counted, and the norm that it sees is measured."""
    norms: list[float] = []
    hook = Task.on_train_batch_end

    def watched(self, outputs, batch, batch_idx):
        if self.global_step > self._steps_before:
            norms.append(max(float(p.grad.norm()) for p in self.classifier.parameters()))
        hook(self, outputs, batch, batch_idx)

    monkeypatch.setattr(Task, "on_train_batch_end", watched)
    monkeypatch.setattr(Task, "optimizer_zero_grad", lambda *_: None)  # look before they go
    changes = ("accumulate=3", "clip=0.001", "max_epochs=1", f"precision={precision}")
    recipe = tiny(*changes)
    fit.train(dataset, recipe, tmp_path / "run")
    batches = len(dataset.rows("train")) // 16
    assert len(norms) == -(-batches // 3)
    assert max(norms) <= 0.001 * 1.01


def test_a_backbone_without_residual_blocks_cannot_skip_any():
    with pytest.raises(RecipeError, match="densenet121 has no residual blocks to skip"):
        Classifier("densenet121", ("A",), 64, drop_path=0.1)
    dropped = Classifier("resnet10t", ("A",), 32, drop_path=0.2).backbone
    assert any(type(module).__name__ == "DropPath" for module in dropped.modules())


def test_small_sides_come_first_and_cannot_be_the_best_epoch(dataset, tmp_path, monkeypatch):
    sides: list[int] = []
    forward = Classifier.forward

    def watched(self, images):
        sides.append(images.shape[-1])
        return forward(self, images)

    monkeypatch.setattr(Classifier, "forward", watched)
    measures = Task.measures

    def worse_and_worse(self, split):
        return measures(self, split) | {"loss": 1.0 + self.current_epoch}

    monkeypatch.setattr(Task, "measures", worse_and_worse)
    recipe = tiny("max_epochs=2", "progressive=[[16, 1]]")
    finished = fit.train(dataset, recipe, tmp_path / "run")
    assert sides[0] == 16
    assert sorted(set(sides)) == [16, 32]
    assert finished.summary["best_epoch"] == 1


def test_small_images_are_not_trained_on_in_bfloat16_by_a_processor(monkeypatch):
    """A strided convolution over one cell: oneDNN leaves most of its weight gradient unwritten."""
    able = {"avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert precision_of(tiny()) == "bfloat16"
    small = tiny("progressive=[[16, 1]]")
    assert precision_of(small) == "float32"
    with pytest.raises(RecipeError, match="32 pixels or more on a processor, here 16: set prec"):
        precision_of(small.model_copy(update={"precision": "bfloat16"}))


def test_depthwise_convolutions_compute_in_float32_under_autocast():
    torch.manual_seed(0)
    depthwise, dense = torch.nn.Conv2d(6, 12, 3, groups=6), torch.nn.Conv2d(12, 2, 3)
    images = torch.rand(2, 6, 8, 8).bfloat16()
    expected = depthwise(images.float()).bfloat16()
    with depthwise_in_float32(torch.nn.Sequential(depthwise, dense)):
        followers = copy.deepcopy(depthwise), depthwise
        with torch.autocast("cpu", torch.bfloat16):
            for layer in followers:
                assert torch.equal(layer(images), expected)
                with pytest.raises(RuntimeError, match="expected input"):
                    layer(images[:, :5])
                assert torch.is_autocast_enabled("cpu")
            assert dense(depthwise(images)).dtype == torch.bfloat16
        assert depthwise(images.float()).dtype == torch.float32
    assert not depthwise._forward_hooks
    assert not depthwise._forward_pre_hooks


def test_a_network_of_depthwise_convolutions_learns_as_in_float32(monkeypatch, dataset, tmp_path):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    loss = {}
    for precision in ("float32", "bfloat16"):
        changes = ("backbone=mobilenetv3_small_050", f"precision={precision}", "max_epochs=1")
        finished = fit.train(dataset, tiny(*changes), tmp_path / precision)
        loss[precision] = finished.history["loss"].iloc[0]
    assert loss["bfloat16"] == pytest.approx(loss["float32"], rel=0.02)


def test_a_side_that_the_backbone_does_not_take_is_refused_before_training(dataset, tmp_path):
    recipe = tiny("backbone=vit_tiny_patch16_224", "max_epochs=2", "progressive=[[16, 1]]")
    with pytest.raises(RecipeError, match="takes no images of 16 px"):
        fit.train(dataset, recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match="takes no images of 16 px"):
        fit.check_recipe(recipe)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_ends_to_the_bit_as_one_that_was_not_with_all_that_keeps_a_state(
    dataset, tmp_path, monkeypatch
):
    """Averaged weights, a plateau's history, accumulated steps, mixing and every augmentation."""
    every = [f"augment.{name}={0.8 if name == 'crop' else 0.02}" for name in AUGMENTATIONS.names]
    recipe = tiny(
        *every, "ema=0.9", "optimiser=adamw", "weight_decay=0.1", "schedule=plateau", "warmup=0.5",
        "mixup=0.3", "accumulate=2", "clip=1", "dropout=0.2", "drop_path=0.2", "tta=[flip]",
    )  # fmt: skip
    fit.train(dataset, recipe, tmp_path / "whole")
    step = Task.training_step

    def interrupted(self, batch, batch_idx):
        if self.current_epoch == 2 and batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit.train(dataset, recipe, tmp_path / "cut")
    monkeypatch.undo()
    fit.train(dataset, recipe, tmp_path / "cut", resume=True)
    for file in ("history.csv", "validation.csv", "bundle/weights.safetensors"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
