from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
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
from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.calibrators import Logistic
from chestxray.model import bundle
from chestxray.model import export as exports
from chestxray.model.bundle import Bundle
from chestxray.model.engines import OUTPUTS, OnnxEngine, OpenVinoEngine, needed, quantised
from chestxray.model.export import export, to_onnx, to_openvino
from chestxray.model.exported import (
    BIN,
    EXPORT,
    ONNX,
    XML,
    open_engine,
    read_export,
)
from chestxray.model.heatmaps import MapSummary, fit_heat_scales
from chestxray.model.network import Classifier
from chestxray.model.openvino_graph import (
    bfloat16_weights,
    float32_layers,
    is_marked,
    keep_float32,
)
from chestxray.model.parity import Parity, Trial, measure, noise
from chestxray.model.parity_images import phantoms, trial_of
from chestxray.model.torch_engine import TorchEngine
from chestxray.sources.nih import FINDINGS
from command_line import run_command


@pytest.fixture
def loaded(run: Path) -> Bundle:
    return bundle.load(run / "bundle")


@pytest.fixture
def trial(dataset) -> Trial:
    return trial_of(dataset, dataset.findings)


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
    rules = trial, loaded.card.calibration, loaded.card.heat_scale
    found = measure(open_engine(exported), TorchEngine(loaded.classifier), *rules)
    logits, maps, features = open_engine(exported).run(np.array(trial.images))
    exact, heat, wanted = TorchEngine(loaded.classifier).run(np.array(trial.images))
    apply = loaded.card.calibration.apply
    assert found.probability == pytest.approx(np.abs(apply(logits) - apply(exact)).max(), abs=1e-6)
    assert found.map == pytest.approx(np.abs(maps - heat).max(), abs=1e-5)
    largest = max(1, np.abs(wanted).max())
    assert found.features == pytest.approx(np.abs(features - wanted).max() / largest, abs=1e-5)
    assert set(found.auroc or {}) == set(FINDINGS)


def test_float32_is_held_image_by_image():
    found = Parity(
        images=9, measured_on="x", measured_with="y", probability=2e-4, log_odds=0.0,
        map=float("nan"), features=0.5, auroc=None,
    )  # fmt: skip
    assert found.misses(exact=True) == [
        "probabilities differ by up to 0.0002, at most 0.0001 is allowed",
        "maps differ by up to nan, at most 0.0001 is allowed",
        "features differ by up to 0.5, at most 0.0001 is allowed",
    ]


def steep(given: Bundle, trial: Trial) -> Bundle:
    """The bundle with a calibration by which a small change of a logit is a large one."""
    logits = TorchEngine(given.classifier).run(trial.images).logits
    middle, slope = np.median(logits, axis=0), 200 / logits.std(axis=0)
    lines = {
        finding: Logistic(family="platt", slope=float(s), offset=float(-s * at))
        for finding, s, at in zip(given.card.findings, slope, middle, strict=True)
    }
    card = given.card.model_copy(update={"calibration": Calibration(calibrators=lines)})
    return replace(given, card=card)


def test_bf16_of_a_sound_model_is_written_without_force(loaded, dataset, tmp_path):
    """Labels as the model ranks them: the session's own few say nothing of any finding."""
    images = np.array(dataset.images[np.arange(160)])
    logits = TorchEngine(loaded.classifier).run(images).logits
    ranks = np.argsort(np.argsort(logits, 0), 0) + np.random.default_rng(0).normal(
        0, 40, logits.shape
    )
    labels = (ranks > 110).astype(np.float32)
    trial = Trial("phantoms", images, labels)
    record = export(loaded, tmp_path / "out", "openvino", "bf16", trial)
    assert record.misses == []
    assert record.parity.mean_auroc.low > -0.01
    assert 0 < record.parity.probability < 0.05


def test_a_graph_that_harms_is_refused_with_the_figure_and_written_when_forced(
    loaded, trial, tmp_path
):
    harmful = steep(loaded, trial)
    with pytest.raises(ArtifactError, match=r"probabilities differ by up to [01].*--force"):
        export(harmful, tmp_path / "out", "openvino", "bf16", trial)
    assert not (tmp_path / "out").exists()
    record = export(harmful, tmp_path / "out", "openvino", "bf16", trial, force=True)
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


def test_int8_is_calibrated_on_training_and_judged_with_validation(
    loaded, trial, tmp_path, monkeypatch
):
    pytest.importorskip("nncf", reason="needs the export extra")
    monkeypatch.setattr(exports, "_CALIBRATION_IMAGES", 16)
    record = export(loaded, tmp_path / "out", "openvino", "int8", trial, force=True)
    assert record.parity.measured_on == trial.name
    graph = needed("openvino").Core().read_model(tmp_path / "out" / XML)
    assert quantised(graph)
    for layer in graph.get_ops():
        if layer.get_friendly_name() in float32_layers(graph):
            assert layer.input_value(0).get_node().get_type_name() != "FakeQuantize"
    engine, exact = open_engine(tmp_path / "out"), TorchEngine(loaded.classifier)
    rules = trial, loaded.card.calibration, loaded.card.heat_scale
    found = measure(engine, exact, *rules)
    assert found.auroc == record.parity.auroc
    assert found.probability == record.parity.probability


def test_int8_that_harms_is_refused_with_the_figure(loaded, trial, tmp_path, monkeypatch):
    pytest.importorskip("nncf", reason="needs the export extra")
    monkeypatch.setattr(exports, "_CALIBRATION_IMAGES", 16)
    with pytest.raises(ArtifactError, match=r"probabilities differ by up to [01].*--force"):
        export(steep(loaded, trial), tmp_path / "out", "openvino", "int8", trial)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def mapped(run: Path) -> tuple[Bundle, Trial]:
    """A network with maps of 4 × 4, whose own calls are the labels, and phantoms."""
    torch.manual_seed(0)
    given = bundle.load(run / "bundle")
    network = Classifier("resnet10t", given.card.findings, 128).eval()
    images = phantoms(128, 128)
    found = TorchEngine(network).run(images)
    spread = found.logits.std(0)
    half = 0.5 / spread  # so that rounding moves no probability far
    lines = {
        finding: Logistic(family="platt", slope=float(s), offset=float(-s * middle))
        for finding, s, middle in zip(given.card.findings, half, found.logits.mean(0), strict=True)
    }
    noisy = found.logits / spread + np.random.default_rng(0).normal(size=found.logits.shape)
    labels = (noisy > np.quantile(noisy, 0.8, axis=0)).astype(np.float32)
    calibration = Calibration(calibrators=lines)
    p = calibration.apply(found.logits.astype(np.float64))
    references, scales = fit_heat_scales(
        MapSummary.of(found.maps), p, labels, dict.fromkeys(given.card.findings, 0.5)
    )
    card = given.card.model_copy(
        update={
            "size": 128, "calibration": calibration, "heat_references": references,
            "heat_scales": scales,
        }
    )  # fmt: skip
    return replace(given, card=card, classifier=network), Trial("phantoms", images, labels)


WRONG: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mirrored": lambda maps: maps.flip(-1),
    "upside down": lambda maps: maps.flip(-2),
    "shifted": lambda maps: maps.roll(1, -1),
    "of the next finding": lambda maps: maps.roll(1, 1),
    "flat": lambda maps: maps.mean((2, 3), keepdim=True).expand_as(maps),
    "no numbers": lambda maps: maps * torch.nan,
}


class Planted(torch.nn.Module):
    """A network that gives the right logits and features, and other maps."""

    def __init__(self, network: Classifier, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.change, self.size = network, change, network.size

    def explain(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, maps, features = self.network.explain(images)
        return logits, self.change(maps), features


@pytest.fixture(params=["its own", "float32"])
def arithmetic(request, monkeypatch) -> None:
    """This processor's, and that of one without instructions for bfloat16."""
    if request.param == "float32":
        monkeypatch.setattr(OpenVinoEngine, "arithmetic", lambda _: "float32")


@pytest.mark.usefixtures("arithmetic")
def test_heatmaps_of_a_sound_graph_change_little(mapped, tmp_path):
    sound = export(mapped[0], tmp_path / "sound", "openvino", "bf16", mapped[1])
    assert sound.parity.heat < 0.2
    assert sound.parity.peak < 0.1


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("name", WRONG)
def test_a_graph_whose_logits_are_right_and_whose_maps_are_wrong_is_refused(
    mapped, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(exports, "to_onnx", lambda of: to_onnx(Planted(of, WRONG[name])))
    with pytest.raises(ArtifactError, match=r"model: heatmaps differ by up to (nan|[\d.]+), at mo"):
        export(mapped[0], tmp_path / "out", "openvino", "bf16", mapped[1])
    assert not (tmp_path / "out").exists()


def test_wrong_maps_are_refused_in_float32_and_in_int8_too(mapped, tmp_path, monkeypatch):
    pytest.importorskip("nncf", reason="needs the export extra")
    monkeypatch.setattr(exports, "_CALIBRATION_IMAGES", 16)
    monkeypatch.setattr(exports, "to_onnx", lambda of: to_onnx(Planted(of, WRONG["mirrored"])))
    for precision in ("fp32", "int8"):
        with pytest.raises(ArtifactError, match="maps differ by up to"):
            export(mapped[0], tmp_path / "out", "openvino", precision, mapped[1])


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


def hostile(kind: str, folder: Path, side: int = 330_000) -> None:
    """Exchange the graph of an export for one that answers as one, and needs 400 GB."""
    openvino = needed("openvino")
    op = openvino.opset13
    images = op.parameter(openvino.PartialShape([-1, 32, 32]), openvino.Type.u8, name="images")
    images.output(0).set_names({"images"})
    both = op.constant(np.array([1, 2]))
    found = op.reduce_mean(op.convert(images, "f32"), both, keep_dims=True)
    wide = op.constant(np.array([1, side, side]))
    if kind == "an activation":
        found = op.reduce_mean(op.broadcast(found, wide, "BIDIRECTIONAL"), both, keep_dims=True)
    elif kind == "a constant":
        one = op.reduce_mean(op.broadcast(np.float32(1), wide), both, keep_dims=True)
        found = op.add(found, one)
    elif kind == "constants one after another":
        for number in range(100):
            small = op.broadcast(np.float32(number), np.array([1, side // 10, side // 10]))
            found = op.add(found, op.reduce_mean(small, both, keep_dims=True))
    else:
        bright = op.convert(op.reduce_sum(op.convert(images, "i64"), np.array([0, 1, 2])), "i64")
        shape = op.concat([op.constant(np.array([1])), *[op.unsqueeze(bright, 0)] * 2], 0)
        found = op.reduce_mean(op.broadcast(found, shape, "BIDIRECTIONAL"), both, keep_dims=True)
    results = []
    for name in ("logits", "maps", "features"):
        result = op.reshape(found, np.array([-1, 1]), False).output(0)
        result.set_names({name})
        results.append(result)
    openvino.save_model(openvino.Model(results, [images]), folder / XML, compress_to_fp16=False)
    rewrite_record(folder, sha256=hashes_of(folder, XML, BIN))


def hashes_of(folder: Path, *graph: str) -> dict[str, str]:
    return {name: sha256(folder / name) for name in (*graph, "bundle.json")}


@pytest.mark.parametrize(
    "kind", ["an activation", "a constant", "constants one after another", "what the image says"]
)
def test_a_graph_that_fills_the_memory_is_refused_before_it_is_compiled(exported, tmp_path, kind):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    hostile(kind, folder)
    why = "not those of one image" if kind == "what the image says" else "GiB for one image"
    with pytest.raises(ArtifactError, match=f"is refused: .*{why}"):
        open_engine(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what is allocated")
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_graph_that_takes_more_than_is_allowed_is_refused(exported, tmp_path, kind, monkeypatch):
    """Of 4 GB from constants alone, which OpenVINO computes before anything can be checked."""
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    if kind == "openvino":
        hostile("a constant", folder, side=32_000)
    else:
        (folder / ONNX).write_bytes(onnx_of_a_constant(32_000))
        rewrite_record(folder, kind="onnx", sha256=hashes_of(folder, ONNX))
    for module in ("exported", "engines"):
        monkeypatch.setattr(f"chestxray.model.{module}.MOST_MEMORY", 2**30)
    with pytest.raises(ArtifactError, match="is refused: its graph takes more than 1 GiB"):
        open_engine(folder)
    np.ones(2**28)  # 2 GiB: the limit is gone


def onnx_of_a_constant(side: int) -> bytes:
    """An ONNX graph of a few hundred bytes that adds the mean of side × side ones."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    shape = onnx.numpy_helper.from_array(np.array([1, side, side]), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["ones"]),
        helper.make_node("ReduceMean", ["ones"], ["one"], keepdims=0),
        helper.make_node("Cast", ["images"], ["floats"], to=onnx.TensorProto.FLOAT),
        *(helper.make_node("Add", ["floats", "one"], [name]) for name in OUTPUTS),
    ]
    given = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, 32, 32])
    found = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 32, 32]) for name in OUTPUTS
    ]
    graph = helper.make_graph(nodes, "graph", [given], found, [shape])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


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


def test_reading_by_an_export_is_the_same_and_brings_nothing_heavy(run, exported, phantoms):
    film = next((phantoms / "images_001/images").iterdir())
    script = (
        "import sys, chestxray\n"
        f"reader = chestxray.load({str(run / 'bundle')!r}, {str(exported)!r})\n"
        f"print(*reader.read({str(film)!r}).probabilities.values())\n"
        "heavy = {'torch', 'timm', 'onnx', 'matplotlib', 'scipy.stats', 'scipy.optimize'}\n"
        "assert not heavy & set(sys.modules)\n"
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


def test_bf16_weights_are_rounded_but_for_the_first_convolution_and_the_head(loaded, dataset):
    """The stored weights are of eight bits: near, but not those of float32."""
    graph = to_openvino(to_onnx(loaded.classifier))
    exact, _, _ = OpenVinoEngine(graph.clone()).run(dataset.images[:4])
    bfloat16_weights(graph)
    rounded, _, _ = OpenVinoEngine(graph).run(dataset.images[:4])
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()
    kinds = {
        node.get_friendly_name(): node.input_value(1).get_node().get_type_name()
        for node in graph.get_ops()
        if node.get_type_name() in ("Convolution", "MatMul")
    }
    kept = {name for name, kind in kinds.items() if kind != "Convert"}
    assert kept == float32_layers(graph)
    assert len(kept) == 3  # the stem's first convolution, the maps, the logits
    assert "maps" in kept


@pytest.mark.parametrize("members", [1, 2])
def test_what_stays_in_float32_is_marked_for_openvino_and_answers_as_before(
    loaded, pair, dataset, members, tmp_path
):
    """The mark is OpenVINO's own attribute: it reads it, copies it and writes it again."""
    classifier = loaded.classifier if members == 1 else bundle.load(pair / "bundle").classifier
    graph = to_openvino(to_onnx(classifier))
    marked = keep_float32(graph).read()
    names = {node.get_friendly_name() for node in marked.get_ops() if is_marked(node)}
    assert names == float32_layers(graph)
    assert len(names) == 3 * members
    openvino = needed("openvino")
    openvino.save_model(marked, tmp_path / XML, compress_to_fp16=False)
    again = openvino.Core().read_model(tmp_path / XML)
    assert {node.get_friendly_name() for node in again.get_ops() if is_marked(node)} == names
    ours, theirs = (OpenVinoEngine(of).run(dataset.images[:2]) for of in (marked, graph))
    assert np.array_equal(ours.logits, theirs.logits)


@pytest.mark.skipif(
    "BF16" not in needed("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this processor has no bfloat16 instructions",
)
def test_a_processor_with_bfloat16_computes_the_marked_layers_in_float32(loaded):
    graph = to_openvino(to_onnx(loaded.classifier))
    marked, hint = keep_float32(graph).read(), {"INFERENCE_PRECISION_HINT": "bf16"}
    compiled = needed("openvino").Core().compile_model(marked, "CPU", hint)
    kinds = {
        node.get_friendly_name(): str(node.get_rt_info()["runtimePrecision"].astype(str))
        for node in compiled.get_runtime_model().get_ops()
        if str(node.get_rt_info()["layerType"].astype(str)) == "Convolution"
    }
    exact = {name for name, kind in kinds.items() if kind == "f32"}
    assert exact == float32_layers(graph) & kinds.keys()
    assert len(exact) == 2  # the first convolution and the maps
    assert "bf16" in kinds.values()


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
    assert "on 24 validation and 91 training images of phantoms and 13 phantoms" in result.stdout
    assert "AUROC was not compared: no finding has 5 patients" in result.stdout


def test_predict_reads_by_the_export_it_is_given(run, exported, phantoms, tmp_path):
    film = next((phantoms / "images_001/images").iterdir())
    command = ["predict", run / "bundle", film, "--engine", exported, "--out", tmp_path / "p.csv"]
    result = run_command(*command)
    assert result.returncode == 0, result.stderr
    assert f"(export {read_export(exported).identity})" in result.stdout
    assert "1 read by OpenVINO" in result.stdout
