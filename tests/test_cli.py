from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chestxray.cli.main import main
from chestxray.reading.prediction import PredictionRun
from chestxray.training import Run
from command_line import run_command

HEAVY = ("torch", "pandas", "numpy", "matplotlib", "pydantic", "cv2")


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
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
    result = in_a_process("--help")
    assert result.returncode == 0
    for verb in ("demo", "run", "synth", "download", "verify", "prepare", "train", "predict",
                 "evaluate", "explain", "report", "doctor"):  # fmt: skip
        assert f" {verb} " in result.stdout


def test_a_failure_is_one_line_and_exit_status_1(tmp_path):
    result = in_a_process("train", str(tmp_path / "no"), "--out", str(tmp_path / "run"))
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("chestxray: ")
    assert "chestxray prepare" in line


def test_debug_shows_the_traceback(tmp_path):
    result = in_a_process("train", str(tmp_path / "no"), "--out", str(tmp_path / "run"), "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("arguments", [("train",), ("nothing",), ("synth", "out", "--images", "x")])
def test_wrong_usage_is_exit_status_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_a_process(*arguments).returncode == 2
    assert not list(tmp_path.iterdir())


def test_doctor_checks_a_dataset_and_a_bundle(dataset, run, tmp_path):
    well = run_command("doctor", str(dataset.folder), str(run / "bundle"))
    assert well.returncode == 0
    assert f"{dataset.manifest.images} images" in well.stdout
    assert "14 findings" in well.stdout
    (tmp_path / "bundle.json").write_text("{}")
    ill = run_command("doctor", str(tmp_path))
    assert ill.returncode == 1
    assert "FAIL  bundle" in ill.stdout


def test_doctor_takes_a_run_for_its_bundle(run):
    result = run_command("doctor", str(run))
    assert result.returncode == 0
    assert "14 findings" in result.stdout


def test_doctor_says_what_a_folder_of_neither_kind_lacks(tmp_path):
    result = run_command("doctor", str(tmp_path))
    assert result.returncode == 1
    assert "FAIL  folder" in result.stdout
    assert "neither a dataset, which holds dataset.json, nor a bundle" in result.stdout


def test_an_unknown_recipe_key_is_told_with_the_right_one(dataset, tmp_path):
    result = run_command("train", str(dataset.folder), "--out", str(tmp_path / "run"), "--set",
                       "learning_rat=1")  # fmt: skip
    assert result.returncode == 1
    assert "did you mean 'learning_rate'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_resuming_where_nothing_was_begun_is_an_error(dataset, tmp_path):
    out = tmp_path / "typo"
    result = run_command("train", str(dataset.folder), "--out", str(out), "--resume")
    assert result.returncode == 1
    assert "no run to resume" in result.stderr
    assert not out.exists()


def test_a_folder_of_other_files_in_the_place_of_predictions_is_told_in_one_line(
    run, dataset, tmp_path
):
    (tmp_path / "mine.txt").touch()
    result = run_command("predict", str(run / "bundle"), str(dataset.folder), "--split", "test",
                       "--out", str(tmp_path))  # fmt: skip
    assert result.returncode == 1
    assert "is a folder" in result.stderr


def test_the_demo_ends_in_a_report_and_goes_on_where_it_was(tmp_path):
    for _ in range(2):
        result = run_command("demo", "--out", str(tmp_path / "demo"), "--images", "100")
        assert result.returncode == 0, result.stderr
        report = Path(result.stdout.split("Open ")[1].strip())
        html = report.read_text(encoding="utf-8")
        assert html.count("<svg") > 10
        assert "Do the heatmaps follow the cause?" in html
        assert (report.parent / "causal.json").exists()
        report.unlink()
    assert "pointing game" in result.stdout
    assert " --resume" in result.stdout


def test_what_python_gives_is_shown_in_one_line(dataset, run):
    assert repr(dataset).startswith(f"Dataset('{dataset.folder}': phantoms, 160 images of ")
    assert "14 findings; split official with seed 0: " in repr(dataset)
    assert repr(Run.open(run)) == f"Run('{run}': {Run.open(run).model})"
    predicted = PredictionRun(Path("p.csv"), 5, {"a": "no"}, {"b": "no"}, None, "torch")
    assert repr(predicted) == "PredictionRun('p.csv': 3 read by torch, 1 refused, 1 unreadable)"


def interrupted(arguments: list[str], at: str) -> subprocess.CompletedProcess[str]:
    """Start a command, and press Ctrl-C when a line of its output holds a word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "chestxray", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests that run in the background ignore Ctrl-C, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stdout is not None
    watchdog = threading.Timer(400, process.kill)
    watchdog.start()
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if at in line:
                process.send_signal(signal.SIGINT)
                break
        said.append(process.communicate()[0])
    finally:
        watchdog.cancel()
        process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, "".join(said))


def test_ctrl_c_ends_training_with_130_and_a_line_that_says_how_to_resume(dataset, tmp_path):
    settings = ("weights=none", "max_epochs=1000", "patience=1000", "size=32", "backbone=resnet10t")
    command = ["train", str(dataset.folder), "--out", str(tmp_path / "run"), "--recipe", "quick"]
    command += [word for each in settings for word in ("--set", each)]
    ended = interrupted(command, "epoch 1")
    assert ended.returncode == 130, ended.stdout
    assert ended.stdout.splitlines()[-1] == (
        "chestxray: interrupted: run the same command again, with --resume if the run folder "
        "exists, to resume"
    )
    assert "Traceback" not in ended.stdout


def test_ctrl_c_ends_the_service_with_130_and_one_line(run, exported):
    command = ["serve", str(run / "bundle"), "--engine", str(exported), "--port", "0"]
    ended = interrupted(command, "(Ctrl-C stops it)")
    assert ended.returncode == 130, ended.stdout
    assert ended.stdout.splitlines()[-1] == "chestxray: stopped"
    assert "Traceback" not in ended.stdout


def test_ctrl_c_ends_any_other_command_with_130(run, dataset, monkeypatch, capsys):
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chestxray.reading.predict", press)
    command = ["chestxray", "predict", str(run / "bundle"), str(dataset.folder), "--out", "p.csv"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "chestxray: interrupted: run the same command again to resume"


def test_run_with_an_empty_test_part_fails_before_anything_is_decoded(phantoms, dataset, tmp_path):
    parts = dataset.index[["image", "split"]]
    parts.assign(split=parts["split"].replace("test", "train")).to_csv(tmp_path / "s.csv")
    failed = run_command("run", str(phantoms), "--out", str(tmp_path / "out"), "--split",
                       str(tmp_path / "s.csv"), "--recipe", "quick")  # fmt: skip
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("chestxray: the split ")
    assert "leaves no image for test: use more images or another --split" in failed.stderr
    assert not (tmp_path / "out").exists()


def test_prepare_says_which_options_a_source_got_and_how_many_labels_are_unknown(tmp_path):
    tree = hospital(tmp_path / "hospital")
    command = ["prepare", str(tree), str(tmp_path / "out"), "--size", "32", "--uncertain", "ones",
               "--columns", "image=file"]  # fmt: skip
    result = run_command(*command)
    assert result.returncode == 0, result.stderr
    assert "hospital: 40 images; uncertain ones, blank unknown, views frontal" in result.stdout
    assert "neither 1 nor 0: 4 uncertain (present), 8 blank (unknown)" in result.stdout
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("Effusion "))
    assert line.split()[-1] == "8"
    assert "patients are split at random" in result.stderr


def hospital(tree: Path) -> Path:
    """Radiographs of 20 patients with a table: of ten labels, one is -1 and two are blank."""
    tree.mkdir()
    lines, labels = ["file,pid,Effusion"], ("1", "0", "0", "1", "-1", "", "", "0", "1", "0")
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(pixels).save(tree / f"{number}.png")
        lines.append(f"{number}.png,{number // 2},{labels[number % 10]}")
    (tree / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tree


def test_predicting_nothing_but_broken_files_fails(run, tmp_path):
    (tmp_path / "broken.png").write_text("words", encoding="utf-8")
    result = run_command("predict", str(run / "bundle"), str(tmp_path), "--out",
                       str(tmp_path / "predictions.csv"))  # fmt: skip
    assert result.returncode == 1
    assert "broken.png" in result.stdout


def test_of_many_unreadable_files_ten_are_named_and_the_rest_counted(run, tmp_path):
    for number in range(13):
        (tmp_path / f"broken_{number:02}.png").write_text("words", encoding="utf-8")
    out = tmp_path / "predictions.csv"
    result = run_command("predict", str(run / "bundle"), str(tmp_path), "--out", str(out))
    assert "13 unreadable" in result.stdout
    assert result.stdout.count("  broken_") == 10
    assert f"  and 3 more: see the column reason of {out}" in result.stdout
