"""Labels beside predictions: parts known or not, nothing dropped unsaid, who each image is of."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from chestxray.errors import PredictionsError, SourceError
from chestxray.evaluation.labels import Labels, pair
from chestxray.findings import Findings
from chestxray.sources.collection import ReadOptions
from chestxray.sources.nih import FINDINGS
from evaluation_parts import PROBABILITIES, rows_of, write

if TYPE_CHECKING:
    from chestxray.dataset.store import Dataset

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
)
# Patients 1 and 2 train, 3 and 4 test; two images each.
NAMES = [f"{patient:08d}_{visit:03d}.png" for patient in (1, 2, 3, 4) for visit in (0, 1)]
TRAIN_VAL, TEST = NAMES[:4], NAMES[4:]


def write_table(folder: Path, name: str = "Data_Entry.csv", age: str = "57") -> Path:
    rows = [
        f"{image},{'Mass' if row % 3 == 0 else 'No Finding'},{row % 2},{row // 2 + 1},{age},"
        f"{'MF'[row // 2 % 2]},{('PA', 'AP')[row % 2]}"
        for row, image in enumerate(NAMES)
    ]
    text = "\n".join([HEADER, *rows]) + "\n"
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def write_list(folder: Path, name: str, images: list[str]) -> None:
    text = "\n".join(images).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


def predict(folder: Path, images: list[str], failed: int = 0) -> Path:
    rows = rows_of(images, np.random.default_rng(0).random((len(images), 14)))
    rows.loc[: failed - 1, [*PROBABILITIES]] = np.nan
    rows.loc[: failed - 1, ["status", "reason"]] = ["error", "truncated"]
    path: Path = write(folder / "p.csv", rows)
    return path


@pytest.fixture
def listed(tmp_path: Path) -> Labels:
    """A bare table with both official lists beside it."""
    write_list(tmp_path, "train_val_list.txt", TRAIN_VAL)
    write_list(tmp_path, "test_list.txt", TEST)
    return Labels.read(write_table(tmp_path))


def test_a_bare_table_without_lists_knows_no_parts_and_the_caller_names_them(
    tmp_path: Path,
) -> None:
    truth = Labels.read(write_table(tmp_path))
    assert set(truth.rows["split"]) == {"unknown"}
    assert truth.split_name is None
    path = predict(tmp_path, NAMES[2:6])
    assert pair(path, truth).split == "unknown"
    assert pair(path, truth, "val").split == "val"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_official_lists_beside_a_bare_table_tell_the_parts(tmp_path: Path, suffix: str) -> None:
    write_list(tmp_path, f"train_val_list.txt{suffix}", TRAIN_VAL)
    write_list(tmp_path, f"test_list.txt{suffix}", [name.replace("png", "jpg") for name in TEST])
    truth = Labels.read(write_table(tmp_path, f"Data_Entry.csv{suffix}"))
    assert truth.split_name == "official"
    assert truth.rows["split"].to_dict() == dict.fromkeys(TRAIN_VAL, "train_val") | dict.fromkeys(
        TEST, "test"
    )
    pairs = pair(predict(tmp_path, TEST[:3]), truth)
    assert (pairs.split, pairs.unpredicted) == ("test", 1)


def test_rows_of_another_part_than_test_are_refused_unless_asked_for(
    tmp_path: Path, listed: Labels
) -> None:
    path = predict(tmp_path, TRAIN_VAL)
    with pytest.raises(
        PredictionsError, match=r"the split 'train_val', not of 'test'.*--split train_val"
    ):
        pair(path, listed)
    assert pair(path, listed, "train_val").split == "train_val"
    assert pair(path, listed, "val").split == "val"
    with pytest.raises(PredictionsError, match="the split 'train_val', not of 'test'"):
        pair(path, listed, "test")
    with pytest.raises(PredictionsError, match="the split 'test', not of 'val'"):
        pair(predict(tmp_path, TEST), listed, "val")


def test_validation_rows_of_a_dataset_are_not_evaluated_as_test(
    tmp_path: Path, dataset: Dataset
) -> None:
    truth = Labels.read(dataset.folder)
    assert truth.split_name == "official"
    images = truth.rows.index[truth.rows["split"] == "val"]
    path = predict(tmp_path, list(images))
    with pytest.raises(PredictionsError, match="give --split val"):
        pair(path, truth)
    with pytest.raises(PredictionsError, match="the split 'val', not of 'train'"):
        pair(path, truth, "train")
    assert pair(path, truth, "val").split == "val"


def test_parts_are_not_mixed(tmp_path: Path, listed: Labels) -> None:
    with pytest.raises(PredictionsError, match=r"mixes the splits .*(4 train_val, 4 test|4 test)"):
        pair(predict(tmp_path, NAMES), listed)


def test_one_list_alone_counts_for_nothing_and_is_told(tmp_path: Path) -> None:
    write_list(tmp_path, "test_list.txt", TEST)
    truth = Labels.read(write_table(tmp_path))
    assert set(truth.rows["split"]) == {"unknown"}
    assert [problem.code for problem in truth.problems] == ["one-official-list"]


def test_an_image_in_neither_list_has_no_part_and_is_told(tmp_path: Path) -> None:
    write_list(tmp_path, "train_val_list.txt", TRAIN_VAL)
    write_list(tmp_path, "test_list.txt", TEST[:2])
    truth = Labels.read(write_table(tmp_path))
    assert [(problem.code, problem.count) for problem in truth.problems] == [("not-in-lists", 2)]
    with pytest.raises(PredictionsError, match="2 unknown"):
        pair(predict(tmp_path, TEST), truth)


def test_lists_that_share_an_image_or_a_patient_are_refused(tmp_path: Path) -> None:
    write_list(tmp_path, "train_val_list.txt", TRAIN_VAL)
    write_list(tmp_path, "test_list.txt", TRAIN_VAL[:1] + TEST)
    with pytest.raises(SourceError, match="share 1 image "):
        Labels.read(write_table(tmp_path))
    write_list(tmp_path, "train_val_list.txt", TRAIN_VAL[:3])
    write_list(tmp_path, "test_list.txt", TRAIN_VAL[3:] + TEST)
    with pytest.raises(SourceError, match="1 patient is in more than one split"):
        Labels.read(tmp_path / "Data_Entry.csv")


def test_images_without_labels_are_left_out_and_counted(tmp_path: Path, listed: Labels) -> None:
    pairs = pair(predict(tmp_path, ["00000009_000.png", *TEST]), listed)
    assert (pairs.images.tolist(), pairs.unlabelled, pairs.failed) == (TEST, 1, 0)
    assert pairs.positions.tolist() == [1, 2, 3, 4]
    assert pairs.unpredicted == 0


def test_predictions_of_which_most_have_no_labels_are_refused(
    tmp_path: Path, listed: Labels
) -> None:
    path = predict(tmp_path, ["x.png", "y.png", TEST[0]], failed=1)
    assert pair(path, listed).unlabelled == 1
    path = predict(tmp_path, [TEST[0], "x.png", "y.png", TEST[1]], failed=1)
    with pytest.raises(PredictionsError, match=r"no labels for 2 of 3 images \(x.png, y.png;"):
        pair(path, listed)


def test_a_dataset_takes_no_source_and_no_options(dataset: Dataset) -> None:
    for given in ({"source": "nih"}, {"options": ReadOptions(uncertain="ones")}):
        with pytest.raises(SourceError, match="not to a prepared dataset"):
            Labels.read(dataset.folder, **given)
    assert Labels.read(dataset.folder, None, ReadOptions()).split_name == "official"


def test_a_label_table_is_named_by_its_source(listed: Labels) -> None:
    assert listed.source == "NIH ChestX-ray14"


def test_labels_without_predictions_and_failed_rows_are_counted(
    tmp_path: Path, listed: Labels
) -> None:
    pairs = pair(predict(tmp_path, TEST[:3], failed=1), listed)
    assert (len(pairs.images), pairs.failed, pairs.unpredicted) == (2, 1, 1)
    assert pairs.positions.tolist() == [1, 2]
    with pytest.raises(PredictionsError, match="none of 3 rows has status ok"):
        pair(predict(tmp_path, TEST[:3], failed=3), listed)


def test_what_the_table_says_of_an_image_stands_beside_its_prediction(
    tmp_path: Path, listed: Labels
) -> None:
    pairs = pair(predict(tmp_path, [TEST[3], TEST[0]]), listed)
    assert pairs.about.to_dict("list") == {
        "age": [57.0, 57.0], "follow_up": [1.0, 0.0], "sex": ["F", "M"], "view": ["AP", "PA"],
        "source": ["", ""],
    }  # fmt: skip
    assert pairs.labels[:, FINDINGS.index("Mass")].tolist() == [0, 0]


def test_labels_that_say_nothing_of_patients_leave_it_unknown(tmp_path: Path) -> None:
    rows = pd.DataFrame(0.0, index=pd.Index(TEST, name="image"), columns=list(FINDINGS))
    rows = rows.assign(patient=["3", "3", "4", "4"], split="test")
    truth = Labels("labels", False, "", FINDINGS, rows, None)
    about = pair(predict(tmp_path, TEST), truth).about
    assert about[["age", "follow_up"]].isna().all(axis=None)
    assert (about[["sex", "view"]] == "").all(axis=None)


def test_the_table_of_2017_with_its_ages_is_read_too(tmp_path: Path) -> None:
    truth = Labels.read(write_table(tmp_path, age="060Y"))
    assert truth.release == "2017"
    assert pair(predict(tmp_path, TEST), truth).about["age"].tolist() == [60.0] * 4


def test_the_real_table_has_the_official_parts(real: Path) -> None:
    truth = Labels.read(real / "nih-metadata" / "Data_Entry_2017_v2020.csv.gz")
    assert truth.split_name == "official"
    assert truth.rows["split"].value_counts().to_dict() == {"train_val": 86_524, "test": 25_596}
    assert not truth.problems


def at(*images: str, split: str = "test") -> Labels:
    """Labels of one finding for images of these names, each its own patient."""
    rows = pd.DataFrame({"Mass": 1.0}, index=pd.Index(images, name="image"))
    rows["patient"] = [f"P{number}" for number in range(len(images))]
    return Labels("own table", False, "", Findings(["Mass"]), rows.assign(split=split), None)


def named(folder: Path, *images: str) -> Path:
    one = Findings(["mass"])
    rows = rows_of(list(images), np.full((len(images), 1), 0.5), one)
    path: Path = write(folder / "named.csv", rows, one)
    return path


def test_a_plain_file_name_matches_the_one_path_that_ends_in_it_and_is_counted(
    tmp_path: Path,
) -> None:
    labels = at("own/P1/a.png", "own/P1/b.png", "own/P2/c.png", "d.png")
    pairs = pair(named(tmp_path, "c.png", "own/P1/a.png", "d.png"), labels)
    assert pairs.images.tolist() == ["own/P2/c.png", "own/P1/a.png", "d.png"]
    assert pairs.matched_by_file_name == 1
    assert pairs.unpredicted == 1


def test_a_predicted_path_matches_the_plain_name_of_the_labels(tmp_path: Path) -> None:
    pairs = pair(named(tmp_path, "images_001/a.png"), at("a.png", "b.png"))
    assert (pairs.images.tolist(), pairs.matched_by_file_name) == (["a.png"], 1)


def test_a_whole_name_is_never_matched_by_its_file_name(tmp_path: Path) -> None:
    pairs = pair(named(tmp_path, "a.png", "P1/a.png"), at("P1/a.png", "a.png"))
    assert pairs.images.tolist() == ["a.png", "P1/a.png"]
    assert pairs.matched_by_file_name == 0


@pytest.mark.parametrize(
    ("predicted", "labelled"),
    [
        (["a.png"], ["P1/a.png", "P2/a.png"]),
        (["P1/a.png", "P2/a.png"], ["a.png"]),
        (["P1/a.png"], ["own/P1/a.png", "other/P1/a.png"]),
        (["P1/a.png", "a.png"], ["P1/a.png"]),
    ],
)
def test_an_ambiguous_name_is_refused_with_an_example(
    tmp_path: Path, predicted: list[str], labelled: list[str]
) -> None:
    with pytest.raises(PredictionsError, match=r"ambiguous \(.*a.png could be .*a.png"):
        pair(named(tmp_path, *predicted), at(*labelled))


@pytest.mark.parametrize(
    ("predicted", "labelled"),
    [
        (["P0/a.png", "P1/a.png"], ["images/P0/a.png", "images/P1/a.png"]),
        (["images/P1/a.png", "images/P0/a.png"], ["P1/a.png", "P0/a.png"]),
        (["P1/a.png", "P0/a.png"], ["own/P1/a.png", "own/P0/a.png"]),
        (["x/P1/a.png", "a.png"], ["P1/a.png", "a.png"]),
    ],
)
def test_the_longest_end_of_a_path_tells_images_of_one_file_name_apart(
    tmp_path: Path, predicted: list[str], labelled: list[str]
) -> None:
    pairs = pair(named(tmp_path, *predicted), at(*reversed(labelled)))
    assert pairs.images.tolist() == labelled
    assert pairs.matched_by_file_name == sum(
        a != b for a, b in zip(predicted, labelled, strict=True)
    )


def test_paths_that_differ_are_not_guessed_to_be_the_same(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"no labels for 1 of 1 image \(P9/a.png"):
        pair(named(tmp_path, "P9/a.png"), at("P1/a.png", "P1/b.png"))


def test_findings_are_matched_under_any_spelling(tmp_path: Path) -> None:
    pairs = pair(named(tmp_path, "a.png"), at("a.png"))
    assert pairs.findings == ("mass",)
    assert pairs.labels.tolist() == [[1.0]]
    assert pairs.left_out == {}
