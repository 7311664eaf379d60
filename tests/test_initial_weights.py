from __future__ import annotations

import json

import pytest
import torch

from chestxray.errors import RecipeError
from chestxray.model import bundle as bundles
from chestxray.training import fit, loop, recipe_checks
from chestxray.training import recipe as recipes
from conftest import TINY


def tiny(*changes: str) -> recipes.Recipe:
    return recipes.load("quick", [*TINY, *changes])


def test_a_bundle_gives_its_backbone_and_the_head_of_the_findings_that_both_have(run):
    theirs = bundles.load(run / "bundle").classifier
    findings = ("Something New", theirs.findings[4], theirs.findings[0])
    torch.manual_seed(3)
    new = loop.classifier_of(tiny(f"weights={run / 'bundle'}"), findings, resumed=False)
    torch.manual_seed(3)
    random = loop.classifier_of(tiny(), findings, resumed=False)
    for name, tensor in new.backbone.state_dict().items():
        assert torch.equal(tensor, theirs.backbone.state_dict()[name]), name
    assert torch.equal(new.head.weight[1:], theirs.head.weight[[4, 0]])
    assert torch.equal(new.head.bias[1:], theirs.head.bias[[4, 0]])
    assert torch.equal(new.head.weight[0], random.head.weight[0])


def test_a_head_of_another_kind_is_left_out_with_a_warning(run, dataset, caplog):
    same, other = (
        tiny(f"weights={run / 'bundle'}", f"head={of}") for of in ("plain", "multiscale")
    )
    loop.classifier_of(same, dataset.findings, resumed=False)
    assert not caplog.messages
    loop.classifier_of(other, dataset.findings, resumed=False)
    (warning,) = caplog.messages
    assert "is plain, that of the recipe multiscale" in warning
    assert "of 14 findings is not taken; --set head=plain takes it" in warning


def test_the_run_records_which_bundle_it_started_from(run, dataset, tmp_path):
    recipe = tiny(f"weights={run / 'bundle'}", "max_epochs=1", "learning_rate=1e-9")
    finished = fit.train(dataset, recipe, tmp_path / "run")
    before = json.loads((run / "run.json").read_text(encoding="utf-8"))
    origin = finished.summary["initial_weights"]
    assert before["initial_weights"] == {"kind": "none"}
    assert (origin["kind"], origin["model"]) == ("bundle", before["model"])
    assert (origin["synthetic"], origin["recipe"]) == (True, "quick")
    assert origin["head"] == list(dataset.findings)
    start = bundles.load(run / "bundle").classifier.head.weight
    end = bundles.load(finished.bundle).classifier.head.weight
    assert torch.allclose(start, end, atol=1e-5)


def test_a_file_is_recorded_by_its_content(dataset, tmp_path):
    import timm

    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    recipe = tiny(f"weights={path}", "max_epochs=1")
    origin = fit.train(dataset, recipe, tmp_path / "run").summary["initial_weights"]
    from chestxray.artifacts import sha256

    assert origin == {"kind": "file", "sha256": sha256(path)}


def test_a_bundle_of_another_backbone_is_refused_before_torch_is_needed(run):
    with pytest.raises(RecipeError, match=r"backbone of this bundle is resnet10t.*--set backbone"):
        recipe_checks.checked("quick", [f"weights={run / 'bundle'}", "backbone=resnet18"])
    with pytest.raises(RecipeError, match="is not a bundle"):
        recipe_checks.checked("quick", [f"weights={run.parent}"])


def test_a_bundle_whose_tensors_do_not_fit_is_refused(run, dataset):
    recipe = tiny(f"weights={run / 'bundle'}", "backbone=resnet18")
    with pytest.raises(RecipeError, match=r"do not fit resnet18.*choose the bundle's backbone"):
        loop.classifier_of(recipe, dataset.findings, resumed=False)
