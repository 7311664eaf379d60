"""Hooks of MkDocs: pages that are generated, and those that lie at the top of the repository."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any, Final

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import reference

REPOSITORY: Final = Path(__file__).resolve().parents[1]

PROJECT_PAGES: Final = {
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/code_of_conduct.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security_policy.md",
}
"""Files beside README that are pages of the site too."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of `docs` holds."""
    pages = reference.pages()
    for name, path in PROJECT_PAGES.items():
        pages[path] = _moved((REPOSITORY / name).read_text(encoding="utf-8"))
    pages["project/citation.md"] = _citation()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Make links to files at the top of the repository lead to their pages."""
    here = posixpath.dirname(page.file.src_uri)
    for name, path in PROJECT_PAGES.items():
        up = posixpath.relpath(name, posixpath.join("docs", here))
        markdown = markdown.replace(f"]({up})", f"]({posixpath.relpath(path, here or '.')})")
    return markdown


def on_page_content(html: str, **_: object) -> str:
    """Leave out header rows that are empty, which Markdown demands, and make empty corners cells.

    A screen reader announces an empty header for each cell of its column.
    """
    html = re.sub(r"<thead>\s*<tr>(\s*<th[^>]*></th>)+\s*</tr>\s*</thead>\s*", "", html)
    return re.sub(r"<th[^>]*></th>", "<td></td>", html)


def _moved(text: str) -> str:
    """Make links from the top of the repository hold from the folder `project`."""
    text = re.sub(r"\]\(docs/", "](../", text)
    for name, path in PROJECT_PAGES.items():
        text = text.replace(f"]({name})", f"]({Path(path).name})")
    return text


def _citation() -> str:
    cff = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    about: dict[str, Any] = yaml.safe_load(cff)
    authors = ", ".join(author["name"] for author in about["authors"])
    references = "\n".join(f"- {_reference(each)}" for each in about["references"])
    return (
        f"# Citation\n\n{about['message']}\n\n"
        f"> {authors}. *{about['title']}*. Version {about['version']}. {about['url']}\n\n"
        f"```bibtex\n@software{{chestxray,\n  author = {{{{{authors}}}}},\n"
        f"  title = {{{{{about['title']}}}}},\n  version = {{{about['version']}}},\n"
        f"  url = {{{about['url']}}}\n}}\n```\n\nThe same for programs, as `CITATION.cff`:\n\n"
        f"```yaml\n{cff.strip()}\n```\n\n## Data and papers\n\n{references}\n\n"
        "[Data sets](../datasets.md) says for each data set what to cite, and its licence.\n"
    )


def _reference(each: dict[str, Any]) -> str:
    names = ", ".join(author["family-names"] for author in each["authors"])
    ids = ", ".join(one["value"] for one in each["identifiers"])
    return (
        f"{names}: *{each['title']}*. {each['collection-title']}, {each['year']} ({ids}). "
        f"{each['notes']}"
    )
