"""Patients are kept apart, whichever way the split came."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestxray.dataset import split as splits
from chestxray.errors import SourceError
from chestxray.sources import nih
from chestxray.sources.nih import FINDINGS


def made(
    patients: list[int], positives: dict[str, set[int]] | None = None, source: str = "nih"
) -> pd.DataFrame:
    """Rows of one image a list entry; `positives` names the patients with a finding."""
    rows = pd.DataFrame({"patient": [f"{number:08d}" for number in patients], "source": source})
    number = rows.groupby("patient").cumcount()
    rows["image"] = [f"{p}_{n:03d}.png" for p, n in zip(rows["patient"], number, strict=True)]
    for finding in FINDINGS:
        having = (positives or {}).get(finding, set())
        rows[finding] = [float(number in having) for number in patients]
    return rows


def numbers(rows: pd.DataFrame) -> pd.Series:
    return rows["patient"].str[-8:].astype(int)


def lists_of(rows: pd.DataFrame, test: set[int]) -> dict[str, frozenset[str]]:
    in_test = numbers(rows).isin(test)
    return {
        "train_val": frozenset(rows["image"][~in_test]),
        "test": frozenset(rows["image"][in_test]),
    }


def patients_of(rows: pd.DataFrame, split: pd.Series) -> dict[str, set[int]]:
    return {part: set(numbers(rows)[split == part]) for part in splits.PARTS}


# --- drawn splits -------------------------------------------------------------------------------

populations = st.lists(st.integers(1, 40), min_size=1, max_size=120)


@given(populations, st.integers(0, 5))
def test_no_patient_is_drawn_into_two_parts(patients, seed):
    rows = made(patients)
    for split in (
        splits.patient(rows, FINDINGS, seed),
        splits.official(rows, FINDINGS, lists_of(rows, {1, 2}), seed),
    ):
        assert split.isin(splits.PARTS).all()
        parts = patients_of(rows, split)
        assert sum(map(len, parts.values())) == len(set(patients))
        splits.check(rows, split)


@given(populations, st.randoms(use_true_random=False))
def test_a_draw_does_not_depend_on_the_order_of_rows(patients, random):
    rows = made(patients, {"Hernia": {1, 2, 3}, "Mass": {3, 4, 5, 6}})
    order = list(range(len(rows)))
    random.shuffle(order)
    assert splits.patient(rows, FINDINGS, 7).equals(
        splits.patient(rows.iloc[order], FINDINGS, 7).sort_index()
    )


def test_another_seed_draws_another_split():
    rows = made(list(range(200)))
    assert splits.patient(rows, FINDINGS, 0).equals(splits.patient(rows, FINDINGS, 0))
    assert not splits.patient(rows, FINDINGS, 0).equals(splits.patient(rows, FINDINGS, 1))


@given(st.sets(st.integers(0, 99), min_size=3, max_size=30), st.integers(0, 5))
def test_a_finding_of_three_patients_reaches_every_part(hernia, seed):
    rows = made([number % 100 for number in range(250)], {"Hernia": hernia})
    for part, patients in patients_of(rows, splits.patient(rows, FINDINGS, seed)).items():
        assert patients & hernia, part


def test_shares_are_kept_for_patients_and_for_every_finding():
    random = np.random.default_rng(0)
    positives = {
        finding: set(random.choice(3000, size, replace=False).tolist())
        for finding, size in zip(FINDINGS, np.geomspace(20, 900, 14).astype(int), strict=True)
    }
    rows = made([int(number) for number in random.permutation(np.arange(6000) % 3000)], positives)
    parts = patients_of(rows, splits.patient(rows, FINDINGS, 3))
    for having in (set(range(3000)), *positives.values()):
        for part, share in splits._PATIENT_SHARES.items():
            assert abs(len(parts[part] & having) - share * len(having)) <= max(3, len(having) / 50)


def test_unknown_labels_count_as_absent_in_the_draw():
    rows = made(list(range(30)))
    unknown = rows.assign(Hernia=np.nan)
    assert splits.patient(rows, FINDINGS, 0).equals(splits.patient(unknown, FINDINGS, 0))


# --- the official split -------------------------------------------------------------------------


def test_the_official_lists_are_kept_and_val_is_cut_from_train_val():
    rows = made([number % 80 for number in range(200)])
    parts = patients_of(
        rows, splits.official(rows, FINDINGS, lists_of(rows, set(range(60, 80))), 0)
    )
    assert parts["test"] == set(range(60, 80))
    assert abs(len(parts["val"]) - 60 / 8) < 1


def test_official_lists_of_three_parts_are_used_as_they_are():
    rows = made([number % 80 for number in range(200)])
    wanted = {"train": {*range(50)}, "val": {*range(50, 60)}, "test": {*range(60, 80)}}
    lists = {
        part: frozenset(rows["image"][numbers(rows).isin(patients)])
        for part, patients in wanted.items()
    }
    assert patients_of(rows, splits.official(rows, FINDINGS, lists, 0)) == wanted


def test_val_is_cut_from_the_training_list_whatever_it_is_called():
    rows = made([number % 80 for number in range(200)])
    lists = lists_of(rows, {*range(60, 80)})
    renamed = {"train": lists["train_val"], "test": lists["test"]}
    assert splits.official(rows, FINDINGS, renamed, 0).equals(
        splits.official(rows, FINDINGS, lists, 0)
    )


def test_the_official_split_needs_its_lists():
    with pytest.raises(SourceError, match=r"train_val_list.txt.*--split patient"):
        splits.official(made([1, 2]), FINDINGS, {}, 0)


def test_an_image_in_no_official_list_is_refused_by_name_and_count():
    rows = made([1, 2, 3])
    lists = {"train_val": frozenset({rows["image"][0]}), "test": frozenset()}
    with pytest.raises(
        SourceError, match=r"2 images are not in any official list.*00000002_000.png, 00000003"
    ):
        splits.official(rows, FINDINGS, lists, 0)


def test_an_image_in_both_official_lists_is_refused():
    rows = made([1, 2])
    names = frozenset(rows["image"])
    with pytest.raises(SourceError, match="2 images are in more than one official list"):
        splits.official(rows, FINDINGS, {"train_val": names, "test": names}, 0)


def test_official_lists_that_share_a_patient_are_refused():
    rows = made([1, 1, 2])
    lists = {"train_val": frozenset(rows["image"][:1]), "test": frozenset(rows["image"][1:])}
    with pytest.raises(SourceError, match=r"1 patient is in more than one split.*00000001"):
        splits.official(rows, FINDINGS, lists, 0)


def test_nih_whole_is_split_as_published_with_no_patient_on_two_sides(real):
    metadata = real / "nih-metadata"
    rows = nih.read_labels(metadata / "Data_Entry_2017_v2020.csv.gz").rows
    lists = {
        part: frozenset(
            gzip.decompress((metadata / f"{part}_list.txt.gz").read_bytes()).decode().split()
        )
        for part in ("train_val", "test")
    }
    assert {part: len(names) for part, names in lists.items()} == {
        "train_val": 86_524,
        "test": 25_596,
    }
    split = splits.official(rows, FINDINGS, lists, 0)
    assert len(rows) == 112_120
    assert (split != "test").sum() == 86_524
    assert (split == "test").sum() == 25_596
    assert frozenset(rows["image"][split == "test"]) == lists["test"]
    parts = patients_of(rows, split)
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 30_805
    assert len(parts["val"]) == pytest.approx(28_008 / 8, abs=2)
    assert rows.loc[split == "val", list(FINDINGS)].sum().min() >= 5
    # The same split as ever: models that were trained on it stay comparable.
    official = "93b48ccb4d71fbd864e18adab4715c8349152c1e938a0232b0e78bab8647f170"
    drawn = "eb26ef3a0a4f59d91e65e9823d17237fcfe865eda2e983224b63b9d86ef6106d"
    assert splits.split_sha256(rows["image"], split) == official
    assert splits.split_sha256(rows["image"], splits.patient(rows, FINDINGS, 0)) == drawn


# --- the user's list ----------------------------------------------------------------------------

ROWS = made([1, 1, 2, 3])


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "mine.csv").write_text(text)
    return tmp_path / "mine.csv"


def test_a_list_by_image_and_a_list_by_patient_say_the_same(tmp_path):
    by_patient = splits.from_file(
        ROWS, written(tmp_path, "patient,split\n00000001,train\n2,val\n3,test\n99,test\n")
    )
    by_image = splits.from_file(
        ROWS,
        written(
            tmp_path,
            "image,split\n00000003_000.png,test\n00000001_001.png,train\n"
            "00000001_000.png,train\n00000002_000.png,val\n",
        ),
    )
    assert by_patient.tolist() == by_image.tolist() == ["train", "train", "val", "test"]


def test_a_list_names_patients_of_several_sources_by_source_and_key(tmp_path):
    rows = pd.concat([made([1, 2]), made([1, 2], source="own")], ignore_index=True)
    rows["patient"] = rows["source"] + "/" + rows["patient"]
    text = "patient,split\nnih/1,train\nnih/2,val\nown/00000001,test\nown/2,train\n"
    split = splits.from_file(rows, written(tmp_path, text))
    assert split.tolist() == ["train", "val", "test", "train"]
    with pytest.raises(SourceError, match=r"4 images are not in .*a key is <source>/<key>"):
        splits.from_file(rows, written(tmp_path, "patient,split\n1,train\n2,val\n"))


def test_patients_are_text_of_any_kind(tmp_path):
    rows = made([1, 2, 3]).assign(patient=["P-07", "07", "Ann Other"])
    text = 'patient,split\nP-07,train\n"Ann Other",test\n7,val\n'
    assert splits.from_file(rows, written(tmp_path, text)).tolist() == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("patient,split\n1,train\n2,val\n", "1 image is not in .*00000003_000.png"),
        ("patient,split\n1,train\n2,val\n3,valid\n", "1 value is in .* not one of train.*valid"),
        ("patient,split\n1,train\n2,val\n3,test\n1,val\n", "1 patient is more than once in"),
        ("patient,split\n1,train\nx2,val\n3,test\n", "1 image is not in .*00000002_000"),
        ("name,part\n1,train\n", "has the columns name, part"),
        ("", "is not a CSV table"),
        (
            "image,split\n" + "".join(
                f"{image},{part}\n"
                for image, part in zip(ROWS["image"], ("train", "test", "val", "test"), strict=True)
            ),
            "1 patient is in more than one split, such as 00000001",
        ),
    ],
)  # fmt: skip
def test_a_list_that_breaks_a_rule_is_refused(tmp_path, text, reason):
    with pytest.raises(SourceError, match=reason):
        splits.from_file(ROWS, written(tmp_path, text))


def test_a_list_that_is_not_there_is_refused_with_the_choices(tmp_path):
    with pytest.raises(
        SourceError, match=r"does not exist: --split takes auto, official, patient, a"
    ):
        splits.from_file(ROWS, tmp_path / "offical")


def test_the_hash_is_over_sorted_lines_of_image_and_part():
    lines = b"a.png\ttest\nb.png\ttrain\n"
    expected = hashlib.sha256(lines).hexdigest()
    assert splits.split_sha256(["b.png", "a.png"], ["train", "test"]) == expected
    assert splits.split_sha256(["b.png", "a.png"], ["test", "train"]) != expected


def test_a_row_without_a_part_is_refused():
    rows = made([1, 2])
    lists = {
        "train": frozenset(rows["image"][:1]),
        "val": frozenset(),
        "rest": frozenset(rows["image"][1:]),
    }
    with pytest.raises(SourceError, match="1 image is in none of train, val, test, such as"):
        splits.assign(rows, FINDINGS, "official", 0, {"nih": lists})
