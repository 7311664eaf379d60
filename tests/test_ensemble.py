"""Ensembles: one bundle of several, whose logits and maps are the means of the members'."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import chestxray
from chestxray.cli.main import app
from chestxray.dataset.preparation import prepare
from chestxray.errors import ArtifactError, BundleError, RecipeError, TrainingError
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.calibrators import Beta, Logistic
from chestxray.evaluation.focal_link import FocalLink
from chestxray.evaluation.seen_images import list_sha256
from chestxray.findings import Findings
from chestxray.model import bundle as bundles
from chestxray.model import model_card
from chestxray.model.engines import OnnxEngine, OpenVinoEngine
from chestxray.model.ensemble import Ensemble, reduced
from chestxray.model.export import to_onnx, to_openvino
from chestxray.model.network import Classifier, to_input
from chestxray.model.randomization import randomized
from chestxray.training import recipe_checks
from chestxray.training.data import Part
from chestxray.training.finalize import logits_of
from chestxray.training.leakage import overlap

SIZE = 64


@pytest.fixture(scope="module")
def large(phantoms: Path, tmp_path_factory) -> chestxray.Dataset:
    """The phantoms at 64 px, in the same split as `dataset`."""
    return prepare(phantoms, tmp_path_factory.mktemp("large") / "dataset", size=SIZE)


def member(out: Path, run: Path, seed: int, **changes) -> Path:
    """Write a bundle with random weights; the rest of its card is that of a finished run."""
    card = model_card.read(run / "bundle").card
    order = changes.pop("order", range(len(card.findings)))
    names = [card.findings[place] for place in order]
    per_finding = {
        key: {name: getattr(card, key)[name] for name in names}
        for key in ("thresholds", "heat_references", "heat_scales")
    }
    draw = np.random.default_rng(seed)
    lines = {
        name: Logistic(family="platt", slope=draw.uniform(0.5, 2), offset=draw.uniform(-2, 0))
        for name in names
    }
    points = {
        point: {name: of[name] for name in names} for point, of in card.operating_points.items()
    }
    card = card.model_copy(
        update={
            "findings": Findings(names),
            "calibration": Calibration(calibrators=lines),
            "operating_points": points,
            **per_finding,
            **changes,
        }
    )
    torch.manual_seed(seed)
    network = Classifier(card.backbone, names, card.size, head=card.head, tta=card.tta)
    with torch.no_grad():
        network.head.weight.normal_(std=0.1)
    for norm in network.norms:
        norm.running_mean.normal_()
    mean, std = network.normalisation
    bundles.save(out, network, card.model_copy(update={"mean": mean, "std": std}))
    return out


@pytest.fixture(scope="module")
def folders(run: Path, tmp_path_factory) -> list[Path]:
    """Members of different backbones, heads, sizes, views and orders of findings."""
    out = tmp_path_factory.mktemp("members")
    turned = list(range(14))[::-1]
    return [
        member(out / "small", run, 1),
        member(out / "fine", run, 2, size=SIZE, head="multiscale", tta=("flip",)),
        member(out / "other", run, 3, size=48, backbone="mobilenetv3_small_050", order=turned),
    ]


@pytest.fixture(scope="module")
def made(folders, large, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ensemble") / "bundle"
    chestxray.ensemble(folders, large, out)
    return out


def area_reduced(images: torch.Tensor, side: int) -> torch.Tensor:
    """OpenCV's exact area average, the oracle of `reduced`."""
    small = [cv2.resize(of[0].numpy(), (side, side), interpolation=cv2.INTER_AREA) for of in images]
    return torch.from_numpy(np.stack(small))[:, None]


@pytest.mark.parametrize("side", [64, 48, 33, 32])
def test_a_reduced_image_has_the_averages_of_its_areas(side):
    images = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(reduced(images, side), area_reduced(images, side), atol=1e-5)


def test_a_smaller_network_is_asked_about_reduced_images(folders, large):
    """So a teacher may be smaller than the images of the dataset."""
    classifier, part = bundles.load(folders[0]).classifier, Part(large, "val")
    inputs = area_reduced(to_input(torch.from_numpy(part.images)), 32)
    with torch.inference_mode():
        expected = classifier(inputs).numpy()
    assert logits_of(classifier, part) == pytest.approx(expected, abs=1e-4)


def test_logits_are_the_mean_of_the_members_calibrated_logits(folders, made, large):
    bundle = bundles.load(made)
    images = to_input(torch.from_numpy(large.images[:6]))
    expected = np.zeros((6, 14))
    for folder in folders:
        own = bundles.load(folder)
        with torch.inference_mode():
            logits = own.classifier(area_reduced(images, own.card.size)).double().numpy()
        p = own.card.calibration.apply(logits)
        of = [own.card.findings.place(name) for name in bundle.card.findings]
        expected += (np.log(p) - np.log1p(-p))[:, of] / len(folders)
    with torch.inference_mode():
        found = bundle.classifier(images).numpy()
    assert np.abs(found - expected).max() < 2e-6 * max(1, np.abs(expected).max())


def test_the_mean_of_a_class_map_and_the_bias_are_the_logit(made, large):
    classifier = bundles.load(made).classifier
    images = to_input(torch.from_numpy(large.images[:4]))
    with torch.inference_mode():
        logits, maps, features = classifier.explain(images)
        assert torch.allclose(classifier(images), logits, atol=1e-6)
    assert maps.shape == (4, 14, 8, 8)
    assert torch.allclose(maps.mean((2, 3)) + classifier.bias, logits, atol=1e-5)
    assert torch.allclose(features.square().sum(1), torch.tensor(3.0), atol=1e-4)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_an_exported_ensemble_is_one_graph_that_agrees_with_torch(kind, made, large):
    classifier = bundles.load(made).classifier
    onnx = to_onnx(classifier)
    engine = OnnxEngine(onnx) if kind == "onnx" else OpenVinoEngine(to_openvino(onnx))
    answer = engine.run(large.images[:3])
    with torch.inference_mode():
        ours = classifier.explain(to_input(torch.from_numpy(large.images[:3])))
    for found, expected in zip(answer, ours, strict=True):
        assert np.abs(found - expected.numpy()).max() < 1e-4


def test_the_order_of_the_members_does_not_matter(folders, made, large, tmp_path):
    again = chestxray.ensemble(folders[::-1], large, tmp_path / "bundle", method="logits")
    assert again.identity == model_card.read(made).identity


def test_the_card_names_members_cost_and_the_images_it_was_fitted_on(folders, made, large):
    card = model_card.read(made).card
    assert {of.identity for of in card.members} == {model_card.read(of).identity for of in folders}
    assert (card.size, card.passes, card.is_ensemble) == (SIZE, 1 + 2 + 1, True)
    assert card.fitted_on.images == len(large.rows("val"))
    assert card.fitted_on.independent
    assert [of.training_list_sha256 for of in card.calibrated_on] == [
        list_sha256(large.index["image"].iloc[large.rows("val")])
    ]
    assert card.trained_on == model_card.read(folders[0]).card.trained_on
    assert {of.backbone for of in card.members} == {"resnet10t", "mobilenetv3_small_050"}
    assert all(of.straightened == () for of in card.members)


def test_an_ensemble_reads_explains_and_is_described_like_any_bundle(made, large):
    reader = chestxray.load(made, engine="torch")
    reading = reader.read(large.images[0])
    assert reading.model.startswith("ensemble-")
    assert all(0 < p < 1 for p in reading.probabilities.values())
    assert reading.heatmaps["Effusion"].shape == (8, 8)
    assert not {"gate-not-fitted", "fitted-on-training-images"} & {w.code for w in reading.warnings}
    found = CliRunner().invoke(app, ["doctor", str(made)], catch_exceptions=False)
    assert "ensemble of 3, 4 passes an image" in found.output


def test_the_distance_of_features_is_the_mean_of_the_members_distances(made, large):
    classifier, images = bundles.load(made).classifier, large.images[:2]
    with torch.inference_mode():
        inputs = to_input(torch.from_numpy(images))
        joined = classifier.explain(inputs)[2]
        each = [m.explain(reduced(inputs, m.size))[2] for m in classifier.members]
    cosine = torch.nn.functional.cosine_similarity
    members = torch.stack([cosine(of[:1], of[1:]) for of in each])
    assert cosine(joined[:1], joined[1:]).item() == pytest.approx(members.mean().item(), abs=1e-5)


def test_random_weights_are_drawn_for_every_member(made):
    bundle = bundles.load(made)
    whole = randomized(bundle.card, bundle.classifier, 1.0, seed=0)
    head = randomized(bundle.card, bundle.classifier, 0.0, seed=0)
    for new, kept, old in zip(whole.members, head.members, bundle.classifier.members, strict=True):
        assert not torch.equal(new.head.weight, old.head.weight)
        weight = next(iter(old.backbone.state_dict()))
        assert torch.equal(kept.backbone.state_dict()[weight], old.backbone.state_dict()[weight])
        assert not torch.equal(new.backbone.state_dict()[weight], old.backbone.state_dict()[weight])


def test_a_calibration_that_is_no_line_is_replaced_by_the_nearest_one(run, large, tmp_path):
    curved = {
        name: Beta(a=1.4, b=0.7, c=-0.5) for name in model_card.read(run / "bundle").card.findings
    }
    changes = {
        "size": SIZE,
        "calibration": Calibration(calibrators=curved, link=FocalLink(gamma=2)),
    }
    one = member(tmp_path / "one", run, 4, **changes)
    bundle = chestxray.ensemble([one, member(tmp_path / "two", run, 5)], large, tmp_path / "out")
    entry = next(of for of in bundle.card.members if of.identity == model_card.read(one).identity)
    assert set(entry.straightened) == set(bundle.card.findings)
    own, place = (
        bundles.load(one),
        [of.identity for of in bundle.card.members].index(entry.identity),
    )
    images = to_input(torch.from_numpy(large.images[large.rows("val")]))
    with torch.inference_mode():
        x = own.classifier(images).double().numpy()
        found = bundle.classifier.members[place](images).double().numpy()
    p = own.card.calibration.apply(x)
    y = np.log(p) - np.log1p(-p)
    for k in range(14):
        assert found[:, k] == pytest.approx(
            np.polyval(np.polyfit(x[:, k], y[:, k], 1), x[:, k]), abs=1e-4
        )


def test_two_lines_one_after_the_other_are_a_line():
    first = Calibration(calibrators={"Mass": Logistic(family="platt", slope=2, offset=-1)})
    site = Calibration(calibrators={"Mass": Logistic(family="offset", offset=0.5)})
    assert first.followed_by(site).lines() == {"Mass": (2.0, -0.5)}
    logits = np.linspace(-4, 4, 9)[:, None]
    p = first.followed_by(site).apply(logits)
    assert np.log(p / (1 - p)) == pytest.approx(2 * logits - 0.5, abs=1e-9)
    assert Calibration(calibrators=first.calibrators, link=FocalLink(gamma=2)).lines() == {}


def test_averaged_weights_are_the_mean_of_the_members(run, folders, large, tmp_path):
    alike = member(tmp_path / "alike", run, 9, size=SIZE, head="multiscale", tta=("flip",))
    given = [folders[1], alike]
    made = chestxray.ensemble(given, large, tmp_path / "bundle", method="weights")
    ours, theirs = (bundles.load(folder).classifier.state_dict() for folder in given)
    for name, tensor in made.classifier.state_dict().items():
        mean = (ours[name].double().numpy() + theirs[name].double().numpy()) / 2
        assert np.allclose(tensor, mean, rtol=1e-6, atol=1e-9), name
    assert (made.card.backbone, made.card.head, made.card.tta) == (
        "resnet10t",
        "multiscale",
        ("flip",),
    )
    assert (made.card.passes, len(made.card.members), made.card.is_ensemble) == (2, 2, False)
    assert bundles.load(tmp_path / "bundle").identity == made.identity


def test_a_bundle_that_is_given_twice_is_refused(folders, large, tmp_path):
    copy = shutil.copytree(folders[1], tmp_path / "copy")
    with pytest.raises(BundleError, match="a bundle is given twice"):
        chestxray.ensemble([folders[1], copy], large, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_averaged_weights_follow_the_findings_by_name(run, dataset, tmp_path):
    turned = [3, *range(3), *range(4, 14)]
    one = member(tmp_path / "one", run, 6)
    other = member(tmp_path / "other", run, 7, order=turned)
    made = chestxray.ensemble([one, other], dataset, tmp_path / "out", method="weights")
    heads = {}
    for folder in (one, other):
        own = bundles.load(folder)
        heads[folder] = dict(zip(own.card.findings, own.classifier.head.weight, strict=True))
    for name, row in zip(made.card.findings, made.classifier.head.weight, strict=True):
        assert torch.allclose(row, (heads[one][name] + heads[other][name]) / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": SIZE}, "their size are 32 and 64"),
        ({"backbone": "resnet18"}, "their backbone are 'resnet10t' and 'resnet18'"),
        ({"tta": ("flip",)}, "their tta are"),
    ],
)
def test_weights_of_other_architectures_are_not_averaged(
    run, folders, large, tmp_path, changes, words
):
    other = member(tmp_path / "other", run, 8, **changes)
    with pytest.raises(BundleError, match=f"{words}.*--method logits"):
        chestxray.ensemble([folders[0], other], large, tmp_path / "out", method="weights")


def test_bundles_that_do_not_go_together_are_refused(run, folders, made, dataset, large, tmp_path):
    fewer = member(tmp_path / "fewer", run, 9, order=range(13))
    cases = [
        ([folders[0]], large, BundleError, "1 bundles: give 2 to 16"),
        ([folders[0], fewer], large, BundleError, "the second lacks Hernia and has none more"),
        ([made, folders[0]], large, BundleError, "is an ensemble already: give its members"),
        ([*folders[:2]], dataset, ArtifactError, "32 px.*--size 64"),
        ([folders[0], tmp_path], large, BundleError, "not a bundle"),
    ]
    for members, data, error, words in cases:
        with pytest.raises(error, match=words):
            chestxray.ensemble(members, data, tmp_path / "out")
    with pytest.raises(BundleError, match="is not empty"):
        chestxray.ensemble(folders, large, made)
    assert not (tmp_path / "out").exists()


def trained(run: Path, out: Path, dataset, parts: list[str], seed: int) -> Path:
    """Write a bundle that says it was trained on some parts of a dataset."""
    images = dataset.index["image"][dataset.index["split"].isin(parts)]
    before = model_card.read(run / "bundle").card.trained_on
    listed = {"training_list_sha256": list_sha256(images), "split_sha256": "0"}
    return member(out, run, seed, trained_on=before.model_copy(update=listed))


def test_leaks_into_validation_are_refused_where_the_lists_tell(run, folders, dataset, tmp_path):
    for parts, words in ((["val"], True), (["train", "val"], True), (["test"], False)):
        folder = trained(run, tmp_path / "-".join(parts), dataset, parts, 10)
        card = model_card.read(folder).card
        assert overlap(card, dataset, ["val"]) == ("certain" if words else "none")
        assert overlap(card, dataset, ["test", "val"]) == "certain"
        renamed = card.trained_on.model_copy(update={"policies": {"another folder": {}}})
        card = card.model_copy(update={"trained_on": renamed})
        assert overlap(card, dataset, ["test", "val"]) == "certain"
    with pytest.raises(TrainingError, match="was trained on the validation images"):
        chestxray.ensemble([folders[0], tmp_path / "train-val"], dataset, tmp_path / "out")
    turned = dataset.with_split(
        dataset.index["split"].map({"train": "train", "val": "test", "test": "val"}), "x"
    )
    assert overlap(model_card.read(folders[0]).card, turned, ["val", "test"]) == "none"


def test_another_split_of_the_same_source_is_said_in_each_reading(folders, large, tmp_path, caplog):
    half = large.index["split"].where(
        large.index["patient"] != large.index["patient"].iloc[large.rows("train")[0]], "val"
    )
    other = large.with_split(half, "other")
    with caplog.at_level(logging.WARNING):
        bundle = chestxray.ensemble(folders[:2], other, tmp_path / "out")
    assert "may be among the validation images" in caplog.text
    assert not bundle.card.fitted_on.independent
    codes = [of.code for of in chestxray.load(tmp_path / "out", engine="torch").warnings]
    assert "fitted-on-training-images" in codes


def changed(members: list[dict], **values) -> list[dict]:
    return [member | values for member in members]


def test_a_source_that_no_member_knows_cannot_leak(run, large):
    card = model_card.read(run / "bundle").card
    elsewhere = card.trained_on.model_copy(
        update={"policies": {"nih": {}}, "training_list_sha256": ""}
    )
    assert overlap(card.model_copy(update={"trained_on": elsewhere}), large, ["val"]) == "none"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"members": lambda _: []}, "an ensemble must have members"),
        ({"members": lambda of: of * 6}, "at most 16 items"),
        ({"size": lambda _: 48}, "no member of an ensemble may be larger"),
        ({"members": lambda of: changed(of, backbone="ensemble")}, "must not be an ensemble"),
        ({"members": lambda of: changed(of, backbone="hf-hub:a/b")}, "backbone"),
        ({"members": lambda of: of[:2]}, "does not fit"),
        ({"members": lambda of: changed(of, mean=0.1)}, "the weights normalise by"),
    ],
)
def test_a_card_that_does_not_match_its_networks_is_refused(made, tmp_path, change, words):
    folder = Path(shutil.copytree(made, tmp_path / "bundle"))
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    card |= {key: of(card[key]) for key, of in change.items()}
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(BundleError, match=words):
        bundles.load(folder)


def test_an_ensemble_starts_no_network_and_is_not_probed(made, large, tmp_path):
    with pytest.raises(RecipeError, match="is an ensemble of several networks; give one of its"):
        recipe_checks.checked("quick", {"weights": str(made)})
    command = ["probe", str(made), str(large.folder), "--out", str(tmp_path / "run")]
    with pytest.raises(BundleError, match="is an ensemble, whose networks have no common features"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_the_command_prints_members_result_and_cost(folders, large, tmp_path):
    out = tmp_path / "bundle"
    command = [
        "ensemble",
        *map(str, folders[:2]),
        "--out",
        str(out),
        "--dataset",
        str(large.folder),
    ]
    found = CliRunner().invoke(app, command, catch_exceptions=False)
    assert found.exit_code == 0
    lines = found.output.splitlines()
    by_identity = {model_card.read(of).identity: str(of) for of in folders[:2]}
    named = [line.rsplit(maxsplit=1)[0].strip() for line in lines[1:3]]
    assert named == [by_identity[identity] for identity in sorted(by_identity)]
    assert lines[3].startswith("together")
    assert "3 network passes per radiograph" in found.output
    assert isinstance(bundles.load(out).classifier, Ensemble)
