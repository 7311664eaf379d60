"""Kaggle's copy, through the real kagglehub against a local server, and through a stand-in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chestxray.errors import DownloadError
from chestxray.sources.download import download_kaggle
from download_server import serving


def fetched(images: int) -> Callable[[str], str]:
    """Stand in for kagglehub: make the tree in the folder that the variable names."""

    def fetch(handle: str) -> str:
        assert handle == "nih-chest-xrays/data"
        folder = Path(os.environ["KAGGLEHUB_CACHE"]) / "datasets" / handle / "versions" / "3"
        if not folder.exists():
            (folder / "images_001" / "images").mkdir(parents=True)
            for number in range(images):
                (folder / "images_001" / "images" / f"{number:08}_000.png").touch()
            (folder / "Data_Entry_2017.csv").write_text("table", encoding="utf-8")
        return str(folder)

    return fetch


def test_the_tree_lies_in_the_folder_and_a_second_run_fetches_nothing(tmp_path: Path) -> None:
    out = tmp_path / "nih"
    download_kaggle(out, fetched(3), images=3)
    assert sorted(path.name for path in out.iterdir()) == [
        "Data_Entry_2017.csv", "download.json", "images_001",
    ]  # fmt: skip
    assert len(list((out / "images_001" / "images").iterdir())) == 3
    download_kaggle(out, lambda _: pytest.fail("fetched again"), images=3)
    assert "KAGGLEHUB_CACHE" not in os.environ


def test_a_stop_while_moving_is_gone_on_with(tmp_path: Path) -> None:
    def stopped(handle: str) -> str:
        folder = Path(fetched(3)(handle))
        (folder / "Data_Entry_2017.csv").rename(tmp_path / "Data_Entry_2017.csv")
        return str(folder)

    download_kaggle(tmp_path, stopped, images=3)
    assert (tmp_path / "Data_Entry_2017.csv").exists()
    assert (tmp_path / "images_001").exists()


def test_too_few_images_are_an_error_and_no_record(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="2 of 3 images"):
        download_kaggle(tmp_path, fetched(2), images=3)
    assert not (tmp_path / "download.json").exists()


def test_files_of_somebody_else_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "Data_Entry_2017.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(DownloadError, match="move it away"):
        download_kaggle(tmp_path, fetched(3), images=3)
    assert (tmp_path / "Data_Entry_2017.csv").read_text(encoding="utf-8") == "mine"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = pytest.importorskip("kagglehub.config")
    monkeypatch.setattr(config, "_get_kaggle_credentials_file", lambda: str(tmp_path / "none.json"))
    return tmp_path


def test_without_a_token_it_says_how_to_get_one(home: Path) -> None:
    with pytest.raises(DownloadError, match=r"your token.*kaggle.com/settings"):
        download_kaggle(home / "out")


@pytest.mark.parametrize(
    ("status", "told"),
    [("401", "refuses your token"), ("403", "refuses your token"), ("500", "returned 500")],
)
def test_kaggles_refusals_become_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, status: str, told: str
) -> None:
    from kagglesdk import kaggle_env

    monkeypatch.setenv("KAGGLE_API_TOKEN", json.dumps("a token"))
    with serving({}) as server:
        server.always = status
        monkeypatch.setitem(
            kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url("").rstrip("/")
        )
        with pytest.raises(DownloadError, match=told):
            download_kaggle(home / "out")
        assert server.asked


def test_offline_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kagglesdk import kaggle_env

    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    with serving({}) as server:
        gone = server.url("").rstrip("/")
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, gone)
    with pytest.raises(DownloadError, match="check the connection"):
        download_kaggle(home / "out")
