from __future__ import annotations

import re
from pathlib import Path

import pytest

from chestxray.cli.main import app
from chestxray.training import recipe as recipes
from conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FILES = (REPOSITORY / "docs/files.md").read_text(encoding="utf-8")
PACKAGE = REPOSITORY / "src/chestxray"
VERBS = [command.callback.__name__ for command in app.registered_commands if command.callback]


def _tree() -> set[str]:
    """Paths that the tree of files names, by their indentation."""
    lines = FILES.split("```\nsrc/chestxray/\n")[1].split("```")[0].splitlines()
    stack: list[str] = []
    paths = set()
    for line in lines:
        depth = (len(line) - len(line.lstrip())) // 2
        if not depth:
            break
        stack[depth - 1 :] = [line.split()[0]]
        paths.add("".join(stack))
    return paths


def test_the_list_of_files_is_the_package():
    real = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if not path.name.startswith("__")
    }
    verbs = {f"cli/{verb}.py" for verb in VERBS}
    named = {path for path in _tree() if path.endswith(".py")}
    assert named == real - verbs


def test_every_command_in_the_readme_exists_and_every_verb_has_help():
    named = set(re.findall(r"^(?:\.venv/bin/)?chestxray (\w+)", README, flags=re.MULTILINE))
    assert named
    assert named <= set(VERBS)
    assert all(command.callback.__doc__ for command in app.registered_commands)


@pytest.mark.parametrize("model", [recipes.Recipe, recipes.Augment, recipes.Loss])
def test_every_key_of_a_recipe_is_documented(model):
    for key in model.model_fields:
        assert f"\n        {key}: " in model.__doc__


def test_every_link_in_the_documents_leads_somewhere():
    for page in [REPOSITORY / "README.md", *Path(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_path_named_in_the_documents_exists():
    for page in [REPOSITORY / "README.md", REPOSITORY / "docs/architecture.md"]:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:src|tests|docs)/[\w./]+)`", text):
            assert (REPOSITORY / path).exists(), f"{page.name}: {path}"
