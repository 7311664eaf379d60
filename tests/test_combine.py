"""Several raw trees become one dataset: findings, keys, and radiographs that two sources share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chestxray import parallel
from chestxray.dataset import Dataset
from chestxray.dataset.combine import Combined, combine, duplicates
from chestxray.dataset.preparation import prepare
from chestxray.dataset.split import check, split_sha256
from chestxray.errors import SourceError
from chestxray.findings import Findings
from chestxray.sources.collection import Collection, problem
from toy_source import Toy, install, toy_collection, write_toys


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        patch.setattr(parallel, "cores", lambda: 1)  # workers take seconds to start
        yield


def of(*trees: Path) -> Combined:
    return combine([toy_collection(tree) for tree in trees])


def column(combined: Combined, finding: str) -> dict[str, float | None]:
    values = combined.rows.set_index("image")[finding]
    return {
        str(image): None if np.isnan(value) else float(value) for image, value in values.items()
    }


# --- findings -----------------------------------------------------------------------------------


def test_findings_are_the_union_in_order_of_first_appearance_matched_by_meaning(tmp_path):
    a = write_toys(
        tmp_path / "a",
        [Toy("1.png", "p", 1, {"Pleural_Thickening": 1})],
        ("Mass", "Pleural_Thickening"),
    )
    b = write_toys(
        tmp_path / "b",
        [Toy("1.png", "p", 2, {"Pleural Thickening": 1})],
        ("Pacemaker", "Pleural Thickening"),
    )
    both = of(a, b)
    assert both.findings == Findings(["Mass", "Pleural_Thickening", "Pacemaker"])
    assert column(both, "Pleural_Thickening") == {"a/1.png": 1, "b/1.png": 1}
    assert column(both, "Pacemaker") == {"a/1.png": None, "b/1.png": 0}
    assert column(both, "Mass") == {"a/1.png": 0, "b/1.png": None}


def test_a_finer_label_implies_the_coarser_one_and_nothing_else_is_implied(tmp_path):
    fine = write_toys(
        tmp_path / "fine",
        [
            Toy("yes.png", "p", 1, {"Nodule": 1}),
            Toy("no.png", "q", 2, {"Nodule": 0}),
            Toy("unknown.png", "r", 3, {"Nodule": None}),
        ],
        ("Nodule",),
    )
    coarse = write_toys(
        tmp_path / "coarse", [Toy("yes.png", "p", 4, {"Lung Lesion": 1})], ("Lung Lesion",)
    )
    both = of(fine, coarse)
    assert column(both, "Lung Lesion") == {
        "coarse/yes.png": 1,
        "fine/no.png": None,  # there may be a mass
        "fine/unknown.png": None,
        "fine/yes.png": 1,
    }
    assert column(both, "Nodule")["coarse/yes.png"] is None  # it may be a mass


def test_a_finding_that_a_source_has_only_present_is_named(tmp_path):
    fine = [Toy("1.png", "p", 1, {"Nodule": 1}), Toy("2.png", "q", 2, {"Nodule": 0})]
    coarse = [Toy("1.png", "r", 3, {"Lung Lesion": 1}), Toy("2.png", "s", 4, {"Lung Lesion": 0})]
    trees = [
        write_toys(tmp_path / "fine", fine, ("Nodule",)),
        write_toys(tmp_path / "coarse", coarse, ("Lung Lesion",)),
    ]
    (found,) = (of for of in combine([toy_collection(tree) for tree in trees]).problems
                if of.code == "only-present")  # fmt: skip
    assert found.examples == ("Lung Lesion of fine (1 present, 1 unknown)",)
    assert not found.loses
    assert not [of for of in combine([toy_collection(trees[0])]).problems
                if of.code == "only-present"]  # fmt: skip


def test_a_coarser_label_that_a_source_has_itself_stays_as_it_is(tmp_path):
    both = write_toys(
        tmp_path / "both", [Toy("1.png", "p", 1, {"Nodule": 1})], ("Nodule", "Lung Lesion")
    )
    other = write_toys(tmp_path / "other", [Toy("1.png", "p", 2)], ("Mass",))
    assert column(of(both, other), "Lung Lesion") == {"both/1.png": 0, "other/1.png": None}


# --- keys ---------------------------------------------------------------------------------------


def test_one_source_keeps_its_keys_and_several_put_their_name_before_them(tmp_path):
    a = write_toys(tmp_path / "a", [Toy("1.png", "17", 1)])
    b = write_toys(tmp_path / "b", [Toy("1.png", "17", 2)])
    assert of(a).rows[["image", "patient", "source"]].to_numpy().tolist() == [["1.png", "17", "a"]]
    assert of(a, b).rows[["image", "patient", "source"]].to_numpy().tolist() == [
        ["a/1.png", "a/17", "a"],
        ["b/1.png", "b/17", "b"],
    ]


def test_a_patient_of_two_trees_of_one_source_is_one_patient(tmp_path):
    first = write_toys(tmp_path / "1/site", [Toy("1.png", "17", 1)])
    second = write_toys(tmp_path / "2/site", [Toy("0.png", "17", 2)])
    rows = of(first, second).rows
    assert rows["image"].tolist() == ["0.png", "1.png"]
    assert set(rows["patient"]) == {"17"}


def test_an_image_in_two_trees_of_one_source_is_refused_with_what_to_do(tmp_path):
    first = write_toys(tmp_path / "1/site", [Toy("1.png", "17", 1), Toy("2.png", "18", 2)])
    second = write_toys(tmp_path / "2/site", [Toy("1.png", "17", 3)])
    with pytest.raises(
        SourceError, match=r"1 image key is in more than one tree of the source site, such as 1.png"
    ):
        of(first, second)


def test_the_order_of_trees_changes_only_the_order_of_findings(tmp_path):
    a = write_toys(tmp_path / "a", [Toy("1.png", "17", 1)], ("Mass", "Hernia"))
    b = write_toys(tmp_path / "b", [Toy("1.png", "17", 2)], ("Hernia", "Edema"))
    ab, ba = of(a, b), of(b, a)
    assert ba.findings == Findings(["Hernia", "Edema", "Mass"])
    assert ab.rows.equals(ba.rows[ab.rows.columns])


def test_problems_of_several_sources_name_the_source_and_known_overlaps_are_reported(tmp_path):
    a = toy_collection(write_toys(tmp_path / "a", [Toy("1.png", "17", 1)]))
    b = toy_collection(write_toys(tmp_path / "b", [Toy("1.png", "17", 2)]))
    a = replace(
        a,
        card=replace(a.card, overlaps=("b", "elsewhere")),
        problems=tuple(problem("missing-image", ["2.png"], "left out", loses=True)),
    )
    assert [each.sentence for each in combine([a]).problems] == ["left out"]
    missing, overlap = combine([a, b]).problems
    assert missing.sentence == "a: left out"
    assert (overlap.code, overlap.examples) == ("known-overlap", ("a and b",))


# --- the same radiograph in two sources ---------------------------------------------------------


def test_patients_are_linked_through_a_chain_of_shared_radiographs():
    table = [("a", "1"), ("b", "2"), ("b", "2"), ("c", "3"), ("a", "4"), ("a", "5"), ("a", "6")]
    rows = pd.DataFrame(
        {
            "image": [f"{source}/{n}" for n, (source, _) in enumerate(table)],
            "source": [source for source, _ in table],
            "patient": [f"{source}/{patient}" for source, patient in table],
        }
    )
    found = duplicates(rows, ["x", "x", "y", "y", "z", "z", ""])
    assert found.groups.tolist() == ["a/1"] * 4 + ["a/4", "a/5", "a/6"]
    assert found.across == (("a/0", "b/1"), ("b/2", "c/3"))
    assert found.within == (("a/4", "a/5"),)


def population(count: int, first_pixels: int) -> list[Toy]:
    """Two radiographs per patient."""
    return [
        Toy(f"{n:03d}.png", f"{n // 2:03d}", first_pixels + n, {"Mass": float(n % 6 == 0)})
        for n in range(count)
    ]


def shared(toys: list[Toy], row: int, with_toy: Toy) -> list[Toy]:
    """Give a row the pixels of another source's radiograph."""
    toy = toys[row]
    return [*toys[:row], Toy(toy.image, toy.patient, with_toy.pixels, toy.labels), *toys[row + 1 :]]


def lists(toys: list[Toy], **parts: set[int]) -> dict[str, list[str]]:
    """Official lists by the number of the patient."""
    return {
        part: [toy.image for toy in toys if int(toy.patient) in patients]
        for part, patients in parts.items()
    }


def parts_of(dataset: Dataset, patient: str) -> set[str]:
    return set(dataset.index["split"][dataset.index["patient"] == patient])


def said(dataset: Dataset, code: str) -> tuple[int, tuple[str, ...]]:
    found = {each.code: (each.count, each.examples) for each in dataset.manifest.problems}
    return found.get(code, (0, ()))


Halves = tuple[list[Toy], list[Toy]]


@pytest.fixture
def halves() -> Halves:
    """Two sources of 30 patients; three of a are three of b, by one radiograph each."""
    a, b = population(60, 0), population(60, 1000)
    for row, twin in ((4, 50), (20, 31), (41, 3)):
        b = shared(b, row, a[twin])
    return a, b


TWINS = (("a/025", "b/002"), ("a/015", "b/010"), ("a/001", "b/020"))


def by_file(tmp_path: Path) -> str:
    """A list that puts the twins into different parts."""
    given = {f"{source}/{n:03d}": "train" for source in "ab" for n in range(30)}
    given |= {"a/025": "test", "b/002": "train", "a/015": "train", "b/010": "val"}
    lines = [f"{patient},{part}" for patient, part in given.items()]
    (tmp_path / "mine.csv").write_text("\n".join(["patient,split", *lines]))
    return str(tmp_path / "mine.csv")


@pytest.mark.parametrize(
    "how",
    [lambda _: "patient", lambda _: "official", by_file],
    ids=["patient", "official", "file"],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_same_image_in_two_sources_stays_in_one_part(
    tmp_path, halves, how: Callable[[Path], str], seed
):
    a, b = halves
    a_tree = write_toys(
        tmp_path / "a", a, lists=lists(a, train_val={*range(20)}, test={*range(20, 30)})
    )
    b_tree = write_toys(
        tmp_path / "b",
        b,
        lists=lists(b, train={*range(15)}, val={20, 21}, test={*range(15, 30)} - {20, 21}),
    )
    dataset = prepare([a_tree, b_tree], tmp_path / "out", 16, how(tmp_path), seed)
    for one, other in TWINS:
        assert parts_of(dataset, one) == parts_of(dataset, other)
        assert len(parts_of(dataset, one)) == 1
    names = ("a/003.png = b/041.png", "a/031.png = b/020.png", "a/050.png = b/004.png")
    assert said(dataset, "same-image-in-two-sources") == (3, names)
    rows = zip(dataset.index["image"], dataset.index["split"], strict=True)
    assert dataset.manifest.split.sha256 == split_sha256(*zip(*rows, strict=True))
    check(dataset.index, dataset.index["split"])


def test_where_lists_disagree_test_wins_and_it_is_said(tmp_path, halves):
    a, b = halves
    a_tree = write_toys(
        tmp_path / "a",
        a,
        lists=lists(a, train={*range(10)}, val={15}, test={*range(10, 30)} - {15}),
    )
    b_tree = write_toys(
        tmp_path / "b", b, lists=lists(b, train={*range(25)}, test={*range(25, 30)})
    )
    dataset = prepare([a_tree, b_tree], tmp_path / "out", 16)
    assert parts_of(dataset, "b/002") == parts_of(dataset, "a/025") == {"test"}
    assert parts_of(dataset, "b/010") == parts_of(dataset, "a/015") <= {"val", "test"}
    assert parts_of(dataset, "a/000") == {"train"}, "others stay where their list puts them"
    count, examples = said(dataset, "split-lists-disagree")
    assert count >= 2
    assert any(name.startswith("b/004.png (") and name.endswith("→ test)") for name in examples)


def test_a_source_without_lists_is_drawn_but_its_twins_follow_the_list(tmp_path, halves, capsys):
    a, b = halves
    a_tree = write_toys(
        tmp_path / "a",
        a,
        lists=lists(a, train={*range(20)}, val={25}, test={*range(20, 30)} - {25}),
    )
    dataset = prepare([a_tree, write_toys(tmp_path / "b", b)], tmp_path / "out", 16)
    assert [parts_of(dataset, patient) for _, patient in TWINS] == [{"val"}, {"train"}, {"train"}]
    drawn = dataset.index[dataset.index["source"] == "b"].groupby("split")["patient"].nunique()
    assert drawn.to_dict() == {"train": pytest.approx(21, abs=2), "val": 4, "test": 5}
    assert said(dataset, "no-official-list") == (1, ("b",))
    assert said(dataset, "split-lists-disagree") == (0, ())
    assert "b has no official list: its patients are split at random" in capsys.readouterr().err


def test_sources_without_any_list_have_no_official_split(tmp_path, halves):
    trees = [write_toys(tmp_path / name, of) for name, of in zip("ab", halves, strict=True)]
    with pytest.raises(SourceError, match=r"official split needs .*--split patient"):
        prepare(trees, tmp_path / "out", 16, "official")
    assert not (tmp_path / "out").exists(), "it fails before an image is decoded"


def test_without_a_list_or_a_wish_patients_are_split_and_this_is_said(tmp_path, halves, capsys):
    trees = [write_toys(tmp_path / name, of) for name, of in zip("ab", halves, strict=True)]
    dataset = prepare(trees, tmp_path / "out", 16)
    assert str(dataset.manifest.split) == "patient with seed 0"
    said = capsys.readouterr().err
    for name in "ab":
        assert f"{name} has no official list: its patients are split at random" in said


def test_a_radiograph_twice_in_a_drawn_source_links_its_patients(tmp_path):
    toys = population(40, 0)
    alone = prepare(write_toys(tmp_path / "1/a", toys), tmp_path / "alone", 16, "patient")
    part = alone.index.set_index("image")["split"]
    train, test = (int(part.index[part == name][0][:3]) for name in ("train", "test"))
    toys = shared(toys, test, toys[train])
    again = prepare(write_toys(tmp_path / "2/a", toys), tmp_path / "again", 16, "patient")
    assert len({p for n in (train, test) for p in parts_of(again, toys[n].patient)}) == 1
    pair = f"{min(train, test):03d}.png = {max(train, test):03d}.png"
    assert said(again, "same-image-twice") == (1, (pair,))
    assert said(again, "same-image-in-two-parts") == (0, ())
    (told,) = [each for each in again.manifest.problems if each.code == "same-image-twice"]
    assert told.sentence.endswith("all are kept, and their patients are kept in one split")
    assert said(again, "same-image-in-two-sources") == (0, ())


def test_a_dataset_of_several_trees_names_them_and_packs_rows_in_order(tmp_path, halves):
    trees = [write_toys(tmp_path / name, of) for name, of in zip("ab", halves, strict=True)]
    dataset = prepare(trees, tmp_path / "out", 16, "patient")
    assert [(each.name, each.images) for each in dataset.manifest.sources] == [("a", 60), ("b", 60)]
    assert dataset.index["image"].is_monotonic_increasing
    rows = dataset.index.set_index("image").index
    same = [dataset.images[rows.get_loc(name)] for name in ("a/050.png", "b/004.png")]
    assert np.array_equal(*same)
    assert prepare(trees, tmp_path / "out", 16, "patient").manifest == dataset.manifest


def test_a_radiograph_twice_in_a_source_with_lists_changes_no_split(tmp_path):
    toys = population(40, 0)
    given = lists(toys, train={*range(10)}, val={10, 11}, test={*range(12, 20)})
    twice = shared(toys, 39, toys[0])
    dataset = prepare(write_toys(tmp_path / "a", twice, lists=given), tmp_path / "out", 16)
    assert (parts_of(dataset, "000"), parts_of(dataset, "019")) == ({"train"}, {"test"})
    assert said(dataset, "same-image-in-two-parts") == (1, ("000.png = 039.png",))


def test_a_drawn_source_beside_one_with_lists_keeps_its_own_twins_together(tmp_path):
    a, b = population(40, 0), population(60, 1000)
    for row in range(4, 60, 4):
        b = shared(b, row, b[0])
    given = lists(a, train={*range(10)}, val={10, 11}, test={*range(12, 20)})
    trees = [write_toys(tmp_path / "a", a, lists=given), write_toys(tmp_path / "b", b)]
    dataset = prepare(trees, tmp_path / "out", 16)
    assert len({p for n in range(0, 30, 2) for p in parts_of(dataset, f"b/{n:03d}")}) == 1


def test_lists_of_two_schemes_in_trees_of_one_source_are_refused(tmp_path):
    toys = population(40, 0)
    first = lists(toys[:20], train_val={*range(6)}, test={*range(6, 10)})
    second = lists(toys[20:], train={*range(10, 16)}, val={16}, test={*range(17, 20)})
    trees = [
        write_toys(tmp_path / "1/site", toys[:20], lists=first),
        write_toys(tmp_path / "2/site", toys[20:], lists=second),
    ]
    with pytest.raises(SourceError, match=r"source site mix .*train_val,test and train,val,test"):
        prepare(trees, tmp_path / "out", 16)
    assert prepare(trees, tmp_path / "out", 16, "patient").manifest.images == 40


def test_rows_without_any_image_have_an_error_of_their_own(tmp_path, monkeypatch):
    def empty(tree: Path) -> Collection:
        whole = toy_collection(tree)
        lost = problem("missing-image", ["1.png"], "the tree has no image: left out", loses=True)
        return replace(whole, rows=whole.rows[:0], problems=tuple(lost))

    tree = write_toys(tmp_path / "a", [Toy("1.png", "p", 1)])
    monkeypatch.setattr("toy_source.toy_collection", empty)
    with pytest.raises(SourceError, match=r"no image is left to prepare \(the tree has no image"):
        prepare(tree, tmp_path / "out", 16)
