from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from chestxray.cli.main import app
from chestxray.training import recipe as recipes
from chestxray.training.registry import AUGMENTATIONS, LOSSES, OPTIMISERS, SCHEDULES
from conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *(REPOSITORY / "docs").glob("*.md"),
]
PACKAGE = REPOSITORY / "src/chestxray"
COMMANDS = typer.main.get_command(app).commands


def _options(words: list[str]) -> tuple[set[str], set[str]]:
    """The options that a documented command uses, and those that it has."""
    command = COMMANDS[words[0]]
    if hasattr(command, "commands"):
        command = command.commands[words[1]]
    known = {name for parameter in command.params for name in parameter.opts}
    return {word for word in words if word.startswith("--")}, known


def test_every_command_in_the_documents_exists_with_its_options():
    found = 0
    for page in PAGES:
        if page.name == "log.md":  # what was typed at its date
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(
            r"^(?:\.venv/bin/)?chestxray ([^#\n]+)|`chestxray ([^`\n]+)`", text, re.MULTILINE
        ):
            words = (line[0] or line[1]).split()
            if words[0].isupper() or words[0].startswith("-") or words == ["gateway", "audit"]:
                continue
            used, known = _options(words)
            assert used <= known, f"{page.name}: {' '.join(words)}: {used - known}"
            found += 1
    assert found > 20


def test_every_verb_has_help():
    for command in COMMANDS.values():
        assert command.help
        for sub in getattr(command, "commands", {}).values():
            assert sub.help


@pytest.mark.parametrize("model", [recipes.Recipe, recipes.Loss])
def test_every_key_of_a_recipe_is_documented(model):
    page = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8")
    for key in model.model_fields:
        assert f"\n        {key}: " in model.__doc__
        assert f"`{key}`" in page or f"`loss.{key}`" in page, key


def test_every_name_that_a_recipe_may_choose_is_documented():
    page = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8")
    for registry in (LOSSES, OPTIMISERS, SCHEDULES):
        for name in registry.names:
            assert f"`{name}`" in page, name
    for name in AUGMENTATIONS.names:
        assert f"| `augment.{name}` | {AUGMENTATIONS[name].help} |" in page, name
    for name in recipes.names():
        assert f"| `{name}` |" in page, name


def test_every_link_in_the_documents_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_path_named_in_the_documents_exists():
    for page in PAGES:
        if page.name == "log.md":
            continue
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./]+)`", text):
            assert (REPOSITORY / path).exists(), f"{page.name}: {path}"


def test_the_stages_of_the_architecture_name_real_modules():
    text = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:sources|dataset|training|reading|evaluation|model|reporting|serving|cli)/[\w./]*)`",
        text,
    )
    assert len(named) > 15
    for path in named:
        assert (PACKAGE / path).exists(), path


def test_the_vocabulary_file_is_beside_the_module_that_reads_it():
    assert Path(PACKAGE / "vocabulary.json").is_file()
