"""Names of files that are not UTF-8 end no command; they are shown escaped and told apart."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from chestxray.dataset.preparation import prepare
from chestxray.dataset.verification import verify
from chestxray.errors import ArtifactError, SourceError
from chestxray.file_names import is_text, one_line, shortened
from chestxray.reading import explain, predict
from chestxray.reading.inputs import _keys
from chestxray.sources.fetch import unpack
from nih_tree import write_tree


def at(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def test_names_are_escaped_and_told_apart():
    raw = [b"a\xff.png", b"a\\udcff.png", b"a\xe9.png", "aé.png".encode(), b"a\n.png"]
    texts = [os.fsdecode(name) for name in raw]
    assert [is_text(text) for text in texts] == [False, True, False, True, True]
    assert one_line(texts[0]) == r"a\udcff.png"
    keys = _keys([(Path("/x") / text, Path("/x")) for text in texts])
    assert len(set(keys)) == len(keys)
    assert all(is_text(key) and key.isprintable() for key in keys)


def test_long_names_are_cut_and_told_apart():
    names = [f"{'x' * 300}{end}/{'é' * 150}" for end in "ab"]
    cut = [shortened(name) for name in names]
    assert cut[0] != cut[1]
    assert all(len(part.encode()) <= 200 for name in cut for part in name.split("/"))
    assert shortened("images/1.png") == "images/1.png"


def test_a_tree_with_such_a_file_is_prepared_without_it_and_says_so(tmp_path):
    raw = write_tree(tmp_path / "raw", 20)
    one = next(raw.rglob("*.png"))
    shutil.copy(one, at(one.parent, b"bad\xe9.png"))
    found = {problem.code: problem for problem in verify(raw).problems}
    assert found["name-not-utf8"].examples == (r"images_001/images/bad\udce9.png",)
    assert found["name-not-utf8"].loses
    dataset = prepare(raw, tmp_path / "out", 16, "patient")
    assert len(dataset.images) == 20
    assert r"bad\\udce9.png" in (tmp_path / "out/dataset.json").read_text(encoding="utf-8")


def test_folders_of_such_names_are_refused_in_a_sentence(tmp_path):
    raw = write_tree(at(tmp_path, b"raw\xff"), 4)
    for act in (verify, lambda tree: prepare(tree, tmp_path / "out", 16)):
        with pytest.raises(SourceError, match=r"raw\\udcff is not valid UTF-8.*rename"):
            act(raw)
    with pytest.raises(ArtifactError, match=r"out\\udcff is not valid UTF-8"):
        prepare(raw, at(tmp_path, b"out\xff"), 16)


def test_the_command_line_shows_such_names_escaped(tmp_path):
    raw = write_tree(at(tmp_path, b"raw\xff"), 4)
    command = [sys.executable, "-m", "chestxray", "verify", str(raw)]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, check=False, env=strict, timeout=300)
    assert done.returncode == 1
    assert rb"raw\udcff is not valid UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_predictions_and_pictures_of_such_files_are_told_apart(phantoms, run, tmp_path):
    original = next((phantoms / "images_001/images").iterdir())
    folder = tmp_path / "files"
    folder.mkdir()
    for name in (b"a\xff.png", b"a\\udcff.png", b"\xfe" * 200 + b".png"):
        shutil.copy(original, at(folder, name))
    made = predict(run / "bundle", folder, tmp_path / "predictions.csv", force=True)
    assert made.rows == made.read == 3
    text = (tmp_path / "predictions.csv").read_bytes().decode("utf-8", "strict")
    keys = [row["Image Index"] for row in csv.DictReader(io.StringIO(text))]
    assert len(set(keys)) == 3
    drawn = explain(run / "bundle", folder, tmp_path / "drawn", findings=["Mass"], force=True)
    assert len(set(drawn.pictures)) == 3
    assert all(picture.exists() for picture in drawn.pictures)


def test_an_archive_may_hold_such_names(tmp_path):
    archive = tmp_path / "images.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("good.png", "caf\udce9.png"):
            tar.addfile(tarfile.TarInfo(name))
    unpack(archive, tmp_path / "out", 2)
    held = sorted(os.fsencode(path.name) for path in (tmp_path / "out").iterdir())
    assert held == [b"caf\xe9.png", b"good.png"]
