"""The source `siim`: the SIIM-ACR Pneumothorax Segmentation challenge of 2019.

`train-rle.csv` has a row per annotated region: `ImageId`, which is the SOP Instance UID, and
`EncodedPixels`, runs in a frame of 1024 × 1024 pixels, counted down the columns, each start from
the end of the run before; or `-1` for no pneumothorax. An image may have several rows: it is one
image, and its mask is their union.

Source: SIIM-ACR Pneumothorax Segmentation, Kaggle, 2019. All images are from NIH ChestX-ray14.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import Findings
from chestxray.sources.assembly import (
    Stated,
    assemble,
    chosen_first,
    completeness,
    tables_where,
)
from chestxray.sources.collection import (
    MASK_COLUMNS,
    Collection,
    Problem,
    ReadOptions,
    SourceCard,
    problem,
)
from chestxray.sources.regions import (
    Runs,
    box_of_runs,
    fractions,
    runs_from_offsets,
    text_of_runs,
)
from chestxray.sources.table_files import cells, text_table
from chestxray.sources.table_files import titles as titles_of
from chestxray.sources.table_labels import TableLabels

FINDINGS: Final = Findings(("Pneumothorax",))
_IMAGES: Final = 12_047
_SIDE: Final = 1024  # pixels, of the frame of all masks
_COLUMNS: Final = frozenset({"ImageId", "EncodedPixels"})
_NONE: Final = "-1"  # no pneumothorax


class _SIIM:
    name: Final = "siim"
    card: Final = SourceCard(
        title="SIIM-ACR Pneumothorax",
        citation="SIIM-ACR Pneumothorax Segmentation, Kaggle, 2019",
        licence="The terms of the Kaggle competition; research use.",
        access="The first host is gone. Kaggle keeps copies: search its data sets for "
        "siim-acr-pneumothorax, and put train-rle.csv beside the folder dicom-images-train.",
        label_origin="Drawn by radiologists of SIIM and ACR, as masks.",
        uncertain="ignore",
        blank="negative",
        reasons="Nothing is uncertain or blank: every image has a mask or -1.",
        split="None: the labels of Kaggle's test were not given. Patients are not published, so "
        "images of one patient may be in train and test.",
        heeds=("table",),
        differs=("rows: each of the 12,954 rows is an image, here they are 12,047 images",),
    )

    def recognises(self, tree: Path) -> bool:
        return any(_has_uids(table) for table in _tables(tree))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        tables = chosen_first(_tables(tree), tree, options)
        if not tables:
            raise SourceError(
                f"{tree} holds no label table of SIIM-ACR Pneumothorax (columns ImageId and "
                f"EncodedPixels): put train-rle.csv into it"
            )
        text = text_table(tables[0])
        text = text[text["ImageId"] != ""].drop_duplicates(ignore_index=True)
        regions, labels, images = _read(text)
        rows = pd.DataFrame({"image": images, "file": images, "patient": images}).assign(
            study="", follow_up=0, age=np.nan, sex="", view=""
        )
        stated = Stated(
            rows=rows,
            labels=labels,
            parts=pd.Series("", rows.index, dtype="str"),
            facts={
                **completeness(images, {"": _IMAGES}),
                "patients": "not published: each image counts as its own patient",
            },
            headers=True,
        )
        collection = assemble(self, tree, tables[0], stated, options)
        kept = frozenset(collection.rows["image"])
        here = {image: runs for image, runs in regions.items() if image in kept}
        boxes, found = fractions(_boxes(here))
        return replace(
            collection,
            boxes=boxes,
            masks=_masks(here),
            problems=(*collection.problems, *found),
        )


SIIM: Final = _SIIM()


def _tables(tree: Path) -> list[Path]:
    return tables_where(tree, lambda titles: titles >= _COLUMNS)


def _has_uids(table: Path) -> bool:
    """Tell whether the first image is named by a UID; other challenges have the same titles."""
    first = cells(table, rows=1)[titles_of(table).index("ImageId")]
    return bool(first.str.fullmatch(r"\d+(\.\d+){5,}(\.dcm)?").all())


def _read(text: pd.DataFrame) -> tuple[dict[str, list[Runs]], TableLabels, pd.Series]:
    """Give the regions of each image, the labels, and the images, sorted."""
    pixels = text["EncodedPixels"]
    parsed = pixels.map(
        lambda cell: None if cell == _NONE else runs_from_offsets(cell, _SIDE, _SIDE)
    )
    is_region = parsed.notna()
    table = pd.DataFrame(
        {"region": is_region, "none": pixels == _NONE, "bad": ~is_region & (pixels != _NONE)}
    )
    by_image = table.groupby(text["ImageId"], sort=True).any()
    images = pd.Series(by_image.index, dtype="str")
    contrary = (by_image["region"] & by_image["none"]).to_numpy()
    bad = by_image["bad"].to_numpy()
    unknown = contrary | (bad & ~by_image["region"].to_numpy())
    values = np.where(unknown, np.nan, by_image["region"].to_numpy().astype(np.float64))
    regions: dict[str, list[Runs]] = {}
    for image, runs in zip(text["ImageId"][is_region], parsed[is_region], strict=True):
        regions.setdefault(image, []).append(runs)
    for image in images[contrary]:
        del regions[image]
    labels = TableLabels(
        findings=FINDINGS,
        values=values[:, None],
        unknown=unknown[:, None],
        empty=np.zeros(len(images), dtype=bool),
        blank="negative",
        reason="since every image has a mask or -1",
        problems=_problems(images, contrary, bad),
    )
    return regions, labels, images


def _problems(images: pd.Series, contrary: np.ndarray, bad: np.ndarray) -> list[Problem]:
    return [
        *problem(
            "contradiction",
            images[contrary],
            "an image has a mask and -1 (none): its label is unknown",
            loses=True,
        ),
        *problem(
            "bad-mask",
            images[bad],
            "EncodedPixels is neither -1 nor runs inside 1024 × 1024 pixels: the region is left "
            "out, and the label is unknown where the image has no other",
            loses=True,
        ),
    ]


def _boxes(regions: dict[str, list[Runs]]) -> pd.DataFrame:
    found = [
        (image, FINDINGS[0], *box_of_runs(runs, _SIDE), _SIDE, _SIDE)
        for image, of in regions.items()
        for runs in of
    ]
    return pd.DataFrame(found, columns=["image", "finding", *"xywh", "width", "height"])


def _masks(regions: dict[str, list[Runs]]) -> pd.DataFrame:
    found = [
        (image, FINDINGS[0], "", text_of_runs(np.concatenate(of), _SIDE, _SIDE))
        for image, of in regions.items()
    ]
    return pd.DataFrame(found, columns=[*MASK_COLUMNS, "runs"], dtype=object)
