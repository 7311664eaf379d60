"""The source `vindr`: VinDr-CXR as PhysioNet gives it, or its training part as Kaggle does.

PhysioNet: `image_labels_train.csv` (a row per image and reader, a column per label),
`image_labels_test.csv` (a consensus of five), and `annotations_….csv` with boxes. Kaggle:
`train.csv`, a row per box and reader. Three readers read each image of train. A reader who names a
finding names what it implies too; then `ReadOptions.readers` says how many must name it.

No patient is published, so each image counts as its own, and only the official split is honest.

Source: Nguyen et al., VinDr-CXR, Scientific Data 9, 2022 (arXiv 2012.15029).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from chestxray.errors import SourceError
from chestxray.findings import NO_FINDING, Findings, canonical, implied
from chestxray.sources.assembly import (
    Stated,
    assemble,
    check_titled,
    completeness,
    tables_where,
)
from chestxray.sources.collection import (
    Collection,
    Problem,
    Readers,
    ReadOptions,
    SourceCard,
    check_choice,
    no_boxes,
    problem,
)
from chestxray.sources.headers import sides
from chestxray.sources.regions import fractions
from chestxray.sources.table_files import table_stem, text_table
from chestxray.sources.table_labels import TableLabels

BOXED: Final = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD",
    "Infiltration", "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion",
    "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis",
)  # fmt: skip
"""The classes of Kaggle's table."""

ALL: Final = (
    *BOXED, "Clavicle fracture", "Edema", "Emphysema", "Enlarged PA", "Lung cavity", "Lung cyst",
    "Mediastinal shift", "Rib fracture", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
    "Other diseases",
)  # fmt: skip
"""The labels of PhysioNet's tables; that of the test writes Other disease."""

_LONG: Final = frozenset({"image_id", "class_name", "x_min", "y_min", "x_max", "y_max"})
_NAMES: Final = Findings([canonical(name) for name in ALL])
_TABLES: Final = frozenset(
    f"{kind}_{part}" for kind in ("image_labels", "annotations") for part in ("train", "test")
)
"""PhysioNet's tables, by name without suffix."""

_EXPECTED: Final = {"train": 15_000, "test": 3_000}
_BOX: Final = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True)
class _Votes:
    """What readers named.

    Attributes:
        findings: K names.
        votes: a row per image and reader: `image`, `reader`, `part`, and a bool column per finding.
        doubtful: images with a label that is not known.
    """

    findings: Findings
    votes: pd.DataFrame
    doubtful: frozenset[str]


class _VinDr:
    name: Final = "vindr"
    card: Final = SourceCard(
        title="VinDr-CXR",
        citation="Nguyen et al., VinDr-CXR, Scientific Data 9, 2022 (arXiv 2012.15029)",
        licence="PhysioNet credentialed (CITI training and data use agreement), or the terms of "
        "the Kaggle competition.",
        access="PhysioNet: sign the agreement of https://physionet.org/content/vindr-cxr/1.0.0, "
        "then: wget -r -N -c -np --user NAME --ask-password "
        "https://physionet.org/files/vindr-cxr/1.0.0 (75 GB).",
        label_origin="Named and boxed by 17 radiologists, three on each image of train; a "
        "consensus of five on each image of test.",
        uncertain="ignore",
        blank="negative",
        reasons="A finding is present where two of the three readers name it (--readers any and "
        "--readers unanimous are the others; there is no mean, since a label is 1, 0 or unknown); "
        "every reader looked for all, so one that is not named is absent.",
        split="PhysioNet's train and test. Kaggle's train has none; its images are drawn, and "
        "since no patient is published, those of one patient may be in train and test.",
        heeds=("readers",),
        differs=(
            "readers: any of the three, here two of three (--readers any agrees)",
            "finer findings: only what a reader named, here Consolidation is Lung Opacity too",
            "names: Pulmonary Fibrosis, here Fibrosis",
        ),
    )

    def recognises(self, tree: Path) -> bool:
        return bool(_wide(tree) or _tables(tree, _LONG | {"class_id", "rad_id"}))

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        check_titled(tree, _TABLES.__contains__)
        wide, long = _wide(tree), _tables(tree, _LONG)
        told = _tables(tree, _LONG | {"rad_id"})
        if wide:
            read, problems = _wide_votes(wide)
        elif told:
            read, problems = _long_votes(told[0])
        else:
            raise SourceError(
                f"{tree} holds no label table of VinDr-CXR: put PhysioNet's image_labels_train.csv "
                f"and image_labels_test.csv, or Kaggle's train.csv, into it"
            )
        rule = options.readers or "majority"
        _check_rule(rule)
        rows, labels, parts = _aggregated(read, rule)
        stated = Stated(
            rows=rows,
            labels=labels,
            parts=parts,
            problems=tuple(problems),
            facts=_facts(read, parts, rule),
            headers=True,
        )
        collection = assemble(self, tree, (wide or told)[0], stated, options)
        boxes, found = _boxes(long, collection)
        return replace(
            collection,
            boxes=boxes,
            problems=(*collection.problems, *found),
            policies={**collection.policies, "readers": rule},
        )


VINDR: Final = _VinDr()


def _tables(tree: Path, wanted: frozenset[str]) -> list[Path]:
    return tables_where(tree, lambda titles: wanted <= titles)


def _wide(tree: Path) -> list[Path]:
    """Find the tables with a column per label; one that lacks a few is refused when it is read."""

    def fits(titles: frozenset[str]) -> bool:
        named = {canonical(title) for title in titles}.intersection(_NAMES)
        return "image_id" in titles and len(named) > len(BOXED)

    return tables_where(tree, fits)


def _long_votes(table: Path) -> tuple[_Votes, list[Problem]]:
    """Read Kaggle's table: a row per box, or one for a reader who found nothing."""
    text = text_table(table)
    text = text[text["image_id"] != ""]
    findings = Findings([canonical(name) for name in BOXED])
    name = text["class_name"].map({each: canonical(each) for each in text["class_name"].unique()})
    strange = ~name.isin([*findings, NO_FINDING])
    named = pd.DataFrame({"image": text["image_id"], "reader": text["rad_id"]})
    named = named.assign(**{each: name == each for each in findings})
    votes = named.groupby(["image", "reader"], sort=True).any().reset_index().assign(part="")
    return _Votes(findings, votes, frozenset(text["image_id"][strange])), problem(
        "unknown-label",
        text["image_id"][strange] + " (" + text["class_name"][strange] + ")",
        "the class is not one of VinDr-CXR: what the readers of the image do not name is unknown",
        loses=True,
    )


def _check_rule(rule: str) -> None:
    """Refuse a rule that is none of `Readers`."""
    mean = " (a mean of readers would be a share, and a label is 1, 0 or unknown)"
    check_choice("readers", rule, Readers, mean * (rule == "mean"))


def _wide_votes(tables: list[Path]) -> tuple[_Votes, list[Problem]]:
    """Read PhysioNet's tables, the test's after that of train."""
    findings = _NAMES
    read, problems, doubtful = [], [], set()
    seen: set[str] = set()
    for table in tables:
        text = text_table(table)
        part = _part_of(table, text)
        if part in seen:
            problems += problem(
                "unused-label-table", [table.name], "a label table of the same part", loses=False
            )
            continue
        seen.add(part)
        votes, found = _ticked(text, findings, table)
        problems += found
        doubtful |= set(votes["image"][votes.pop("odd")])
        read.append(votes.assign(part=part))
    votes, found = _in_one_part(pd.concat(read, ignore_index=True))
    return _Votes(findings, votes, frozenset(doubtful)), problems + found


def _part_of(table: Path, text: pd.DataFrame) -> str:
    """Tell train, whose rows name their readers, from test.

    Raises:
        SourceError: the table is named as that of the other part.
    """
    part, other = ("train", "test") if "rad_id" in text else ("test", "train")
    if other in table_stem(table).casefold().split("_"):
        lacking = "lacks the column rad_id, which names" if other == "train" else "has rad_id for"
        raise SourceError(
            f"{table} {lacking} the reader of each row, as the table of train does and that of "
            f"test does not: correct its header, or download it again"
        )
    return part


def _in_one_part(votes: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Leave to the test the images that are in both parts, with the consensus alone."""
    train = votes["part"] == "train"
    both = train & votes["image"].isin(votes["image"][~train])
    return votes[~both].reset_index(drop=True), problem(
        "image-in-two-parts",
        votes["image"][both].unique(),
        "the tables of train and of test both have the image: it is in test, and has the labels of "
        "the consensus alone",
        loses=True,
    )


def _ticked(
    text: pd.DataFrame, findings: Findings, table: Path
) -> tuple[pd.DataFrame, list[Problem]]:
    """Read a table with a column per label; a cell is 0 or 1."""
    title_of = {canonical(title): title for title in text.columns}
    missing = [name for name in findings if name not in title_of]
    if missing:
        raise SourceError(f"{table.name} lacks the columns {', '.join(missing)}: download it again")
    cells = text[[title_of[name] for name in findings]].set_axis(list(findings), axis=1)
    odd = ~cells.isin(["0", "1", "0.0", "1.0"])
    votes = (cells.isin(["1", "1.0"])).assign(
        image=text["image_id"], reader=text.get("rad_id", "consensus"), odd=odd.any(axis=1)
    )
    votes = votes[votes["image"] != ""]
    repeated = votes.duplicated()
    repeats = votes["image"][repeated]
    votes = votes[~repeated]
    conflicting = votes.duplicated(["image", "reader"], keep=False)
    return votes[~conflicting], [
        *problem("repeated-row", repeats, "a row is repeated", loses=False),
        *problem(
            "conflicting-rows",
            votes["image"][conflicting].unique(),
            "two rows of one reader contradict each other: both are left out",
            loses=True,
        ),
        *problem(
            "unknown-value",
            text["image_id"][odd.any(axis=1)],
            "a label is not 0 or 1: what the readers of the image do not name is unknown",
            loses=True,
        ),
    ]


def _closed(votes: pd.DataFrame, findings: Findings) -> npt.NDArray[np.bool_]:
    """Let a reader who names a finding name what it implies."""
    named = votes[list(findings)].to_numpy(dtype=bool)
    closed = named.copy()
    for place, finding in enumerate(findings):
        for broader in implied(finding):
            if broader in findings:
                closed[:, findings.index(broader)] |= named[:, place]
    return closed


def _aggregated(read: _Votes, rule: Readers) -> tuple[pd.DataFrame, TableLabels, pd.Series[str]]:
    """Turn the votes of an image's readers into its labels."""
    names = list(read.findings)
    closed = pd.DataFrame(_closed(read.votes, read.findings), columns=names)
    by_image = closed.groupby(read.votes["image"].to_numpy(), sort=True)
    share = by_image.mean().to_numpy()
    image = pd.Series(list(by_image.groups), dtype="str")
    present = {"majority": share > 0.5, "any": share > 0, "unanimous": share == 1}[rule]
    unknown = (share > 0) & (share < 1) & (rule == "unanimous")
    unknown |= image.isin(read.doubtful).to_numpy()[:, None] & ~present
    rows = pd.DataFrame({"image": image, "file": image, "patient": image}).assign(
        study="", follow_up=0, age=np.nan, sex="", view=""
    )
    parts = read.votes.groupby("image", sort=True)["part"].first().reset_index(drop=True)
    labels = TableLabels(
        findings=read.findings,
        values=np.where(unknown, np.nan, present.astype(np.float64)),
        unknown=unknown,
        empty=np.zeros(len(rows), dtype=bool),
        blank="negative",
        reason="since every reader looked for all",
    )
    return rows, labels, parts.astype("str")


def _facts(read: _Votes, parts: pd.Series[str], rule: Readers) -> dict[str, str]:
    readers = read.votes.groupby("image")["reader"].nunique().value_counts().sort_index()
    expected = {part: n for part, n in _EXPECTED.items() if (parts == part).any()}
    return {
        **completeness(parts, expected or {"": _EXPECTED["train"]}),
        "readers": f"{rule}; "
        + ", ".join(
            f"{count} images by {n} reader{'s' * (n != 1)}" for n, count in readers.items()
        ),
        "patients": "not published: each image counts as its own patient",
    }


def _boxes(tables: list[Path], collection: Collection) -> tuple[pd.DataFrame, list[Problem]]:
    """Read the boxes of the findings that are present, of all readers."""
    if not tables:
        return no_boxes(), []
    text = pd.concat([text_table(table) for table in tables], ignore_index=True)
    finding = text["class_name"].map({c: canonical(c) for c in text["class_name"].unique()})
    rows = collection.rows.set_index("image")
    kept = pd.Series(False, text.index)
    for name in collection.findings:
        present = rows.index[rows[name] == 1]
        kept |= (finding == name) & text["image_id"].isin(present)
    x0, y0, x1, y1 = (pd.to_numeric(text[c], errors="coerce")[kept] for c in _BOX)
    image = text["image_id"][kept]
    boxes = pd.DataFrame(
        {"image": image, "finding": finding[kept], "x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0}
    )
    size = {name: sides(rows["path"][name]) or (np.nan, np.nan) for name in image.unique()}
    return fractions(
        boxes.assign(
            width=image.map(lambda name: size[name][0]),
            height=image.map(lambda name: size[name][1]),
        ).astype({"width": "float64", "height": "float64"})
    )
