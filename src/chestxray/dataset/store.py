"""A prepared dataset on disk: the manifest that says what it is, and the door that checks it.

`OUT/dataset.json` is written last, so where it is, the other files are whole. Opening compares them
with it; a dataset whose table was edited or whose images were cut short is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import read_json, require, sha256
from chestxray.errors import ArtifactError
from chestxray.findings import Findings

MANIFEST: Final = "dataset.json"
INDEX: Final = "index.parquet"
IMAGES: Final = "images.npy"
BOXES: Final = "boxes.parquet"
UNFINISHED: Final = ".prepare"  # the folder in which an unfinished dataset is made

LEADING_COLUMNS: Final = (
    "image", "source", "patient", "study", "follow_up", "age", "sex", "view", "width", "height",
)  # fmt: skip

_MADE_BY: Final = "chestxray prepare RAW OUT"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(_Strict):
    """Which split, told apart from others by its hash.

    Attributes:
        name: `official`, `patient`, or the name of the user's list.
        seed: it was drawn with; None where nothing was drawn.
        sha256: over the sorted lines `image<TAB>part` of every image listed, those included that
            could not be read.
    """

    name: str
    seed: int | None
    sha256: str

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.name} ({self.sha256[:8]}{seed})"


class SourceRecord(_Strict):
    """One data set that a dataset is made of; see `sources.collection.Card`.

    Attributes:
        name: as in the index's column `source`.
        title: for people.
        release: of the data set; empty where there is but one.
        synthetic: its radiographs are drawn.
        label_origin: how its labels came to be.
        policies: what was done with uncertain labels, with blanks, and with views.
        facts: what its reader said in addition.
        images: listed, those included that could not be read.
    """

    name: str
    title: str
    release: str
    synthetic: bool
    label_origin: str
    policies: dict[str, str]
    facts: dict[str, str]
    images: int


class Plan(_Strict):
    """What a dataset is made of and how: two equal plans give equal bytes.

    Attributes:
        findings: a column of the index each, in this order.
        sources: the data sets it is made of.
        size: side of the packed images, pixels.
        pixel_rule: of `dataset.pixels`.
        split: which one.
        listed: images to be packed.
        inputs_sha256: over labels, boxes, and the sizes of the files.
        package_version: of chestxray.
    """

    findings: Findings
    sources: tuple[SourceRecord, ...]
    size: int
    pixel_rule: str
    split: Split
    listed: int
    inputs_sha256: str
    package_version: str

    @property
    def title(self) -> str:
        """Name the data sets, for people."""
        return " + ".join(dict.fromkeys(source.title for source in self.sources))

    @property
    def release(self) -> str:
        """Name the releases of the data sets that have one."""
        return " + ".join(dict.fromkeys(s.release for s in self.sources if s.release))

    @property
    def synthetic(self) -> bool:
        """Say whether any of the radiographs are drawn."""
        return any(source.synthetic for source in self.sources)

    def differences(self, other: Plan) -> list[str]:
        """Say in what another plan differs, as `size 256, now 224`; empty where it is equal."""
        pairs = ((key, getattr(self, key), getattr(other, key)) for key in Plan.model_fields)
        return [f"{key} {old}, now {new}" for key, old, new in pairs if old != new]


class Failure(_Strict):
    """A listed image that could not be read, and is in no other file of the dataset."""

    image: str
    split: str
    reason: str


class SourceProblem(_Strict):
    """What the reader of the raw tree found wrong; see `sources.collection.Problem`."""

    code: str
    sentence: str
    count: int
    examples: tuple[str, ...]
    loses: bool


class Manifest(Plan):
    """`dataset.json`.

    Attributes:
        format: of the dataset folder.
        images: packed, so rows of the index and of the images.
        patients: they belong to.
        counts: a part: `images`, `patients`, `No Finding`, and a count a finding.
        failures: images that could not be read; `images` and these together are `listed`.
        problems: of the raw tree.
        sha256: of the tables, by file name.
        bytes: of the images' file.
    """

    format: Literal[2] = 2
    images: int
    patients: int
    counts: dict[str, dict[str, int]]
    failures: tuple[Failure, ...]
    problems: tuple[SourceProblem, ...]
    sha256: dict[str, str]
    bytes: int


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Attributes:
        folder: it lies in.
        manifest: what it is.
        index: a row an image, the columns as `index_columns` gives them.
        images: uint8 [N, size, size], memory-mapped, read-only; row i belongs to index row i.
        boxes: `image`, `finding`, `x`, `y`, `w`, `h` as fractions of the image's sides.
    """

    folder: Path
    manifest: Manifest
    index: pd.DataFrame
    images: npt.NDArray[np.uint8]
    boxes: pd.DataFrame

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a dataset and check that its files are those that its manifest speaks of.

        Raises:
            ArtifactError: unfinished, missing, altered, or cut short.
        """
        manifest = read_manifest(folder)
        for name, wanted in manifest.sha256.items():
            require(folder / name, _MADE_BY)
            if sha256(folder / name) != wanted:
                raise ArtifactError(f"{folder / name} was altered: {_anew(folder)}")
        index = pd.read_parquet(folder / INDEX)
        if len(index) != manifest.images or tuple(index.columns) != index_columns(
            manifest.findings
        ):
            raise ArtifactError(f"{folder / INDEX} does not fit its manifest: {_anew(folder)}")
        images = _open_images(folder, manifest)
        return cls(folder, manifest, index, images, pd.read_parquet(folder / BOXES))

    @property
    def findings(self) -> Findings:
        """Give its findings, in the order of the label columns."""
        return self.manifest.findings

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Give the row numbers of a part, ascending."""
        return np.flatnonzero(self.index["split"].to_numpy() == split).astype(np.int64)

    def labels(self, rows: npt.NDArray[np.int64] | Sequence[int]) -> npt.NDArray[np.float32]:
        """Give the labels of rows as float32 [n, K]: 1, 0, NaN where unknown."""
        table = self.index[list(self.findings)].to_numpy(dtype=np.float32)
        return np.asarray(table[np.asarray(rows, dtype=np.int64)])


def index_columns(findings: Findings) -> tuple[str, ...]:
    """Give the columns of the index, in their order."""
    return (*LEADING_COLUMNS, *findings, "split")


def read_manifest(folder: Path) -> Manifest:
    """Read `dataset.json`; raises `ArtifactError` where there is none or it is none."""
    path = folder / MANIFEST
    if not path.exists() and (folder / UNFINISHED).exists():
        raise ArtifactError(
            f"{folder} is unfinished: run `chestxray prepare` with the same options to go on"
        )
    try:
        return Manifest.model_validate(read_json(path, _MADE_BY))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{path} is no manifest of this version ({where}: {first['msg']}): {_anew(folder)}"
        ) from error


def _open_images(folder: Path, manifest: Manifest) -> npt.NDArray[np.uint8]:
    path = folder / IMAGES
    require(path, _MADE_BY)
    if path.stat().st_size != manifest.bytes:
        raise ArtifactError(
            f"{path} has {path.stat().st_size} bytes instead of {manifest.bytes}: {_anew(folder)}"
        )
    try:
        images: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ArtifactError(f"{path} is no array ({error}): {_anew(folder)}") from error
    shape = (manifest.images, manifest.size, manifest.size)
    if images.shape != shape or images.dtype != np.uint8:
        raise ArtifactError(
            f"{path} holds {images.dtype} {list(images.shape)} instead of uint8 {list(shape)}: "
            f"{_anew(folder)}"
        )
    return images


def _anew(folder: Path) -> str:
    return f"remove {folder} and run `chestxray prepare` anew"
