"""Who can read the gateway's files, and to whom its tokens go."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from chestxray.errors import ArtifactError, ConfigError
from chestxray.serving.gateway import config as settings
from chestxray.serving.gateway.store import Store
from chestxray.serving.gateway.supervisor import check
from gateway_parts import (
    Gateway,
    add,
    config,
    radiograph,
    running,
    store,
    wait_for,
)

SECRET = "hunter2"  # noqa: S105


def remedy(error: Exception) -> str:
    """The command that an error names."""
    found = re.search(r"`(chmod [^`]+)`", str(error))
    assert found
    return found[1]


def modes(folder: Path) -> dict[str, int]:
    """The mode of all that is in a folder, and of itself."""
    return {str(path): path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o710, 0o701, 0o770])
def test_a_state_folder_that_others_can_enter_is_refused_with_what_mends_it(
    tmp_path: Path, run: Path, mode: int
) -> None:
    loaded = config(tmp_path)
    loaded.state.mkdir()
    (loaded.state / "images").mkdir()
    loaded.state.chmod(mode)
    with pytest.raises(ArtifactError, match=rf"has mode 0{mode:o}") as caught:
        check(loaded, run / "bundle")
    with pytest.raises(ArtifactError, match="other users can access it"):
        Store(loaded.state)
    assert not (loaded.state / "queue.sqlite").exists()
    subprocess.run(shlex.split(remedy(caught.value)), check=True)
    Store(loaded.state).close()
    assert not any(found & 0o077 for found in modes(loaded.state).values())


def test_a_folder_with_blanks_and_quotes_in_its_name_is_mended_by_the_command_too(
    tmp_path: Path,
) -> None:
    state = tmp_path / "the state's $HOME"
    state.mkdir(mode=0o755)
    with pytest.raises(ArtifactError) as caught:
        Store(state)
    command = remedy(caught.value)
    subprocess.run(["/bin/sh", "-c", command], check=True)
    Store(state).close()


def test_a_new_state_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Store(tmp_path / "deep" / "state")
        made.db.execute("INSERT INTO positions VALUES ('a', 'b', 1)")  # with its write-ahead log
        found = modes(tmp_path / "deep" / "state")
        made.close()
    finally:
        os.umask(before)
    assert any(name.endswith("queue.sqlite-wal") for name in found)
    assert not any(mode & 0o077 for mode in found.values()), found


def test_all_that_a_running_gateway_writes_is_0600(
    tmp_path: Path, run: Path, exported: Path
) -> None:
    config(tmp_path, f'[read]\nengine = "{exported}"\n')
    gateway = Gateway(tmp_path, run / "bundle")
    before = os.umask(0)  # as of an operator who shares everything
    try:
        with running(gateway):
            assert store(radiograph(), gateway.config.receive.port) == 0
            wait_for(lambda: gateway.counts()["read"]["done"] == 1, 120)
            wait_for((gateway.config.state / "audit-anchors.jsonl").exists, 60)
            wait_for(lambda: [*gateway.config.state.glob("backups/queue-*")], 60)
            found = modes(gateway.config.state)
    finally:
        os.umask(before)
    kinds = {Path(name).suffix for name in found}
    assert {".dcm", ".sqlite", ".sqlite-wal", ".jsonl", ".json"} <= kinds
    files = {name: mode for name, mode in found.items() if Path(name).suffix or "lock" in name}
    assert set(files.values()) == {0o600}, files
    assert set(found.values()) == {0o600, 0o700}, found


# --- the configuration ----------------------------------------------------------------------------

WITH_TOKEN = f"""
state = "state"
[receive]
allow = ["PACS"]
[[destinations]]
name = "pacs"
kind = "stow"
url = "URL"
headers = {{ Authorization = "Bearer {SECRET}" }}
"""


def written(folder: Path, text: str, mode: int) -> Path:
    path = folder / "gateway.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_configuration_with_a_token_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    text = WITH_TOKEN.replace("URL", "https://pacs.example/web")
    path = written(tmp_path, text, 0o644)
    with pytest.raises(ConfigError, match="mode 0644, so every user of this machine") as caught:
        settings.load(path)
    assert SECRET not in str(caught.value)
    subprocess.run(shlex.split(remedy(caught.value)), check=True)
    assert path.stat().st_mode & 0o777 == 0o640
    settings.load(path)


def test_a_configuration_without_a_token_may_be_read_by_everybody(tmp_path: Path) -> None:
    text = WITH_TOKEN.replace("URL", "https://pacs.example/web").replace("headers", "# headers")
    settings.load(written(tmp_path, text, 0o644))


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://pacs.example/web", True),
        ("http://10.1.2.3:8042/web", True),
        ("http://[fd00::1]/web", True),
        ("http://localhost.example/web", True),
        ("http://127.0.0.1.example/web", True),
        ("https://pacs.example/web", False),
        ("http://127.0.0.1:8042/web", False),
        ("http://localhost/web", False),
        ("http://[::1]:8042/web", False),
    ],
)
def test_a_token_that_would_be_sent_in_clear_text_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, url: str, warned: bool
) -> None:
    path = written(tmp_path, WITH_TOKEN.replace("URL", url), 0o600)
    with caplog.at_level(logging.WARNING):
        loaded = settings.load(path)
    assert bool(settings.in_clear_text(loaded)) == warned
    assert ("destinations[0].url" in caplog.text and "is not https" in caplog.text) == warned
    assert SECRET not in caplog.text


def test_polls_and_anchors_are_warned_of_too_and_urls_without_headers_are_not(
    tmp_path: Path,
) -> None:
    text = (
        WITH_TOKEN.replace("URL", "https://pacs.example/web")
        + """
[[poll]]
url = "http://a.example"
headers = { X-Key = "secret" }
[[poll]]
url = "http://b.example"
[audit]
url = "http://c.example"
headers = { X-Key = "secret" }
"""
    )
    loaded = settings.load(written(tmp_path, text, 0o600))
    places = [warning.split(":")[0] for warning in settings.in_clear_text(loaded)]
    assert places == ["poll[0].url", "audit.url"]


def test_the_command_line_warns_of_a_clear_text_token_at_each_use(
    tmp_path: Path, run: Path
) -> None:
    written(tmp_path, WITH_TOKEN.replace("URL", "http://pacs.example/web"), 0o600)
    gateway = Gateway(tmp_path, run / "bundle")
    add(opened := Store(gateway.config.state), "1.1")
    opened.close()
    command = gateway._command("status")
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert done.stderr.startswith("warning: ")
    assert "destinations[0].url: http://pacs.example/web is not https" in done.stderr
    assert SECRET not in done.stderr
