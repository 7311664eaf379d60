from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openvino", reason="needs the export extra")
pytest.importorskip("onnx", reason="needs the export extra")

import chestxray
from chestxray.artifacts import sha256
from chestxray.cli.export import export as export_verb
from chestxray.errors import ArtifactError, BundleError, ChestXrayError, MissingExtraError
from chestxray.model import bundle
from chestxray.model import export as exports
from chestxray.model import exported as parity
from chestxray.model.bundle import Bundle
from chestxray.model.engines import OnnxEngine, OpenVinoEngine
from chestxray.model.export import export, to_onnx, to_openvino
from chestxray.model.exported import (
    BIN,
    EXPORT,
    ONNX,
    XML,
    Parity,
    Trial,
    noise,
    open_engine,
    read_export,
)
from chestxray.model.torch_engine import TorchEngine
from chestxray.sources.nih import FINDINGS
from command_line import run_command


@pytest.fixture
def loaded(run: Path) -> Bundle:
    return bundle.load(run / "bundle")


@pytest.fixture
def trial(dataset) -> Trial:
    rows = dataset.rows("val")
    return Trial("validation", dataset.images[rows], dataset.labels(rows))


@pytest.mark.parametrize(("kind", "files"), [("onnx", {ONNX}), ("openvino", {XML, BIN})])
def test_an_exported_folder_is_whole_and_answers_as_torch(loaded, dataset, tmp_path, kind, files):
    record = export(loaded, tmp_path / "out", kind, "fp32", noise(32))
    assert {path.name for path in (tmp_path / "out").iterdir()} == files | {EXPORT, "bundle.json"}
    assert record.model == loaded.identity
    assert record.misses == []
    logits, maps, _ = TorchEngine(loaded.classifier).run(dataset.images[:5])
    engine = open_engine(tmp_path / "out")
    for images in (slice(0, 5), slice(2, 3)):
        ours, heat, _ = engine.run(dataset.images[images])
        assert ours.dtype == heat.dtype == np.float32
        assert np.abs(ours - logits[images]).max() < 1e-4
        assert np.abs(heat - maps[images]).max() < 1e-4


def test_normalisation_is_inside_the_graph(loaded, tmp_path):
    """Whoever runs the file feeds it bytes, by name, and gets all outputs by name."""
    import onnxruntime

    export(loaded, tmp_path / "out", "onnx", "fp32", noise(32))
    session = onnxruntime.InferenceSession(tmp_path / "out" / ONNX)
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [32, 32])
    assert [output.name for output in session.get_outputs()] == ["logits", "maps", "features"]


def test_the_measured_parity_is_that_of_the_files(loaded, exported, trial):
    reference = parity.outputs(TorchEngine(loaded.classifier), trial, "torch")
    found = parity.measure(open_engine(exported), reference, trial, loaded.card.calibration)
    logits, maps, _ = open_engine(exported).run(np.array(trial.images))
    apply = loaded.card.calibration.apply
    assert found.probability == np.abs(apply(logits) - apply(reference[0])).max()
    assert np.isclose(found.map, np.abs(maps - reference[1]).max())
    assert set(found.auroc or {}) == set(FINDINGS)


def test_a_change_of_auroc_is_that_of_the_ranking():
    labels = np.array([[1, 0, np.nan], [0, 0, 1], [0, 0, 0], [1, 0, 0]], np.float32)
    before = np.array([[3.0, 0, 0], [1, 0, 2], [0, 0, 1], [2, 0, 0]], np.float32)
    after = before.copy()
    after[3, 0] = 0.5  # one of four pairs of the first finding turns round
    changes = parity.auroc_changes(after, before, labels, ("a", "b", "c"))
    assert changes == {"a": -0.25, "b": None, "c": 0.0}


def test_limits_are_held_image_by_image_for_float32_and_by_auroc_below():
    found = Parity(
        images=9, measured_on="x", measured_with="y", probability=2e-4, map=float("nan"),
        auroc={"Mass": 0.0021, "Edema": -0.0019, "Hernia": None},
    )  # fmt: skip
    assert len(found.misses(exact=True)) == 2
    assert found.misses(exact=False) == [
        "AUROC of Mass changes by +0.0021, at most 0.002 is allowed"
    ]


def test_a_graph_that_is_not_as_good_is_refused_and_written_when_forced(
    loaded, trial, tmp_path, monkeypatch
):
    monkeypatch.setattr(parity, "AUROC_TOLERANCE", -1.0)  # nothing is good enough
    with pytest.raises(ArtifactError, match=r"AUROC of .*--force"):
        export(loaded, tmp_path / "out", "openvino", "bf16", trial)
    assert not (tmp_path / "out").exists()
    record = export(loaded, tmp_path / "out", "openvino", "bf16", trial, force=True)
    assert record.misses
    assert read_export(tmp_path / "out").misses == record.misses


def test_bf16_is_measured_in_bf16_even_where_the_processor_has_none(loaded, trial, tmp_path):
    record = export(loaded, tmp_path / "out", "openvino", "bf16", trial, force=True)
    assert "bfloat16" in record.parity.measured_with
    assert record.parity.map > 1e-6
    whole = export(loaded, tmp_path / "whole", "openvino", "fp32", noise(32))
    assert whole.compile == {"INFERENCE_PRECISION_HINT": "f32"}
    half, full = ((tmp_path / name / BIN).stat().st_size for name in ("out", "whole"))
    assert 0.45 < half / full < 0.55


def test_int8_is_calibrated_and_judged_on_validation(loaded, trial, tmp_path):
    pytest.importorskip("nncf", reason="needs the export extra")
    record = export(loaded, tmp_path / "out", "openvino", "int8", trial, force=True)
    assert record.parity.measured_on == "validation"
    assert "FakeQuantize" in (tmp_path / "out" / XML).read_text(encoding="utf-8")
    logits, _, _ = open_engine(tmp_path / "out").run(np.array(trial.images))
    reference, _, _ = TorchEngine(loaded.classifier).run(np.array(trial.images))
    findings = loaded.card.findings
    assert record.parity.auroc == parity.auroc_changes(logits, reference, trial.labels, findings)


def test_int8_that_auroc_does_not_allow_is_refused(loaded, trial, tmp_path, monkeypatch):
    pytest.importorskip("nncf", reason="needs the export extra")
    monkeypatch.setattr(exports, "AUROC_TOLERANCE", -1.0)
    monkeypatch.setattr(parity, "AUROC_TOLERANCE", -1.0)
    monkeypatch.setattr(exports, "_ROUNDS", 2)
    with pytest.raises(ArtifactError, match="--force"):
        export(loaded, tmp_path / "out", "openvino", "int8", trial)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_what_is_judged_by_auroc_needs_labels(loaded, tmp_path, precision):
    with pytest.raises(ArtifactError, match="--calibrate-on"):
        export(loaded, tmp_path / "out", "openvino", precision, noise(32))


def test_onnx_in_lower_precision_is_refused(loaded, trial, tmp_path):
    with pytest.raises(ArtifactError, match="--format openvino"):
        export(loaded, tmp_path / "out", "onnx", "int8", trial)


def no_model(*_: object) -> None:
    raise AssertionError("the model is loaded")


@pytest.mark.parametrize(
    ("graph", "labelled", "told"),
    [
        (("openvino", "bf16"), False, "--calibrate-on"),
        (("openvino", "int8"), False, "--calibrate-on"),
        (("onnx", "int8"), True, "--format openvino"),
        (("openvino", "int8"), True, "prepared dataset"),
    ],
)
def test_the_command_looks_at_all_it_is_given_before_it_loads(
    run, phantoms, tmp_path, monkeypatch, graph, labelled, told
):
    monkeypatch.setattr(bundle, "load", no_model)
    with pytest.raises(ChestXrayError, match=told):
        export_verb(run / "bundle", tmp_path / "out", *graph, phantoms if labelled else None)
    assert not (tmp_path / "out").exists()


def test_an_export_in_a_bundles_place_is_told_where_to_go(exported):
    with pytest.raises(BundleError, match=r"is an export: give the bundle .*engine="):
        chestxray.load(exported)


def test_a_graph_that_the_runtime_cannot_take_is_told_with_what_made_it(exported, tmp_path):
    folder = tmp_path / "graph"
    shutil.copytree(exported, folder)
    graph = (folder / XML).read_text(encoding="utf-8").replace('version="opset', 'version="opset9')
    (folder / XML).write_text(graph, encoding="utf-8")
    record = json.loads((folder / EXPORT).read_text(encoding="utf-8"))
    record["sha256"][XML] = sha256(folder / XML)
    (folder / EXPORT).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"cannot be run here.*made with.*openvino 20"):
        open_engine(folder)


@pytest.mark.parametrize("name", [XML, BIN, "bundle.json"])
def test_an_altered_or_missing_file_is_refused(exported, tmp_path, name):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="not the file"):
        open_engine(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match="does not exist"):
        open_engine(folder)


def rewrite_record(folder: Path, **changes: object) -> None:
    record = json.loads((folder / EXPORT).read_text(encoding="utf-8"))
    (folder / EXPORT).write_text(json.dumps(record | changes), encoding="utf-8")


@pytest.mark.parametrize(
    "more", [{}, {"/etc/hostname": ""}, {"../bundle.json": ""}, {"/dev/zero": ""}, {"notes": ""}]
)
def test_a_record_of_other_files_than_the_exports_is_refused(exported, tmp_path, more):
    """Without a hash of the graph, an altered one would pass; others are never opened."""
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    hashes = read_export(folder).sha256 if more else {}
    rewrite_record(folder, sha256=hashes | more)
    with pytest.raises(ArtifactError, match=r"exactly graph\.xml, graph\.bin, bundle\.json"):
        open_engine(folder)


def test_an_export_may_not_call_itself_another_kind(exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    rewrite_record(folder, kind="onnx")
    with pytest.raises(ArtifactError, match=r"exactly graph\.onnx, bundle\.json"):
        open_engine(folder)


@pytest.mark.parametrize("name", [EXPORT, XML, BIN, "bundle.json"])
def test_a_device_in_place_of_a_file_is_refused_at_once(exported, tmp_path, name):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match="not a regular file"):
        open_engine(folder)


def test_a_folder_without_its_record_is_not_an_export(exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    (folder / EXPORT).write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is not an export of this version"):
        open_engine(folder)
    (folder / EXPORT).unlink()
    with pytest.raises(ArtifactError, match="does not exist"):
        open_engine(folder)


def test_an_export_in_place_of_another_leaves_nothing_of_it(loaded, tmp_path):
    export(loaded, tmp_path / "out", "onnx", "fp32", noise(32))
    export(loaded, tmp_path / "out", "openvino", "fp32", noise(32))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {XML, BIN, EXPORT, "bundle.json"}


def test_a_folder_of_other_things_is_not_written_into(loaded, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is not an export"):
        export(loaded, tmp_path, "onnx", "fp32", noise(32))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_export_of_this_model_can_be_read_with_and_of_another_not(run, exported, tmp_path):
    reader = chestxray.load(run / "bundle", exported)
    assert reader.engine.name.startswith("OpenVINO")
    assert reader.engine.name.endswith(f"(export {read_export(exported).identity})")
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    record = json.loads((folder / EXPORT).read_text(encoding="utf-8"))
    (folder / EXPORT).write_text(json.dumps(record | {"model": "other"}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="export of other"):
        chestxray.load(run / "bundle", folder)


def test_reading_by_an_export_is_the_same_and_brings_no_torch(run, exported, phantoms):
    film = next((phantoms / "images_001/images").iterdir())
    script = (
        "import sys, chestxray\n"
        f"reader = chestxray.load({str(run / 'bundle')!r}, {str(exported)!r})\n"
        f"print(*reader.read({str(film)!r}).probabilities.values())\n"
        "assert not {'torch', 'timm', 'onnx', 'matplotlib'} & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    expected = chestxray.load(run / "bundle", "torch").read(film).probabilities.values()
    assert np.allclose([float(p) for p in result.stdout.split()], list(expected), atol=1e-4)


def test_an_engine_that_is_neither_a_name_nor_an_export_is_refused(run, tmp_path):
    with pytest.raises(ArtifactError, match="is not an engine: give auto, torch"):
        chestxray.load(run / "bundle", str(tmp_path / "pytorch"))


def test_weights_altered_are_refused_though_an_export_reads(run, exported, tmp_path):
    folder = Path(shutil.copytree(run / "bundle", tmp_path / "bundle"))
    with (folder / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match="not the file"):
        chestxray.load(folder, exported)


def test_a_missing_package_is_told_with_its_extra(loaded, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"chestxray\[export\]"):
        export(loaded, tmp_path / "out", "onnx", "fp32", noise(32))


def test_bf16_weights_are_rounded_and_biases_too(loaded, dataset):
    """The stored weights are of eight bits: near, but not those of float32."""
    graph = to_openvino(to_onnx(loaded.classifier))
    exact, _, _ = OpenVinoEngine(graph.clone()).run(dataset.images[:4])
    exports._bfloat16(graph)
    rounded, _, _ = OpenVinoEngine(graph).run(dataset.images[:4])
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.slow
def test_densenet_agrees_in_all_runtimes():
    from chestxray.model.network import Classifier

    torch.manual_seed(0)
    classifier = Classifier("densenet121", FINDINGS, 224).eval()
    images = noise(224).images[:2]
    expected = TorchEngine(classifier).run(images)
    graph = to_onnx(classifier)
    for engine in (OnnxEngine(graph), OpenVinoEngine(to_openvino(graph))):
        for ours, theirs in zip(engine.run(images), expected, strict=True):
            assert np.abs(ours - theirs).max() < 1e-4


def test_the_command_says_what_it_measured(run, dataset, tmp_path):
    arguments = ["export", run / "bundle", "--format", "openvino", "--calibrate-on",
                 dataset.folder, "--out", tmp_path / "out"]  # fmt: skip
    result = run_command(*arguments)
    assert result.returncode == 0, result.stderr
    assert "probabilities differ by up to" in result.stdout
    assert "the AUROC of no finding changes by more than 0.00" in result.stdout


def test_predict_reads_by_the_export_it_is_given(run, exported, phantoms, tmp_path):
    film = next((phantoms / "images_001/images").iterdir())
    command = ["predict", run / "bundle", film, "--engine", exported, "--out", tmp_path / "p.csv"]
    result = run_command(*command)
    assert result.returncode == 0, result.stderr
    assert f"(export {read_export(exported).identity})" in result.stdout
    assert "1 read by OpenVINO" in result.stdout
