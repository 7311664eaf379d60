from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "pandas", "numpy", "matplotlib", "pydantic", "cv2")


def chestxray(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chestxray", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )


def test_help_starts_without_any_heavy_library():
    probe = (
        "import sys; import chestxray.cli.main; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_help_names_every_verb():
    result = chestxray("--help")
    assert result.returncode == 0
    for verb in ("demo", "run", "synth", "download", "verify", "prepare", "train", "predict",
                 "evaluate", "explain", "report", "doctor"):  # fmt: skip
        assert f" {verb} " in result.stdout


def test_a_failure_is_one_line_and_exit_status_1(tmp_path):
    result = chestxray("train", str(tmp_path / "no"), "--out", str(tmp_path / "run"))
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("chestxray: ")
    assert "chestxray prepare" in line


def test_debug_shows_the_traceback(tmp_path):
    result = chestxray("train", str(tmp_path / "no"), "--out", str(tmp_path / "run"), "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("arguments", [("train",), ("nothing",), ("synth", "out", "--images", "x")])
def test_wrong_usage_is_exit_status_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert chestxray(*arguments).returncode == 2
    assert not list(tmp_path.iterdir())


def test_doctor_checks_a_dataset_and_a_bundle(dataset, run, tmp_path):
    well = chestxray("doctor", str(dataset.folder), str(run / "bundle"))
    assert well.returncode == 0
    assert f"{dataset.manifest.images} images" in well.stdout
    assert "14 findings" in well.stdout
    (tmp_path / "bundle.json").write_text("{}")
    ill = chestxray("doctor", str(tmp_path))
    assert ill.returncode == 1
    assert "FAIL  bundle" in ill.stdout


def test_doctor_takes_a_run_for_its_bundle(run):
    result = chestxray("doctor", str(run))
    assert result.returncode == 0
    assert "14 findings" in result.stdout


def test_doctor_says_what_a_folder_of_neither_kind_lacks(tmp_path):
    result = chestxray("doctor", str(tmp_path))
    assert result.returncode == 1
    assert "FAIL  folder" in result.stdout
    assert "neither a dataset, which holds dataset.json, nor a bundle" in result.stdout


def test_an_unknown_recipe_key_is_told_with_the_right_one(dataset, tmp_path):
    result = chestxray("train", str(dataset.folder), "--out", str(tmp_path / "run"), "--set",
                       "learning_rat=1")  # fmt: skip
    assert result.returncode == 1
    assert "did you mean 'learning_rate'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_resuming_where_nothing_was_begun_is_an_error(dataset, tmp_path):
    out = tmp_path / "typo"
    result = chestxray("train", str(dataset.folder), "--out", str(out), "--resume")
    assert result.returncode == 1
    assert "no run to resume" in result.stderr
    assert not out.exists()


def test_a_folder_in_the_place_of_a_file_is_told_in_one_line(run, dataset, tmp_path):
    result = chestxray("predict", str(run / "bundle"), str(dataset.folder), "--split", "test",
                       "--out", str(tmp_path))  # fmt: skip
    assert result.returncode == 1
    assert "is a folder" in result.stderr


def test_the_demo_ends_in_a_report_and_goes_on_where_it_was(tmp_path):
    for _ in range(2):
        result = chestxray("demo", "--out", str(tmp_path / "demo"), "--images", "100")
        assert result.returncode == 0, result.stderr
        report = Path(result.stdout.split("Open ")[1].strip())
        html = report.read_text(encoding="utf-8")
        assert html.count("<svg") > 10
        assert "Do the heatmaps follow the cause?" in html
        assert (report.parent / "causal.json").exists()
        report.unlink()
    assert "pointing game" in result.stdout
    assert " --resume" in result.stdout


def test_predicting_nothing_but_broken_files_fails(run, tmp_path):
    (tmp_path / "broken.png").write_text("words", encoding="utf-8")
    result = chestxray("predict", str(run / "bundle"), str(tmp_path), "--out",
                       str(tmp_path / "predictions.csv"))  # fmt: skip
    assert result.returncode == 1
    assert "broken.png" in result.stdout
