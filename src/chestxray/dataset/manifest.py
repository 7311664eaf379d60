"""`dataset.json`: what a prepared dataset is made of, how, and which files it has.

It is written last: where it exists, the other files are complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import read_json
from chestxray.dataset import masks, remote, shards
from chestxray.dataset.shards import Shard
from chestxray.dataset.split import INDEX
from chestxray.errors import ArtifactError
from chestxray.findings import Findings
from chestxray.storage import shown

MANIFEST: Final = remote.MANIFEST
BOXES: Final = "boxes.parquet"
UNFINISHED: Final = remote.UNFINISHED
MADE_BY: Final = "chestxray prepare RAW OUT"

_LEADING_COLUMNS: Final = (
    "image", "source", "patient", "study", "follow_up", "age", "sex", "view", "width", "height",
)  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(_Strict):
    """Which split; its hash identifies it.

    Attributes:
        name: `official`, `patient`, or the file name of the user's list.
        seed: of what was drawn; None where nothing was drawn.
        sha256: over the sorted lines `image<TAB>part` of every listed image, including those that
            could not be read.
    """

    name: str
    seed: int | None
    sha256: str

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name} with seed {self.seed}"


class SourceRecord(_Strict):
    """One raw tree that a dataset is made of; see `sources.collection.SourceCard`.

    Attributes:
        name: as in the index's column `source`; trees of one source share it.
        title: for people.
        release: of the data set; empty where there is only one.
        synthetic: its radiographs are drawn.
        label_origin: how its labels were made.
        policies: what was done with uncertain labels, with blanks, and with views.
        facts: what its reader reports in addition.
        images: listed, including those that could not be read.
        findings: that it labels, as it names them; empty in datasets of earlier versions.
        patients_of: the source whose patients these are, see `sources.collection.Collection`; empty
            where they are its own, and in datasets of earlier versions.
        rules: behind its labels beside the policies, by finding, and under "" for all findings.
    """

    name: str
    title: str
    release: str
    synthetic: bool
    label_origin: str
    policies: dict[str, str]
    facts: dict[str, str]
    images: int
    findings: tuple[str, ...] = ()
    patients_of: str = ""
    rules: dict[str, str] = {}


class Plan(_Strict):
    """What a dataset is made of and how: two equal plans give equal bytes.

    Attributes:
        findings: one column of the index each, in this order.
        sources: the raw trees, in the order given.
        size: side of the packed images, pixels.
        pixel_rule: of `dataset.pixels`.
        split: in a plan that of the lists or the draw; in a manifest the final one, in which
            patients who share a radiograph across sources are in one part.
        listed: number of images to pack.
        inputs_sha256: over labels, boxes, split and the sizes of the files, masks included.
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
        """List what differs in another plan, as `size was 256, now 224`; empty where equal."""
        pairs = [(key, getattr(self, key), getattr(other, key)) for key in Plan.model_fields]
        named = [(key, old, new) for key, old, new in pairs if key != "split" and old != new]
        if str(self.split) != str(other.split):  # its hash is final only after decoding
            named.append(("split", self.split, other.split))
        return [_difference(*each) for each in named]


def _difference(key: str, old: object, new: object) -> str:
    if key == "inputs_sha256":
        return "labels, boxes, masks, split or files of the raw tree changed"
    if key == "sources":
        return "the sources or their policies changed"
    return f"{key} was {old}, now {new}"


class Failure(_Strict):
    """A listed image that could not be read, and is in no other file of the dataset."""

    image: str
    split: str
    reason: str


class SourceProblem(_Strict):
    """What is wrong with the raw trees; see `sources.collection.Problem`."""

    code: str
    sentence: str
    count: int
    examples: tuple[str, ...]
    loses: bool


class Manifest(Plan):
    """`dataset.json`.

    Attributes:
        format: of the dataset folder.
        images: packed, the rows of the index and of all shards together.
        patients: of the packed images.
        counts: per part `images`, `patients`, `No Finding`, and one count per finding.
        failures: images that could not be read; `images` and these together are `listed`.
        problems: of the raw trees.
        sha256: of the tables, by file name.
        shards: files of packed images, in row order.
        masks: files of their masks, one for each of `shards`; empty where no source has masks.
    """

    format: Literal[2] = 2
    images: int
    patients: int
    counts: dict[str, dict[str, int]]
    failures: tuple[Failure, ...]
    problems: tuple[SourceProblem, ...]
    sha256: dict[str, str]
    shards: tuple[Shard, ...]
    masks: tuple[Shard, ...] = ()

    def shard_files(self) -> Iterator[tuple[str, Shard, tuple[int, ...]]]:
        """Give the folder of each shard, the shard, and the shape of its rows."""
        row = masks.row_shape(self.findings, self.size)
        yield from ((shards.FOLDER, shard, (self.size, self.size)) for shard in self.shards)
        yield from ((masks.FOLDER, shard, row) for shard in self.masks)


def read_manifest(folder: Path) -> Manifest:
    """Read `dataset.json`.

    Args:
        folder: path or URL of the dataset.

    Raises:
        ArtifactError: it does not exist, or is not a manifest of this version.
        StorageError: the store does not answer.
    """
    folder = local_tables(folder)
    path = folder / MANIFEST
    if not path.exists() and (folder / UNFINISHED).exists():
        raise ArtifactError(
            f"{folder} is unfinished: run `chestxray prepare` again with the same options; it "
            f"resumes"
        )
    content = read_json(path, MADE_BY)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{path} is not a manifest of this version ({where}: {first['msg']}): {remake(folder)}"
        ) from error
    if set(manifest.sha256) != {INDEX, BOXES}:
        raise ArtifactError(
            f"{path} must hold the SHA-256 of exactly {INDEX} and {BOXES}, not of "
            f"{sorted(manifest.sha256)}: {remake(folder)}"
        )
    packed = sum(shard.images for shard in manifest.shards)
    if packed != manifest.images:
        raise ArtifactError(
            f"{path} names {manifest.images} images, but its shards hold {packed}: {remake(folder)}"
        )
    return manifest


def local_tables(folder: Path) -> Path:
    """Give the folder on this machine that holds the manifest and the tables of a dataset.

    Args:
        folder: path, which is given as it is, or URL.

    Raises:
        ArtifactError, StorageError: as `remote.fetched_tables` says.
    """
    return remote.fetched_tables(folder, (INDEX, BOXES), MADE_BY)


def index_columns(findings: Findings) -> tuple[str, ...]:
    """Give the columns of the index, in order."""
    return (*_LEADING_COLUMNS, *findings, "split")


def remake(folder: Path) -> str:
    """Say how to make a dataset again."""
    return f"remove {shown(folder)} and run `chestxray prepare` again"


def renew(folder: Path, shard: str) -> str:
    """Say how to make one shard again, such as `images/00000.npy`."""
    return (
        f"remove {shown(folder / shard)} and run the `chestxray prepare` that made the "
        f"dataset again; it rebuilds only missing files"
    )
