"""What ran where: `execution.json`, which a stage on a cluster writes beside its artefacts.

The artefacts themselves do not depend on it: their bytes are the same wherever they are made.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import read_json, write_json
from chestxray.cluster import Cluster, Done
from chestxray.errors import ArtifactError
from chestxray.storage import ObjectFolder, fetched, is_url, path_of

EXECUTION: Final = "execution.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeShare(_Strict):
    """What one node did of a stage.

    Attributes:
        node: its host name, and the start of its identity in the cluster.
        shards: that it finished.
        images: in them.
        seconds: that its workers spent on them, all together.
    """

    node: str
    shards: int
    images: int
    seconds: float


class Stage(_Strict):
    """One call of a stage on a cluster; a call that resumes adds another one.

    Attributes:
        stage: name of the verb.
        engine: of the cluster, with its version.
        cluster: its address.
        seconds_to_start: until the cluster was connected, or started.
        seconds: of the whole call, the start included.
        workers_lost: processes that died, those of lost nodes included.
        nodes: by name.
    """

    stage: str
    engine: str
    cluster: str
    seconds_to_start: float
    seconds: float
    workers_lost: int
    nodes: tuple[NodeShare, ...]


class Execution(_Strict):
    """The content of `execution.json`: stages in the order in which they ended."""

    format: Literal[1] = 1
    stages: tuple[Stage, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Execution:
        """Read the file of a folder; without stages where there is none.

        Raises:
            ArtifactError: it is not such a file.
        """
        path = folder / EXECUTION
        if not path.exists():
            return cls()
        try:
            return cls.model_validate(read_json(path, "chestxray prepare"))
        except ValidationError as error:
            raise ArtifactError(
                f"{path} does not say what ran where in the format of this version: remove it"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the file of a folder, where anything ran on a cluster."""
        if self.stages:
            write_json(folder / EXECUTION, self.model_dump(mode="json"))

    def __add__(self, other: Execution) -> Execution:
        """Give the stages of both, each once."""
        return Execution(stages=tuple(dict.fromkeys(self.stages + other.stages)))


def carry(source: Path, target: Path) -> None:
    """Add what a folder says to what another one says, whose artefacts are made from the first's.

    Nothing is written where the first says nothing, or is no folder.

    Args:
        source: path or URL.
        target: of this machine.

    Raises:
        ArtifactError: as `Execution.read` says.
        StorageError: a store does not answer.
    """
    own = path_of(source)
    if is_url(own):
        if ObjectFolder(own).version(EXECUTION) is None:
            return
        own = fetched(own / EXECUTION).parent
    if (own / EXECUTION).exists():
        (Execution.read(own) + Execution.read(target)).write(target)


class Tally:
    """Counts what the nodes of a cluster do of one stage."""

    def __init__(self, stage: str, cluster: Cluster) -> None:
        self._stage = stage
        self._cluster = cluster
        self._start = time.perf_counter()
        self._shares: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])

    def add(self, done: Done[Any], images: int) -> None:
        """Add a finished shard of so many images."""
        share = self._shares[done.node]
        for place, more in enumerate((1, images, done.seconds)):
            share[place] += more

    def add_to(self, folder: Path) -> None:
        """Add the stage to the file of a folder, unless no shard was finished."""
        if self._shares:
            (Execution.read(folder) + Execution(stages=(self._ended(),))).write(folder)

    def _ended(self) -> Stage:
        start = self._cluster.seconds_to_start
        return Stage(
            stage=self._stage,
            engine=f"Ray {self._cluster.version}",
            cluster=self._cluster.address,
            seconds_to_start=round(start, 3),
            seconds=round(start + time.perf_counter() - self._start, 3),
            workers_lost=self._cluster.lost,
            nodes=tuple(
                NodeShare(node=node, shards=int(n), images=int(images), seconds=round(seconds, 3))
                for node, (n, images, seconds) in sorted(self._shares.items())
            ),
        )
