"""Pairs of predictions and labels made in memory, and results as their JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pydantic_core import to_jsonable_python

from chestxray.evaluation import predictions
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.predictions import Predictions
from chestxray.findings import Findings
from chestxray.sources.nih import FINDINGS


def dumped(results: object) -> Any:
    """Results as they stand in their file, read back."""
    return to_jsonable_python(results)


def pairs_of(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: np.ndarray,
    findings: Findings = FINDINGS,
    **changes: Any,
) -> Pairs:
    """Evaluated images of the test part, all of them predicted."""
    n = len(patients)
    given: dict[str, Any] = {
        "images": np.array([f"{row:08d}_000.png" for row in range(n)], dtype=object),
        "findings": findings,
        "probabilities": probabilities,
        "labels": labels,
        "patients": patients,
        "split": "test",
        "positions": np.arange(n),
        "predicted": findings,
        "left_out": {},
        "failed": 0,
        "unpredicted": 0,
        "about": pd.DataFrame(index=range(n)),
    }
    return Pairs(**given | changes)


def rows_of(
    images: list[str], probabilities: np.ndarray, findings: Findings = FINDINGS
) -> pd.DataFrame:
    """The rows of a table of predictions, to be changed before it is written."""
    return predictions.table(images, probabilities, findings).rows


def write(path: Any, rows: pd.DataFrame, findings: Findings = FINDINGS) -> Any:
    """Write rows as a table of predictions and give its path."""
    predictions.write(path, Predictions(findings, rows))
    return path


COLUMNS = predictions.columns(FINDINGS)
PROBABILITIES = predictions.probability_columns(FINDINGS)
