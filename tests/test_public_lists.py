"""Published lists of training images: the record, and the number of evaluated images in them."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import public_trees
from chestxray.dataset.preparation import prepare
from chestxray.dataset.store import Dataset
from chestxray.errors import PredictionsError, RecipeError, SourceError
from chestxray.evaluation import Labels, compare, evaluate
from chestxray.evaluation import predictions as tables
from chestxray.evaluation.bundle_thresholds import BundleThresholds
from chestxray.evaluation.evaluation import Evaluation
from chestxray.evaluation.seen_images import (
    Evaluated,
    Seen,
    _in_parts,
    list_sha256,
    public_seen,
    seen_images,
    seen_names,
    verdict,
)
from chestxray.findings import Findings
from chestxray.model import model_card
from chestxray.model.importing.checkpoint import _trained_on
from chestxray.model.importing.formats import FORMATS
from chestxray.model.model_card import InitialWeights, ModelCard
from chestxray.model.recalibration import calibrate
from chestxray.reading import predict
from chestxray.reading.inputs import RadiographFiles, find, leakage
from chestxray.reading.validation import _unseen
from chestxray.reporting import readme
from chestxray.sources import overlaps
from chestxray.sources.public_lists import by_name, entry_of, public_lists
from chestxray.training import leakage as training_leakage
from chestxray.training import recipe as recipes
from chestxray.training.leakage import check_unseen, unrecorded, warn_of_public
from command_line import run_command
from seen_parts import changed, named

ARNOWENG = {part: by_name(f"arnoweng-{part}") for part in ("train", "val", "test")}
# Which list of arnoweng/CheXNet these patients are in, as the fold of jrzech/reproduce-chexnet has
# it in another copy of the table: written down from there, not from the lists.
KNOWN = {"test": (10, 15, 20, 22, 23, 36), "val": (12, 25, 39, 42, 46, 47)}
OTHERS = set(range(1, 50)) - {number for some in KNOWN.values() for number in some}


def name(patient: int, image: int = 0) -> str:
    return f"{patient:08d}_{image:03d}.png"


# --- the record ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nih(real: Path) -> dict[str, list[str]]:
    """The names of all images of ChestX-ray14 and of its official test, from NIH's own tables."""
    folder = real / "nih-metadata"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: NIH's tables are not shipped")
    table = pd.read_csv(folder / "Data_Entry_2017_v2020.csv.gz", usecols=["Image Index"])
    listed = {
        part: pd.read_csv(folder / f"{part}_list.txt.gz", header=None)[0].tolist()
        for part in ("train_val", "test")
    }
    return {"all": table["Image Index"].tolist(), **listed}


@pytest.mark.parametrize("of", public_lists(), ids=lambda of: of.name)
def test_what_the_record_says_of_a_list_follows_from_its_bits_and_nihs_tables(of, nih):
    names = np.array(nih["all"])
    held = names[of.holds(names) == 1]
    assert len(held) == of.images
    assert len({each[:8] for each in held}) == of.patients
    assert len(set(nih["test"]).intersection(held)) == of.official_test
    assert list_sha256(held) == of.images_sha256


def test_the_record_of_nihs_test_list_is_what_is_written_of_it(nih):
    written = entry_of(nih["test"], nih["all"], nih["test"])
    assert written == {key: getattr(by_name("nih-test"), key) for key in written}


def test_the_three_lists_of_arnoweng_divide_all_patients_and_the_official_test():
    everyone = [name(patient) for patient in range(1, 30_806)]
    held = {part: of.holds(everyone) for part, of in ARNOWENG.items()}
    assert np.all(sum(held.values()) == 1)
    assert [of.official_test for of in ARNOWENG.values()] == [17_920, 2_463, 5_213]
    assert sum(of.official_test for of in ARNOWENG.values()) == 25_596
    assert sum(of.images for of in ARNOWENG.values()) == 112_120
    assert np.all(by_name("nih-test").holds(everyone) + by_name("nih-train-val").holds(everyone))


def test_patients_of_whom_it_is_known_are_in_the_right_list():
    for part, patients in {**KNOWN, "train": OTHERS}.items():
        for other, of in ARNOWENG.items():
            assert np.all(of.holds(map(name, patients)) == (part == other))


def test_an_image_is_recognised_by_its_name_alone_and_no_other_name_counts():
    train = ARNOWENG["train"]
    for form in ("00000013_010.png", "a/b/00000013_010.png", "00000013_010.jpg", "00000013_010"):
        assert train.holds([form]) == [1]
    for form in (
        "13_010.png", "00000000_000.png", "00030806_000.png", "99999999_000.png", "00000013", "",
        "x00000013_010.png", "00000013_010.png.png.txt", "٠٠٠٠٠٠١٣_010.png",
    ):  # fmt: skip
        assert np.isnan(train.holds([form])), form
    assert train.holds([]).shape == (0,)


def test_only_lists_of_whole_patients_can_be_written():
    everything = [name(patient, image) for patient in (1, 2, 30_805) for image in range(3)]
    whole = [each for each in everything if not each.startswith("00000002")]
    written = entry_of(whole, everything, everything[:2])
    assert (written["images"], written["patients"], written["official_test"]) == (6, 2, 2)
    assert written["images_sha256"] == list_sha256(whole)
    again = replace(by_name("nih-all"), bits=written["bits"])
    assert again.holds(everything).tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1]
    with pytest.raises(SourceError, match="lacks 1 images of its patients, such as 00000001_001"):
        entry_of([whole[0], *whole[2:]], everything, [])
    with pytest.raises(SourceError, match="no image of ChestX-ray14"):
        entry_of([*whole, "00000007_000.png"], everything, [])


def test_every_list_of_a_model_is_in_the_record_and_of_a_set_it_saw():
    linked = set()
    for of in overlaps.public_models():
        for listed in filter(None, (of.training_list, of.selection_list)):
            assert by_name(listed).set in of.sets
            linked.add(listed)
        for alias in (of.model, *of.aliases, of.model.upper()):
            assert overlaps.public_model(alias) == of
    assert overlaps.public_model("my own network") is None
    assert linked >= {"arnoweng-train", "arnoweng-val", "nih-all", "chexnet-keras-train"}
    assert all(re.fullmatch("[0-9a-f]{40}|", of.commit) for of in public_lists())


# --- the number of measured images ---------------------------------------------------------------

IN = {part: [name(patient) for patient in KNOWN[part]] for part in KNOWN} | {
    "train": [name(patient) for patient in sorted(OTHERS)]
}


def measured(source: str, *names: str) -> Evaluated:
    return Evaluated({"test": names}, {source: names})


def test_a_public_model_is_told_by_the_number_of_images_that_it_has_seen():
    there = measured("nih", *IN["train"], *IN["val"], *IN["test"])
    trained, chosen = seen_images(public_seen("arnoweng/CheXNet"), there)
    assert (trained.through, trained.images, trained.certain) == ("training", 37, True)
    assert (chosen.through, chosen.images, chosen.certain) == ("selection", 6, True)
    assert trained.sentence == (
        "The model was trained on 37 of the 49 images that are measured here: they are in the "
        "training list of arnoweng/CheXNet, so that all figures are too good; `chestxray validate` "
        "leaves them out."
    )
    assert chosen.sentence.startswith("The model was chosen by its results on 6 of the 49 images")
    assert chosen.public_list == "the validation list of arnoweng/CheXNet"
    names = seen_names(public_seen("jrzech/reproduce-chexnet"), there)
    assert names == {*IN["train"], *IN["val"]}


def test_images_that_a_public_model_has_not_seen_are_not_flagged():
    assert not seen_images(public_seen("zoogzog/chexnet"), measured("nih", *IN["test"]))
    found = seen_images(public_seen("EVA-X, fine-tuned on ChestX-ray14"), measured("nih", name(3)))
    assert [of.through for of in found] == ["selection"]  # 3 is in NIH's official test
    (lost,) = seen_images(public_seen("torchxrayvision nih"), measured("nih", name(3)))
    assert (lost.images, lost.certain) == (None, False)
    assert "it is not recorded on which of its images" in lost.sentence


def test_a_published_list_that_is_parts_of_the_split_keeps_its_name_and_what_was_learned_of_it():
    held = by_name("nih-all")
    of = Seen(
        through="weights", model="m", sources=("nih",), synthetic=False, labels=False,
        training_list_sha256=held.images_sha256,
    )  # fmt: skip
    (found,) = _in_parts(of, frozenset(IN["test"]), measured("nih", *IN["test"]))
    assert (found.images, found.certain, found.public_list) == (6, False, held.title)
    assert "6 of the 6 images that are measured here, without labels: they are in" in found.sentence
    whole = Seen(sources=("nih",), synthetic=False, training_list_sha256=list_sha256(IN["val"]))
    there = measured("nih", *IN["val"])
    assert seen_names([whole], there) == {*IN["val"]}
    assert not seen_names([whole.model_copy(update={"labels": False})], there)


def test_what_was_learned_without_labels_is_told_and_is_no_reason_to_refuse():
    seen = public_seen("microsoft/rad-dino", "weights")
    found = seen_images(seen, measured("nih", *IN["test"]))
    assert [(of.images, of.certain, of.through) for of in found] == [(6, False, "weights")]
    assert "6 of the 6 images that are measured here, without labels" in found[0].sentence
    assert "may be too good" in found[0].sentence
    assert verdict(found) == "unknown"
    assert not seen_names(seen, measured("nih", *IN["test"]))
    (elsewhere,) = seen_images(seen, measured("padchest", "1.png"))
    assert elsewhere.images is None
    assert {of.model for of in seen} == {"RAD-DINO"}


@pytest.mark.parametrize(
    ("source", "names", "expected"),
    [
        ("nih-google", IN["train"], [(37, True)]),  # NIH's names in a set that was drawn from it
        ("siim", ["1.2.3"], [(None, False)]),  # shares radiographs, and its names tell nothing
        ("nih", [*IN["train"], "renamed.png"], [(37, True), (None, False)]),
        ("our ward", IN["train"], [(37, False)]),  # names as NIH's, in an unknown set
        ("our ward", ["1.png"], []),
        ("phantoms", IN["train"], []),  # named likewise, and drawn
        ("padchest", IN["train"], []),
    ],
)
def test_names_count_where_the_set_may_hold_images_of_nih(source, names, expected):
    (train, *_) = public_seen("arnoweng/CheXNet")
    found = seen_images([train], measured(source, *names))
    assert [(of.images, of.certain) for of in found] == expected
    if source == "our ward" and found:
        assert "if these are images of NIH ChestX-ray14, as their names say" in found[0].sentence


def test_a_model_of_which_no_data_set_is_recorded_may_have_seen_any_image():
    blank = Seen(sources=(), synthetic=False, training_list_sha256="")
    (found,) = seen_images([blank], measured("nih", name(3)))
    assert not found.certain
    assert found.sentence.startswith("It is not recorded which images the model was trained on")
    assert not seen_images([blank], measured("phantoms", name(3)))


def test_each_source_of_a_dataset_is_counted_by_itself():
    rows = pd.DataFrame({"split": "test", "source": "nih"}, index=[f"nih/{n}" for n in IN["train"]])
    drawn = pd.DataFrame({"split": "test", "source": "phantoms"}, index=IN["val"])
    both = pd.concat([rows, drawn])
    there = Evaluated.of(both, ("nih", "phantoms"), both.index[:-1])
    assert {name: len(names) for name, names in there.measured.items()} == {
        "nih": 37,
        "phantoms": 5,
    }
    found = seen_images(public_seen("arnoweng/CheXNet"), there)
    assert [(of.evaluated_on, of.images) for of in found] == [("NIH ChestX-ray14", 37)]
    assert "37 of the 42 images" in found[0].sentence


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_of_a_public_model_records_what_the_registry_knows_of_it(form):
    of, about = FORMATS[form], overlaps.public_model(form)
    if not of.sources:  # a format, not a model: the user says what it was trained on
        assert about is None
        own = _trained_on(form, of, ("padchest",))
        assert (tuple(own.policies), own.training_list_sha256) == (("padchest",), None)
        return
    assert about.sets == of.sources
    assert about.training_list == of.training_list
    trained = _trained_on(form, of, ())
    assert tuple(trained.policies) == of.sources
    listed = by_name(of.training_list) if of.training_list else None
    assert trained.training_list_sha256 == (listed and listed.images_sha256)
    assert trained.train_images == (listed and listed.images)
    selection = [each.published.name for each in trained.seen]
    assert selection == ([about.selection_list] if about.selection_list else [])


# --- what the package does with it ---------------------------------------------------------------


@pytest.fixture(scope="module")
def imported(run, tmp_path_factory) -> Path:
    """A bundle that says it is arnoweng's; the phantoms' names are those of patients 1 to 59."""
    folder = tmp_path_factory.mktemp("imported") / "bundle"
    trained = _trained_on("arnoweng", FORMATS["arnoweng"], ())
    return changed(run / "bundle", folder, **trained.model_dump(mode="json"))


def counts(names: pd.Series[str]) -> dict[str, int]:
    return {part: int((of.holds(names) == 1).sum()) for part, of in ARNOWENG.items()}


def predicted(dataset: Dataset, folder: Path, model: str = "", part: str = "test") -> Path:
    rows = dataset.rows(part)
    names = dataset.index["image"].iloc[rows].tolist()
    answers = np.random.default_rng(0).uniform(size=(len(rows), len(dataset.findings)))
    table = tables.table(names, answers, dataset.findings).rows
    folder.mkdir(parents=True, exist_ok=True)
    (table.assign(model=model) if model else table).to_csv(folder / "predictions.csv", index=False)
    return folder / "predictions.csv"


def told(names: pd.Series[str]) -> dict[str, int]:
    """Give how many images each finding of `seen_images` is to name."""
    found = counts(names)
    both = {"training": found["train"], "selection": found["val"]}
    return {through: count for through, count in both.items() if count}


def flags(path: Path, dataset: Dataset, bundle: BundleThresholds | None = None):
    evaluation = Evaluation.of(path, Labels.of(dataset), resamples=0, bundle=bundle)
    return evaluation._seen_images()


def test_evaluate_gives_the_number_of_images_that_were_seen(imported, dataset, tmp_path):
    names = dataset.index["image"].iloc[dataset.rows("test")]
    assert counts(names)["train"]
    assert counts(names)["test"]
    table, there = predicted(dataset, tmp_path), named(dataset, "nih")
    results = evaluate(table, there, bundle=imported, resamples=0)
    assert {of.through: of.images for of in results.seen_images} == told(names)
    assert not flags(table, dataset, BundleThresholds.read(imported))  # phantoms


def test_predictions_of_some_images_are_counted_by_these_alone(imported, dataset, tmp_path):
    path = predicted(dataset, tmp_path)
    few = pd.read_csv(path).head(20)
    few.to_csv(path, index=False)
    found = flags(path, named(dataset, "nih"), BundleThresholds.read(imported))
    assert {of.through: of.images for of in found} == told(few["Image Index"])
    assert all("of the 20 images" in of.sentence for of in found)


def test_predictions_in_a_run_folder_are_flagged_without_naming_its_bundle(
    imported, dataset, tmp_path
):
    identity = model_card.read(imported).identity
    changed(imported, tmp_path / "bundle")
    there = named(dataset, "nih")
    path = predicted(dataset, tmp_path, model=model_card.read(tmp_path / "bundle").identity)
    assert flags(path, there)
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    assert not flags(path, there)
    changed(imported, tmp_path / "other" / "bundle")
    assert not flags(predicted(dataset, tmp_path / "other", model=f"another-{identity}"), there)


def test_predict_warns_with_the_number(imported, dataset, tmp_path, caplog):
    card = model_card.read(imported).card
    inputs = find([dataset.folder], "test", card)
    names = dataset.index["image"].iloc[dataset.rows("test")]
    assert leakage(inputs, card) is None  # phantoms
    warning = str(leakage(replace(inputs, dataset=named(dataset, "nih")), card))
    found = told(names)
    assert warning.startswith(f"The model was trained on {found['training']} of the {len(names)} ")
    assert ("chosen by its results on" in warning) == ("selection" in found)
    with caplog.at_level(logging.WARNING):
        predict(imported, named(dataset, "nih"), tmp_path / "p.csv", split="test", engine="torch")
    assert warning in caplog.text


def test_files_are_told_of_by_their_names_where_a_public_model_learned_from_such(imported):
    card = model_card.read(imported).card

    def said(*names: str) -> str | None:
        return leakage(RadiographFiles(tuple(map(Path, names)), names, size=32), card)

    assert said(*IN["train"], *IN["test"]) == (
        "The model was trained on 37 of the 43 images that are measured here, if these are images "
        "of NIH ChestX-ray14, as their names say: they are in the training list of "
        "arnoweng/CheXNet. Then all figures are too good."
    )
    assert said("ward/1.png", *IN["test"]) is None


def test_a_comparison_tells_which_of_its_images_each_model_has_seen(imported, dataset, tmp_path):
    folder = tmp_path / "run"
    changed(imported, folder / "bundle")
    table = predicted(dataset, folder, model=model_card.read(folder / "bundle").identity)
    other = predicted(dataset, tmp_path / "other", model="another")
    found = compare(other, table, named(dataset, "nih"), resamples=1)
    names = dataset.index["image"].iloc[dataset.rows("test")]
    assert {of.through: of.images for of in found.seen_b} == told(names)
    assert not found.seen_a
    assert not compare(other, table, dataset, resamples=1).seen_b  # phantoms


def test_the_command_counts_the_images_of_a_label_table_of_nih(imported, tmp_path):
    table = pd.DataFrame({"Image Index": [n for some in IN.values() for n in some]})
    table["Patient ID"] = table["Image Index"].str[:8].astype(int)
    table["Finding Labels"] = ["Effusion" if row % 3 else "No Finding" for row in table.index]
    table.to_csv(tmp_path / "Data_Entry_2017.csv", index=False)
    p = np.random.default_rng(0).uniform(size=(len(table), 1))
    written = tables.table(table["Image Index"].tolist(), p, Findings(["Effusion"]))
    tables.write(tmp_path / "p.csv", written)
    words = ["evaluate", tmp_path / "p.csv", "--labels", tmp_path / "Data_Entry_2017.csv"]
    done = run_command(*words, "--bundle", imported, "--resamples", 0)
    assert done.returncode == 0, done.stderr
    assert "warning: The model was trained on 37 of the 49 images that are" in done.stdout
    assert "warning: The model was chosen by its results on 6 of the 49 images" in done.stdout


def test_validate_leaves_out_what_was_seen_and_measures_the_rest(imported, dataset):
    there = named(dataset, "nih")
    found = _unseen(there, model_card.read(imported).card)
    index = there.index
    held = sum(ARNOWENG[part].holds(index["image"]) for part in ("train", "val")) == 1
    assert found.relation == "held out"
    assert not found.doubts
    kept = found.dataset.index.iloc[found.dataset.rows("test")]
    assert set(kept["image"]) == set(index["image"][~held])
    assert found.left_out == index["split"][held].value_counts().to_dict()
    only_test = replace(there, index=index[~held])
    assert _unseen(only_test, model_card.read(imported).card).relation == "held out"
    with pytest.raises(SourceError, match="trained or tuned on all images"):
        _unseen(replace(there, index=index[held]), model_card.read(imported).card)


def test_no_training_is_measured_on_images_that_its_initial_weights_were_trained_on(
    imported, dataset
):
    with pytest.raises(RecipeError, match="validation or test images"):
        check_unseen("weights", imported, named(dataset, "nih"))


def weights_of(card: ModelCard, repository: str) -> ModelCard:
    """Give the card of a model that was trained on PadChest, from weights of the hub."""
    trained = card.trained_on.model_copy(
        update={
            "policies": {"padchest": {}},
            "training_list_sha256": "0",
            "initial_weights": InitialWeights(kind="hub", repository=f"{repository}@1"),
            "seen": public_seen(repository, "weights"),
        }
    )
    return card.model_copy(update={"trained_on": trained})


def test_the_model_card_in_markdown_states_the_known_exposure(imported, tmp_path):
    text = " ".join(readme.model_card(imported).split())
    assert "trained on 17,920 of the 25,596 images of NIH ChestX-ray14's official test" in text
    assert "chosen by its results on 2,463 of the 25,596 images" in text
    hub = [of.model_dump(mode="json") for of in public_seen("microsoft/rad-dino", "weights")]
    changed(imported, tmp_path / "bundle", training_list_sha256="0", seen=hub)
    text = " ".join(readme.model_card(tmp_path / "bundle").split())
    assert (
        "trained on 25,596 of the 25,596 images of NIH ChestX-ray14's official test, without"
        in text
    )
    assert "17,920" not in text


def test_weights_of_the_hub_that_the_registry_knows_are_recorded(run, dataset):
    card = weights_of(model_card.read(run / "bundle").card, "microsoft/rad-dino")
    assert not unrecorded(card)
    assert unrecorded(weights_of(card, "someone/else"))
    found = _unseen(named(dataset, "nih"), card)
    assert found.relation == "unknown"
    assert not found.left_out
    total = len(dataset.index)
    assert found.doubts[0].startswith(
        f"The network that the model started from was trained on {total} of the {total} images"
    )


def test_training_from_weights_of_the_hub_warns_of_what_they_have_seen(dataset, caplog):
    there, count = named(dataset, "nih"), (dataset.index["split"] != "train").sum()
    with caplog.at_level(logging.WARNING):
        weights, backbone, file, other = (
            recipes.load("quick").model_copy(update=change)
            for change in (
                {"weights": "hub:microsoft/rad-dino"},
                {"backbone": "hub:microsoft/rad-dino@v1"},
                {"backbone": "hub:MapleF/eva_x/eva_x_tiny_patch16_merged520k_mim.pt@v1"},
                {"weights": "hub:timm/resnet18.a1_in1k"},
            )
        )
        warn_of_public(weights, there)
        warn_of_public(backbone, there, everywhere=True)
        warn_of_public(file, there)
        warn_of_public(other, there)
    first, second, third = (record.getMessage() for record in caplog.records)
    assert second.startswith("backbone = microsoft/rad-dino: The network that the model started")
    assert f"was trained on {count} of the {count} images" in first
    assert f"was trained on {len(there.index)} of the {len(there.index)} images" in second
    assert third.startswith("backbone = MapleF/eva_x: The network that the model started from was")


# --- calibration ---------------------------------------------------------------------------------


@pytest.fixture
def calibrated(run, dataset, tmp_path) -> Path:
    """A bundle that was calibrated on the test images."""
    folder = changed(run / "bundle", tmp_path / "bundle", policies={"padchest": {}})
    card = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    listed = list_sha256(dataset.index["image"].iloc[dataset.rows("test")])
    site = Seen(
        through="calibration", sources=("phantoms",), synthetic=True, training_list_sha256=listed
    )
    card["recalibrated_on"] = {
        "source": "a site", "images": 45, "patients": 14, "of": "m",
        "seen": [site.model_dump(mode="json")],
    }  # fmt: skip
    (folder / "bundle.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def test_images_of_the_list_that_a_public_model_was_trained_on_do_not_calibrate_it(
    imported, dataset, tmp_path
):
    there, identity = named(dataset, "nih"), model_card.read(imported).identity
    names = dataset.index["image"].iloc[dataset.rows("test")]
    path = predicted(dataset, tmp_path, model=identity)
    words = f"was trained on {counts(names)['train']} of the {len(names)} images of"
    with pytest.raises(PredictionsError, match=words):
        calibrate(imported, path, there, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    rows = pd.read_csv(path)
    unseen = ARNOWENG["train"].holds(rows["Image Index"]) == 0
    rows[unseen].to_csv(path, index=False)
    assert calibrate(imported, path, there, tmp_path / "new").card.recalibrated_on.images == sum(
        unseen
    )


def test_evaluate_and_predict_warn_of_images_that_the_bundle_was_calibrated_on(
    calibrated, dataset, tmp_path, caplog
):
    count = len(dataset.rows("test"))
    expected = (
        f"The model was calibrated on {count} of the {count} images that are measured here: "
        f"probabilities and calls are too good."
    )
    table = predicted(dataset, tmp_path / "elsewhere")
    (flag,) = evaluate(table, dataset, bundle=calibrated, resamples=0).seen_images
    assert (flag.through, flag.images, flag.sentence) == ("calibration", count, expected)
    with caplog.at_level(logging.WARNING):
        predict(calibrated, dataset, tmp_path / "p.csv", split="test", engine="torch")
    assert expected in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        predict(calibrated, dataset, tmp_path / "q.csv", split="val", engine="torch")
    assert "calibrated on" not in caplog.text


# --- sets whose patients are NIH's ----------------------------------------------------------------

TRAIN_VAL = by_name("nih-train-val")


@pytest.fixture(scope="module")
def rsna(phantoms, tmp_path_factory) -> Path:
    """A tree of RSNA; the mapping file lacks its last three images."""
    base = tmp_path_factory.mktemp("rsna")
    tree = public_trees.rsna(base / "tree", public_trees.films(phantoms, 24))
    (path,) = tree.glob("*mappings*")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))[:-3]), "utf-8")
    return tree


@pytest.fixture(scope="module")
def of_rsna(rsna) -> Dataset:
    return prepare(rsna, rsna.parent / "dataset", size=32, allow_empty=True)


@pytest.fixture
def of_nih(run) -> ModelCard:
    """The card of a model that was trained on NIH's official train_val list."""
    card = model_card.read(run / "bundle").card
    told = {
        "policies": {"nih": {}}, "seen": (), "synthetic": False,
        "training_list_sha256": TRAIN_VAL.images_sha256,
    }  # fmt: skip
    return card.model_copy(update={"trained_on": card.trained_on.model_copy(update=told)})


def by_mapping(tree: Path) -> dict[str, float]:
    """Tell from the mapping file alone which images of RSNA are in NIH's train_val list."""
    (path,) = tree.glob("*mappings*")
    mapping = json.loads(path.read_text(encoding="utf-8"))
    return {of["subset_img_id"]: TRAIN_VAL.holds([of["img_id"]])[0] for of in mapping}


def test_a_patient_is_told_as_his_images_are():
    for listed in public_lists():
        patients = [f"{number:08d}" for number in range(1, 60)]
        held = listed.holds([f"{of}_000.png" for of in patients])
        assert np.array_equal(listed.holds_patients(patients), held)
        assert np.array_equal(listed.holds_patients([f"nih/{of}" for of in patients]), held)
    for other in ("1", "00000001_000.png", "00000000", "00030806", "", "000000010"):
        assert np.isnan(TRAIN_VAL.holds_patients([other])), other


def test_images_of_rsna_are_told_by_the_patients_of_nih(rsna, of_rsna, of_nih):
    known = by_mapping(rsna)
    seen, unseen = ({n for n, held in known.items() if held == value} for value in (1, 0))
    assert seen
    assert unseen
    found = training_leakage.found_seen(of_nih, of_rsna, ("train", "val", "test"))
    assert [(of.images, of.certain, of.same_source) for of in found] == [
        (len(seen), True, False),
        (None, False, False),  # the three that the mapping file lacks
    ]
    total = len(of_rsna.index)
    assert f"trained on {len(seen)} of the {total} images that are measured" in found[0].sentence
    assert (
        seen_names(of_nih.seen, training_leakage.evaluated(of_rsna, of_rsna.index["split"] != ""))
        == seen
    )


def test_validate_leaves_out_the_images_of_rsna_that_nihs_list_holds(rsna, of_rsna, of_nih):
    known = by_mapping(rsna)
    found = _unseen(of_rsna, of_nih)
    kept = found.dataset.index["image"].iloc[found.dataset.rows("test")]
    assert set(kept) == {n for n in of_rsna.index["image"] if known.get(n) != 1}
    assert sum(found.left_out.values()) == sum(held == 1 for held in known.values())
    assert found.relation == "unknown"  # of three images it cannot be told
    mapped = of_rsna.index["image"].isin([*known])
    whole = replace(of_rsna, index=of_rsna.index[mapped].reset_index(drop=True))
    assert _unseen(whole, of_nih).relation == "held out"
    assert not _unseen(whole, of_nih).doubts


def test_evaluate_and_compare_count_images_of_rsna_from_its_tree_and_from_a_dataset(
    rsna, of_rsna, run, tmp_path
):
    bundle = changed(
        run / "bundle", tmp_path / "bundle", policies={"nih": {}}, seen=[],
        training_list_sha256=TRAIN_VAL.images_sha256,
    )  # fmt: skip
    model = model_card.read(bundle).identity
    names, known = of_rsna.index["image"], by_mapping(rsna)
    p = np.random.default_rng(0).uniform(size=(len(names), 1))
    written = tables.table(names.tolist(), p, Findings(["Pneumonia"])).rows.assign(model=model)
    written.to_csv(tmp_path / "predictions.csv", index=False)
    whole = of_rsna.with_split(of_rsna.index["split"].map(lambda _: "test"), "all")
    for truth in (Labels.of(whole), Labels.read(rsna)):
        first, *_ = evaluate(
            tmp_path / "predictions.csv", truth, bundle=bundle, resamples=0
        ).seen_images
        assert first.images == sum(held == 1 for held in known.values())
        assert (first.evaluated_on, first.certain) == ("RSNA Pneumonia", True)
    compared = compare(
        tmp_path / "predictions.csv", tmp_path / "predictions.csv", Labels.of(whole), resamples=1
    )
    assert compared.seen_b[0].images == first.images


def test_rsna_beside_another_source_is_told_by_the_patients_of_nih(rsna, phantoms, of_nih):
    both = prepare([rsna, phantoms], rsna.parent / "both", size=32, allow_empty=True)
    found = [
        of
        for of in training_leakage.found_seen(of_nih, both, ("train", "val", "test"))
        if of.certain
    ]
    assert [of.images for of in found] == [sum(held == 1 for held in by_mapping(rsna).values())]
    out = both.index["image"][_unseen(both, of_nih).dataset.index["split"] == "train"]
    assert set(out) == {f"rsna/{name}" for name, held in by_mapping(rsna).items() if held == 1}
