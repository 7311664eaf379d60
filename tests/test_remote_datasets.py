"""Datasets, runs and predictions by URL: the bytes of a path's, whole or not at all."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chestxray import parallel, storage
from chestxray.dataset import Dataset, packing, shards
from chestxray.dataset.preparation import prepare
from chestxray.dataset.verification import verify
from chestxray.errors import ArtifactError, SourceError, StorageError
from chestxray.evaluation import Labels, evaluate, evaluation
from chestxray.execution import EXECUTION, Execution, Stage, carry
from chestxray.reading import predict
from chestxray.reading.sharded_prediction import check_folder
from chestxray.storage import ObjectFolder, cache, objects, trees
from chestxray.training import train
from nih_tree import write_tree

BAD = (5, 20)


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    """Three shards of 24 images, and one decoder process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 8)
        patch.setattr(packing, "CHUNK", 4)
        patch.setattr(parallel, "cores", lambda: 1)
        patch.setattr(objects, "_PAUSE", 0.0)
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/place"


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree") / "raw", 24, BAD)


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "dataset"
    prepare(raw, out, size=32)
    return out


@pytest.fixture(scope="module")
def raw_url(raw) -> str:
    return put(raw, f"memory://{uuid.uuid4().hex}/raw")


@pytest.fixture(scope="module")
def whole_url(whole) -> str:
    return put(whole, f"memory://{uuid.uuid4().hex}/dataset")


def put(folder: Path, url: str) -> str:
    """Copy files as another tool would."""
    for name, content in files(folder).items():
        ObjectFolder(url).write(name, content)
    return url


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def objects_at(url: str) -> dict[str, bytes]:
    store = ObjectFolder(url)
    return {name: store.read(name) for name in store.versions()}


def test_a_dataset_made_from_and_in_a_store_has_the_bytes_of_one_on_disk(raw_url, whole, url):
    made = prepare(raw_url, url, size=32)
    assert objects_at(url) == files(whole)
    assert [failure.reason for failure in made.manifest.failures]
    assert not list((cache.folder() / "staging").rglob("*.npy"))


def test_a_file_url_is_the_path_itself(whole):
    assert Dataset.open(f"file://{whole}").folder == whole


def test_a_dataset_in_a_store_has_the_images_of_one_on_disk(whole, whole_url):
    local, remote = Dataset.open(whole), Dataset.open(whole_url)
    assert remote.manifest == local.manifest
    assert remote.index.equals(local.index)
    rows = np.random.default_rng(0).permutation(len(local.images))
    assert (remote.images[rows] == local.images[rows]).all()
    assert verify(whole_url).passed
    assert Labels.read(whole_url).rows.equals(Labels.read(whole).rows)


def test_only_the_shards_that_are_read_are_fetched_and_only_once(whole_url, monkeypatch):
    fetched: list[str] = []
    download = ObjectFolder.download

    def counted(self: ObjectFolder, name: str, *others: object) -> None:
        fetched.append(name)
        download(self, name, *others)

    monkeypatch.setattr(ObjectFolder, "download", counted)
    opened = Dataset.open(whole_url)
    assert not any(name.endswith(".npy") for name in fetched)
    opened.images[0], opened.images[1]
    Dataset.open(whole_url).images[2]
    assert [name for name in fetched if name.endswith(".npy")] == ["00000.npy"]


def test_a_cache_smaller_than_the_dataset_gives_the_same_images_within_its_limit(
    whole, whole_url, monkeypatch
):
    largest = max(shard.bytes for shard in Dataset.open(whole).manifest.shards)
    tables = sum(path.stat().st_size for path in whole.glob("*.*"))
    limit = tables + int(1.5 * largest)
    monkeypatch.setenv(cache.LIMIT, str(limit / 2**30))
    local, remote = Dataset.open(whole).images, Dataset.open(whole_url).images
    fetched: list[str] = []
    download = ObjectFolder.download
    monkeypatch.setattr(
        ObjectFolder, "download", lambda *given: fetched.append(given[1]) or download(*given)
    )
    for row in random.Random(0).choices(range(len(local)), k=40):
        assert (remote[row] == local[row]).all()
        kept = (cache.folder() / "objects").rglob("*")
        assert sum(p.stat().st_size for p in kept if p.is_file()) <= limit
    assert len(fetched) > 10  # of 40 in random order, as the documentation says of an epoch


def test_a_shard_that_is_not_what_the_manifest_says_is_never_read(whole, url):
    put(whole, url)
    shard = bytearray((whole / "images/00001.npy").read_bytes())
    shard[-1] ^= 1
    ObjectFolder(url).write("images/00001.npy", bytes(shard))
    images = Dataset.open(url).images
    assert images[0].any()
    with pytest.raises(StorageError, match=r"00001\.npy \(its content is not what its manifest"):
        images[:]
    ObjectFolder(url).write("images/00001.npy", bytes(shard[:-1]))
    with pytest.raises(ArtifactError, match=r"00001\.npy has \d+ bytes, not \d+"):
        Dataset.open(url)
    put(whole, f"{url}/other")
    index = (whole / "index.parquet").read_bytes()
    ObjectFolder(f"{url}/other").write("index.parquet", index[:-1] + b"?")
    with pytest.raises(StorageError, match=r"index\.parquet \(its content is not"):
        Dataset.open(f"{url}/other")


def test_a_shard_that_is_missing_is_made_again(raw, whole, url):
    put(whole, url)
    ObjectFolder(url).delete("images/00001.npy")
    with pytest.raises(ArtifactError, match=r"images/00001\.npy does not exist"):
        Dataset.open(url)
    prepare(raw, url, size=32)
    assert objects_at(url) == files(whole)


def test_a_place_with_other_files_or_other_inputs_is_refused(raw, whole, url):
    ObjectFolder(url).write("notes.txt", b"mine")
    with pytest.raises(ArtifactError, match=rf"{url} holds other files: name a new folder"):
        prepare(raw, url, size=32)
    put(whole, f"{url}/made")
    with pytest.raises(
        ArtifactError, match=rf"{url}/made was made from other inputs \(size was 32"
    ):
        prepare(raw, f"{url}/made", size=40)


def test_a_prepare_that_stops_anywhere_resumes_on_another_machine(
    raw, whole, url, tmp_path, monkeypatch
):
    """Each attempt stops a few operations later; until the manifest is there, nothing is read."""
    decoded: list[str] = []
    with_contents = packing._with_contents
    monkeypatch.setattr(
        packing,
        "_with_contents",
        lambda places: decoded.extend(map(str, places)) or with_contents(places),
    )
    stopped = 0
    for attempt in range(20):
        monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / f"machine {attempt}"))
        with monkeypatch.context() as patch:
            _stop_after(patch, 5)
            try:
                prepare(raw, url, size=32)
                break
            except KeyboardInterrupt:
                stopped += 1
        if "dataset.json" in ObjectFolder(url).versions():
            assert Dataset.open(url).manifest.images == 22  # complete, notes not yet deleted
        else:
            with pytest.raises(
                ArtifactError, match=rf"{url} is unfinished: run `chestxray prepare`"
            ):
                Dataset.open(url)
    assert stopped >= 3
    assert objects_at(url) == files(whole)
    assert len(decoded) < 24 * 3  # a shard that is in the store is not decoded again


def _stop_after(patch: pytest.MonkeyPatch, count: int) -> None:
    left = iter(range(count))
    for name in ("upload", "delete"):
        call = getattr(ObjectFolder, name)

        def step(self: ObjectFolder, *arguments: object, call=call) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            call(self, *arguments)

        patch.setattr(ObjectFolder, name, step)


def test_a_store_that_does_not_answer_is_no_fault_of_the_radiograph(raw_url, url, monkeypatch):
    """An outage must not leave radiographs out for ever."""
    read = ObjectFolder.read

    def failing(self: ObjectFolder, name: str, *others: object) -> bytes:
        if name.endswith("005_000.png") or "00000011" in name:
            raise StorageError("the store is away")
        return read(self, name, *others)

    with monkeypatch.context() as patch:
        patch.setattr(trees.ObjectFolder, "read", failing)
        with pytest.raises(StorageError, match="the store is away"):
            prepare(raw_url, url, size=32)
    assert not [name for name in ObjectFolder(url).versions() if name.startswith("images")]


def test_what_ran_where_is_carried_from_a_dataset_in_a_store(whole, whole_url, url, tmp_path):
    put(whole, url)
    stage = Stage(
        stage="prepare",
        engine="Ray",
        cluster="local",
        seconds_to_start=1.0,
        seconds=2.0,
        workers_lost=0,
        nodes=(),
    )
    Execution(stages=(stage,)).write(tmp_path)
    ObjectFolder(url).write(EXECUTION, (tmp_path / EXECUTION).read_bytes())
    (tmp_path / "predictions.csv").write_text("image,p_Mass\n")
    for number, labels in enumerate((url, Dataset.open(url))):
        out = tmp_path / f"results {number}"
        evaluation._carry(tmp_path / "predictions.csv", labels, out)
        assert Execution.read(out).stages == (stage,)
    carry(storage.path_of(whole_url), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_radiographs_of_a_store_wait_in_memory_by_the_few_after_a_tree_of_this_machine(
    raw, raw_url, tmp_path, monkeypatch
):
    monkeypatch.setattr(packing, "_AHEAD_IN_MEMORY", 4)
    monkeypatch.setattr(trees, "_AT_A_TIME", 2)
    there = storage.mirrored(raw_url)
    names = sorted(path.relative_to(raw) for path in raw.rglob("*.png"))
    taken, given, most = 0, 0, 0
    read, outcome = ObjectFolder.read, packing._file

    def counted(self: ObjectFolder, *arguments: object) -> bytes:
        nonlocal taken, most
        taken += 1
        most = max(most, taken - max(0, given - 8))
        return read(self, *arguments)

    def counted_outcome(one: object) -> packing.File:
        nonlocal given
        given += 1
        return outcome(one)

    monkeypatch.setattr(ObjectFolder, "read", counted)
    monkeypatch.setattr(packing, "_file", counted_outcome)
    paths = [str(raw / name) for name in names[:8]] + [str(there / name) for name in names]
    packing.pack(paths, 32, tmp_path / "images", tmp_path / "notes")
    assert taken == len(names)
    assert most <= 4 + 2 * packing.CHUNK + 2 * 2


def test_predictions_and_evaluation_by_url_equal_those_by_path(run, dataset, url, tmp_path):
    storage.publish(run, f"{url}/run", "train")
    put(dataset.folder, f"{url}/dataset")
    here = predict(run / "bundle", dataset, tmp_path / "predictions.csv", split="test")
    there = predict(
        f"{url}/run/bundle", f"{url}/dataset", f"{url}/run/predictions.csv", split="test"
    )
    assert ObjectFolder(f"{url}/run").read("predictions.csv") == here.path.read_bytes()
    assert storage.url_of(there.path) == f"{url}/run/predictions.csv"
    local = evaluate(here.path, dataset, resamples=0)
    remote = evaluate(f"{url}/run", f"{url}/dataset", resamples=0, out=f"{url}/run/evaluation")
    assert remote.mean == local.mean
    found = objects_at(f"{url}/run/evaluation")
    assert {"metrics.json", "curves.json", "files.json"} <= found.keys()
    ObjectFolder(url).write("other.csv", b"a,b\n1,2\n")
    with pytest.raises(SourceError, match="is not a table of predictions"):
        predict(f"{url}/run/bundle", f"{url}/dataset", f"{url}/other.csv", split="test")


def test_predictions_by_url_replace_predictions_alone_as_those_by_path(url, tmp_path):
    """Where a path is refused, the same URL is, before anything is read or written."""
    here = tmp_path / "here"
    for place, name in (("run", "run.json"), ("dataset", "dataset.json"), ("notes", "a/mine.txt")):
        path = here / place / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"mine")
        storage.publish(here / place, f"{url}/published {place}", "train")
    put(here, url)
    before = objects_at(url)
    for out in ("run", "dataset", "notes"):
        for place in (here / out, f"{url}/{out}", f"{url}/published {out}"):
            with pytest.raises(SourceError, match="is a folder with other files, such as"):
                predict("no bundle", "no inputs", place)
    assert objects_at(url) == before
    for name in ("00000.parquet", "predictions.json", "execution.json"):
        path = tmp_path / "predictions" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1")
    for _ in range(2):  # the same kind is replaced
        check_folder(storage.path_of(f"{url}/new"))
        storage.publish(tmp_path / "predictions", f"{url}/new", "predict")


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_is_finished_in_a_store_is_not_trained_over(url, tmp_path, resume):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_bytes(b"{}")
    storage.publish(tmp_path / "run", url, "train")
    with pytest.raises(ArtifactError, match=rf"{url} holds a run or other files"):
        train("no dataset", None, url, resume=resume)
    assert ObjectFolder(url).read("run.json") == b"{}"


def test_radiographs_of_a_folder_in_a_store_are_predicted_as_those_of_a_path(
    run, raw, raw_url, url, tmp_path
):
    images = next(path.parent for path in raw.rglob("*.png"))
    name = images.relative_to(raw).as_posix()
    predict(run / "bundle", images, tmp_path / "p.csv")
    predict(run / "bundle", f"{raw_url}/{name}" if name != "." else raw_url, f"{url}/p.csv")
    assert ObjectFolder(url).read("p.csv") == (tmp_path / "p.csv").read_bytes()
