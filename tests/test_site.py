"""The documentation site: strict, complete, offline; its tutorials work by copy and paste."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import check_site
import pytest

from chestxray.serving.gateway import config
from conftest import REPOSITORY
from gateway_parts import PLUGIN
from page_faults import WIDTHS, faults_of
from viewer_parts import CHROMIUM

TUTORIALS = REPOSITORY / "docs/tutorials"
ON_PHANTOMS = ("first_report", "dicom", "own_table", "external_validation")
"""Tutorials that need no data, in their order: all but the third use the model of the first."""
FENCED = re.MULTILINE | re.DOTALL
ENDLESS = ("until Ctrl-C", "in another terminal")


def write_site(folder: Path, body: str) -> Path:
    (folder / "index.html").write_text(f"<title>a</title><p id='there'>{body}", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script src='https://cdn.example/a.js'></script>", "loads https://cdn.example/a.js"),
        ("<link rel=stylesheet href='//fonts.example/a'>", "loads //fonts.example/a"),
        ("<style>p { background: url(http://a.example/b.png) }</style>", "loads http://a.example"),
        ("<p style='background: url(https://a.example/c)'>", "loads https://a.example/c"),
        ("<a href='nowhere.html'>a</a>", "leads nowhere"),
        ("<a href='../secret.html'>a</a>", "leads nowhere"),
        ("<a href='#elsewhere'>a</a>", "no such place"),
        ("<img src='index.html'>", "no alternative text"),
    ],
)
def test_what_a_page_loads_from_elsewhere_and_what_leads_nowhere_is_found(tmp_path, body, fault):
    assert any(fault in one for one in check_site.faults(write_site(tmp_path, body)))


def test_a_page_that_loads_its_own_files_and_links_elsewhere_is_right(tmp_path):
    (tmp_path / "a.css").write_text("p { background: url('data:image/png;base64,AA') }")
    body = (
        "<link rel=stylesheet href=a.css><a href='https://example.org'>a</a>"
        "<link rel=canonical href='https://example.org/a'><a href='#there'>b</a>"
    )
    assert check_site.faults(write_site(tmp_path, body)) == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    own = REPOSITORY / ".venv-docs/bin/python"
    python = str(own) if own.exists() else sys.executable
    if python == sys.executable and importlib.util.find_spec("mkdocs") is None:
        pytest.skip("MkDocs is not installed: `make docs` installs it into .venv-docs")
    out = tmp_path_factory.mktemp("site") / "site"
    command = [python, "-m", "mkdocs", "build", "--strict", "--site-dir", out]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(site):
    assert check_site.faults(site) == []
    assert (site / "reference/api/chestxray.html").stat().st_size > 100_000
    assert (site / "schemas/metrics.schema.json").is_file()


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("width", "scheme"), [*((w, "light") for w in WIDTHS), (1440, "dark")])
def test_all_pages_are_accessible_fit_their_window_and_ask_nobody_else(
    site, address, browser, width, scheme
):
    found = {}
    for file in sorted(site.rglob("*.html")):
        path = file.relative_to(site).as_posix()
        if faults := faults_of(browser, address + path, width, scheme):
            found[path] = faults
    assert found == {}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("served", [True, False])
def test_the_search_finds_a_page_by_its_words_from_a_server_and_from_the_disk(
    site, address, browser, served
):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto((address if served else site.as_uri() + "/") + "reference/files.html")
    page.get_by_role("textbox", name="Search").click()
    page.keyboard.type("calibration slope")
    found = page.locator(".md-search-result__item a").filter(has_text="Calibration").first
    assert "explanation/calibration.html" in (found.get_attribute("href") or "")
    page.close()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder to work in, and an environment whose commands are those of this process."""
    folder = tmp_path_factory.mktemp("tutorials")
    commands = tmp_path_factory.mktemp("bin")
    for name, words in (("python", ""), ("chestxray", "-m chestxray")):
        file = commands / name
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', encoding="utf-8")
        file.chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    return folder, os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY / "src")}


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """What a reader pastes: a file's name and content, `sh` and a line, or `python` and a block."""
    name = ""
    pattern = r"[Ss]ave this as `([\w.]+)`|^```(bash|python)\n(.*?)^```"
    for found in re.finditer(pattern, page.read_text(encoding="utf-8"), FENCED):
        if found[1]:
            name = found[1]
        elif name:
            yield name, found[3]
            name = ""
        elif found[2] == "python":
            yield "python", found[3]
        else:
            lines = found[3].splitlines()
            yield from (("sh", one) for one in lines if not any(word in one for word in ENDLESS))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tutorials_on_phantoms_work_by_copy_and_paste(shell):
    folder, environment = shell
    for name in ON_PHANTOMS:
        for kind, text in steps(TUTORIALS / f"{name}.md"):
            if kind == "sh":
                command = ["sh", "-c", text]
            elif kind == "python":
                command = ["python", "block.py"]
                lines = "\n".join(f"    {line}" for line in text.splitlines())
                guarded = f"if __name__ == '__main__':\n{lines}\n"
                (folder / "block.py").write_text(guarded, encoding="utf-8")
            else:
                (folder / kind).write_text(text, encoding="utf-8")
                continue
            done = subprocess.run(
                command, cwd=folder, env=environment, check=False, capture_output=True, text=True
            )
            assert done.returncode == 0, (
                f"{name}: {text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
    assert (folder / "first/run/report.html").stat().st_size > 100_000
    assert (folder / "validation/validation.html").is_file()


def test_each_recipe_of_a_tutorial_trains_at_the_size_that_was_prepared():
    """Otherwise `train` stops: the size of a recipe is not that of every dataset."""
    from chestxray.training import recipe

    trained = 0
    for page in TUTORIALS.glob("*.md"):
        sizes: dict[str, int] = {}
        for line in page.read_text(encoding="utf-8").splitlines():
            prepared = re.match(r"chestxray prepare [^-]*?(\S+) --.*?size (\d+)", line)
            whole = re.match(r"chestxray run \S+ --out (\S+) .*--recipe (\w+)$", line)
            command = re.match(r"chestxray (?:train|crossval) (\S+) .*--recipe (\w+)", line)
            if prepared:
                sizes[prepared[1]] = int(prepared[2])
            elif whole:
                sizes[f"{whole[1]}/dataset"] = recipe.load(whole[2]).size
            elif command and command[1] in sizes:
                trained += 1
                given = re.search(r"--set size=(\d+)", line)
                size = int(given[1]) if given else recipe.load(command[2]).size
                assert size == sizes[command[1]], f"{page.name}: {line}"
    assert trained >= 3


def test_the_pacs_of_the_tutorial_has_dicomweb_and_knows_the_gateway(tmp_path):
    page = (TUTORIALS / "pacs.md").read_text(encoding="utf-8")
    (orthanc,) = (json.loads(one) for one in re.findall(r"^```json\n(.*?)^```", page, FENCED))
    assert orthanc["Plugins"] == [str(PLUGIN)]
    assert orthanc["DicomWeb"]["Enable"] is True
    first, second = re.findall(r"^```toml\n(.*?)^```", page, FENCED)
    over_web = first[: first.index("[[destinations]]")] + second
    for text in (first, over_web):
        (tmp_path / "gateway.toml").write_text(text, encoding="utf-8")
        gateway = config.load(tmp_path / "gateway.toml")
        known = [gateway.receive.ae_title, "127.0.0.1", gateway.receive.port]
        assert orthanc["DicomModalities"]["gateway"] == known
        assert gateway.receive.allow == [orthanc["DicomAet"]]
    web = f"http://127.0.0.1:{orthanc['HttpPort']}/dicom-web"
    assert (gateway.poll[0].url, gateway.destinations[0].url) == (web, web)


def test_each_tutorial_on_phantoms_has_steps_and_the_others_say_what_they_need():
    for name in ON_PHANTOMS:
        assert len(list(steps(TUTORIALS / f"{name}.md"))) >= 4, name
    for page in TUTORIALS.glob("*.md"):
        if page.name != "index.md":
            assert "You need" in page.read_text(encoding="utf-8"), page.name
