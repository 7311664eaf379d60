"""The pointing game: does a heatmap's peak lie where the finding is (Zhang 2018, arXiv 1608.00507)?

Two baselines stand beside every figure, since some findings are easy to hit: a point at random in
the image, and the image's centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.artifacts import read_json, require, sha256, write_json
from chestxray.dataset.pixels import placement
from chestxray.errors import PredictionsError
from chestxray.evaluation.evaluate import LOCALISATION
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.metrics import mean_of_defined
from chestxray.evaluation.regions import Case
from chestxray.findings import FINDINGS

CENTRE: Final = (0.5, 0.5)


def point(heatmaps: Path, pairs: Pairs, cases: Sequence[Case], out: Path) -> dict[str, Any]:
    """Play the pointing game and write `localisation.json` into the folder `out`.

    Args:
        heatmaps: .npy of float [rows, 14, h, w] ≥ 0, a row for each row of the table of
            predictions, failed ones too.
        pairs: the evaluated rows of that table.
        cases: where findings are.
        out: the folder.

    Returns:
        For each finding and `all`: `cases`, and the shares `hit`, `random`, `centre`.

    Raises:
        PredictionsError: heatmaps that do not belong to the table.
    """
    maps = _open(heatmaps, len(pairs.images) + pairs.failed)
    hits = []
    for case in cases:
        heat = maps[pairs.positions[case.row], FINDINGS.index(case.finding)]
        if not np.isfinite(heat).all():
            raise PredictionsError(
                f"{heatmaps}: the heatmap of {pairs.images[case.row]} is not finite: predict again"
            )
        hits.append(_hits(heat, case))
    played = pd.DataFrame(
        {
            "finding": [case.finding for case in cases],
            "hit": np.array(hits, dtype=float),
            "random": [case.region.area for case in cases],
            "centre": [float(case.region.holds(*CENTRE)) for case in cases],
        }
    )
    result = {
        "split": pairs.split,
        "findings": {name: _summary(played[played["finding"] == name]) for name in FINDINGS},
        "all": _summary(played),
    }
    write_json(out / LOCALISATION, result)
    return result


def check_belongs(heatmaps: Path, predictions: Path) -> None:
    """Raise `PredictionsError` when heatmaps say that they were made with other predictions.

    `predict` writes the predictions' SHA-256 beside the heatmaps; those of others may lack it.
    """
    note = heatmaps.with_suffix(".json")
    if not note.exists():
        return
    made_with = read_json(note, "chestxray predict --heatmaps")["predictions_sha256"]
    if made_with != sha256(predictions):
        raise PredictionsError(
            f"{heatmaps} was made with other predictions than {predictions}: "
            f"run `chestxray predict --heatmaps` again"
        )


def _open(path: Path, rows: int) -> npt.NDArray[np.floating[Any]]:
    require(path, "chestxray predict --heatmaps")
    try:
        maps = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise PredictionsError(f"{path} is no NumPy array: {error}") from error
    if maps.ndim != 4 or maps.shape[:2] != (rows, len(FINDINGS)):
        raise PredictionsError(
            f"{path} has shape {maps.shape}, the table of predictions asks for "
            f"({rows}, {len(FINDINGS)}, h, w): give the heatmaps written beside it"
        )
    return maps


def _hits(heat: npt.NDArray[np.floating[Any]], case: Case) -> bool:
    """Tell whether the centre of the hottest cell lies in the region; no heat, no hit."""
    if not heat.max() > 0:
        return False
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    left, top, wide, high = placement(*case.size)
    x = ((column + 0.5) / heat.shape[1] - left) / wide
    y = ((row + 0.5) / heat.shape[0] - top) / high
    return 0 <= x <= 1 and 0 <= y <= 1 and case.region.holds(float(x), float(y))


def _summary(played: pd.DataFrame) -> dict[str, Any]:
    """Average a game in the JSON shape of metrics; null with the reason where it had no case."""
    shares = {name: mean_of_defined(played[name]) for name in ("hit", "random", "centre")}
    if played.empty:
        hit = {"value": None, "low": None, "high": None, "reason": "no box or mask"}
        return {"cases": 0, "hit": hit, "random": None, "centre": None}
    return {
        "cases": len(played),
        "hit": {"value": shares["hit"], "low": None, "high": None},
        "random": shares["random"],
        "centre": shares["centre"],
    }
