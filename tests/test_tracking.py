"""Trackers of experiments: their own programs read what a run gave them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pandas as pd
import pytest

from chestxray.errors import MissingExtraError, RecipeError, TrainingError
from chestxray.training import fit, tracking
from chestxray.training import recipe as recipes
from gateway_parts import free_port

TINY = ["backbone=resnet10t", "size=32", "batch_size=8", "max_epochs=2", "tta=[]"]
RECIPE = recipes.load("quick", TINY)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's store of files, where no server is needed."""
    pytest.importorskip("mlflow")
    address = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


def check_mlflow(address: str, run: Path) -> None:
    """Check by MLflow's own client what the tracker holds of a finished run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    name = json.loads((run / "tracking.json").read_text())["mlflow"]
    found = client.get_run(name)
    assert found.info.status == "FINISHED"
    assert found.data.params["backbone"] == "resnet10t"
    assert found.data.params["loss.kind"] == RECIPE.loss.kind
    history = pd.read_csv(run / "history.csv")
    for split in ("train", "val"):
        kept = [of.value for of in client.get_metric_history(name, f"auroc/{split}")]
        assert kept == pytest.approx(history.loc[history["split"] == split, "auroc"].tolist())
    best = history[history["split"] == "val"].iloc[int(found.data.metrics["best/epoch"])]
    assert found.data.metrics["best/auroc"] == pytest.approx(best["auroc"])
    bundle = {Path(of.path).name for of in client.list_artifacts(name, "bundle")}
    assert bundle == {path.name for path in (run / "bundle").iterdir()}
    local = client.download_artifacts(name, "bundle/weights.safetensors")
    assert Path(local).read_bytes() == (run / "bundle/weights.safetensors").read_bytes()


def test_mlflow_and_tensorboard_hold_parameters_epochs_bundle_and_report(dataset, store, tmp_path):
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    fit.train(dataset, RECIPE, run, trackers=["mlflow", "tensorboard"])
    check_mlflow(store, run)
    page = run / "report.html"
    page.write_text("<p>figures</p>")
    (run / "evaluation").mkdir()
    metrics = {"mean": {"auroc": {"value": 0.75}}}
    (run / "evaluation/metrics.json").write_text(json.dumps(metrics))
    tracking.add_report(run, ["mlflow", "tensorboard"], page)
    from mlflow.tracking import MlflowClient

    name = json.loads((run / "tracking.json").read_text())["mlflow"]
    client = MlflowClient(store)
    assert client.get_run(name).data.metrics["auroc/test"] == 0.75
    assert {of.path for of in client.list_artifacts(name)} == {
        "bundle", "metrics.json", "report.html"
    }  # fmt: skip
    check_tensorboard(run)


def check_tensorboard(run: Path) -> None:
    """Check by TensorBoard's own reader: scalars by epoch, and HPARAMS without placeholders."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    history = pd.read_csv(run / "history.csv")
    val = history[history["split"] == "val"].reset_index()
    found = [of.value for of in events.Scalars("auroc/val")]
    assert found == pytest.approx(val["auroc"].tolist())
    best = val["auroc"][val["loss"].idxmin()]  # the epoch that is kept
    assert [of.value for of in events.Scalars("best/auroc")] == [pytest.approx(best)]
    assert [of.value for of in events.Scalars("auroc/test")] == [0.75]
    told = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    parameters = HParamsPluginData.FromString(told).session_start_info.hparams
    assert parameters["backbone"].string_value == "resnet10t"
    assert parameters["max_epochs"].number_value == 2


def test_a_resumed_run_goes_on_with_the_run_of_the_tracker(dataset, store, tmp_path, monkeypatch):
    run, seen = tmp_path / "run", []
    log = tracking.log

    def stop_after_one(loggers, values, epoch):
        log(loggers, values, epoch)
        seen.append(epoch)
        if epoch == 1 and len(seen) == 3:  # train of epoch 1 is told, and the run is cut
            raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "log", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        fit.train(dataset, RECIPE, run, trackers=["mlflow"])
    monkeypatch.setattr(tracking, "log", log)
    begun = (run / "tracking.json").read_bytes()
    fit.train(dataset, None, run, resume=True)  # the run knows its trackers
    assert (run / "tracking.json").read_bytes() == begun
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    name = json.loads(begun)["mlflow"]
    assert client.get_run(name).info.status == "FINISHED"
    steps = [of.step for of in client.get_metric_history(name, "auroc/val")]
    assert sorted(set(steps)) == [0, 1]


def test_a_tracker_that_fails_in_training_costs_no_epoch(caplog):
    class Lost:
        def log_metrics(self, _values, step):
            raise OSError(f"no route to host at step {step}")

    tracking.log([Lost()], {"loss/train": 1.0}, epoch=3)
    assert "epoch 3 is not tracked: OSError: no route to host at step 3" in caplog.text


def test_what_cannot_be_tracked_is_told_before_training(dataset, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with pytest.raises(RecipeError, match="'neptune' is no tracker: --logger takes tensorboard, "):
        fit.train(dataset, RECIPE, run, trackers=["neptune"])
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RecipeError, match="set it to the address of a server"):
        fit.train(dataset, RECIPE, run, trackers=["mlflow"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:5000")
    with pytest.raises(RecipeError, match="has a password in it") as caught:
        fit.train(dataset, RECIPE, run, trackers=["mlflow"])
    assert "secret" not in str(caught.value)
    assert not run.exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"chestxray\[wandb\]"):
        tracking.check(["wandb"])


def test_a_server_that_does_not_answer_is_told(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrainingError, match=r"mlflow cannot begin a run .* leave out --logger"):
        tracking.start(tmp_path, ["mlflow"], RECIPE)
    assert not (tmp_path / "tracking.json").exists()


def test_a_report_is_given_only_to_trackers_that_know_the_run(tmp_path):
    with pytest.raises(RecipeError, match="was not trained with --logger mlflow"):
        tracking.add_report(tmp_path, ["mlflow"], tmp_path / "report.html")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """MLflow's own server; its program may be of another environment, named by MLFLOW_SERVER."""
    program = os.environ.get("MLFLOW_SERVER") or shutil.which("mlflow")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    words = [program or "", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    words += ["--artifacts-destination", str(folder / "files"), "--port", str(port)]
    if (
        program is None
        or subprocess.run(
            [program, "server", "--help"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("MLflow's server is not installed: MLFLOW_SERVER names no program")
    with subprocess.Popen(words, cwd=folder, start_new_session=True) as process:
        try:
            end = time.monotonic() + 120
            while time.monotonic() < end:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                        break
                time.sleep(0.5)
            yield address
        finally:
            os.killpg(process.pid, 15)


@pytest.mark.slow
def test_a_server_of_mlflow_holds_the_same(dataset, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    (tmp_path / "server").mkdir()
    with server(tmp_path / "server") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        fit.train(dataset, RECIPE, tmp_path / "run", trackers=["mlflow"])
        check_mlflow(address, tmp_path / "run")


@pytest.mark.slow
def test_wandb_keeps_a_run_offline(dataset, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    fit.train(dataset, RECIPE, run, trackers=["wandb"])
    name = json.loads((run / "tracking.json").read_text())["wandb"]
    kept = list((run / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert kept
    data = b"".join(path.read_bytes() for path in kept)
    assert b"auroc/val" in data
    assert b"resnet10t" in data
