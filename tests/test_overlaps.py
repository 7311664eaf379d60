"""The registry of overlaps: data sets that share radiographs, and models that have seen them."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from chestxray import sources
from chestxray.dataset.folds import folds
from chestxray.dataset.preparation import prepare
from chestxray.errors import RecipeError
from chestxray.evaluation import Labels, evaluate
from chestxray.evaluation import predictions as tables
from chestxray.evaluation.seen_images import (
    Evaluated,
    Seen,
    list_sha256,
    seen_images,
    verdict,
)
from chestxray.model import model_card
from chestxray.reading.inputs import find, leakage
from chestxray.reporting import report
from chestxray.sources import overlaps
from chestxray.training.leakage import check_unseen, overlap, seen_through
from command_line import run_command
from conftest import REPOSITORY
from seen_parts import changed, named

PACKAGE = REPOSITORY / "src/chestxray"


def test_parts_of_one_set_may_share_radiographs_and_sets_of_two_hospitals_do_not():
    for one, other in [
        ("rsna", "nih"), ("siim", "rsna"), ("NIH ChestX-ray14", "ChestX-Det"), ("covidx", "siim"),
        ("chexlocalize", "chexpert-plus"), ("MIMIC-CXR", "mimic-lt"), ("tbx11k", "Montgomery"),
        ("COVID-19 Radiography Database", "padchest"),
    ]:  # fmt: skip
        assert overlaps.may_share(one, other), (one, other)
        assert overlaps.may_share(other, one)
        assert overlaps.title(other) in overlaps.sharing(one)
    for one, other in [
        ("nih", "padchest"), ("shenzhen", "montgomery"), ("chexpert", "mimic"), ("nih", "NIH"),
        ("rsna", "padchest"), ("hospital", "nih"), ("hospital", "hospital"),
    ]:  # fmt: skip
        assert not overlaps.may_share(one, other), (one, other)


def test_every_fact_of_the_registry_has_a_source_and_names_known_sets():
    known = set(json.loads((PACKAGE / "sources/overlaps.json").read_text(encoding="utf-8"))["sets"])
    for fact in [of.fact for of in (*overlaps.relations(), *overlaps.public_models())]:
        assert fact
        assert not re.search(r"\b(others|their|someone|said|known)\b", fact), "names no source"
        assert ("third party" in fact) <= ("not verified" in fact), fact
    for of in overlaps.relations():
        assert of.map, of
        assert of.inside != of.of
        assert {of.inside, of.of} <= known
    for seen in overlaps.public_models():
        assert seen.images
        assert {*seen.sets} <= known


def test_the_registry_knows_every_shipped_source_and_all_that_its_card_names():
    for name, card in sources.cards().items():
        if name not in {"phantoms", "table"}:
            assert overlaps.title(name) == card.title
            assert overlaps.sharing(name) == overlaps.sharing(card.title, card.overlaps)


def test_the_page_holds_the_registry():
    page = (REPOSITORY / "docs" / "overlaps.md").read_text(encoding="utf-8")
    assert overlaps.page() in page, (
        "put the output of python -c 'from chestxray.sources.overlaps import page; print(page())' "
        "into docs/overlaps.md"
    )


# --- what a model has seen -----------------------------------------------------------------------

PARTS = {"train": ["1", "2"], "val": ["3"], "test": ["4", "5"]}


def seen(source: str, listed: str = "0", **more) -> Seen:
    return Seen(
        sources=(source,), synthetic=source == "phantoms", training_list_sha256=listed, **more
    )


@pytest.mark.parametrize(
    ("of", "sources_here", "how", "words"),
    [
        (seen("nih"), ("siim",), "unknown", "NIH ChestX-ray14, which shares radiographs with SIIM"),
        (seen("siim"), ("rsna", "own"), "unknown", "`chestxray overlap`"),
        (seen("nih"), ("nih",), "unknown", "with another split"),
        (seen("nih"), ("padchest",), "none", ""),
        (seen("own"), ("nih",), "none", ""),
        (seen("nih", list_sha256(["4", "5"])), ("nih",), "certain", "measured here"),
        (seen("x", list_sha256(["1", "2", "4", "5"])), ("nih",), "certain", "measured here"),
        (seen("nih", list_sha256(["1", "2"])), ("nih",), "none", ""),
        (
            seen("nih", through="weights", model="m"),
            ("rsna",),
            "unknown",
            "The network that the model started from was trained on NIH",
        ),
        (
            seen("nih", through="teacher", model="m"),
            ("nih",),
            "unknown",
            "The teacher that the model learned from was trained on NIH",
        ),
        (seen("phantoms", through="weights", model="m"), ("phantoms",), "none", ""),
        (seen("phantoms"), ("phantoms",), "unknown", "another split"),
    ],
)
def test_what_a_model_has_seen_is_told_from_names_and_lists(of, sources_here, how, words):
    measured = [*PARTS["val"], *PARTS["test"]]
    found = seen_images([of], Evaluated(PARTS, dict.fromkeys(sources_here, measured)))
    assert verdict(found) == how
    assert bool(found) == (how != "none")
    assert all(words in each.sentence for each in found)


def test_a_model_of_nih_that_is_measured_on_siim_is_flagged(run, dataset, tmp_path, caplog):
    bundle = changed(
        run / "bundle", tmp_path / "bundle", policies={"nih": {}}, training_list_sha256="0"
    )
    card = model_card.read(bundle).card
    siim = named(dataset, "siim")
    assert overlap(card, siim, ["test"]) == "unknown"
    assert overlap(card, named(dataset, "padchest"), ["test"]) == "none"
    with caplog.at_level(logging.WARNING):
        check_unseen("weights", bundle, siim)
        check_unseen("weights", bundle, siim, everywhere=True)
    assert caplog.text.count("which shares radiographs with SIIM-ACR Pneumothorax") == 2
    inputs = find([dataset.folder], "test", card)
    warning = leakage(replace(inputs, dataset=siim), card)
    assert warning is not None
    assert "`chestxray overlap`" in warning
    with pytest.raises(RecipeError, match="whose images are tested in the folds"):
        check_unseen("weights", bundle, named(dataset, "nih"), everywhere=True)


def test_what_a_model_started_from_is_remembered_and_counts(run, dataset, tmp_path):
    first = changed(
        run / "bundle", tmp_path / "first", policies={"nih": {}}, training_list_sha256="0"
    )
    heir = [of.model_dump(mode="json") for of in seen_through("weights", model_card.read(first))]
    second = changed(run / "bundle", tmp_path / "second", policies={"chexpert": {}}, seen=heir)
    card = model_card.read(second).card
    assert [of.through for of in card.seen] == ["training", "weights"]
    assert overlap(card, named(dataset, "rsna"), ["test"]) == "unknown"
    assert overlap(card, named(dataset, "padchest"), ["test"]) == "none"
    inputs = find([dataset.folder], "test", card)
    nih = replace(inputs, dataset=named(dataset, "nih"))
    assert "The network that the model started from was trained on NIH" in leakage(nih, card)
    assert leakage(replace(inputs, dataset=named(dataset, "padchest")), card) is None
    third = seen_through("teacher", model_card.read(second))
    assert {(of.through, of.sources) for of in third} == {
        ("teacher", ("chexpert",)),
        ("teacher", ("nih",)),
    }
    both = model_card.of_members([card.trained_on, model_card.read(first).card.trained_on])
    assert both.seen == card.trained_on.seen


@pytest.mark.slow
def test_an_evaluation_with_a_bundle_carries_the_flag_into_results_and_report(
    run, dataset, tmp_path
):
    bundle = changed(
        run / "bundle", tmp_path / "bundle", policies={"nih": {}}, training_list_sha256="0"
    )
    rows = dataset.rows("test")
    names = dataset.index["image"].iloc[rows].tolist()
    answers = np.random.default_rng(0).uniform(size=(len(rows), len(dataset.findings)))
    table = tmp_path / "predictions.csv"
    tables.write(table, tables.table(names, answers, dataset.findings))
    out = tmp_path / "evaluation"
    there = replace(Labels.of(dataset), sources=("siim",))
    results = evaluate(table, there, bundle=bundle, resamples=0, out=out)
    (flag,) = results.seen_images
    assert (flag.trained_on, flag.evaluated_on) == ("NIH ChestX-ray14", "SIIM-ACR Pneumothorax")
    assert not flag.certain
    written = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert written["seen_images"][0]["sentence"] == flag.sentence
    page = report(tmp_path, out=tmp_path / "report.html")
    text = Path(page).read_text(encoding="utf-8")
    assert "which shares radiographs with SIIM-ACR Pneumothorax" in text
    other = replace(Labels.of(dataset), sources=("padchest",))
    assert evaluate(table, other, bundle=bundle, resamples=0).seen_images == []
    assert evaluate(table, there, resamples=0).seen_images == []


def test_the_command_warns_of_images_that_the_bundle_was_trained_on(run, dataset, tmp_path):
    listed = list_sha256(dataset.index["image"].iloc[dataset.rows("test")])
    bundle = changed(run / "bundle", tmp_path / "bundle", training_list_sha256=listed)
    rows = dataset.rows("test")
    names = dataset.index["image"].iloc[rows].tolist()
    answers = np.full((len(rows), len(dataset.findings)), 0.5)
    tables.write(tmp_path / "p.csv", tables.table(names, answers, dataset.findings))
    words = ["evaluate", tmp_path / "p.csv", "--labels", dataset.folder, "--bundle", bundle]
    done = run_command(*words, "--resamples", 0)
    assert done.returncode == 0, done.stderr
    assert (
        "warning: The model was trained on 45 of the 45 images that are measured here"
        in done.stdout
    )


# --- several trees in one dataset -----------------------------------------------------------------


def _sample(real: Path, tmp_path: Path) -> tuple[Path, Path, dict[str, str]]:
    """Write a tree of NIH and one of SIIM-ACR that was made from its radiographs.

    Returns:
        The two trees, and NIH's name of each image of the second.
    """
    folder = real / "nih-sample"
    table = pd.read_csv(folder / "Data_Entry_2017_v2020.csv", dtype=str)
    table = table[table["Image Index"].isin([p.name for p in (folder / "images").iterdir()])]
    table = table.drop_duplicates("Patient ID").iloc[:30]
    nih, siim = tmp_path / "nih", tmp_path / "siim"
    for tree in (nih / "images", siim / "images"):
        tree.mkdir(parents=True)
    table.to_csv(nih / "Data_Entry_2017_v2020.csv", index=False)
    uids, rows = {}, []
    for number, name in enumerate(table["Image Index"]):
        shutil.copy(folder / "images" / name, nih / "images" / name)
        if number % 2:
            uid = f"1.2.276.0.7230010.3.1.4.{number}"
            image = cv2.imread(str(folder / "images" / name), cv2.IMREAD_GRAYSCALE)
            image = cv2.resize(image[4:252, 4:], (300, 310), interpolation=cv2.INTER_LINEAR)
            cv2.imwrite(str(siim / "images" / f"{uid}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 80])
            uids[uid] = name
            rows.append({"ImageId": uid, " EncodedPixels": " -1"})
    pd.DataFrame(rows).to_csv(siim / "train-rle.csv", index=False)
    return nih, siim, uids


def test_altered_copies_in_sources_that_share_radiographs_are_in_one_split(real, tmp_path):
    nih, siim, uids = _sample(real, tmp_path)
    dataset = prepare([nih, siim], tmp_path / "out", size=96, split="patient", seed=3)
    problems = {of.code: of for of in dataset.manifest.problems}
    assert problems["known-overlap"].examples == ("nih and siim",)
    assert problems["altered-copy-in-two-sources"].count == len(uids)
    part = dataset.index.set_index("image")["split"]
    fold = folds(dataset, 5).set_index("image")["fold"]
    for uid, name in uids.items():
        assert part[f"siim/{uid}"] == part[f"nih/{name}"]
        assert fold[f"siim/{uid}"] == fold[f"nih/{name}"]
    assert set(part) == {"train", "val", "test"}
