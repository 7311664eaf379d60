from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import chestxray
from chestxray.errors import ArtifactError, MissingExtraError
from chestxray.model import bundle
from chestxray.model.bfloat16 import Bfloat16Engine
from chestxray.model.bundle import Bundle
from chestxray.model.engines import run_all
from chestxray.model.export import bfloat16_engine
from chestxray.model.network import Classifier
from chestxray.model.parity import AurocChange, Parity, measure, noise
from chestxray.model.parity_images import trial_of
from chestxray.model.torch_engine import TorchEngine, batches
from chestxray.reading import engine as engines
from chestxray.reading.engine import candidates, check_agrees, choose, fastest, passes_bfloat16
from chestxray.reading.reader import Reader
from chestxray.training.finalize import _in_bfloat16


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch, tmp_path: Path) -> None:
    """What `auto` chose in another test must not decide here."""
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def openvino(run: Path) -> Reader:
    pytest.importorskip("openvino", reason="needs the export extra")
    return chestxray.load(run / "bundle", "openvino")


def test_reading_by_openvino_and_by_torch_is_the_same(openvino, run, dataset):
    by_torch = chestxray.load(run / "bundle", "torch")
    for count in (1, 7):
        ours = openvino.read_batch(dataset.images[:count])
        theirs = by_torch.read_batch(dataset.images[:count])
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(a - b).max() < 1e-4


def test_images_keep_their_places_in_a_batch(openvino, dataset):
    images = dataset.images[:40]
    logits, maps, _ = openvino.engine.run(images)
    for place in (0, 17, 39):
        alone, heat, _ = openvino.engine.run(images[place : place + 1])
        assert np.allclose(alone[0], logits[place], atol=1e-5)
        assert np.allclose(heat[0], maps[place], atol=1e-5)


def test_threads_get_the_answers_to_their_own_images(openvino, dataset):
    images = dataset.images[:12]
    expected, _, _ = openvino.engine.run(images)
    found = {}

    def ask(start: int) -> None:
        for _ in range(5):
            found[start] = openvino.engine.run(images[start : start + 1 + start % 3])[0]

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for start, logits in found.items():
        assert np.allclose(logits, expected[start : start + 1 + start % 3], atol=1e-5)


def test_answers_are_copies_that_a_later_run_leaves_alone(openvino, dataset):
    for images in (dataset.images[:1], dataset.images[:3]):
        logits, maps, _ = openvino.engine.run(images)
        kept = logits.copy(), maps.copy()
        openvino.engine.run(dataset.images[-len(images) :])
        assert np.array_equal(logits, kept[0])
        assert np.array_equal(maps, kept[1])


def test_a_batch_that_fails_harms_no_later_one(openvino, dataset):
    expected, _, _ = openvino.engine.run(dataset.images[:5])
    with pytest.raises(RuntimeError):
        openvino.engine.run(np.zeros((5, 16, 16), np.uint8))
    found, _, _ = openvino.engine.run(dataset.images[:5])
    assert np.array_equal(found, expected)


def test_without_openvino_torch_reads_unless_openvino_is_asked_for(run, monkeypatch):
    loaded = bundle.load(run / "bundle")
    monkeypatch.setattr("chestxray.model.engines.importlib.import_module", _absent)
    monkeypatch.setattr(engines, "_installed", lambda: False)
    assert choose(loaded).name.startswith("torch")
    with pytest.raises(MissingExtraError, match="export"):
        choose(loaded, "openvino")


def _absent(name: str) -> None:
    raise ImportError(name)


def test_torch_reads_where_openvino_is_there_but_broken(run, monkeypatch):
    """As where it was built for another C library, or does not know a layer."""
    pytest.importorskip("openvino", reason="needs the export extra")
    loaded = bundle.load(run / "bundle")
    monkeypatch.setattr(engines, "to_openvino", _unknown)
    assert choose(loaded).name.startswith("torch")
    with pytest.raises(ArtifactError, match="unknown layer"):
        choose(loaded, "openvino")
    monkeypatch.setattr("chestxray.model.engines.importlib.import_module", _absent)
    assert choose(loaded).name.startswith("torch")


def _unknown(_: bytes) -> None:
    raise RuntimeError("Exception from somewhere.cpp:\nunknown layer")


def test_a_graph_that_does_not_agree_with_torch_is_not_read_with(run, monkeypatch):
    pytest.importorskip("openvino", reason="needs the export extra")
    loaded = bundle.load(run / "bundle")
    monkeypatch.setattr(engines, "TOLERANCE", -1.0)
    assert choose(loaded).name.startswith("torch")
    with pytest.raises(ArtifactError, match="read with torch"):
        choose(loaded, "openvino")


def test_batches_of_any_size_are_the_same_images(run, dataset):
    loaded = bundle.load(run / "bundle")
    whole, _, _ = TorchEngine(loaded.classifier).run(dataset.images[:7])
    for size in (1, 3, 100):
        parts = list(batches(loaded.classifier, dataset.images[:7], size))
        assert [len(part.logits) for part in parts] == [min(size, 7 - i) for i in range(0, 7, size)]
        assert np.allclose(np.concatenate([part.logits for part in parts]), whole, atol=1e-5)
    assert list(run_all(TorchEngine(loaded.classifier), dataset.images[:0])) == []


@pytest.fixture(scope="module")
def loaded(run: Path) -> Bundle:
    return bundle.load(run / "bundle")


def recorded(given: Bundle, record: Parity | None) -> Bundle:
    return replace(given, card=given.card.model_copy(update={"bfloat16": record}))


KEPT = Parity(
    images=400, measured_on="films", measured_with="torch", probability=0.01, log_odds=0.1,
    map=0.1, heat=0.05, peak=0.02, features=0.01, auroc={},
    mean_auroc=AurocChange(value=0.0, low=-0.004, high=0.003),
)  # fmt: skip


def test_training_measures_the_network_in_bfloat16_where_there_are_enough_images(
    loaded, dataset, monkeypatch
):
    pytest.importorskip("openvino", reason="needs the export extra")
    assert loaded.card.bfloat16 is None  # 115 images
    monkeypatch.setattr("chestxray.training.finalize.FEWEST_IMAGES", 100)
    classifier, rules = loaded.classifier, (loaded.card.calibration, loaded.card.heat_scale)
    record = _in_bfloat16(classifier, dataset, dataset.findings, *rules)
    trial = trial_of(dataset, dataset.findings, drawn=False)
    again = measure(bfloat16_engine(classifier), TorchEngine(classifier), trial, *rules)
    assert record.images == len(dataset.rows("val")) + len(dataset.rows("train"))
    able = engines.has_bfloat16()  # a processor with the instructions is asked itself
    assert record.measured_with.startswith("OpenVINO" if able else "torch")
    assert record.measured_with.endswith("bfloat16" if able else "bfloat16 emulated on cpu")
    assert 0 < record.probability == pytest.approx(again.probability, rel=0.2)


def test_bfloat16_needs_a_record_that_kept_all_limits(loaded):
    assert passes_bfloat16(recorded(loaded, KEPT))
    assert not passes_bfloat16(recorded(loaded, None))  # a bundle of an earlier version
    harmed = AurocChange(value=-0.006, low=-0.011, high=-0.001)
    for change in (
        {"probability": 0.06},
        {"log_odds": 0.6},
        {"heat": 0.25},
        {"peak": 0.15},
        {"heat": None},  # a record of an earlier version
        {"features": float("nan")},
        {"mean_auroc": harmed},
        {"images": 20},
    ):
        assert not passes_bfloat16(recorded(loaded, KEPT.model_copy(update=change)))


def test_bfloat16_is_a_candidate_only_by_record_and_by_processor(loaded, monkeypatch):
    """OpenVINO ignores the wish for bfloat16 where the processor has none: here it is float32."""
    pytest.importorskip("openvino", reason="needs the export extra")

    def found(record: Parity | None) -> list[str]:
        return [of.engine.name.split()[0] for of in candidates(recorded(loaded, record))[0]]

    for able, record, expected in (
        (False, KEPT, ["OpenVINO", "torch"]),
        (True, None, ["OpenVINO", "torch"]),
        (True, KEPT, ["OpenVINO", "OpenVINO", "torch"]),
    ):
        monkeypatch.setattr(engines, "has_bfloat16", lambda able=able: able)
        assert found(record) == expected


def test_bfloat16_is_checked_on_this_machine_and_refused_where_it_is_another_network(loaded):
    images = noise(32).images
    rounded = Bfloat16Engine(loaded.classifier)
    check_agrees(rounded, loaded, images, exact=False)
    with pytest.raises(
        ArtifactError, match=r"bfloat16 emulated .* differ by .*, more than 0\.0001"
    ):
        check_agrees(rounded, loaded, images, exact=True)
    torch.manual_seed(1)
    other = Classifier("resnet10t", loaded.card.findings, 32).eval()
    with pytest.raises(
        ArtifactError, match=r"outputs of .* differ by \d\.\d+ on this model, more than 0\.1: read"
    ):
        check_agrees(Bfloat16Engine(other), loaded, images, exact=False)


class Repeating:
    """An engine that computes everything five times."""

    name = "repeating"

    def __init__(self, engine: TorchEngine) -> None:
        self._engine = engine

    def run(self, images):
        for _ in range(4):
            self._engine.run(images)
        return self._engine.run(images)


def test_the_fastest_engine_is_chosen_and_a_near_tie_is_the_first(loaded, dataset):
    fast, twin = TorchEngine(loaded.classifier), TorchEngine(loaded.classifier)
    slow, images = Repeating(fast), dataset.images[:8]
    assert fastest([fast, slow], images) is fast
    assert fastest([slow, fast], images) is fast
    assert fastest([slow, fast, twin], images) is fast


def test_auto_reads_in_float32_where_the_processor_has_no_bfloat16(loaded):
    pytest.importorskip("openvino", reason="needs the export extra")
    if engines.has_bfloat16():
        pytest.skip("this processor has bfloat16 instructions")
    assert choose(recorded(loaded, KEPT)).name.endswith("float32")
