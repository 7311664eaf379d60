from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from chestxray.errors import RecipeError
from chestxray.training import recipe as recipes


@pytest.mark.parametrize("name", recipes.names())
def test_each_shipped_recipe_is_valid_and_says_what_it_is_its_cost_and_score(name):
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.description
    assert "not measured" not in {recipe.cost, recipe.expected}
    assert recipe in recipes.shipped()


def test_baseline_is_the_reference_recipe():
    recipe = recipes.load("baseline")
    assert recipe.backbone.startswith("densenet121")
    assert (recipe.weights, recipe.size, recipe.dropout) == ("imagenet", 224, 0.5)
    assert (recipe.loss.kind, recipe.loss.class_weights) == ("focal", True)
    assert (recipe.sampling, recipe.learning_rate) == ("balanced", 1e-4)
    assert min(recipe.augment.flip, recipe.augment.rotate, recipe.augment.gamma) > 0
    assert recipe.monitor == "loss"


def test_baseline_claims_no_score_of_other_recipes():
    recipe = recipes.load("baseline")
    assert "not CheXNet's" in recipe.description
    assert recipe.expected.startswith("not measured on the full NIH ChestX-ray14")
    assert "belongs to their recipes" in recipe.expected


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
        ("loss.kind=fcal", "no loss 'fcal'; did you mean 'focal'.*bce, focal, asymmetric"),
        ("optimiser=adamm", "no optimiser 'adamm'; did you mean 'adam"),
        ("schedule=cosin", "no schedule 'cosin'; did you mean 'cosine'"),
        ("augment.flop=1", "'augment.flop'; did you mean 'augment.flip'"),
        ("augment.flip=2", "augment.flip = 2: it gives the range 0 to 2; .*within 0 to 1"),
        ("augment.rotate=[9, 3]", "augment.rotate = .*rising range within -180 to 180"),
        ("augment.flip=[0, 1]", "augment.flip = .*should be a number"),
        ("augment.crop=much", "augment.crop = 'much': it should be a number or a pair"),
        ("progressive=[[64, 30]]", "progressive = .*30; they should be fewer than max_epochs, 30"),
        ("progressive=[[512, 3]]", "progressive = .*smaller than size, 224"),
        ("progressive=[[0.05, 3]]", "progressive = .*rise from 16 pixels on"),
        ("progressive=[[1.5, 3]]", r"progressive.* = 1.5: .*from 16 on, or a share below 1"),
        ("monitor=accuracy", "monitor = 'accuracy'"),
        ("max_draws=0.5", "max_draws = 0.5"),
        ("augment.brightness=0.1", "now augment.gamma, which keeps black, and augment.contrast"),
        ("max_epochs", "key=value"),
        ("name.first=x", "has no keys"),
        ("dropout=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_an_error_that_says_what_is_right(override, words):
    with pytest.raises(RecipeError, match=words):
        recipes.load("baseline", [override])


def test_smaller_sides_are_pixels_or_shares_of_the_size():
    recipe = recipes.load("small", ["size=200", "progressive=[[64, 1], [0.75, 2]]"])
    assert [recipe.side(epoch) for epoch in range(4)] == [64, 150, 150, 200]


def test_overrides_may_be_a_mapping():
    texts = recipes.load("baseline", ["loss.gamma=1", "size=320"])
    assert recipes.load("baseline", {"loss.gamma": 1, "size": 320}) == texts
    assert recipes.load("baseline", {"loss": {"gamma": 1}, "size": 320}) == texts
    assert recipes.load(recipes.load("baseline"), {"loss.gamma": 1, "size": 320}) == texts


def test_all_that_is_wrong_is_said_at_once():
    wrong = ["learnig_rate=1", "loss.gama=1", "dropout=1.5", "max_epochs", "size=abc"]
    with pytest.raises(RecipeError) as caught:
        recipes.load("baseline", wrong)
    first, *each = str(caught.value).splitlines()
    assert first == "recipe baseline has 5 errors:"
    for words in ("learning_rate", "loss.gamma", "dropout = 1.5", "key=value", "size = 'abc'"):
        assert sum(words in line for line in each) == 1


def test_recipes_are_read_and_refused_without_torch():
    script = (
        "import sys\n"
        "from chestxray.errors import RecipeError\n"
        "from chestxray.training import recipe\n"
        "recipe.shipped()\n"
        "try: recipe.load('baseline', ['no_such_key=1'])\n"
        "except RecipeError: pass\n"
        "assert not {'torch', 'lightning', 'timm', 'numpy', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_showing_a_recipe_fills_in_what_its_file_leaves_out(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("size: 64\nloss:\n  kind: focal\n", encoding="utf-8")
    shown = yaml.safe_load(recipes.show(file, {"seed": 3}))
    assert set(shown) == set(recipes.Recipe.model_fields)
    assert (shown["name"], shown["size"], shown["seed"]) == ("mine", 64, 3)
    assert shown["loss"] == recipes.Loss(kind="focal").model_dump()


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'baseline'"):
        recipes.load("basline")


def test_a_key_that_is_left_out_has_its_default(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 4\n", encoding="utf-8")
    assert recipes.load(str(file)) == recipes.Recipe(name="mine", seed=4)


def test_a_saved_recipe_is_read_back_the_same(tmp_path):
    recipe = recipes.load("quick", ["seed=5"])
    recipes.save(tmp_path / "recipe.yaml", recipe)
    assert recipes.load(str(tmp_path / "recipe.yaml")) == recipe


def test_a_binary_file_is_not_a_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="as text"):
        recipes.load(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words"])
def test_what_is_not_a_mapping_is_refused(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        recipes.load(str(file))
