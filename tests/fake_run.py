"""A run as training, prediction, evaluation and explanation leave it, made by seeded NumPy.

Ranking quality is planted: a finding's logit is a normal draw, moved by its label, so its AUROC is
known. Hernia has no positives in the test part, so its figures do not exist there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from chestxray.evaluation import predictions
from chestxray.evaluation.bundle_thresholds import model_identity
from chestxray.evaluation.causal import PairedAnswers, causal_effects
from chestxray.evaluation.comparison import compare
from chestxray.evaluation.evaluation import evaluate
from chestxray.evaluation.labels import Labels
from chestxray.evaluation.predictions import Predictions
from chestxray.evaluation.reference import FINDINGS_OF_LABEL
from chestxray.findings import Findings
from chestxray.reporting import page
from chestxray.reporting.run_files import RunFiles
from chestxray.sources.nih import FINDINGS

SIZES = {"train": 600, "val": 300, "test": 400}
RESAMPLES = 40
CARD = {
    "backbone": "densenet121",
    "weights_sha256": "3c1f0a9b77e4" + "0" * 52,
    "pixel_rule": "luminance",
}
SHIFT = 1.5  # of the logit of a positive: AUROC = Φ(1.5 / √2) = 0.856


def truth(
    seed: int = 0, findings: Sequence[str] = FINDINGS, source: str = "planted radiographs"
) -> Labels:
    """Labels of three parts, two images a patient, boxes around the middle of test images.

    The boxes are of Mass, or of the first finding where there is no Mass.
    """
    names = list(findings)
    rng = np.random.default_rng(seed)
    count = sum(SIZES.values())
    labels = (rng.random((count, len(names))) < np.linspace(0.3, 0.05, len(names))).astype(float)
    split = np.repeat(list(SIZES), list(SIZES.values()))
    if "Hernia" in names:
        labels[split == "test", names.index("Hernia")] = 0
    rows = pd.DataFrame(labels, columns=names)
    rows["patient"] = (np.arange(count) // 2 + 1).astype(str)
    rows["split"] = split
    rows["width"] = rows["height"] = 1024
    rows["follow_up"] = np.arange(count) % 2
    rows["age"] = 20.0 + np.arange(count) // 2 % 70
    rows["sex"] = np.where(np.arange(count) // 2 % 2, "F", "M")
    rows["view"] = rng.choice(["PA", "AP"], count)
    rows.index = pd.Index([f"{i // 2 + 1:08d}_{i % 2:03d}.png" for i in range(count)], name="image")
    boxed = "Mass" if "Mass" in names else names[0]
    sick = rows.index[(rows["split"] == "test") & (rows[boxed] == 1)]
    boxes = pd.DataFrame({"image": sick, "finding": boxed, "x": 0.4, "y": 0.4, "w": 0.2, "h": 0.2})
    return Labels(source, False, "v2020", Findings(names), rows, boxes)


def predicted(labels: Labels, split: str, seed: int = 0) -> pd.DataFrame:
    """The rows of a table of predictions of one part, of planted quality."""
    rng = np.random.default_rng(seed)
    rows = labels.rows[labels.rows["split"] == split]
    y = rows[list(labels.findings)].to_numpy()
    logits = y * SHIFT + rng.normal(size=y.shape) - 2
    return predictions.table(list(rows.index), 1 / (1 + np.exp(-logits)), labels.findings).rows


def write_run(folder: Path, labels: Labels | None = None, resamples: int = RESAMPLES) -> Path:
    """Write everything that a page can show; reference labels only for NIH's findings."""
    labels = labels or truth(source="NIH ChestX-ray14")
    write_training(folder, labels)
    test, val = folder / "predictions.csv", folder / "validation.csv"
    predictions.write(test, Predictions(labels.findings, predicted(labels, "test")))
    predictions.write(val, Predictions(labels.findings, predicted(labels, "val", seed=1)))
    heat = np.zeros((SIZES["test"], len(labels.findings), 5, 5), dtype=np.float16)
    heat[:, :, 2, 2] = 1
    np.save(folder / "heatmaps.npy", heat)
    of_nih = labels.findings == FINDINGS
    adjudicated = _write_adjudicated(folder / "adjudicated.csv", labels) if of_nih else None
    out = folder / "evaluation"
    evaluate(
        test,
        labels,
        fit_on=val,
        heatmaps=folder / "heatmaps.npy",
        reference=adjudicated,
        resamples=resamples,
        out=out,
    )
    predictions.write(
        folder / "other.csv", Predictions(labels.findings, predicted(labels, "test", seed=2))
    )
    compare(test, folder / "other.csv", labels, resamples=resamples, out=out)
    _write_explanations(folder / "explanations", labels)
    write_causal(folder, labels.findings)
    return folder


def _write_adjudicated(path: Path, labels: Labels) -> Path:
    """Write reference labels that agree with the labels of the test part."""
    rows = labels.rows[labels.rows["split"] == "test"]
    table = pd.DataFrame({"Image Index": rows.index})
    for name, findings in FINDINGS_OF_LABEL.items():
        present = rows[list(findings)].max(axis=1) == 1
        table[name] = np.where(present, "YES", "NO")
    table.assign(Fracture="NO").to_csv(path, index=False)
    return path


def write_training(folder: Path, labels: Labels) -> None:
    """Write what is there right after training."""
    folder.mkdir(parents=True)
    about = {
        "source": labels.source,
        "release": labels.release,
        "synthetic": labels.synthetic,
        "findings": list(labels.findings),
        "split": {"name": "official", "sha256": "9f" * 32},
        "size": 64,
        "counts": {split: _counts(labels, split) for split in SIZES},
        "recipe": "quick",
        "backbone": "densenet121",
        "weights": "none",
        "precision": "32-true",
        "sampling": {
            "name": "balanced",
            "images": 600,
            "effective_images": 219.4,
            "distinct_share": 0.469,
            "largest_repetition": 4.0,
        },
        "monitor": "loss",
        "best_epoch": 3,
        "epochs": 6,
        "seconds": 185,
        "machine": "x86_64 CPU, 2 threads",
        "torch": "2.9.1",
        "seed": 0,
        "package_version": "0.1.0",
    }
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    record = {
        "name": "planted",
        "title": labels.source,
        "release": labels.release,
        "synthetic": False,
        "label_origin": "planted by a random generator",
        "policies": {"uncertain": "ignore", "blank": "negative", "views": "frontal"},
        "facts": {},
        "images": sum(SIZES.values()),
    }
    (folder / "dataset.json").write_text(json.dumps({"sources": [record]}), encoding="utf-8")
    (folder / "recipe.yaml").write_text("name: quick\nsize: 64\n", encoding="utf-8")
    (folder / "bundle").mkdir()
    (folder / "bundle" / "bundle.json").write_text(json.dumps(CARD), encoding="utf-8")
    history = [
        {
            "epoch": epoch,
            "split": split,
            "loss": 0.4 - 0.04 * epoch + 0.01 * (epoch - 3) ** 2 * (split == "val"),
            "bce": 0.4 - 0.03 * epoch,
            "accuracy": 0.8 + 0.02 * epoch,
            "auroc": 0.6 + 0.04 * epoch,
        }
        for epoch in range(6)
        for split in ("train", "val")
    ]
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)


def _counts(labels: Labels, split: str) -> dict[str, int]:
    rows = labels.rows[labels.rows["split"] == split]
    y: npt.NDArray[np.float64] = rows[list(labels.findings)].to_numpy()
    present = dict(zip(labels.findings, y.sum(axis=0).astype(int).tolist(), strict=True))
    none = int((y.sum(axis=1) == 0).sum())
    patients = int(rows["patient"].nunique())
    return {"images": len(rows), "patients": patients, "No Finding": none, **present}


def _write_explanations(folder: Path, labels: Labels) -> None:
    """Write three examples: two of one finding and one of another, where there is another."""
    folder.mkdir()
    nih = "Mass" in labels.findings
    first, last = ("Mass", "Edema") if nih else (labels.findings[0], labels.findings[-1])
    shown = []
    for finding, kind in ((first, "true call"), (first, "false call"), (last, "missed")):
        file = f"{finding}_{kind.replace(' ', '_')}.png"
        Image.new("L", (16, 8), 90).save(folder / file)
        entry = {"image": "00000451_000.png", "finding": finding, "kind": kind, "file": file}
        shown.append(entry | {"probability": 0.81, "threshold": 0.2, "label": 1})
    listed = {"model": model_identity(CARD), "shown": shown}
    (folder / "explanations.json").write_text(json.dumps(listed), encoding="utf-8")


def write_causal(folder: Path, findings: Sequence[str]) -> None:
    """Write what pairs of phantoms show: of two patients, each with each finding."""
    rng = np.random.default_rng(3)
    k, n = len(findings), 2 * len(findings)
    drawn, masks = np.tile(np.arange(k), 2), np.zeros((n, 12, 12), bool)
    masks[:, 3:7, 4:9] = True
    change = rng.normal(size=(n, k, 3, 3))
    logits = rng.normal(size=(n, 2, k))
    answers = PairedAnswers(
        Findings(findings), np.repeat([1, 2], k), drawn, masks, logits, 1 / (1 + np.exp(-logits)),
        change, change[np.arange(n), drawn],
    )  # fmt: skip
    effects = causal_effects(answers, {"head": [answers]}, resamples=20)
    Image.new("RGB", (40, 30), "navy").save(folder / "causal.png")
    about = {
        "model": model_identity(CARD),
        "trained_on": "planted radiographs",
        "synthetic": False,
        "pairs": {"patients": 2, "pixels": 12, "seed": 1},
        "cells": [3, 3],
        "left_out": [],
        "picture": "causal.png",
        "shown": list(findings)[:4],
    }
    text = json.dumps(about | effects.model_dump(mode="json"))
    (folder / "causal.json").write_text(text, encoding="utf-8")


def page_of(folder: Path) -> str:
    """The page of a run as HTML, as `report` writes it, without the figures' files."""
    files = RunFiles.read(folder)
    return page._page(files, page._figure_sets(files))
