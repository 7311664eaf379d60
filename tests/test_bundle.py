from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from chestxray.artifacts import sha256
from chestxray.errors import BundleError
from chestxray.findings import FINDINGS
from chestxray.model import bundle
from chestxray.model.bundle import CARD, WEIGHTS
from chestxray.model.inference import batches


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
    bundle.save(tmp_path / "again", first.classifier, first.card)
    second = bundle.load(tmp_path / "again")
    images = dataset.images[:5]
    ((logits, maps),) = batches(first.classifier, images)
    ((logits_again, maps_again),) = batches(second.classifier, images)
    assert np.array_equal(logits, logits_again)
    assert np.array_equal(maps, maps_again)
    assert first.identity == second.identity


def test_nothing_in_a_bundle_is_pickled(folder):
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]
    assert not (folder / WEIGHTS).read_bytes().startswith((b"PK", b"\x80"))


def test_a_complete_bundle_says_what_it_is(folder, dataset):
    card = bundle.load(folder).card
    assert tuple(card.findings) == FINDINGS
    assert card.trained_on.split_sha256 == dataset.manifest.split.sha256
    assert set(card.thresholds) == set(FINDINGS)
    assert set(card.calibration.slope) == set(FINDINGS)


def test_an_altered_byte_of_the_weights_is_refused(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(BundleError, match="not the file"):
        bundle.load(folder)


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
        ({"findings": list(FINDINGS[:13])}, "in the order of"),
        ({"findings": sorted(FINDINGS)}, "in the order of"),
        ({"weights_sha256": None}, "weights_sha256"),
        ({"backbone": "resnet18"}, "does not fit resnet18"),
        ({"backbone": "densnet"}, "timm knows no backbone"),
        ({"mean": 0.5}, "normalise"),
        ({"format": 2}, "format"),
        ({"colour": "red"}, "colour"),
        ({"heat_scale": 0}, "heat_scale"),
    ],
)
def test_a_card_that_does_not_match_is_refused(folder, changes, words):
    rewrite_card(folder, **changes)
    with pytest.raises(BundleError, match=words):
        bundle.load(folder)


def test_a_folder_without_a_card_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="is no bundle"):
        bundle.load(tmp_path)


def test_a_network_with_infinite_weights_is_not_saved(folder, tmp_path):
    loaded = bundle.load(folder)
    with torch.no_grad():
        loaded.classifier.head.bias[0] = float("inf")
    with pytest.raises(BundleError, match=r"head\.bias"):
        bundle.save(tmp_path / "broken", loaded.classifier, loaded.card)
    assert not (tmp_path / "broken" / CARD).exists()
