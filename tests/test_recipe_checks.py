from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from chestxray.errors import ArtifactError, RecipeError
from chestxray.training import recipe_checks

WRONG = [
    "backbone=densnet121", "weights=no-such-file", "learnig_rate=1", "dropout=2",
    "augment.brightness=0.1",
]  # fmt: skip
WORDS = (
    "timm has no backbone of this name; did you mean 'densenet121'", "the weights file", "size=32",
    "'learning_rate'", "dropout = 2", "augment.gamma",
)  # fmt: skip


def manifest(folder: Path, size: int) -> Path:
    (folder / "dataset.json").write_text(json.dumps({"size": size}), encoding="utf-8")
    return folder


def test_all_that_is_wrong_with_a_recipe_dataset_and_machine_is_said_at_once(tmp_path):
    with pytest.raises(RecipeError) as caught:
        recipe_checks.for_run(tmp_path / "run", None, WRONG, dataset=manifest(tmp_path, 32))
    first, *each = str(caught.value).splitlines()
    assert first == "recipe baseline has 6 errors:"
    for words in WORDS:
        assert sum(words in line for line in each) == 1, words


@pytest.mark.parametrize("verb", ["train", "doctor"])
def test_wrong_recipes_and_paths_are_refused_without_torch(tmp_path, verb):
    """Importing torch, timm and lightning takes 5 to 13 s."""
    manifest(tmp_path, 32)
    commands = {
        "train": [
            ["train", str(tmp_path), "--out", "run", *(f"--set={one}" for one in WRONG)],
            ["train", "no-such-folder", "--out", "run"],
        ],
        "doctor": [["doctor", "no-such-folder"]],
    }
    script = (
        "import sys\n"
        "from chestxray.cli.main import main\n"
        "for sys.argv in {}:\n"
        "    sys.argv.insert(0, 'chestxray')\n"
        "    try: main()\n"
        "    except SystemExit as end: assert end.code == 1, end.code\n"
        "assert not {{'torch', 'lightning', 'timm', 'kornia'}} & set(sys.modules)\n"
    )
    code = script.format(commands[verb])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    "backbone", ["densenet121", "densenet121.tv_in1k", "resnet10t", "convnext_atto.d2_in1k"]
)  # fmt: skip
def test_timms_names_pass(backbone):
    assert recipe_checks.checked("quick", {"backbone": backbone}).backbone == backbone


@pytest.mark.parametrize("backbone", ["hf-hub:a/b", "hf_hub:a/b", "timm/a", "local-dir:/tmp/x"])
def test_a_backbone_of_a_hub_or_a_folder_is_refused(backbone):
    """A bundle of it would contact the hub, or read the folder, wherever it is opened."""
    with pytest.raises(RecipeError, match=r"without a hub.*hub:OWNER/NAME"):
        recipe_checks.checked("quick", {"backbone": backbone})


def test_a_backbone_of_the_hub_is_asked_for_when_the_network_is_made():
    for name in ("hub:a/b", "hub:a/b@v1", "hub:a/b/c.pt@v1"):
        assert recipe_checks.checked("quick", {"backbone": name}).backbone == name


def test_models_of_timm_pass():
    made_up_tag = "deepseek_vit_412m_align.deepseek_v4_1_flash"  # not literally in timm's source
    for name in [*timm.list_models()[::60], *timm.list_pretrained()[::60], made_up_tag]:
        assert not recipe_checks._backbone_faults({"backbone": name}), name


def test_an_unknown_set_of_weights_names_those_there_are():
    with pytest.raises(RecipeError, match="there are ra_in1k, tv_in1k"):
        recipe_checks.checked("quick", {"backbone": "densenet121.in22k"})


def test_a_folder_that_holds_a_run_or_none_is_refused_first(tmp_path):
    with pytest.raises(ArtifactError, match="holds no run to resume"):
        recipe_checks.for_run(tmp_path, None, resume=True)
    (tmp_path / "recipe.yaml").write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match="resume it with `chestxray train --resume`"):
        recipe_checks.for_run(tmp_path, "quick")
    assert recipe_checks.for_run(tmp_path, None, resume=True).seed == 1
