"""A source of another package: one folder per ward, one file per radiograph, no table.

wards.txt    ward-a/p1_edema.png    ward-b/p2_normal.png
"""

from pathlib import Path

import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import Findings
from chestxray.sources import Collection, ReadOptions, SourceCard
from chestxray.sources.collection import no_boxes, only_views, policies


class Wards:
    name = "wards"
    card = SourceCard(title="Wards", licence="Ours.", label_origin="The name of the file.")

    def recognises(self, tree: Path) -> bool:
        return (tree / "wards.txt").is_file()

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        files = sorted(tree.resolve().glob("ward-*/*.png"))
        if not files:
            raise SourceError(f"{tree} has no ward-*/*.png")
        names = [file.stem.split("_", 1) for file in files]
        rows = pd.DataFrame({"image": [f.relative_to(tree.resolve()).as_posix() for f in files]})
        rows["path"] = [str(file) for file in files]
        rows["patient"] = [patient for patient, _ in names]
        rows = rows.assign(study="", follow_up=0, age=float("nan"), sex="", view="")
        rows["Edema"] = [float(finding == "edema") for _, finding in names]
        applied = policies(self.card, options)
        rows, problems = only_views(rows, applied["views"])
        findings = Findings(["Edema"])
        return Collection(
            self.name, self.card, findings, rows, no_boxes(), {}, tuple(problems), applied
        )


WARDS = Wards()
