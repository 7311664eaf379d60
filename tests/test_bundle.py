from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from chestxray.artifacts import sha256
from chestxray.errors import ArtifactError, BundleError
from chestxray.evaluation.bundle_thresholds import CARD, model_identity
from chestxray.model import bundle
from chestxray.model.bundle import GATE, WEIGHTS
from chestxray.model.torch_engine import batches
from chestxray.sources.nih import FINDINGS


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A copy of a bundle that may be broken."""
    return Path(shutil.copytree(run / "bundle", tmp_path / "bundle"))


def rewrite_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    (folder / CARD).write_text(json.dumps(card | changes), encoding="utf-8")


def rewrite_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Replace the weights by ones that the card does describe by their hash."""
    safetensors.torch.save_file(state, folder / WEIGHTS)
    rewrite_card(folder, weights_sha256=sha256(folder / WEIGHTS))


def test_a_loaded_bundle_answers_as_the_saved_one(folder, dataset, tmp_path):
    first = bundle.load(folder)
    bundle.save(tmp_path / "again", first.classifier, first.card, first.detector)
    second = bundle.load(tmp_path / "again")
    images = dataset.images[:5]
    ((logits, maps, _),) = batches(first.classifier, images)
    ((logits_again, maps_again, _),) = batches(second.classifier, images)
    assert np.array_equal(logits, logits_again)
    assert np.array_equal(maps, maps_again)
    assert first.identity == second.identity


def test_nothing_in_a_bundle_is_pickled(folder):
    assert sorted(path.name for path in folder.iterdir()) == [CARD, GATE, WEIGHTS]
    for file in (WEIGHTS, GATE):
        assert not (folder / file).read_bytes().startswith((b"PK", b"\x80"))


def test_a_complete_bundle_says_what_it_is(folder, dataset):
    card = bundle.load(folder).card
    assert tuple(card.findings) == FINDINGS
    assert card.trained_on.split_sha256 == dataset.manifest.split.sha256
    assert set(card.thresholds) == set(FINDINGS)
    assert set(card.calibration.calibrators) == set(FINDINGS)
    assert set(card.calibration.reasons) | set(card.calibration.unfitted) == set(FINDINGS)
    assert set(card.heat_references) == set(card.heat_scales) == set(FINDINGS)


def test_an_altered_byte_of_the_weights_is_refused(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(BundleError, match="not the file"):
        bundle.load(folder)


def test_the_gate_is_saved_and_loaded_to_the_bit(folder, tmp_path):
    first = bundle.load(folder)
    bundle.save(tmp_path / "again", first.classifier, first.card, first.detector)
    second = bundle.load(tmp_path / "again")
    assert (tmp_path / "again" / GATE).read_bytes() == (folder / GATE).read_bytes()
    assert first.detector.limits == second.detector.limits
    for name in ("weights", "bias"):
        ours, theirs = (getattr(of.detector.template, name) for of in (first, second))
        assert np.array_equal(ours, theirs)
    assert np.array_equal(first.detector.references, second.detector.references)


@pytest.mark.parametrize("fault", ["altered", "absent", "other"])
def test_a_gate_that_is_not_the_cards_is_refused(folder, fault):
    path = folder / GATE
    if fault == "altered":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif fault == "absent":
        path.unlink()
    else:
        safetensors.torch.save_file({"mean": torch.zeros(4)}, path)
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        rewrite_card(folder, gate=card["gate"] | {"sha256": sha256(path)})
    words = {
        "altered": "not the file",
        "absent": "does not exist",
        "other": "does not hold a detector",
    }
    with pytest.raises(ArtifactError, match=words[fault]):
        bundle.load(folder)


@pytest.mark.parametrize("fault", ["shape", "type", "nan", "scalar", "fewer"])
def test_a_gate_of_other_shapes_or_without_finite_numbers_is_refused(folder, fault):
    tensors = safetensors.torch.load_file(folder / GATE)
    name = "references" if fault in {"scalar", "fewer"} else "weights"
    tensors[name] = {
        "shape": lambda found: found[:3].clone(),
        "type": lambda found: found.to(torch.int8),
        "nan": lambda found: torch.full_like(found, torch.nan),
        "scalar": lambda found: torch.zeros((), dtype=found.dtype),
        "fewer": lambda found: found[:-1].clone(),
    }[fault](tensors[name])
    safetensors.torch.save_file(tensors, folder / GATE)
    gate = json.loads((folder / CARD).read_text(encoding="utf-8"))["gate"]
    rewrite_card(folder, gate=gate | {"sha256": sha256(folder / GATE)})
    with pytest.raises(BundleError, match=f"does not hold a detector .*{name} must be"):
        bundle.load(folder)


def test_a_gate_for_another_number_of_features_is_refused_in_a_sentence(folder):
    detector = bundle.load(folder).detector
    with pytest.raises(BundleError, match="features, the network has"):
        detector.feature_distance(np.ones((1, 3), np.float32))


def test_a_bundle_without_a_gate_is_loaded_and_saved_without(folder, tmp_path):
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    del card["gate"]
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    (folder / GATE).unlink()
    without = bundle.load(folder)
    assert without.detector is None
    bundle.save(tmp_path / "again", without.classifier, without.card, without.detector)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [CARD, WEIGHTS]


def test_truncated_weights_are_refused(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match="not the file"):
        bundle.load(folder)


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen", "nan"])
def test_half_matching_weights_are_refused(folder, fault):
    state = safetensors.torch.load_file(folder / WEIGHTS)
    if fault == "missing":
        del state["head.weight"]
    elif fault == "extra":
        state["head.other"] = torch.zeros(2)
    elif fault == "misshapen":
        state["head.weight"] = state["head.weight"][:7].clone()
    else:
        state["head.bias"][3] = float("nan")
    rewrite_weights(folder, state)
    with pytest.raises(BundleError, match="head"):
        bundle.load(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pixel_rule": "another"}, "pixels made by rule 'another'"),
        ({"findings": list(FINDINGS[:13])}, "in the same order"),
        ({"findings": sorted(FINDINGS)}, "in the same order"),
        ({"weights_sha256": None}, "weights_sha256"),
        ({"backbone": "resnet18"}, "does not fit resnet18"),
        ({"backbone": "densnet"}, "timm has no backbone"),
        ({"mean": 0.5}, "normalise"),
        ({"format": 3}, "format 3, this version reads format 4"),
        ({"format": None}, "format None, this version reads format 4"),
        ({"trained_on": {"source": "NIH ChestX-ray14"}}, "trained_on"),
        ({"calibration": {"calibrators": {}}}, "in the same order"),
        ({"calibration": {"calibrators": {"Mass": {"family": "isotonic"}}}}, "isotonic"),
        ({"heat_scales": dict.fromkeys(FINDINGS, -1.0)}, "heat_scales"),
        ({"heat_scales": {"Mass": 1.0}}, "in the same order"),
        ({"heat_references": {"Mass": 1.0}}, "in the same order"),
        ({"colour": "red"}, "colour"),
        *(
            (
                {
                    "operating_points": {"a": dict.fromkeys(FINDINGS, p)},
                    "operating_point": "a",
                    "thresholds": dict.fromkeys(FINDINGS, p),
                },
                r"thresholds\.Atelectasis",
            )
            for p in (-5.0, 1.5, float("nan"), float("inf"))
        ),
        ({"operating_points": {"a": dict.fromkeys(FINDINGS, -1e-9)}}, r"operating_points\.a"),
        *(
            ({"backbone": name}, "backbone")
            for name in (
                "hf-hub:a/b",
                "hf_hub:a/b",
                "timm/a",
                "local-dir:/tmp/x",
                "../a",
                "",
                "a\n",
            )
        ),
        ({"size": 10**9}, "size"),
        ({"mean": float("nan")}, "mean"),
        ({"std": float("inf")}, "std"),
        *(
            ({"calibration": {"calibrators": dict.fromkeys(FINDINGS, calibrator)}}, "calibration")
            for calibrator in (
                {"family": "platt", "slope": 1e300},
                {"family": "platt", "offset": float("inf")},
                {"family": "platt", "slope": -1.0},
                {"family": "beta", "a": 1.0, "b": 1.0, "c": -1e300},
                {"family": "spline", "knots": [0.0], "slopes": [1.0, 1.0], "level": float("nan")},
            )
        ),
        ({"calibration": {"link": {"gamma": 1e9}, "calibrators": {}}}, "gamma"),
        ({"heat_scales": dict.fromkeys(FINDINGS, 0)}, "heat_scales"),
        ({"heat_references": dict.fromkeys(FINDINGS, float("nan"))}, "heat_references"),
    ],
)
def test_a_card_that_does_not_match_is_refused(folder, changes, words):
    rewrite_card(folder, **changes)
    with pytest.raises(BundleError, match=words):
        bundle.load(folder)


GIANTS = {
    "parameters": {"backbone": "vit_giant_patch14_dinov2", "size": 518},
    "layers": {"backbone": "regnety_1280", "size": 224},
    "options": {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": {"patch_size": 2, "embed_dim": 4096, "num_heads": 64, "depth": 64},
        "size": 224,
    },
    "relative positions": {"backbone": "beit_base_patch16_224", "size": 4096},
}


@pytest.mark.parametrize("changes", GIANTS.values(), ids=GIANTS)
def test_a_network_that_the_weights_are_not_of_is_refused_before_it_is_made(folder, changes):
    rewrite_card(folder, **changes)
    resource = pytest.importorskip("resource", reason="POSIX alone tells how much memory was used")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError, match=r"takes \d+\.\d GiB, far more than the weights"):
        bundle.load(folder)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 512 * 2**10, "KiB"  # of the smallest, 2.4 GiB


def test_a_calibration_nested_without_end_is_refused(folder):
    text = (folder / CARD).read_text(encoding="utf-8").rstrip().removesuffix("}")
    nested = '{"calibrators": {}, "then": ' * 50_000 + "null" + "}" * 50_000
    (folder / CARD).write_text(f'{text}, "calibration": {nested}}}', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"bundle\.json"):
        bundle.load(folder)


@pytest.mark.parametrize("name", ["notes.txt", "weights.bin", "gate.safetensors", "code.py"])
def test_a_file_that_is_no_part_of_the_bundle_is_refused(folder, name):
    if name == GATE:
        rewrite_card(folder, gate=None)
    else:
        (folder / name).write_bytes(b"")
    (folder / ".DS_Store").write_bytes(b"")  # of a file manager
    with pytest.raises(BundleError, match=f"{name}.*no part of this bundle"):
        bundle.load(folder)


@pytest.mark.parametrize("name", [CARD, WEIGHTS, GATE])
def test_a_device_in_place_of_a_file_is_refused_at_once(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match="not a regular file"):
        bundle.load(folder)


def test_every_value_that_decides_a_reading_is_in_the_identity(folder):
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    names, seen = sorted(set(card) - {"thresholds", "operating_point"}), {model_identity(card)}
    for name in names:
        seen.add(model_identity(card | {name: "another"}))
    assert len(seen) == len(names) + 1
    point = card["operating_point"]
    for finding, threshold in card["operating_points"][point].items():
        moved = json.loads(json.dumps(card))
        moved["operating_points"][point][finding] = (threshold or 0.0) / 2 + 0.001
        assert model_identity(moved) not in seen


def test_a_folder_without_a_card_is_not_a_bundle(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle"):
        bundle.load(tmp_path)


def test_a_network_with_infinite_weights_is_not_saved(folder, tmp_path):
    loaded = bundle.load(folder)
    with torch.no_grad():
        loaded.classifier.head.bias[0] = float("inf")
    with pytest.raises(BundleError, match=r"head\.bias"):
        bundle.save(tmp_path / "broken", loaded.classifier, loaded.card)
    assert not (tmp_path / "broken" / CARD).exists()
