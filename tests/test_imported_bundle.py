"""An imported bundle is an ordinary one, which says of itself that it is not calibrated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import chestxray
from chestxray.dataset.pixels import decode
from chestxray.errors import BundleError, RecipeError
from chestxray.evaluation import evaluate, predictions
from chestxray.evaluation.bundle_thresholds import BundleThresholds
from chestxray.evaluation.labels import Labels
from chestxray.model import bundle as bundles
from chestxray.model import model_card
from chestxray.model.export import export
from chestxray.model.importing import Choices, import_checkpoint
from chestxray.model.model_card import CARD, WEIGHTS, ModelCard
from chestxray.model.network import Classifier, to_input
from chestxray.model.origin import Crops
from chestxray.model.parity import noise
from chestxray.reading.prediction import predict
from chestxray.reporting import readme
from chestxray.serving.responses import model_card_result
from chestxray.serving.result_objects.instance import Model
from chestxray.training import initial_weights
from chestxray.training import recipe as recipes
from command_line import run_command
from foreign_checkpoints import randomised

NAMES = ("Nodule", "Effusion", "Mass")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    network = randomised(timm.create_model("resnet10t", num_classes=3))
    save_file({name: of.contiguous() for name, of in network.state_dict().items()}, file)
    return file


@pytest.fixture(scope="module")
def imported(weights: Path) -> Path:
    """A network of three channels that reads ten crops of 56 px."""
    out = weights.with_name("bundle")
    choices = Choices(
        backbone="resnet10t", findings=NAMES, size=64, crops="ten", sources=("nih",)
    )  # fmt: skip
    import_checkpoint(weights, "timm", out, choices)
    return out


@pytest.fixture(scope="module")
def table(imported: Path, phantoms: Path) -> Path:
    out = imported.with_name("predictions.csv")
    predict(imported, [phantoms / "images_001"], out, engine="torch", force=True)
    return out


@pytest.fixture(scope="module")
def site(table: Path) -> Labels:
    """Labels that follow the network's own probabilities, so that they can be fitted."""
    found = predictions.read(table)
    p = found.rows[[f"prob_{name}" for name in NAMES]].to_numpy()
    noisy = p + np.random.default_rng(0).normal(0, p.std(axis=0), p.shape)
    rows = pd.DataFrame((noisy > np.quantile(noisy, 0.7, axis=0)).astype(float), columns=[*NAMES])
    rows["patient"], rows["split"] = [str(row) for row in range(len(rows))], "unknown"
    rows.index = pd.Index(found.rows["Image Index"], name="image")
    return Labels("a site", False, "", chestxray.Findings(NAMES), rows, None)


def test_every_reading_says_that_an_imported_model_is_not_calibrated(imported, table, phantoms):
    reader = chestxray.load(imported, "torch")
    path = next((phantoms / "images_001/images").iterdir())
    reading = reader.read(path, force=True)
    codes = [notice.code for notice in reading.warnings]
    assert codes.count("imported-not-calibrated") == 1
    assert "not-calibrated" not in codes
    reasons = pd.read_csv(table)["reason"]
    for code in ("imported-not-calibrated", "gate-not-fitted"):
        assert (reasons.str.count(f"warning: {code}: ") == 1).all()
    assert set(reading.calls.values()) == {None}
    card = model_card_result(reader)
    assert "imported-not-calibrated" in {notice.code for notice in card.warnings}
    assert not any(finding.calibrated for finding in card.findings)
    assert card.trained_on.train_images is None
    assert Model.of(reader).data == "NIH ChestX-ray14"


def test_evaluate_says_that_the_bundle_is_not_calibrated(imported, table, site):
    results = evaluate(predictions.read(table), site, bundle=imported, resamples=20)
    assert results.uncalibrated_import == "timm"
    assert results.mean.recall.findings == 0


def test_calibrating_ends_the_warning_and_chooses_operating_points(
    imported, table, site, phantoms, tmp_path
):
    after = chestxray.calibrate(imported, table, site, tmp_path / "site").card
    before = model_card.read(imported).card
    assert before.operating_points == {"none": dict.fromkeys(NAMES)}
    assert after.operating_point == "joint"
    assert all(t is not None for t in after.thresholds.values())
    assert after.not_assessed == {}
    assert after.origin == before.origin
    reader = chestxray.load(tmp_path / "site", "torch")
    assert "imported-not-calibrated" not in {notice.code for notice in reader.warnings}
    again = predict(reader, [phantoms / "images_001"], tmp_path / "again.csv", force=True)
    found = predictions.read(again.path)
    assert not found.rows["reason"].str.contains("calibrated").any()
    p = found.rows[[f"prob_{name}" for name in NAMES]].to_numpy()
    assert np.abs(p.mean(axis=0) - 0.3).max() < 0.02
    assert BundleThresholds.read(tmp_path / "site").uncalibrated_import is None


def test_the_page_of_an_imported_model_says_whose_it_is_and_how_it_is_calibrated(
    imported, table, site, tmp_path
):
    folder = Path(shutil.copytree(imported, tmp_path / "bundle"))
    values = json.loads((folder / CARD).read_text(encoding="utf-8"))
    values["origin"] |= {
        "url": "https://example.org/model", "citation": "Doe 2020", "licence": "CC BY-NC 4.0",
    }  # fmt: skip
    (folder / CARD).write_text(json.dumps(values), encoding="utf-8")
    page = readme.model_card(folder)
    assert "Gives an uncalibrated probability and" in page
    assert "Not calibrated: probabilities are those of the network as it was imported." in page
    assert "There are no thresholds: no finding is called." in page
    assert "fitted on validation" not in page
    assert "prevalence of the validation" not in page
    assert values["origin"]["sha256"] in page
    for words in ("timm: file `weights.safetensors`", "example.org/model", "To cite: Doe 2020"):
        assert words in page
    assert page.rstrip().endswith("## Licence\n\nOf the imported file: CC BY-NC 4.0")
    assert "reads ten crops of 56 px" in page
    chestxray.calibrate(imported, table, site, tmp_path / "site")
    after = readme.model_card(tmp_path / "site")
    assert "Gives a calibrated probability and" in after
    count = len(site.rows)
    assert f"Calibrated again on a site, {count} images of {count} patients: " in after
    assert "the prevalence of these images of a site" in after
    assert "validation" not in after[after.index("## Calibration") : after.index("## Limits")]


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_an_imported_bundle_is_exported_as_it_reads(imported, phantoms, tmp_path, kind):
    export(bundles.load(imported), tmp_path / "out", kind, "fp32", noise(64))
    path = next((phantoms / "images_001/images").iterdir())
    ours, theirs = (
        chestxray.load(imported, engine).read(path, force=True)
        for engine in ("torch", tmp_path / "out")
    )
    assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-4)
    assert {notice.code for notice in ours.warnings} == {notice.code for notice in theirs.warnings}


def test_the_card_says_where_the_model_is_from(imported, weights):
    card = model_card.read(imported).card
    assert (card.origin.format, card.origin.file) == ("timm", "weights.safetensors")
    assert card.origin.sha256 == chestxray.artifacts.sha256(weights)
    assert not card.origin.converted
    assert (card.mean, card.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert card.crops == Crops(side=56, rule="ten")
    trained = card.trained_on
    unknown = ("release", "split", "split_sha256", "train_images", "train_patients", "recipe")
    assert {getattr(trained, name) for name in unknown} == {None}
    assert [seen.sources for seen in card.seen] == [("nih",)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean": 0.5}, "same channels"),
        ({"std": [0.2, 0.0, 0.2]}, "std must be from 1e-06"),
        ({"std": [0.2, 1e-50, 0.2]}, "std must be from 1e-06"),
        ({"mean": [0.5, 0.5, 1e30]}, "mean must be from -10 to 10"),
        ({"mean": [0.1, 0.2]}, "mean"),
        ({"mean": [0.485, 0.456, 0.5]}, "normalise by"),
        ({"crops": {"side": 65, "rule": "ten"}}, "within the image"),
        ({"tta": ["flip"]}, "without tta"),
        ({"crops": {"side": 56, "rule": "five"}}, "rule"),
    ],
)
def test_a_card_whose_input_does_not_fit_is_refused(imported, tmp_path, change, reason):
    folder = Path(shutil.copytree(imported, tmp_path / "bundle"))
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    (folder / CARD).write_text(json.dumps(card | change), encoding="utf-8")
    with pytest.raises(BundleError, match=reason):
        bundles.load(folder)


def test_a_card_without_the_fields_of_imports_is_that_of_one_channel(run):
    values = json.loads((run / "bundle" / CARD).read_text(encoding="utf-8"))
    for name in ("crops", "origin", "final_activation"):
        del values[name]
    card = ModelCard.model_validate(values)
    assert (card.crops, card.origin, card.final_activation) == (None, None, True)
    assert isinstance(card.mean, float)


def test_the_command_imports_and_says_what_it_did(weights, tmp_path):
    done = run_command(
        "import", weights, "--from", "timm", "--backbone", "resnet10t", "--findings",
        "Nodule,-,Mass", "--size", "64", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2",
        "--trained-on", "nih,padchest", "--out", tmp_path / "bundle",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = model_card.read(tmp_path / "bundle").card
    assert card.findings == ("Nodule", "Mass")
    assert card.mean == (0.5, 0.5, 0.5)
    assert card.trained_on.source == "NIH ChestX-ray14 + PadChest"
    assert "tensors of resnet10t, from timm" in done.stdout
    assert "Not calibrated: run `chestxray calibrate`" in done.stdout


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ("0.5,0.5", "0.2,0.2", "--mean has 2 numbers: give one, or one per channel"),
        ("0.5", "0.2,0.2,0.2,0.2", "--std has 4 numbers"),
        ("0.5", "", "--std '' is not a number"),
        ("0.5", "0.2,", "--std '0.2,' is not a number"),
        ("0.5", "0.2,0.2,0.2", "mean and std must be of the same channels"),
        ("0.5", None, "--mean and --std belong together: give both"),
        ("0.5", "1e-50", "std must be from 1e-06 to 1e+06, 1e-50 is not"),
        ("0.5", "1e-400", "std must be from 1e-06 to 1e+06, 0 is not"),
        ("nan", "1", "mean must be from -10 to 10, nan is not"),
        ("1e400", "1", "mean must be from -10 to 10, inf is not"),
    ],
)
def test_the_command_refuses_a_normalisation_that_no_network_has(
    weights, tmp_path, mean, std, words
):
    given = ("--mean", mean) if std is None else ("--mean", mean, "--std", std)
    done = run_command(
        "import", weights, "--from", "timm", "--backbone", "resnet10t", "--findings",
        ",".join(NAMES), "--out", tmp_path / "bundle", *given,
    )  # fmt: skip
    assert done.returncode == 1
    assert words in " ".join(done.stderr.split())
    assert not (tmp_path / "bundle").exists()


def test_a_first_layer_that_is_too_large_for_one_channel_is_no_start(imported, tmp_path):
    folder = Path(shutil.copytree(imported, tmp_path / "bundle"))
    state = load_file(folder / WEIGHTS)
    state["backbone.conv1.0.weight"].fill_(3e38)
    save_file(state, folder / WEIGHTS)
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    card["weights_sha256"] = chestxray.artifacts.sha256(folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    classifier = Classifier("resnet10t", NAMES, 64)
    recipe = recipes.load("quick", ("backbone=resnet10t", "size=64", f"weights={folder}"))
    with pytest.raises(RecipeError, match="too large for one grey channel"):
        initial_weights.load(classifier, recipe)


def test_a_training_starts_from_an_imported_network_of_three_channels(imported, phantoms):
    """Away from the border its features are those of the imported network but for a constant."""
    classifier = Classifier("resnet10t", ("Mass", "Hernia"), 64).eval()
    recipe = recipes.load("quick", ("backbone=resnet10t", "size=64", f"weights={imported}"))
    initial_weights.load(classifier, recipe)
    original = bundles.load(imported).classifier
    image = to_input(torch.from_numpy(film_of(phantoms)))
    first = [of.backbone.conv1[0] for of in (classifier, original)]
    with torch.no_grad():
        ours, theirs = (
            conv((image - of.mean) / of.std)
            for conv, of in zip(first, (classifier, original), strict=True)
        )
    difference = (ours - theirs)[:, :, 2:-2, 2:-2]
    assert difference.std((2, 3)).max() < 1e-5
    assert ours.std((2, 3)).min() > 1e-3
    assert torch.equal(classifier.head.weight[0], original.head.weight[2])
    assert isinstance(classifier.normalisation[0], float)


@pytest.mark.slow
def test_imported_networks_make_an_ensemble_with_exact_maps(imported, weights, phantoms, tmp_path):
    dataset = chestxray.prepare(phantoms, tmp_path / "dataset", size=64)
    other = Choices(backbone="resnet10t", findings=NAMES, size=48, crops="none")
    import_checkpoint(weights, "timm", tmp_path / "other", other)
    chestxray.ensemble([imported, tmp_path / "other"], dataset, tmp_path / "both")
    network = bundles.load(tmp_path / "both").classifier
    with torch.no_grad():
        logits, maps, _ = network.explain(to_input(torch.from_numpy(film_of(phantoms))))
    assert torch.allclose(maps.mean((2, 3)) + network.bias, logits, atol=1e-4)
    members = model_card.read(tmp_path / "both").card.members
    assert {of.origin.format for of in members} == {"timm"}
    assert sorted(of.crops is None for of in members) == [False, True]


def film_of(phantoms: Path) -> np.ndarray:
    return decode(next((phantoms / "images_001/images").iterdir()))[None]
