"""Trackers of experiments: TensorBoard, MLflow, Weights & Biases.

A tracker is given the recipe as parameters, the figures of each epoch, and when a run is finished,
those of its best epoch and the bundle; later the report and the AUROC on the test images. Without
a tracker nothing is lost: `history.csv` is always written.

`tracking.json` in the run's folder names the trackers and what each calls the run, so that a
resumed run, another process and the report go on with the same one. The addresses of servers and
their credentials come from the environment, and are never written:

| tracker       | where it keeps a run                                                            |
|---------------|---------------------------------------------------------------------------------|
| `tensorboard` | `tensorboard/` in the run's folder; the recipe under HPARAMS; it keeps no files |
| `mlflow`      | `MLFLOW_TRACKING_URI`, experiment `MLFLOW_EXPERIMENT_NAME`, else `chestxray`    |
| `wandb`       | as `wandb login` and `WANDB_MODE` say, project `WANDB_PROJECT`, else `chestxray`|
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import pandas as pd

from chestxray.artifacts import read_json, write_json
from chestxray.errors import RecipeError, TrainingError, of_missing_module
from chestxray.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

_FILE: Final = "tracking.json"
_MADE_BY: Final = "chestxray train --logger"
_PROJECT: Final = "chestxray"
_OF_TEST: Final = "auroc/test"
_FIGURES: Final = ("best/loss", "best/bce", "best/accuracy", "best/auroc", _OF_TEST)
_log = logging.getLogger(__name__)

Values = Mapping[str, float]


class Tracker(Protocol):
    """What a tracker does with a run; `name` is what it calls the run."""

    @staticmethod
    def check() -> None:
        """Raise where it is not installed, or the environment lacks a setting."""

    @staticmethod
    def start(run: Path, parameters: Mapping[str, Any]) -> str:
        """Begin a run and give its name."""

    @staticmethod
    def logger(run: Path, name: str) -> Logger:
        """Give what Lightning logs the epochs with."""

    @staticmethod
    def add(run: Path, name: str, values: Values, files: Collection[Path]) -> None:
        """Add figures and files to a run that is finished."""


class _TensorBoard:
    @staticmethod
    def check() -> None:
        import tensorboard  # noqa: F401

    @staticmethod
    def start(run: Path, parameters: Mapping[str, Any]) -> str:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        with SummaryWriter(str(run / "tensorboard")) as writer:
            # Without values, which come later: a placeholder would be shown as a figure.
            summaries: Any = hparams  # not typed
            for summary in summaries(dict(parameters), dict.fromkeys(_FIGURES, 0.0)):
                writer.file_writer.add_summary(summary)
        return run.name

    @staticmethod
    def logger(run: Path, name: str) -> Logger:
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(run, name="tensorboard", version="", default_hp_metric=False)

    @staticmethod
    def add(run: Path, name: str, values: Values, files: Collection[Path]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(run / "tensorboard")) as writer:
            for key, value in values.items():
                writer.add_scalar(key, value)


class _MLflow:
    @staticmethod
    def check() -> None:
        import mlflow  # noqa: F401

        address = os.environ.get("MLFLOW_TRACKING_URI")
        if not address:
            raise RecipeError(
                "MLFLOW_TRACKING_URI does not say where MLflow keeps runs: set it to the address "
                "of a server, such as http://127.0.0.1:5000"
            )
        if urlsplit(address).password:
            raise RecipeError(
                "MLFLOW_TRACKING_URI has a password in it, which would be printed: set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )

    @staticmethod
    def start(run: Path, parameters: Mapping[str, Any]) -> str:
        client = _MLflow._client()
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = client.get_experiment_by_name(title)
        where = experiment.experiment_id if experiment else client.create_experiment(title)
        name: str = client.create_run(where, run_name=str(run)).info.run_id
        for key, value in parameters.items():
            client.log_param(name, key, value)
        return name

    @staticmethod
    def logger(run: Path, name: str) -> Logger:
        from lightning.pytorch.loggers import MLFlowLogger

        return MLFlowLogger(tracking_uri=os.environ["MLFLOW_TRACKING_URI"], run_id=name)

    @staticmethod
    def add(run: Path, name: str, values: Values, files: Collection[Path]) -> None:
        client = _MLflow._client()
        for key, value in values.items():
            client.log_metric(name, key, value)
        for file in files:
            if file.is_dir():
                client.log_artifacts(name, str(file), file.name)
            else:
                client.log_artifact(name, str(file))
        client.set_terminated(name)

    @staticmethod
    def _client() -> Any:  # noqa: ANN401
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])


class _Wandb:
    @staticmethod
    def check() -> None:
        import wandb  # noqa: F401

    @staticmethod
    def start(run: Path, parameters: Mapping[str, Any]) -> str:
        name = uuid.uuid4().hex[:12]
        with _Wandb._opened(run, name) as opened:
            opened.config.update(dict(parameters))
        return name

    @staticmethod
    def logger(run: Path, name: str) -> Logger:
        from lightning.pytorch.loggers import WandbLogger

        return WandbLogger(
            name=str(run), save_dir=run, project=_Wandb._project(), id=name, resume="allow"
        )

    @staticmethod
    def add(run: Path, name: str, values: Values, files: Collection[Path]) -> None:
        import wandb

        with _Wandb._opened(run, name) as opened:
            opened.summary.update(dict(values))
            for file in files:
                kind = "model" if file.is_dir() else "result"
                artifact = wandb.Artifact(f"{name}-{file.stem}", kind)
                (artifact.add_dir if file.is_dir() else artifact.add_file)(str(file))
                opened.log_artifact(artifact)

    @staticmethod
    def _opened(run: Path, name: str) -> Any:  # noqa: ANN401
        import wandb

        return wandb.init(
            project=_Wandb._project(), id=name, name=str(run), dir=run, resume="allow"
        )

    @staticmethod
    def _project() -> str:
        return os.environ.get("WANDB_PROJECT", _PROJECT)


TRACKERS: Final[Mapping[str, type[Tracker]]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _Wandb,
}


def check(names: Iterable[str]) -> None:
    """Check trackers before hours of training.

    Raises:
        RecipeError: an unknown name, or the environment lacks a setting.
        MissingExtraError: one is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise RecipeError(f"{name!r} is no tracker: --logger takes {', '.join(TRACKERS)}")
        try:
            TRACKERS[name].check()
        except ModuleNotFoundError as error:
            raise of_missing_module(error) from error


def start(run: Path, names: Iterable[str], recipe: Recipe) -> None:
    """Begin a run at each tracker where it has not begun yet, and write `tracking.json`.

    Raises:
        TrainingError: a tracker does not answer.
    """
    begun = _begun(run)
    for name in dict.fromkeys(names):
        if name not in begun:
            try:
                begun[name] = TRACKERS[name].start(run, _parameters(recipe))
            except Exception as error:
                raise TrainingError(
                    f"{name} cannot begin a run ({_first_line(error)}): check its settings, or "
                    f"leave out --logger {name}"
                ) from error
    if begun:
        write_json(run / _FILE, begun)


def loggers(run: Path) -> list[Logger]:
    """Give what Lightning logs the epochs of a run with."""
    return [TRACKERS[name].logger(run, called) for name, called in _begun(run).items()]


def log(loggers: Iterable[Logger], values: Values, epoch: int) -> None:
    """Give the figures of an epoch to each; a tracker that fails does not end the training."""
    for logger in loggers:
        try:
            logger.log_metrics(dict(values), step=epoch)
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises
            _log.warning("epoch %d is not tracked: %s", epoch, _first_line(error))


def finish(run: Path) -> None:
    """Add the best epoch's figures on validation and the bundle to a finished run."""
    if begun := _begun(run):
        _add(run, begun, _best(run), [run / "bundle"])


def add_report(run: Path, names: Iterable[str], page: Path) -> None:
    """Add the report, and the figures of an evaluation in the run's folder.

    Args:
        run: the folder of a run.
        names: of trackers that were given its training.
        page: the report.

    Raises:
        RecipeError: a tracker that was not.
    """
    begun = _begun(run)
    for name in names:
        if name not in begun:
            raise RecipeError(
                f"{run} was not trained with --logger {name}: leave it out, or train with it"
            )
    metrics = run / "evaluation" / "metrics.json"
    values = {}
    if metrics.exists():
        auroc = read_json(metrics, "chestxray evaluate")["mean"]["auroc"]["value"]
        values = {} if auroc is None else {_OF_TEST: float(auroc)}
    files = [page, *([metrics] if metrics.exists() else [])]
    _add(run, {name: begun[name] for name in names}, values, files)


def _add(run: Path, begun: Mapping[str, str], values: Values, files: Collection[Path]) -> None:
    for name, called in begun.items():
        try:
            TRACKERS[name].add(run, called, values, files)
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises
            what = ", ".join(map(str, files))
            _log.warning("%s is not given %s: %s", name, what, _first_line(error))


def _begun(run: Path) -> dict[str, str]:
    """Give each tracker's name of a run; empty where it is not tracked."""
    path = run / _FILE
    begun = read_json(path, _MADE_BY) if path.exists() else {}
    return {name: str(called) for name, called in begun.items() if name in TRACKERS}


def _parameters(recipe: Recipe) -> dict[str, Any]:
    """Give the keys of a recipe; those within keys as `loss.gamma`."""
    found: dict[str, Any] = {}
    for key, value in recipe.model_dump(mode="json").items():
        within = value if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{name}".rstrip("."): _plain(each) for name, each in within.items()}
    return found


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str | bool) else str(value)


def _best(run: Path) -> dict[str, float]:
    """Give the figures on validation of the best epoch; empty where there are no epochs."""
    path, best = run / "history.csv", read_json(run / "run.json", "chestxray train")["best_epoch"]
    if not path.exists() or not isinstance(best, int):  # an ensemble's members have their own
        return {}
    rows = pd.read_csv(path)
    chosen = rows[(rows["split"] == "val") & (rows["epoch"] == best)].drop(columns=["split"])
    return {f"best/{key}": float(value) for key, value in chosen.iloc[0].items()}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
