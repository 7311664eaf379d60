"""Images that files of the user leave out: which they are, with their patients, and refusals."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from chestxray.artifacts import write_table
from chestxray.errors import SourceError, StorageError
from chestxray.evaluation import Labels, evaluate
from chestxray.evaluation import predictions as tables
from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.evaluation import Evaluation
from chestxray.evaluation.leave_out import ImageList, Named
from chestxray.evaluation.seen_images import Seen
from chestxray.findings import Findings

FINDING = Findings(["Effusion"])
N = 60


def labels(keys: list[str], sources: tuple[str, ...] = ("siim",), of: list[str] = ()) -> Labels:
    """Labels of images, two of each patient, half of them with the finding."""
    rows = pd.DataFrame(
        {
            "patient": [f"p{row // 2}" for row in range(len(keys))],
            "split": "test",
            "source": of or sources[0],
            "Effusion": [float(row % 4 < 2) for row in range(len(keys))],
        },
        index=keys,
    )
    return Labels("a set", False, "", FINDING, rows, None, sources=sources)


SIIM = labels([f"1.2.276.{row}" for row in range(N)])


def written(path: Path, **columns: list[str]) -> Path:
    write_table(path, pd.DataFrame(columns))
    return path


def pairs(path: Path, a: list[str], b: list[str]) -> Path:
    """A file as `chestxray overlap` writes it."""
    count = len(a)
    return written(path, a=a, b=b, score=[1.0] * count, kind=["exact"] * count)


def named(path: Path, truth: Labels) -> set[str]:
    return {*truth.rows.index[Named.of([ImageList.read(path)], truth).rows]}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_side_of_pairs_that_names_the_images_counts_whichever_it_is(tmp_path, suffix):
    theirs = ["images_001/00000001_000.png", "images_002/00000009_003.png"]
    ours = ["dicom-images-train/x/1.2.276.4.dcm", "dicom-images-train/y/1.2.276.9.dcm"]
    expected = {f"1.2.276.{row}" for row in (4, 5, 8, 9)}  # with the others of both patients
    for place, sides in enumerate(((theirs, ours), (ours, theirs))):
        assert named(pairs(tmp_path / f"{place}.{suffix}", *sides), SIIM) == expected
    keys = ["1.2.276.5", "1.2.276.8"]  # as the prepared dataset names them
    assert named(pairs(tmp_path / f"keys.{suffix}", theirs, keys), SIIM) == expected
    assert named(written(tmp_path / f"list.{suffix}", image=keys), SIIM) == expected


def test_names_of_several_sources_are_found_in_their_own(tmp_path):
    keys = ["nih/1.png", "siim/1", "siim/2", "siim/3"]
    truth = labels(keys, ("nih", "siim"), ["nih", "siim", "siim", "siim"])
    truth.rows["patient"] = keys
    assert named(written(tmp_path / "a.csv", image=["siim/1"]), truth) == {"siim/1"}
    assert named(written(tmp_path / "b.csv", image=["dicoms/2.dcm"]), truth) == {"siim/2"}
    assert named(written(tmp_path / "c.csv", image=["1.png"]), truth) == {"nih/1.png", "siim/1"}


def test_names_that_no_image_has_are_counted_and_others_of_the_folder_are_not_taken(tmp_path):
    truth = labels(["P0/view1.jpg", "P1/view1.jpg", "P2/view1.jpg"])
    path = written(tmp_path / "l.csv", image=["train/P1/view1.jpg", "P7/view1.jpg", "=P9"])
    found = Named.of([ImageList.read(path)], truth)
    assert truth.rows.index[found.rows].tolist() == ["P0/view1.jpg", "P1/view1.jpg"]  # of p0
    assert found.unmatched == 2


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"file": ["1.2.276.1"]}, "has the columns file: give a file that `chestxray overlap`"),
        ({"a": ["1.2.276.1"]}, "has the columns a: give"),
        (
            {"a": ["1.2.276.1"], "b": ["1.2.276.2"]},
            r"both columns name images of a set \(1 in a, 1 in b\)",
        ),
        ({"image": ["x/1.2.276.7.png", "y/1.2.276.7.png"]}, "may be of several images"),
        ({"image": ["other.png"]}, r"names no image that is evaluated \(its names: image such as"),
        ({"a": ["other.png"], "b": ["o.png"]}, "compare the prepared dataset itself"),
        ({"image": [f"1.2.276.{row}" for row in range(N)]}, "leaves no image: all 60 images"),
    ],
)
def test_files_that_cannot_be_used_are_refused_with_the_rule(tmp_path, columns, words):
    with pytest.raises(SourceError, match=words):
        evaluate(predicted(), SIIM, leave_out=written(tmp_path / "l.csv", **columns), resamples=0)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SourceError, match="is not a file"):
        ImageList.read(tmp_path / "none.csv")


def test_both_sides_of_pairs_may_name_the_same_images(tmp_path):
    path = pairs(tmp_path / "p.csv", ["nih/1.2.276.4.png"], ["1.2.276.4"])
    assert named(path, SIIM) == {"1.2.276.4", "1.2.276.5"}


def predicted(without: set[str] = frozenset()) -> tables.Predictions:
    p = np.random.default_rng(0).uniform(size=(N, 1))
    kept = [row for row in range(N) if SIIM.rows.index[row] not in without]
    return tables.table(list(SIIM.rows.index[kept]), p[kept], FINDING)


def test_evaluate_leaves_out_images_and_patients_and_counts_them(tmp_path):
    path = pairs(tmp_path / "pairs.csv", ["n1", "n2", "n3"], ["1.2.276.4", "1.2.276.9", "gone"])
    results = evaluate(predicted(), SIIM, leave_out=path, resamples=50)
    expected = evaluate(predicted({f"1.2.276.{row}" for row in (4, 5, 8, 9)}), SIIM, resamples=50)
    left = results.left_out_images
    assert (left.images, left.patients, left.unmatched) == (4, 2, 1)
    assert left.files == [str(path)]
    assert (results.images, results.patients) == (N - 4, N // 2 - 2)
    assert results.findings == expected.findings
    assert expected.left_out_images is None


def test_what_may_have_been_seen_is_told_with_what_was_left_out(tmp_path):
    path = pairs(tmp_path / "pairs.csv", ["n1"], ["1.2.276.4"])
    evaluation = Evaluation.of(predicted(), SIIM, resamples=0, leave_out=path)
    seen = (Seen(sources=("nih",), synthetic=False, training_list_sha256="0"),)
    told = Evaluation(
        SIIM, evaluation.pairs, None, 0, Draws.of(evaluation.pairs.patients, 0), seen=seen,
        left_out=evaluation.left_out,
    )._seen_images()  # fmt: skip
    (sentence,) = (of.sentence for of in told)
    assert sentence == (
        "The model was trained on NIH ChestX-ray14, which shares radiographs with SIIM-ACR "
        "Pneumothorax: images that are measured here may be among them, and then all figures are "
        "too good. Find them with `chestxray overlap`, and leave them and their patients out "
        f"(--leave-out). Left out here are 2 images of 1 patient, by {path}; that these are all is "
        "not checked."
    )


def lacking(path: Path, *truths: Labels) -> list[str]:
    return [of.lacking for of in Named.of_each([ImageList.read(path)], truths)]


def test_a_file_lifts_a_doubt_only_where_all_its_names_are_images_of_sets_of_one_source(tmp_path):
    nih = labels([f"{row:08d}_000.png" for row in range(6)], ("nih",))
    nothing = "no file names an image of this data set"
    known = written(tmp_path / "known.csv", image=["1.2.276.4", "x/1.2.276.9.dcm"])
    assert lacking(known, SIIM) == [""]
    assert lacking(known, SIIM, nih) == ["", nothing]
    assert lacking(pairs(tmp_path / "none.csv", [], []), SIIM) == [nothing]

    other = written(tmp_path / "other.csv", image=["1.2.276.4", "strange.png", "00000001_000.png"])
    assert lacking(other, SIIM)[0].startswith("2 names, such as strange, are of no image")
    (one,) = {*lacking(other, SIIM, nih)}
    assert one.startswith("1 name, such as strange, is of no image")
    both = pairs(tmp_path / "both.csv", ["00000001_000.png"], ["1.2.276.4"])
    assert lacking(both, SIIM, nih) == ["", ""], "names of the other side are not its own"

    keys = ["nih/1.png", "siim/1", "siim/2", "siim/3"]
    two = labels(keys, ("nih", "siim"), ["nih", "siim", "siim", "siim"])
    (why,) = lacking(written(tmp_path / "siim.csv", image=["siim/1", "siim/2"]), two)
    assert why.startswith("the data set has several sources (nih, siim)")


def test_names_that_no_image_has_are_said_with_an_example(tmp_path):
    path = written(tmp_path / "l.csv", image=["1.2.276.4", "gone.png", "lost.png"])
    left = evaluate(predicted(), SIIM, leave_out=path, resamples=0).left_out_images
    assert (left.unmatched, left.example) == (2, "gone")
    assert str(left).endswith(f"by {path} (2 names there, such as gone, are of no image)")
    assert "such as gone" in left.after("Some were seen.")


def test_a_file_of_an_object_store_is_read_and_named_by_its_url(tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / "cache"))
    url = "memory://lists/pairs.csv"
    path = pairs(tmp_path / "pairs.csv", ["n1"], ["1.2.276.4"])
    fsspec.filesystem("memory").pipe_file(url, path.read_bytes())
    results = evaluate(predicted(), SIIM, leave_out=Path(url), resamples=0)
    assert results.left_out_images.files == [url]
    assert results.left_out_images.images == 2
    with pytest.raises(StorageError, match="memory://lists"):
        ImageList.read("memory://lists/none.csv")


def test_a_file_without_pairs_leaves_nothing_out_and_says_so(tmp_path):
    for suffix in ("csv", "parquet"):
        results = evaluate(
            predicted(), SIIM, leave_out=[pairs(tmp_path / f"p.{suffix}", [], [])], resamples=0
        )
        assert (results.left_out_images.images, results.images) == (0, N)
