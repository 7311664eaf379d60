"""Predictions against labels that radiologists agreed on, beside NIH's own labels of these images.

NIH's labels were extracted from reports by a program. Majkowska 2020 (Radiology,
doi:10.1148/radiol.2019191293) had radiologists adjudicate four findings on 4,376 of the images:
2,414 of the official training list (set `val` there) and 1,962 of the official test list (`test`).
A model trained on the official training list has seen the former, so the latter are the default.

The four are not NIH's fourteen. `FINDINGS_OF_LABEL` is this package's own mapping, after the tree
of findings in Irvin 2019 (CheXpert, arXiv 1901.07031), in which atelectasis, consolidation,
pneumonia and edema are lung opacities; infiltration is NIH's word for an unspecified one. Effusion
lies outside the lung. The score of a label is the largest probability among its findings: the
probability that any of them is present cannot be lower, whatever their dependence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import SourceError
from chestxray.evaluation.bootstrap import Draws, Floats, Interval, Values
from chestxray.evaluation.evidence import one_sided
from chestxray.evaluation.labels import Pairs, match_names
from chestxray.evaluation.metrics import resampled
from chestxray.evaluation.predictions import counted, examples
from chestxray.evaluation.result_details import Reference, ReferenceLabel
from chestxray.evaluation.weighted_counts import Column
from chestxray.sources.table_files import cells, header, key

FINDINGS_OF_LABEL: Final = {
    "Pneumothorax": ("Pneumothorax",),
    "Nodule or mass": ("Mass", "Nodule"),
    "Airspace opacity": ("Atelectasis", "Infiltration", "Pneumonia", "Consolidation", "Edema"),
}
"""Adjudicated label → the NIH findings that it stands for."""

_NOT_COVERED: Final = {"Fracture": "none of NIH's 14 findings is a fracture"}
_MAPPING_SENTENCE: Final = (
    "The score of a label is the largest probability among its findings. By NIH's labels it is "
    "present where any of them is. The mapping is this package's own, after the tree of findings "
    "of CheXpert (Irvin 2019); the adjudicated labels are from Majkowska 2020."
)

_WORDS: Final = {"YES": 1.0, "NO": 0.0, "": np.nan}


def read(path: Path) -> pd.DataFrame:
    """Read a table of adjudicated labels, plain or gzipped, columns by name in any order.

    Returns:
        Indexed by image name: one float column per label (1, 0, NaN = unknown); `set`, in lower
        case, empty where the table has no `Set Id`.

    Raises:
        SourceError: a column is missing, an image is repeated, or a label is neither YES nor NO.
    """
    titles, text = [key(title) for title in header(path)], cells(path)
    labels = (*FINDINGS_OF_LABEL, *_NOT_COVERED)
    lacking = [title for title in ("Image Index", *labels) if key(title) not in titles]
    if lacking:
        raise SourceError(
            f"{path} is not a table of adjudicated labels: it lacks {', '.join(lacking)}; give "
            f"google2019_nih-chest-xray-labels.csv"
        )
    column = {title: text[titles.index(key(title))] for title in ("Image Index", *labels)}
    images = pd.Index(column["Image Index"], name="image")
    if images.has_duplicates:
        twice = list(images[images.duplicated()])
        raise SourceError(
            f"{path}: duplicate image name in {counted(len(twice), 'row')} "
            f"({examples(twice)}): keep one row per image"
        )
    rows = pd.DataFrame(index=images)
    for label in labels:
        words = column[label].str.upper()
        wrong = words[~words.isin(_WORDS)]
        if len(wrong):
            raise SourceError(
                f"{path}: {label} is {wrong.iloc[0]!r} in a row: it must be YES or NO"
            )
        rows[label] = words.map(_WORDS).to_numpy(dtype=np.float64)
    sets = text[titles.index("setid")].str.lower() if "setid" in titles else ""
    return rows.assign(set=np.asarray(sets))


def reference(path: Path, pairs: Pairs, draws: Draws, part: str = "test") -> Reference:
    """Evaluate predictions against the adjudicated labels of one set.

    Args:
        path: the table of adjudicated labels.
        pairs: predictions paired with NIH's labels.
        draws: of the patients of `pairs`.
        part: the set, `test` or `val`; a table without sets is used whole.

    Raises:
        SourceError: a table that `read` refuses.
    """
    table = read(path)
    places, _ = match_names(pd.Index(pairs.images), table.index)
    of_part = table["set"].isin([part, ""]).to_numpy()
    rows = np.flatnonzero((places >= 0) & of_part[places])
    adjudicated = table.iloc[places[rows]]
    lacking = {
        label: [name for name in names if pairs.findings.place(name) is None]
        for label, names in FINDINGS_OF_LABEL.items()
    }
    return Reference(
        set=part,
        images=len(rows),
        patients=len(np.unique(pairs.patients[rows])),
        without_reference=int((places < 0).sum()),
        of_other_sets=int((places >= 0).sum()) - len(rows),
        without_prediction=int(of_part.sum()) - len(rows),
        labels={
            label: _label(label, adjudicated[label].to_numpy(dtype=np.float64), rows, pairs, draws)
            for label, names in lacking.items()
            if not names
        },
        not_covered=_NOT_COVERED
        | {
            label: f"not evaluated: {', '.join(names)}" for label, names in lacking.items() if names
        },
        mapping=_MAPPING_SENTENCE,
    )


def any_of(labels: Floats) -> Values:
    """Tell whether any finding is present: [n, k] of 1, 0, NaN → [n]; NaN where unknown."""
    present, unknown = (labels == 1).any(axis=1), np.isnan(labels).any(axis=1)
    return np.where(present, 1.0, np.where(unknown, np.nan, 0.0))


def _label(
    label: str, adjudicated: Values, rows: npt.NDArray[np.int64], pairs: Pairs, draws: Draws
) -> ReferenceLabel:
    """Give one label: the model against both labels, and NIH's labels against the reference."""
    places = [
        place
        for name in FINDINGS_OF_LABEL[label]
        if (place := pairs.findings.place(name)) is not None
    ]
    score = pairs.probabilities[rows][:, places].max(axis=1, initial=0)
    by_nih = any_of(pairs.labels[rows][:, places])
    both = ~np.isnan(adjudicated) & ~np.isnan(by_nih)
    rows, score, y, nih = rows[both], score[both], adjudicated[both], by_nih[both]
    names = ("auroc", "auprc")
    ours, theirs = (resampled(Column(truth, score, rows), draws, names) for truth in (y, nih))
    why, why_nih = (one_sided(truth) for truth in (y, nih))
    return ReferenceLabel(
        findings=[pairs.findings[place] for place in places],
        rule="the largest probability",
        images=len(rows),
        positives=int(y.sum()),
        nih_positives=int(nih.sum()),
        auroc=draws.interval(ours["auroc"], why),
        auprc=draws.interval(ours["auprc"], why),
        nih_auroc=draws.interval(theirs["auroc"], why_nih),
        nih_auprc=draws.interval(theirs["auprc"], why_nih),
        difference=draws.interval(ours["auroc"] - theirs["auroc"], why or why_nih),
        agreement=_agreement(nih, y, rows, draws),
    )


def _agreement(
    nih: Values, y: Values, rows: npt.NDArray[np.int64], draws: Draws
) -> dict[str, Interval]:
    """Give sensitivity, specificity and Cohen's kappa of NIH's label against the reference."""
    cells_of_table = np.stack([nih * y, nih * (1 - y), (1 - nih) * (1 - y), (1 - nih) * y], axis=1)
    counts = draws.apply(lambda w: w @ cells_of_table, rows)
    values = agreement(counts)
    return {
        name: draws.interval(of, one_sided(y) or "both have only one class")
        for name, of in values.items()
    }


def agreement(counts: Values) -> dict[str, Values]:
    """Compare calls with reference labels, NaN where undefined.

    Args:
        counts: float64 [b, 4], in the order of `weighted_counts.Calls`.

    Returns:
        `sensitivity`, `specificity` and `kappa` (Cohen 1960), float64 [b] each.
    """
    tp, fp, tn, fn = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        total = tp + fp + tn + fn
        by_chance = ((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)) / total**2
        kappa = ((tp + tn) / total - by_chance) / (1 - by_chance)
        return {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp), "kappa": kappa}
