from __future__ import annotations

import pytest

from chestxray.errors import RecipeError
from chestxray.training import recipe as recipes


@pytest.mark.parametrize("name", recipes.shipped())
def test_each_shipped_recipe_is_valid_and_says_cost_and_score(name):
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.cost
    assert recipe.expected


def test_baseline_is_the_published_recipe():
    recipe = recipes.load("baseline")
    assert recipe.backbone.startswith("densenet121")
    assert (recipe.weights, recipe.size, recipe.dropout) == ("imagenet", 224, 0.5)
    assert (recipe.loss.kind, recipe.loss.class_weights) == ("focal", True)
    assert (recipe.sampling, recipe.learning_rate) == ("balanced", 1e-4)
    assert min(recipe.augment.flip, recipe.augment.rotate, recipe.augment.brightness) > 0


def test_overrides_reach_nested_keys_and_keep_the_rest():
    before = recipes.load("baseline")
    after = recipes.load("baseline", ["loss.gamma=1", "max_epochs=3", "weights=none"])
    assert (after.loss.gamma, after.max_epochs, after.weights) == (1, 3, "none")
    assert after.augment == before.augment


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learnig_rate=1", "'learnig_rate'; did you mean 'learning_rate'"),
        ("loss.gama=1", "'loss.gama'; did you mean 'loss.gamma'"),
        ("dropout=1.5", "dropout = 1.5"),
        ("batch_size=1", "batch_size = 1"),
        ("learning_rate=.nan", "learning_rate"),
        ("sampling=even", "sampling = 'even'"),
        ("max_epochs", "key=value"),
        ("name.first=x", "has no keys"),
        ("dropout=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_an_error_that_says_what_is_right(override, words):
    with pytest.raises(RecipeError, match=words):
        recipes.load("baseline", [override])


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'baseline'"):
        recipes.load("basline")


def test_a_missing_key_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="'cost' is missing"):
        recipes.load(str(file))


def test_a_saved_recipe_is_read_back_the_same(tmp_path):
    recipe = recipes.load("quick", ["seed=5"])
    recipes.save(tmp_path / "recipe.yaml", recipe)
    assert recipes.load(str(tmp_path / "recipe.yaml")) == recipe


def test_a_binary_file_is_no_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="as text"):
        recipes.load(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        recipes.load(str(file))
