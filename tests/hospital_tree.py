"""Real radiographs arranged as a hospital exports them, to test a table of one's own.

    OUT/labels.csv                file,pid,projection,Effusion,Pneumothorax,Consolidation,…
    OUT/P0001/S2/IM01.png         a folder per patient and study; file names repeat

Labels of NIH are taken over for the findings that NIH has; those of `Rib fracture` and `Pacemaker`
are drawn. Some labels are blank or -1.

    python tests/hospital_tree.py OUT
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import numpy as np

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "nih-sample"
FROM_NIH = ("Effusion", "Pneumothorax", "Consolidation")
DRAWN = ("Rib fracture", "Pacemaker")
HEADER = ("file", "pid", "projection", *FROM_NIH, *DRAWN)
PREVALENCE = 0.15
BLANK, UNCERTAIN = 0.10, 0.05  # shares of the labels


def make(out: Path, images: int = 200, seed: int = 0) -> Path:
    """Write the tree.

    Args:
        out: folder to write; must not hold files yet.
        images: how many radiographs of the sample to take.
        seed: of the choice, the drawn labels, the blanks and the -1.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    with (SAMPLE / "Data_Entry_2017_v2020.csv").open(encoding="utf-8") as file:
        entries = list(csv.DictReader(file))
    # Patients as a whole, drawn with more weight the more of the three findings they have, so
    # that each finding occurs often enough to be trained and tested.
    by_patient: dict[str, list[dict[str, str]]] = {}
    for entry in entries:
        by_patient.setdefault(entry["Patient ID"], []).append(entry)
    patients = sorted(by_patient, key=int)
    weight = np.array([1 + 3 * len(_named(by_patient[p]) & set(FROM_NIH)) for p in patients], float)
    order = rng.choice(len(patients), len(patients), replace=False, p=weight / weight.sum())
    rows: list[tuple[str, ...]] = []
    for number, chosen in enumerate(order, start=1):
        for image, entry in enumerate(by_patient[patients[chosen]][: images - len(rows)]):
            # Two images a study: the same name, in the same or another study of other patients.
            path = f"P{number:04}/S{image // 2 + 1}/IM{image % 2 + 1:02}.png"
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SAMPLE / "images" / entry["Image Index"], out / path)
            truth = [finding in entry["Finding Labels"].split("|") for finding in FROM_NIH]
            truth += list(rng.random(len(DRAWN)) < PREVALENCE)
            labels = [_written(label, rng.random()) for label in truth]
            rows.append((path, f"P{number:04}", entry["View Position"], *labels))
        if len(rows) == images:
            break
    with (out / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return out


def _named(entries: list[dict[str, str]]) -> set[str]:
    return {name for entry in entries for name in entry["Finding Labels"].split("|")}


def _written(label: bool, luck: float) -> str:
    if luck < BLANK:
        return ""
    return "-1" if luck < BLANK + UNCERTAIN else str(int(label))


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
