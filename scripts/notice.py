"""Write NOTICE: the licence of every package that chestxray's locked installation takes.

The licences are those that the installed packages state in their metadata (core metadata 2.4:
License-Expression; before that License or the classifiers), or the first line of their LICENSE.
`make notice` runs it where everything of `requirements.lock` is installed. A package of another
platform, which is not installed, keeps the line that an earlier run wrote.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from importlib.metadata import Distribution, PackageMetadata, PackageNotFoundError, distribution
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
NOTICE = REPOSITORY / "NOTICE"
LONGEST = 60  # characters of a licence's name; some packages give its whole text
HEAD = """chestxray
Licensed under the Apache License, Version 2.0; see LICENSE.

This product holds no code of other projects. It uses the packages below, which are installed
beside it, each under its own licence. `make notice` writes this list from what the installed
packages state; `make release` writes a software bill of materials with their versions.
"""


def canonical(name: str) -> str:
    """Give the normalised name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct() -> dict[str, list[str]]:
    """Give the packages that pyproject.toml asks for, with what needs each: core or an extra."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for group, requirements in groups.items():
        if group in ("dev", "docs", "all"):
            continue
        for requirement in requirements:
            name = canonical(re.match(r"[\w.-]+", requirement)[0])
            if name != "chestxray" and group not in found.setdefault(name, []):
                found[name].append(group)
    return dict(sorted(found.items()))


def locked() -> list[str]:
    """Give the packages of requirements.lock."""
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    return sorted({canonical(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)})


def licence(package: Distribution) -> str:
    """Give the licence that a package states, in one line."""
    about = package.metadata
    expression = about.get("License-Expression")
    if expression:
        return expression
    classifiers = [
        line.rsplit(" :: ", 1)[1]
        for line in about.get_all("Classifier") or ()
        if line.startswith("License :: ") and not line.endswith("OSI Approved")
    ]
    stated = (about.get("License") or "").strip().removeprefix("UNKNOWN")
    if not stated and not classifiers:
        stated = (package.read_text("LICENSE") or "").strip()
    if stated and "\n" not in stated and len(stated) <= LONGEST:
        return stated.rsplit(" :: ", 1)[-1]
    return ", ".join(classifiers) or stated.split("\n")[0][:LONGEST] or "not stated"


def home(about: PackageMetadata) -> str:
    """Give the address of a package's page."""
    urls = dict(line.split(", ", 1) for line in about.get_all("Project-URL") or ())
    by_word = {re.sub(r"\W", "", label).lower(): url for label, url in urls.items()}
    words = ("homepage", "home", "source", "sourcecode", "repository", "github", "documentation")
    own = about.get("Home-page") or next((by_word[word] for word in words if word in by_word), "")
    return own or f"https://pypi.org/project/{about['Name']}"


def line(name: str, before: dict[str, str]) -> str:
    """Give a package's line; that of an earlier NOTICE where it is not installed."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return before.get(
            name,
            f"{name} | see its page (not installed where this list was written) | https://pypi.org/project/{name}",
        )
    return f"{name} | {licence(package)} | {home(package.metadata)}"


def earlier() -> dict[str, str]:
    """Give the lines of the NOTICE that is there, by package."""
    if not NOTICE.exists():
        return {}
    lines = NOTICE.read_text(encoding="utf-8").splitlines()
    return {one.split(" | ")[0]: one.split(" [")[0] for one in lines if " | " in one}


def text() -> str:
    """Give the whole NOTICE."""
    needed, before = direct(), earlier()
    own = [f"{line(name, before)} [{', '.join(of)}]" for name, of in needed.items()]
    others = [line(name, before) for name in locked() if name not in needed]
    return "\n".join(
        [HEAD, "What chestxray asks for", "", *own, "", "What these ask for", "", *others, ""]
    )


def main() -> None:
    """Write NOTICE, or check that it is up to date."""
    parser = argparse.ArgumentParser(description="Write NOTICE from the installed packages.")
    parser.add_argument("--check", action="store_true", help="fail where NOTICE is not up to date")
    if parser.parse_args().check:
        if NOTICE.read_text(encoding="utf-8") != text():
            sys.exit("NOTICE is not up to date: run `make notice`")
        return
    NOTICE.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
