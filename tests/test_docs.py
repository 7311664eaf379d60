from __future__ import annotations

import re
from pathlib import Path

import pytest
import reference
import typer.main
import yaml

import chestxray
from chestxray.cli.main import EXIT_STATUSES, app
from chestxray.reading.gate.notices import NOTICES
from chestxray.training import recipe as recipes
from chestxray.training.registry import AUGMENTATIONS, LOSSES, OPTIMISERS, SCHEDULES
from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "SECURITY.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
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


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return reference.pages()


def test_every_link_in_the_documents_leads_somewhere(generated):
    made = {DOCS / path for path in generated}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            file = (page.parent / target).resolve()
            if "://" not in target and page.name != "files_head.md":
                assert file.exists() or file in made, f"{page.name}: {target}"


def test_every_page_is_in_the_navigation_of_the_site_and_the_other_way_round(generated):
    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))

    def listed(entries) -> set[str]:
        if isinstance(entries, str):
            return {entries}
        inner = entries.values() if isinstance(entries, dict) else entries
        return set().union(*map(listed, inner))

    written = {str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)}
    written -= set(site["exclude_docs"].split())
    project = {path for path in listed(site["nav"]) if path.startswith("project/")}
    assert listed(site["nav"]) - project == written | set(generated)


def test_the_reference_has_every_command_key_notice_and_public_name(generated):
    pages = generated
    commands = "".join(text for path, text in pages.items() if "/commands/" in path)
    for verb, command in COMMANDS.items():
        for name, one in getattr(command, "commands", {"": command}).items():
            heading = f" chestxray {verb} {name}".rstrip()
            section = commands.split(f"#{heading}\n")[1].split("\n## ")[0]
            for parameter in one.params:
                if parameter.param_type_name == "option" and not parameter.hidden:
                    assert parameter.opts[0] in section
    for key in (*recipes.Recipe.model_fields, *recipes.Loss.model_fields):
        assert f"| `{key}`<br>" in pages["reference/recipe_keys.md"]
    for code in NOTICES:
        assert f"## {code}\n" in pages["reference/gate_notices.md"]
    for status in EXIT_STATUSES:
        assert f"| {status} |" in pages["reference/exit_statuses.md"]
    for name in (name for name in chestxray.__all__ if not name.startswith("_")):
        assert f"::: chestxray.{name}\n" in pages["reference/api/chestxray.md"]


def test_every_field_of_a_published_format_has_a_meaning_or_a_sentence_about_its_group(generated):
    page = generated["reference/files.md"]
    groups = re.split(r"^##+ ", page, flags=re.MULTILINE)[1:]
    assert len(groups) > 50
    for group in groups:
        name, prose = group.split("\n", 1)[0], group.split("| field |")[0]
        rows = re.findall(r"^\| `(\w+)`<br>[^|]* \| (.*) \|$", group, re.MULTILINE)
        assert rows, name
        bare = [field for field, meaning in rows if not meaning.strip()]
        assert not bare or prose.count(".") >= 1 + name.count("."), f"{name}: {bare}"


def test_python_in_the_documents_is_python():
    found = 0
    for page in PAGES:
        for block in re.findall(
            r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
        ):
            compile(block, page.name, "exec")
            found += 1
    assert found > 10


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
