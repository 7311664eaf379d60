"""A tree becomes a dataset: what is in it, what is left out, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from chestxray import parallel
from chestxray.cli.main import app
from chestxray.dataset import Dataset, packing, shards
from chestxray.dataset import preparation as making
from chestxray.dataset.manifest import BOXES, MANIFEST, UNFINISHED, index_columns
from chestxray.dataset.pixels import PIXEL_RULE, canonical
from chestxray.dataset.preparation import prepare
from chestxray.dataset.split import INDEX, split_sha256
from chestxray.errors import ArtifactError, SourceError
from chestxray.sources.nih import FINDINGS
from nih_tree import names, picture, write_tree

SHARDS = {f"images/{number:05d}.npy" for number in range(4)}
FILES = {BOXES, INDEX, MANIFEST, *SHARDS}
BAD = (5, 40)


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    """Four shards of 60 images, each of several chunks; no workers, whose start takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 16)
        patch.setattr(packing, "CHUNK", 5)
        patch.setattr(parallel, "cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree") / "raw", 60, BAD)


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset as an uninterrupted prepare makes it."""
    out = tmp_path_factory.mktemp("whole") / "dataset"
    prepare(raw, out, size=32)
    return out


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }


# --- what is in it ------------------------------------------------------------------------------


def test_every_row_of_the_index_has_its_own_image(raw, whole):
    dataset = prepare(raw, whole, size=32)
    assert tuple(dataset.index.columns) == index_columns(FINDINGS)
    kept = [row for row in range(60) if row not in BAD]
    assert dataset.index["image"].tolist() == [names(60)[row] for row in kept]
    for image, row in zip(dataset.images, kept, strict=True):
        assert np.array_equal(image, canonical(picture(row), 32))
    assert [shard.images for shard in dataset.manifest.shards] == [15, 16, 15, 12]
    assert (dataset.index["width"] == 64).all()
    assert (dataset.index["height"] == 48).all()
    assert (dataset.index.loc[dataset.index["Mass"] == 1, "image"]).tolist() == names(60)[1::5]


def test_what_cannot_be_read_is_listed_with_its_reason_and_nothing_is_lost(raw, whole):
    dataset = prepare(raw, whole, size=32)
    manifest = dataset.manifest
    assert [failure.image for failure in manifest.failures] == [names(60)[row] for row in BAD]
    assert all("truncated" in failure.reason for failure in manifest.failures)
    assert str(raw) not in (whole / MANIFEST).read_text()
    assert manifest.images + len(manifest.failures) == manifest.listed == 60


def test_the_manifest_counts_what_the_index_holds(raw, whole):
    dataset = prepare(raw, whole, size=32)
    manifest, index = dataset.manifest, dataset.index
    assert (manifest.title, manifest.size, manifest.pixel_rule) == (
        "NIH ChestX-ray14",
        32,
        PIXEL_RULE,
    )
    for part, counts in manifest.counts.items():
        rows = index[index["split"] == part]
        assert counts["images"] == len(rows)
        assert counts["patients"] == rows["patient"].nunique()
        assert [counts[finding] for finding in FINDINGS] == rows[list(FINDINGS)].sum().tolist()
        assert counts["No Finding"] == (rows[list(FINDINGS)].sum(axis=1) == 0).sum()
    failed = [(failure.image, failure.split) for failure in manifest.failures]
    listed = [*zip(index["image"], index["split"], strict=True), *failed]
    assert split_sha256(*zip(*listed, strict=True)) == manifest.split.sha256


def test_boxes_are_those_of_packed_images(raw, whole):
    dataset = prepare(raw, whole, size=32)
    assert set(dataset.boxes["image"]) == set(names(60)[1::5]) - {names(60)[row] for row in BAD}
    box = dataset.boxes.loc[0, ["x", "y", "w", "h"]].tolist()
    assert box == [0.25, 0.125, 0.5, 0.25]


def test_nothing_but_tables_shards_and_manifest_is_left(whole):
    assert set(contents(whole)) == FILES


def test_a_tree_without_bad_files_is_packed_whole(tmp_path):
    dataset = prepare(write_tree(tmp_path / "raw", 20), tmp_path / "out", 16, "patient")
    assert dataset.manifest.failures == ()
    assert len(dataset.images) == len(dataset.index) == dataset.manifest.images == 20


def test_a_shard_of_which_no_image_can_be_read_is_left_out(tmp_path):
    raw = write_tree(tmp_path / "raw", 60, tuple(range(16, 32)))
    dataset = prepare(raw, tmp_path / "out", 32)
    assert [shard.name for shard in dataset.manifest.shards] == [
        "00000.npy",
        "00002.npy",
        "00003.npy",
    ]
    assert np.array_equal(dataset.images[16], canonical(picture(32), 32))


@pytest.mark.parametrize(("workers", "chunk"), [(1, 5), (3, 7)])
def test_neither_workers_nor_chunks_show_in_the_bytes(
    raw, whole, tmp_path, monkeypatch, workers, chunk
):
    monkeypatch.setattr(packing, "CHUNK", chunk)
    paths = sorted(map(str, raw.rglob("*.png")))
    made = packing.pack(paths, 32, tmp_path / "images", tmp_path / "notes", workers)
    assert made.shards == Dataset.open(whole).manifest.shards
    assert {f"images/{name}": data for name, data in contents(tmp_path / "images").items()} == {
        name: data for name, data in contents(whole).items() if name in SHARDS
    }


def test_the_size_of_shards_does_not_change_index_or_images(raw, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 1024)
    one, four = prepare(raw, tmp_path / "out", size=32), Dataset.open(whole)
    assert len(one.manifest.shards) == 1
    assert one.index.equals(four.index)
    assert np.array_equal(one.images[:], four.images[:])


# --- what is refused ----------------------------------------------------------------------------


def test_a_finished_dataset_of_the_same_inputs_is_left_alone(raw, whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    prepare(raw, whole, size=32)
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert "is complete, made from the same inputs" in capsys.readouterr().err


def test_a_missing_shard_of_a_finished_dataset_is_made_again_alone(raw, whole, tmp_path, capsys):
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    (out / "images/00002.npy").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    prepare(raw, out, size=32)
    assert "lacks 1 of 4 shards" in capsys.readouterr().err
    assert contents(out) == contents(whole)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_missing_shard_whose_files_changed_is_refused(tmp_path):
    raw = write_tree(tmp_path / "raw", 20)
    prepare(raw, tmp_path / "out", 16, "patient")
    first, second = sorted(raw.rglob("*.png"))[:2]
    data = first.read_bytes()
    # Of the same size, so that only the pixels tell.
    second.write_bytes(data + bytes(max(0, second.stat().st_size - len(data))))
    first.write_bytes(data)
    (tmp_path / "out/images/00000.npy").unlink()
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"changed"):
            prepare(raw, tmp_path / "out", 16, "patient")
        assert [p.name for p in (tmp_path / "out/images").iterdir()] == ["00001.npy"]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"size": 24}, "size was 32, now 24"),
        ({"seed": 1}, "split was official with seed 0, now official with seed 1"),
        ({"split": "patient"}, "split was official with seed 0, now patient with seed 0"),
    ],
)
def test_a_dataset_of_other_inputs_is_not_overwritten(raw, whole, other, what):
    before = contents(whole)
    with pytest.raises(ArtifactError, match=f"was made from other inputs.*{what}"):
        prepare(raw, whole, **({"size": 32} | other))
    assert contents(whole) == before


def test_a_tree_that_changed_is_other_inputs(tmp_path):
    raw = write_tree(tmp_path / "raw", 20)
    prepare(raw, tmp_path / "out", 16, "patient")
    table = raw / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Nodule", "Fibrosis", 1))
    with pytest.raises(
        ArtifactError, match="labels, boxes, masks, split or files of the raw tree changed"
    ):
        prepare(raw, tmp_path / "out", 16, "patient")


def test_a_folder_with_other_files_is_refused(raw, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ArtifactError, match="holds other files"):
        prepare(raw, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_tree_of_which_no_image_can_be_read_is_refused(tmp_path):
    raw = write_tree(tmp_path / "raw", 16, tuple(range(16)))
    with pytest.raises(SourceError, match=r"no image can be read.*truncated"):
        prepare(raw, tmp_path / "out", 16, "patient")
    assert not (tmp_path / "out" / MANIFEST).exists()


# --- files that are missing, parts that are empty ----------------------------------------------


def without_files(raw: Path, count: int) -> Path:
    for name in names(30)[:count]:
        (raw / "images_001" / "images" / name).unlink()
    return raw


def test_a_tree_without_most_of_its_files_is_refused_unless_that_is_stated(tmp_path):
    raw = without_files(write_tree(tmp_path / "raw", 30), 16)
    with pytest.raises(
        SourceError, match=r"16 of 30 rows .* no image file: check .*--allow-missing"
    ):
        prepare(raw, tmp_path / "out", 16, "patient")
    assert not (tmp_path / "out").exists()
    assert len(prepare(raw, tmp_path / "out", 16, "patient", allow_missing=True).index) == 14


def test_half_of_the_files_are_enough(tmp_path):
    raw = without_files(write_tree(tmp_path / "raw", 30), 15)
    assert len(prepare(raw, tmp_path / "out", 16, "patient").index) == 15


def all_test(path: Path) -> Path:
    rows = pd.DataFrame({"image": names(30)})
    rows.assign(split="test").to_csv(path, index=False)
    return path


def test_a_split_that_leaves_a_part_empty_is_refused_before_decoding(tmp_path):
    raw = write_tree(tmp_path / "raw", 30)
    split = str(all_test(tmp_path / "mine.csv"))
    with pytest.raises(SourceError, match=r"no image for train and val: .*--allow-empty"):
        prepare(raw, tmp_path / "out", 16, split)
    assert not (tmp_path / "out").exists()
    dataset = prepare(raw, tmp_path / "out", 16, split, allow_empty=True)
    assert {part: of["images"] for part, of in dataset.manifest.counts.items()} == {
        "train": 0, "val": 0, "test": 30,
    }  # fmt: skip


def test_a_part_whose_images_cannot_be_read_is_refused(tmp_path):
    raw = write_tree(tmp_path / "raw", 30, (28, 29))
    table = pd.DataFrame({"image": names(30), "split": ["train"] * 26 + ["val"] * 2 + ["test"] * 2})
    table.to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(SourceError, match=r"of 28 images of 14 patients leaves no image for test"):
        prepare(raw, tmp_path / "out", 16, str(tmp_path / "mine.csv"))


def test_findings_without_a_positive_in_val_or_test_are_said(raw, whole):
    dataset = prepare(raw, whole, size=32)
    (found,) = [each for each in dataset.manifest.problems if each.code == "one-sided-finding"]
    test = dataset.index[dataset.index["split"] == "test"]
    val = dataset.index[dataset.index["split"] == "val"]
    lacking = (
        [(test[name] == 1).any() for name in FINDINGS],
        [(val[name] == 1).any() for name in FINDINGS],
    )
    assert found.count == sum(not has for of in lacking for has in of)
    assert not found.loses


# --- the split of another dataset ---------------------------------------------------------------


def test_the_split_of_a_dataset_is_kept_and_new_patients_go_to_train(tmp_path):
    raw = write_tree(tmp_path / "raw", 40)
    first = without_files(shutil.copytree(raw, tmp_path / "first"), 11)  # lacks five patients
    before = prepare(first, tmp_path / "before", 16, "patient", seed=3)
    after = prepare(raw, tmp_path / "after", 16, str(tmp_path / "before"))
    kept = dict(zip(before.index["image"], before.index["split"], strict=True))
    of_patient = dict(zip(before.index["patient"], before.index["split"], strict=True))
    for image, patient, part in after.index[["image", "patient", "split"]].itertuples(index=False):
        assert part == kept.get(image, of_patient.get(patient, "train"))
    assert after.index.groupby("patient")["split"].nunique().max() == 1
    new = [each for each in after.manifest.problems if each.code == "not-in-kept-split"]
    assert [each.count for each in new] == [10]  # the eleventh image is of a known patient
    assert (after.manifest.split.name, after.manifest.split.seed) == ("before", None)


def test_a_folder_without_a_dataset_is_no_split(raw, tmp_path):
    with pytest.raises(SourceError, match=r"not a prepared dataset \(it has no index.parquet\)"):
        prepare(raw, tmp_path / "out", 16, str(tmp_path))


# --- killed -------------------------------------------------------------------------------------

# A process that kills itself with SIGKILL on the nth call of a function, so at a known moment.
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from chestxray import parallel
from chestxray.dataset import packing, preparation, shards

def killed(original, calls):
    def call(*arguments, **options):
        nonlocal calls
        calls -= 1
        if not calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    return call

if __name__ == "__main__":
    raw, out, name, function, calls = sys.argv[1:]
    shards.SHARD, packing.CHUNK, parallel.cores = 16, 5, lambda: 1
    module = {"packing": packing, "preparation": preparation}[name]
    setattr(module, function, killed(getattr(module, function), int(calls)))
    preparation.prepare(Path(raw), Path(out), size=32)
"""


def killed_at(tmp_path: Path, raw: Path, out: Path, point: tuple[str, str, int]) -> None:
    script = tmp_path / "killed_at.py"
    script.write_text(KILLED_AT)
    command = [sys.executable, str(script), str(raw), str(out), *map(str, point)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def test_killed_while_packing_and_resumed_gives_the_same_bytes(raw, whole, tmp_path, capsys):
    out = tmp_path / "out"
    notes = out / UNFINISHED
    for point, noted in (
        (("packing", "_close_gaps", 1), 0),  # the first shard is decoded, but not complete
        (("packing", "write_json", 1), 0),  # the first shard is in its place, but has no note
        (("packing", "sync_folder", 2), 1),  # the second shard likewise, after a note of the first
    ):
        killed_at(tmp_path, raw, out, point)
        assert not (out / MANIFEST).exists()
        assert len(list(notes.glob("0*.json"))) == noted
    first = (notes / "images/00000.npy").stat().st_ino
    (notes / "00001.json").write_text('{"shard": {"na')  # torn by a power cut
    prepare(raw, out, size=32)
    assert "resuming the unfinished" in capsys.readouterr().err
    assert contents(out) == contents(whole)
    assert (out / "images/00000.npy").stat().st_ino == first, "a shard with a note is kept"


@pytest.mark.slow
def test_killed_while_finishing_and_resumed_gives_the_same_bytes(raw, whole, tmp_path):
    out = tmp_path / "out"
    for point in (
        ("preparation", "write_table", 2),
        ("preparation", "write_json", 1),
        *(("preparation", "sync_folder", 1) for _ in (BOXES, INDEX, "images", MANIFEST)),
    ):
        killed_at(tmp_path, raw, out, point)
        assert (out / UNFINISHED).exists()
    assert (out / MANIFEST).exists()
    prepare(raw, out, size=32)
    assert contents(out) == contents(whole)


def test_a_shard_that_was_cut_short_after_its_note_is_made_again(raw, whole, tmp_path):
    killed_at(tmp_path, raw, tmp_path / "out", ("packing", "write_json", 3))
    shard = tmp_path / "out" / UNFINISHED / "images/00000.npy"
    os.truncate(shard, shard.stat().st_size - 1)
    prepare(raw, tmp_path / "out", size=32)
    assert contents(tmp_path / "out") == contents(whole)


def test_killed_from_outside_leaves_no_worker_behind_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 64)
    raw = write_tree(tmp_path / "raw", 400)
    prepare(raw, tmp_path / "whole", 512, "patient")
    out = tmp_path / "out"
    main = (
        "from chestxray.dataset import shards; shards.SHARD = 64\n"
        "from chestxray.cli.main import main; main()"
    )
    options = ["--size", "512", "--split", "patient"]
    command = [sys.executable, "-c", main, "prepare", raw, out, *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    until((out / UNFINISHED / "00001.json").exists)
    process.kill()
    process.wait()
    assert not (out / MANIFEST).exists()
    until(lambda: not alive_in_group(process.pid))
    prepare(raw, out, 512, "patient")
    assert contents(out) == contents(tmp_path / "whole")


def test_an_unfinished_dataset_is_not_resumed_with_other_inputs(raw, tmp_path):
    killed_at(tmp_path, raw, tmp_path / "out", ("packing", "_finish", 1))
    with pytest.raises(ArtifactError, match=r"started from other inputs.*size was 32, now 24"):
        prepare(raw, tmp_path / "out", size=24)


def test_two_prepares_do_not_work_in_one_folder(raw, tmp_path, monkeypatch):
    def meanwhile(*_: object) -> None:
        with pytest.raises(ArtifactError, match="another prepare is running"):
            prepare(raw, tmp_path / "out", size=32)
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "_make", meanwhile)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, tmp_path / "out", size=32)


def until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive_in_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- the verb -----------------------------------------------------------------------------------


def test_the_verb_prints_parts_and_what_could_not_be_read(raw, whole):
    result = CliRunner().invoke(app, ["prepare", str(raw), str(whole), "--size", "32"])
    assert result.exit_code == 0
    counts = json.loads((whole / MANIFEST).read_text())["counts"]
    images = [str(counts[part]["images"]) for part in ("train", "val", "test")]
    assert ["images", *images] in [line.split() for line in result.stdout.splitlines()]
    assert "2 of 60 images cannot be read" in result.stdout
    assert names(60)[BAD[0]] in result.stdout


def test_the_verb_says_which_option_sets_the_side(raw, tmp_path):
    command = ["prepare", str(raw), str(tmp_path / "out"), "--pixels", "128"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "--size 128" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_verb_takes_a_list_of_the_users_own(raw, tmp_path):
    table = pd.DataFrame({"patient": [f"{number:08d}" for number in range(1, 31)]})
    table["split"] = ["train"] * 20 + ["val"] * 5 + ["test"] * 5
    table.to_csv(tmp_path / "mine.csv", index=False)
    dataset = prepare(raw, tmp_path / "out", 16, str(tmp_path / "mine.csv"))
    assert dataset.manifest.split.name == "mine.csv"
    assert dataset.manifest.split.seed is None
    assert set(dataset.index["patient"].iloc[dataset.rows("val")].astype(int)) == {*range(21, 26)}
