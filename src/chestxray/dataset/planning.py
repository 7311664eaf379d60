"""What a dataset is to be made of: the split of its images, and a plan that tells inputs apart.

The plan is known before an image is decoded. A prepare goes on with an unfinished dataset only
where it has the same plan.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from chestxray.dataset.combine import Combined
from chestxray.dataset.manifest import Plan, SourceRecord, Split
from chestxray.dataset.pixels import PIXEL_RULE
from chestxray.dataset.split import (
    assign,
    empty_parts,
    in_dataset,
    split_sha256,
    stated,
    without_lists,
)
from chestxray.errors import ArtifactError, SourceError
from chestxray.sources.collection import Collection, Problem, problem
from chestxray.storage import shown
from chestxray.version import __version__

_UNKNOWN: Final = -9.0  # stands for NaN, which has several bit patterns, where labels are hashed


@dataclass(frozen=True)
class Job:
    """What is to be split, and how: see `split.assign`."""

    combined: Combined
    how: str
    seed: int
    allow_empty: bool

    @property
    def drawn_sources(self) -> list[str]:
        """Name the sources that the official split has no list for."""
        return without_lists(self.combined.official) if self.how == "official" else []

    @property
    def drawn(self) -> list[str]:
        """Name the sources whose parts are drawn, not stated by a list."""
        return list(self.combined.official) if self.how == "patient" else self.drawn_sources

    def split(self, groups: pd.Series[str] | None = None) -> pd.Series[str]:
        """Give each row its part, linked patients together."""
        of = self.combined
        return assign(of.rows, of.findings, self.how, self.seed, of.official, groups)

    def check_parts(self, split: pd.Series[str]) -> None:
        """Refuse a split that leaves a part without images, unless that is allowed.

        Raises:
            SourceError: it does.
        """
        empty = empty_parts(split)
        if empty and not self.allow_empty:
            raise SourceError(
                f"the split {self.how!r} of {len(split)} images of "
                f"{self.combined.rows['patient'][split.index].nunique()} patients leaves no image "
                f"for {' and '.join(empty)}: use more images or another --split, or accept it with "
                f"--allow-empty (to evaluate only, for example)"
            )


def planned(job: Job, size: int) -> Plan:
    """Plan a dataset; an impossible split fails here, before an image is decoded.

    Args:
        job: what is to be split, and how.
        size: side of the packed images, pixels.

    Raises:
        SourceError: a part of the split is empty.
    """
    combined, split = job.combined, job.split()
    job.check_parts(split)
    drawn = job.how in {"official", "patient"}
    return Plan(
        findings=combined.findings,
        sources=tuple(map(_record, combined.collections)),
        size=size,
        pixel_rule=PIXEL_RULE,
        split=Split(
            name=job.how if drawn else Path(job.how).name,
            seed=job.seed if drawn else None,
            sha256=split_sha256(combined.rows["image"], split),
        ),
        listed=len(combined.rows),
        inputs_sha256=_inputs_sha256(combined, split),
        package_version=__version__,
    )


def _inputs_sha256(combined: Combined, split: pd.Series[str]) -> str:
    """Hash all that the images and labels of a dataset depend on, beside its plan.

    Labels are hashed as numbers: as text, those of many findings take as long as reading them.
    """
    findings = list(combined.findings)
    described = combined.rows.drop(columns=["path", *findings]).assign(
        bytes=combined.rows["path"].map(_bytes), split=split
    )
    regions = combined.boxes.to_csv() + _mask_list(combined)
    digest = hashlib.sha256((described.to_csv() + regions + repr(findings)).encode())
    labels = np.nan_to_num(combined.rows[findings].to_numpy(np.float64), nan=_UNKNOWN)
    digest.update(np.ascontiguousarray(labels, dtype="<f8").tobytes())
    return digest.hexdigest()


def _record(collection: Collection) -> SourceRecord:
    card = collection.card
    return SourceRecord(
        name=collection.name,
        title=card.title,
        release=collection.release,
        synthetic=card.synthetic,
        label_origin=card.label_origin,
        policies=collection.policies,
        facts=collection.facts,
        images=len(collection.rows),
        findings=tuple(collection.findings),
        patients_of=collection.patients_of,
        rules=collection.rules,
    )


def _mask_list(combined: Combined) -> str:
    """List the masks with the sizes of their files; empty where there are none."""
    of = combined.masks
    return of.assign(path=of["path"].map(_bytes)).to_csv() if len(of) else ""


def _bytes(path: str) -> int:
    """Give a file's size, -1 where there is none, such as behind a broken link."""
    if not path:
        return -1
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1


def check_same(plan: Plan, there: Plan, out: Path, how: str) -> None:
    """Refuse to go on with what was made of other inputs.

    Args:
        plan: what is asked for.
        there: what `out` was made or started for.
        out: path or URL of the dataset.
        how: `made` or `started`.

    Raises:
        ArtifactError: they differ.
    """
    different = there.differences(plan)
    if different:
        raise ArtifactError(
            f"{shown(out)} was {how} from other inputs ({'; '.join(different)}): name another "
            f"folder, or remove this one"
        )


def split_problems(job: Job, rows: pd.DataFrame) -> list[Problem]:
    """Say which parts no list states, and which images left the part of their list.

    Args:
        job: what was split.
        rows: its rows with their `split`.
    """
    return [*_drawn_problem(job), *_new_problem(job), *_moved_problem(job, rows)]


def _drawn_problem(job: Job) -> list[Problem]:
    return problem(
        "no-official-list",
        job.drawn_sources,
        "the source has no official list: its patients are split at random (70 % train, 10 % val, "
        "20 % test)",
        loses=False,
    )


def _new_problem(job: Job) -> list[Problem]:
    """Report the images that the dataset whose split is kept does not have."""
    if not Path(job.how).is_dir():
        return []
    rows = job.combined.rows
    return problem(
        "not-in-kept-split",
        rows["image"][in_dataset(rows, Path(job.how)).isna()],
        f"neither the image nor its patient is in {Path(job.how).name}, whose split is kept: train",
        loses=False,
    )


def _moved_problem(job: Job, rows: pd.DataFrame) -> list[Problem]:
    """Report images that left the part of their list with a linked patient."""
    before = job.split()
    moved = rows[(rows["split"] != before) & stated(rows, job.how, job.combined.official)]
    return problem(
        "split-lists-disagree",
        moved["image"] + " (" + before[moved.index] + " → " + moved["split"] + ")",
        "lists put patients who share a radiograph across sources into different splits: all "
        "images of these patients are in test if one of them is, otherwise in val",
        loses=False,
    )
