"""A cross-validation teaches another one: each run learns from a model that saw the same images."""

from __future__ import annotations

import json
import logging
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

import chestxray
from chestxray.cli.main import app
from chestxray.errors import ArtifactError, RecipeError
from chestxray.evaluation.seen_images import list_sha256
from chestxray.model import model_card
from chestxray.training import fit, recipe_checks
from chestxray.training import recipe as recipes
from chestxray.training.fold_teachers import in_fold, read_folds
from conftest import TINY

SHORT = (*TINY, "max_epochs=1")


@pytest.fixture(scope="module")
def teachers(dataset, tmp_path_factory):
    """Two folds of a tiny recipe; not to be changed."""
    out = tmp_path_factory.mktemp("teachers") / "out"
    chestxray.crossval(dataset, "quick", out, folds=2, overrides=SHORT, resamples=0)
    return out


def test_each_fold_is_taught_by_the_model_that_was_trained_on_the_same_images(
    dataset, teachers, tmp_path, caplog
):
    out, options = tmp_path / "out", {"folds": 2, "resamples": 0}
    options["overrides"] = (*SHORT, f"teacher={teachers}", "dropout=0.1")
    with caplog.at_level(logging.WARNING, "chestxray"):
        result = chestxray.crossval(dataset, "quick", out, **options)
    assert not caplog.records
    fold = pd.read_csv(out / "folds.csv").set_index("image")["fold"]
    for of in result.runs:
        name = f"runs/fold{of.fold}-seed{of.seed}"
        pupil, teacher = (fit.Run.open(folder / name) for folder in (out, teachers))
        assert pupil.summary["teacher"]["model"] == teacher.model
        learned = [model_card.read(run.bundle).card.trained_on for run in (pupil, teacher)]
        assert learned[0].training_list_sha256 == learned[1].training_list_sha256
        assert learned[0].training_list_sha256 == list_sha256(trained(pupil, fold, of.fold))
    assert recipes.load(out / "recipe.yaml").teacher == str(teachers)
    shutil.rmtree(out / "runs" / "fold2-seed0")
    assert chestxray.crossval(dataset, "quick", out, **options) == result


def trained(run: fit.Run, fold: pd.Series, tested: int) -> pd.Index:
    """Names of the images that are neither tested in a fold nor validated in its run."""
    validated = pd.read_csv(run.validation)["Image Index"]
    return fold.index[fold != tested].difference(pd.Index(validated))


@pytest.mark.parametrize(
    ("folds", "change", "found"),
    [
        (3, "dropout=0", "it has 2 folds, this one 3"),
        (2, "seed=5", r"\d+ of 160 images have another fold, patient or place"),
    ],
)
def test_a_cross_validation_of_other_folds_is_no_teacher(
    dataset, teachers, tmp_path, folds, change, found
):
    changes = (*SHORT, f"teacher={teachers}", change)
    rule = (
        f"teacher = '{teachers}': its models can teach the folds .*{found}.*give the same dataset"
    )
    with pytest.raises(RecipeError, match=rule):
        chestxray.crossval(dataset, "quick", tmp_path / "out", folds=folds, overrides=changes)
    assert not (tmp_path / "out").exists()


def test_a_cross_validation_of_other_images_is_no_teacher(dataset, teachers, tmp_path):
    copy = shutil.copytree(teachers, tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))
    table = pd.read_csv(copy / "folds.csv", dtype=str)
    table.iloc[:-3].to_csv(copy / "folds.csv", index=False)
    changes = (*SHORT, f"teacher={copy}")
    with pytest.raises(RecipeError, match="it has 157 images, this one 160"):
        chestxray.crossval(dataset, "quick", tmp_path / "out", folds=2, overrides=changes)


def test_each_seed_needs_a_teacher_of_its_own(dataset, teachers, tmp_path):
    """That of another seed has seen images by which this one chooses its epoch."""
    options = {"folds": 2, "seeds": 2, "overrides": (*SHORT, f"teacher={teachers}")}
    with pytest.raises(RecipeError, match=r"lacks fold 1 with seed 1, fold 2 with seed 1.*--seeds"):
        chestxray.crossval(dataset, "quick", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_a_model_of_a_fold_cannot_teach_is_said_before_the_first_is_trained(
    dataset, teachers, tmp_path
):
    copy = shutil.copytree(teachers, tmp_path / "copy")
    card = copy / "runs" / "fold2-seed0" / "bundle" / "bundle.json"
    card.write_text(json.dumps({**json.loads(card.read_text(encoding="utf-8")), "size": 64}))
    changes = (*SHORT, f"teacher={copy}")
    with pytest.raises(RecipeError, match=r"fold2-seed0/bundle': it reads images of 64 px"):
        chestxray.crossval(dataset, "quick", tmp_path / "out", folds=2, overrides=changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", ["teacher={}", "members=[{{}},{{teacher: {}}}]"])
def test_a_cross_validation_teaches_in_cross_validation_alone(dataset, teachers, tmp_path, changes):
    change = changes.format(teachers)
    rule = "it is a cross-validation.* only in `chestxray crossval`.*give a bundle"
    with pytest.raises(RecipeError, match=rule):
        recipe_checks.checked("quick", (*SHORT, change), dataset.folder)
    words = ["train", str(dataset.folder), "--out", str(tmp_path / "run"), "--recipe", "quick"]
    words += [word for each in (*SHORT, change) for word in ("--set", each)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'image,patient\n"a'])
def test_folds_that_cannot_be_read_are_refused(tmp_path, content):
    (tmp_path / "folds.csv").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"folds\.csv cannot be read as a table .*another"):
        read_folds(tmp_path)


def test_a_member_is_taught_by_the_fold_too(teachers):
    changes = [{}, {"teacher": str(teachers)}, {"teacher": "elsewhere"}]
    recipe = recipes.load("quick", {"members": changes})
    own = str(teachers / "runs" / "fold2-seed7" / "bundle")
    networks = in_fold(recipe, 2, 7).networks
    assert [of.teacher for of in networks] == ["none", own, "elsewhere"]
    assert in_fold(recipes.load("quick", {"teacher": str(teachers)}), 2, 7).teacher == own
    assert [of.seed for of in networks] == [7, 1007, 2007]
