"""Training of the head alone, by regression; the backbone stays as it starts."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import torch

from chestxray.artifacts import write_json, write_table
from chestxray.dataset.store import Dataset
from chestxray.execution import carry
from chestxray.model.torch_engine import TorchEngine, device
from chestxray.training import recipe as recipes
from chestxray.training import threads
from chestxray.training.lightning_module import Task
from chestxray.training.loop import Outcome
from chestxray.training.precision import resolve
from chestxray.training.probe import BATCH, Regression, features_of, probe_of


def fit_head(dataset: Dataset, task: Task, run: Path) -> Outcome:
    """Fit the head of a task's classifier by its recipe's `method`; the backbone stays as it is.

    Writes `dataset.json`, `recipe.yaml` and `history.csv` into the run's folder. The history has
    one epoch, whose training figures are those of held-out logits.

    Args:
        dataset: with the splits `train` and `val`.
        task: of the recipe, its classifier with the initial weights.
        run: the folder of the run.
    """
    start, recipe = time.monotonic(), task.recipe
    bfloat16 = resolve(recipe.precision, device()) == "bfloat16"
    engine = TorchEngine(task.classifier.eval().to(device()), bfloat16)
    write_json(run / "dataset.json", dataset.manifest.model_dump(mode="json"))
    carry(dataset.folder, run)
    recipes.save(run / "recipe.yaml", recipe)
    rows = dataset.rows("train")
    threads.choose(recipe.threads, lambda: engine.run(dataset.images[rows[:BATCH]]))
    labels = dataset.labels(rows)
    method: Regression = "ridge" if recipe.method == "ridge" else "logistic"
    probe = probe_of(dataset, rows, engine, method, recipe.seed)
    probe.into(task.classifier)
    task.outputs["train"].add(torch.from_numpy(probe.held_out), torch.from_numpy(labels))
    val = dataset.rows("val")
    logits = features_of(engine, dataset, val) @ probe.weights.T + probe.biases
    task.outputs["val"].add(torch.from_numpy(logits), torch.from_numpy(dataset.labels(val)))
    table = [{"epoch": 0, "split": split, **task.measures(split)} for split in task.outputs]
    write_table(run / "history.csv", pd.DataFrame(table))
    return Outcome(0, 1, time.monotonic() - start, torch.get_num_threads())
