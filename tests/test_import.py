"""Checkpoints of other projects as bundles: their own probabilities and maps, or a refusal."""

from __future__ import annotations

import ast
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import chestxray
import torchxrayvision_wheel
from chestxray.dataset.pixels import canonical, decode
from chestxray.errors import BundleError
from chestxray.model.importing import FORMATS, Choices, import_checkpoint, names, unpickling
from chestxray.sources.nih import FINDINGS
from foreign_checkpoints import (
    COLOURS,
    TORCHXRAYVISION,
    chexnet,
    grad_cam,
    in_colour,
    keras_forward,
    keras_weights,
    last_relu,
    old_checkpoint,
    old_state,
    randomised,
    ten_crops,
    whole_checkpoint,
)

CLASSES = frozenset(FORMATS["jrzech"].classes)
TINY = Choices(backbone="resnet10t", findings=("A", "-B", ""), size=64)


def film(real: Path, size: int) -> np.ndarray:
    """A real radiograph, uint8 [1, size, size]."""
    path = min((real / "nih-sample/full-size").glob("*.png"))
    return canonical(decode(path), size)[None]


def check_read(
    bundle: Path,
    images: np.ndarray,
    p: np.ndarray,
    maps: np.ndarray | None,
    columns: Sequence[int] | None = None,
) -> None:
    """Check probabilities and maps of an imported bundle against the original network's own.

    `columns` are the findings that the maps are of; all where None.
    """
    reader = chestxray.load(bundle, "torch")
    found, _ = reader.read_batch(images)
    assert np.ptp(p) > 0.1
    assert np.mean((p > 1e-3) & (p < 1 - 1e-3)) > 0.6  # where a wrong logit is seen
    assert np.abs(found - p).max() < 1e-5
    if maps is not None:
        ours = reader.engine.run(images).maps[0].clip(0)
        ours = ours if columns is None else ours[list(columns)]
        assert maps.max() > 0.01
        assert np.abs(ours - maps).max() < 1e-4 * max(1, maps.max())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return chexnet()


@pytest.fixture(scope="module")
def zoogzog(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoogzog")
    return old_checkpoint(folder / "m-25012018-123527.pth.tar", old_state(network))


# what the original networks say


def test_ten_crops_of_arnoweng_and_zoogzog_have_the_original_mean_probability(
    network, zoogzog, real, tmp_path
):
    images = film(real, 256)
    made = import_checkpoint(zoogzog, "zoogzog", tmp_path / "bundle")
    card = made.bundle.card
    assert (card.size, card.passes, card.findings) == (256, 10, FINDINGS)
    assert made.tensors == len(old_state(network))
    check_read(tmp_path / "bundle", images, ten_crops(network, images), None)


def whole(network: nn.Module, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [1, K] of a network with a sigmoid, and Grad-CAM of its logits."""
    p, activation = last_relu(lambda: network(COLOURS(in_colour(images))))
    logits = p.logit()
    maps = [grad_cam(logits[0, k], activation) for k in range(logits.shape[1])]
    return p.detach().numpy(), np.stack(maps)


@pytest.mark.slow
def test_one_view_has_the_original_probability_and_grad_cam(network, zoogzog, real, tmp_path):
    images = film(real, 224)
    import_checkpoint(zoogzog, "arnoweng", tmp_path / "bundle", Choices(crops="none"))
    check_read(tmp_path / "bundle", images, *whole(network, images))


@pytest.mark.parametrize("old", [False, True])
def test_the_tensors_of_a_pickled_network_are_its_state(network, tmp_path, old):
    file = whole_checkpoint(tmp_path / "checkpoint", network, old=old)
    unpickling.convert(file, tmp_path / "result", CLASSES)
    found, expected = load_file(tmp_path / "result"), network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], of) for name, of in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_a_pickled_network_of_jrzech_is_converted_and_reads_as_the_original(
    network, real, tmp_path, old
):
    images = film(real, 224)
    file = whole_checkpoint(tmp_path / "checkpoint", network, old=old)
    made = import_checkpoint(file, "jrzech", tmp_path / "bundle")
    assert made.bundle.card.origin.converted
    check_read(tmp_path / "bundle", images, *whole(network, images))


def keras_file(path: Path, weights: dict[str, np.ndarray], root: str = "") -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, of in weights.items():
            file[root + name] = of
    return path


@pytest.mark.parametrize("root", ["", pytest.param("model_weights/", marks=pytest.mark.slow)])
def test_a_keras_file_reads_as_kerass_densenet_without_its_last_relu(network, real, tmp_path, root):
    weights = keras_weights(network)
    weights = {name.replace("classifier.0", "classifier"): of for name, of in weights.items()}
    file = keras_file(tmp_path / "weights.h5", weights, root)
    images = film(real, 224)
    logits, activation = keras_forward(
        weights, COLOURS(in_colour(images)).contiguous().requires_grad_()
    )
    maps = np.stack([grad_cam(logits[0, k], activation) for k in range(14)])
    import_checkpoint(file, "keras-chexnet", tmp_path / "bundle")
    check_read(tmp_path / "bundle", images, logits.sigmoid().detach().numpy(), maps)


def published_models() -> dict[str, dict]:
    """torchxrayvision's own table of its models, from the source in its wheel."""
    source = torchxrayvision_wheel.downloaded().read("torchxrayvision/models.py")
    tables = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("model_urls")
    ]
    found: dict[str, dict] = {}
    names = {"np": np, "model_urls": found}
    for node in tables[1:]:  # the first makes an empty one
        exec(compile(ast.Module([node], []), "models.py", "exec"), names)  # noqa: S102
    return found


def test_outputs_thresholds_and_addresses_of_eight_models_are_torchxrayvisions_own():
    table = {name: of for name, of in published_models().items() if "-res" in name}
    assert len(table) == sum(name.startswith("torchxrayvision-") for name in FORMATS) == 8
    for name, of in table.items():
        ours = FORMATS[
            "torchxrayvision-resnet50" if name.startswith("resnet")
            else name.replace("densenet121-res224", "torchxrayvision")
        ]  # fmt: skip
        assert ours.url == of["weights_url"]
        assert list(ours.outputs) == of["labels"]
        assert ours.side == of["input_resolution"]
        theirs = zip(of["labels"], of["op_threshs"], strict=True)
        assert ours.thresholds == {finding: t for finding, t in theirs if not np.isnan(t)}


def test_a_state_dict_of_torchxrayvision_reads_by_its_range_of_grey_values(real, tmp_path):
    network = torchvision.models.densenet121(weights=None, num_classes=18)
    network.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    randomised(network)
    network.features.conv0.weight.data /= 500
    of = FORMATS["torchxrayvision-chex"]
    thresholds = torch.tensor([of.thresholds.get(name, torch.nan) for name in of.outputs])
    state = network.state_dict() | {"op_threshs": thresholds}
    file = tmp_path / "chex-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.safetensors"
    save_file(state, file)
    images = film(real, 224)
    x = torch.from_numpy((2 * (images.astype(np.float32) / 255) - 1) * 1024)[:, None]
    with torch.no_grad():
        p = network(x).sigmoid().numpy()
    card = import_checkpoint(file, "torchxrayvision", tmp_path / "bundle").bundle.card
    assert card.operating_point == "original"
    assert card.thresholds == {**FORMATS["torchxrayvision-chex"].thresholds}
    named = [place for place, name in enumerate(FORMATS["torchxrayvision-chex"].outputs) if name]
    check_read(tmp_path / "bundle", images, p[:, named], None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121-res224-nih", "resnet50-res512-all"])
def test_torchxrayvisions_own_forward_pass_is_the_bundles(real, tmp_path, name):
    of = published_models()[name]
    images = film(real, of["input_resolution"])
    np.save(tmp_path / "images.npy", images)
    torchxrayvision_wheel.answer(TORCHXRAYVISION, Path(__file__).parent, tmp_path, name)
    answer = np.load(tmp_path / "answer.npz")
    made = import_checkpoint(
        tmp_path / of["weights_url"].split("/")[-1], "torchxrayvision", tmp_path / "bundle"
    )
    card = made.bundle.card
    named = [place for place, finding in enumerate(of["labels"]) if finding]
    assert list(card.findings) == [of["labels"][place] for place in named]
    p = answer["p"][:, named]
    shown = [place for place in answer["places"].tolist() if place in named]
    maps = answer["maps"][[answer["places"].tolist().index(place) for place in shown]]
    check_read(tmp_path / "bundle", images, p, maps, [named.index(place) for place in shown])
    for column, place in enumerate(named):  # op_norm: the threshold becomes 0.5
        t = card.thresholds[card.findings[column]]
        if t is None:
            assert np.isnan(of["op_threshs"][place])
        else:
            assert (p[0, column] >= t) == (answer["op"][0, place] >= 0.5)


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_a_state_dict_of_any_head_reads_as_the_original(real, tmp_path, kind):
    images = film(real, 64)
    if kind == "timm":
        name, original = "resnet10t", timm.create_model("resnet10t", num_classes=3)
    else:
        name, original = "resnet18", torchvision.models.resnet18(weights=None, num_classes=3)
    randomised(original)
    original.fc.weight.data /= 5
    state = {f"module.{key}": of for key, of in original.state_dict().items()}
    file = tmp_path / "weights"
    if kind == "timm":
        save_file({key: of.contiguous() for key, of in state.items()}, file)
    else:
        torch.save({"state_dict": state, "epoch": 1}, file)
    kept: list[Tensor] = []
    original.layer4.register_forward_hook(lambda *of: kept.append(of[2]))
    logits = original(COLOURS(in_colour(images)))
    maps = np.stack([grad_cam(logits[0, k], kept[0]) for k in (0, 2)])
    choices = Choices(
        backbone=name, findings=("Nodule", "", "Mass"), size=64, sources=("nih",),
        normalisation=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    )  # fmt: skip
    card = import_checkpoint(file, kind, tmp_path / "bundle", choices).bundle.card
    assert card.findings == ("Nodule", "Mass")
    assert card.trained_on.source == "NIH ChestX-ray14"
    check_read(tmp_path / "bundle", images, logits[:, [0, 2]].sigmoid().detach().numpy(), maps)


# what is refused


Damage = Callable[[dict[str, Tensor]], None]


def _renamed(state: dict[str, Tensor], old: str, new: str) -> None:
    state[new] = state.pop(old)


def damages(state: dict[str, Tensor]) -> dict[str, tuple[Damage, str]]:
    """Ten ways to damage the tensors of a network, each with what the refusal says."""
    names = list(state)
    conv, last = names[0], names[-1]
    var = next(name for name in names if name.endswith(("running_var", "moving_variance:0")))

    def put(name: str, change: Callable[[Tensor], Tensor]) -> Damage:
        return lambda of: of.__setitem__(name, change(of[name].clone()))

    return {
        "missing": (lambda of: of.__delitem__(var), "1 missing"),
        "extra": (lambda of: of.__setitem__("more.weight", torch.zeros(3)), "1 extra: more.weight"),
        "misshapen": (put(conv, lambda x: x[..., :-1]), "1 misshapen"),
        "misshapen head": (put(last, lambda x: x[:-1]), "1 misshapen"),
        "renamed": (lambda of: _renamed(of, var, "other"), "1 missing.*1 extra: other"),
        "NaN": (put(conv, lambda x: x * torch.nan), "1 not possible"),
        "infinite": (put(last, lambda x: x / 0 + torch.inf), "1 not possible"),
        "negative variance": (put(var, lambda x: -x - 1), "1 not possible"),
        "integers": (put(conv, lambda x: x.long()), "floating point|missing"),
        "empty": (lambda of: of.clear(), "no tensors"),
    }


def check_refused(path: Path, form: str, choices: Choices | None, reason: str) -> None:
    out = path.with_name("refused")
    with pytest.raises(BundleError, match=reason) as caught:
        import_checkpoint(path, form, out, choices)
    assert path.name in str(caught.value)
    assert not out.exists()


def test_ten_damaged_files_of_a_state_dict_are_refused_with_the_reason(tmp_path):
    plain = timm.create_model("resnet10t", num_classes=3).state_dict()
    for name, (damage, reason) in damages(plain).items():
        state = dict(plain)
        damage(state)
        file = tmp_path / name
        torch.save({"state_dict": state}, file)
        check_refused(file, "timm", TINY, reason)
        check_refused(file, "torchvision", TINY, reason)


def check_damaged(network: nn.Module, folder: Path, form: str, names: set[str]) -> None:
    plain = old_state(network)
    for name, (damage, reason) in damages(plain).items():
        if name in names:
            state = dict(plain)
            damage(state)
            check_refused(old_checkpoint(folder / name, state), form, None, reason)


def test_a_chexnet_without_a_tensor_or_with_one_more_is_refused(network, tmp_path):
    check_damaged(network, tmp_path, "zoogzog", {"missing", "renamed"})


@pytest.mark.slow
@pytest.mark.parametrize("form", ["arnoweng", "zoogzog"])
def test_ten_damaged_chexnets_are_refused_with_the_reason(network, tmp_path, form):
    check_damaged(network, tmp_path, form, {*damages(old_state(network))})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nih", "resnet50"])
def test_ten_damaged_files_of_torchxrayvision_are_refused_with_the_reason(tmp_path, kind):
    if kind == "nih":
        network = torchvision.models.densenet121(weights=None, num_classes=18)
        network.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    else:
        network = torchvision.models.resnet50(weights=None, num_classes=18)
        network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    plain = network.state_dict()
    for name, (damage, reason) in damages(plain).items():
        state = dict(plain)
        damage(state)
        torch.save(state, tmp_path / name)
        check_refused(tmp_path / name, f"torchxrayvision-{kind}", None, reason)


def test_a_counter_of_another_shape_does_not_matter_and_one_of_another_layer_is_extra(tmp_path):
    state = timm.create_model("resnet10t", num_classes=3).state_dict()
    counter = next(name for name in state if name.endswith("num_batches_tracked"))
    file = tmp_path / "weights"
    torch.save(state | {counter: torch.zeros(2, 3)}, file)
    import_checkpoint(file, "timm", tmp_path / "bundle", TINY)
    torch.save(state | {"more.num_batches_tracked": torch.tensor(0)}, file)
    check_refused(file, "timm", TINY, "1 extra: more.num_batches_tracked")


@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor", "ignore:Validating sparse", "ignore:TypedStorage"
)
def test_tensors_that_are_not_plain_and_dictionaries_without_an_end_are_refused(tmp_path):
    state = timm.create_model("resnet10t", num_classes=3).state_dict()
    name, of = next(iter(state.items()))
    file = tmp_path / "weights"
    for other in (
        of.to("meta"),
        of.to_sparse(),
        torch.quantize_per_tensor(of, 0.1, 0, torch.qint8),
    ):
        torch.save(state | {name: other}, file)
        check_refused(file, "timm", TINY, f"{name} of .* is sparse, quantised or without")
    torch.save(state | {name: of.to(torch.float8_e4m3fn)}, file)
    check_refused(file, "timm", TINY, "1 not of floating point")
    endless = {}
    endless["state_dict"] = endless
    torch.save(endless, file)
    check_refused(file, "timm", TINY, "damaged .*recursion")


def test_tensors_much_larger_than_their_file_are_refused_before_they_are_read(tmp_path):
    """One value, as a tensor of 2 TB: whatever copies it fails for want of memory."""
    file = tmp_path / "weights"
    vast = torch.zeros(1).expand(2**39)
    name = "conv1/bn/conv1/bn/moving_variance:0"
    torch.save({name: vast}, file)
    for form in ("arnoweng", "keras-chexnet"):
        check_refused(file, form, None, "larger than the file")
    with pytest.raises(BundleError, match="1 misshapen"):
        names.check_fits({"a": vast}, {"a": torch.zeros(1)}, "network")


def test_a_zip_file_with_a_compressed_member_is_refused(tmp_path):
    plain, file = tmp_path / "plain", tmp_path / "weights"
    torch.save({"a": torch.zeros(10**5)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    check_refused(file, "arnoweng", None, "compressed")


def test_a_keras_file_of_values_that_no_network_has_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    contents = {
        "scalar": (np.float32(1), "1 extra: a"),
        "empty": (h5py.Empty("f4"), "a holds no values of 16 to 64 bits"),
        "long": (np.zeros(3, np.longdouble), "a holds no values of 16 to 64 bits"),
    }
    for name, (content, reason) in contents.items():
        file = tmp_path / name
        with h5py.File(file, "w") as made:
            made["a"] = content
        check_refused(file, "keras-chexnet", None, reason)


def test_a_keras_file_whose_arrays_were_never_written_is_refused_before_they_are_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    file = tmp_path / "weights.h5"
    with h5py.File(file, "w") as made:
        for name in "ab":
            made.create_dataset(name, (2**18,), "f4")
    assert file.stat().st_size < 10_000
    check_refused(file, "keras-chexnet", None, "b lies in another file or is too large")


def test_a_file_of_other_weights_of_torchxrayvision_is_refused(tmp_path):
    chex = FORMATS["torchxrayvision-chex"]
    published = tmp_path / chex.url.split("/")[-1]
    torch.save({"a": torch.zeros(1)}, published)
    check_refused(published, "torchxrayvision-nih", None, "of torchxrayvision-chex, not")
    check_refused(published, "torchxrayvision-chex", None, "1 extra: a")
    thresholds = torch.tensor([chex.thresholds.get(name, torch.nan) for name in chex.outputs])
    file = tmp_path / "renamed.safetensors"
    for of, form, reason in (
        (thresholds, "nih", "thresholds .op_threshs. are not those of torchxrayvision-nih"),
        (thresholds[:3], "chex", "thresholds .op_threshs. are not those of torchxrayvision-chex"),
        (thresholds, "chex", "1 extra: a"),
    ):
        save_file({"a": torch.zeros(1), "op_threshs": of.clone()}, file)
        check_refused(file, f"torchxrayvision-{form}", None, reason)


def test_a_keras_file_that_leads_to_another_file_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    other, file = tmp_path / "other", tmp_path / "weights.h5"
    other.write_bytes(bytes(4000))
    with h5py.File(file, "w") as made:
        made.create_dataset("bn/bn/gamma:0", (1000,), "f4", external=[(str(other), 0, 4000)])
    check_refused(file, "keras-chexnet", None, "lies in another file")
    with h5py.File(file, "w") as made:
        made["bn/bn/gamma:0"] = h5py.ExternalLink(str(other), "/")
    check_refused(file, "keras-chexnet", None, "no tensors")


@pytest.mark.slow
def test_ten_damaged_keras_files_are_refused_with_the_reason(network, tmp_path):
    plain = {name: torch.from_numpy(of) for name, of in keras_weights(network).items()}
    for name, (damage, reason) in damages(plain).items():
        state = dict(plain)
        damage(state)
        file = keras_file(tmp_path / name, {key: of.numpy() for key, of in state.items()})
        check_refused(file, "keras-chexnet", None, reason)


@pytest.mark.slow
def test_ten_damaged_pickled_networks_are_refused_with_the_reason(tmp_path):
    plain = chexnet().state_dict()
    cases = damages({name: of for name, of in plain.items() if "num_batches" not in name})
    for name, (damage, reason) in cases.items():
        state = dict(plain)
        damage(state)
        network = chexnet()
        replace_tensors(network, state)
        file = whole_checkpoint(tmp_path / name, network, old=False)
        check_refused(file, "jrzech", None, reason)


def replace_tensors(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a network exactly these tensors, whatever their shapes and names."""
    for module in network.modules():
        module._parameters.clear()
        module._buffers.clear()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = network
        for part in path:
            if part not in module._modules:
                module._modules[part] = nn.Sequential()
            module = module._modules[part]
        module._buffers[last] = tensor


def test_a_file_that_is_no_checkpoint_or_is_cut_short_is_refused(zoogzog, tmp_path):
    whole = zoogzog.read_bytes()
    contents = {
        "text": b"not a checkpoint at all",
        "nothing": b"",
        "short": whole[: len(whole) // 2],
        "shorter": whole[:40],
        "zip": b"PK\x03\x04" + bytes(100),
        "safetensors": (2**40).to_bytes(8, "little") + b"{" + bytes(50),
        "keras": b"\x89HDF\r\n\x1a\n" + bytes(200),
        "tar": b"ustar" * 200,
    }
    if importlib.util.find_spec("h5py") is None:
        contents.pop("keras")
    for name, content in contents.items():
        file = tmp_path / name
        file.write_bytes(content)
        check_refused(
            file, "zoogzog", None, "not a checkpoint|damaged|not converted|no tensors|safetensors"
        )
    check_refused(tmp_path / "absent", "zoogzog", None, "not a file")


@pytest.mark.parametrize(
    ("form", "choices", "reason"),
    [
        ("no-such", None, "no format 'no-such': choose from arnoweng"),
        ("timm", None, "give --backbone"),
        ("timm", Choices(backbone="resnet10t"), "give --backbone"),
        ("arnoweng", Choices(backbone="resnet50"), "leave --backbone out"),
        ("arnoweng", Choices(findings=("A",)), "leave --findings out"),
        ("arnoweng", Choices(sources=("padchest",)), "leave --trained-on out"),
        ("jrzech", Choices(normalisation=(0.5, 0.5)), "leave --mean and --std out"),
        ("arnoweng", Choices(size=200), "larger image than 200"),
        ("torchxrayvision", None, "not the name of a file of torchxrayvision"),
        ("torchvision", Choices(backbone="vit_base_patch16_224", findings=("A",)), "DenseNets and"),
        ("timm", Choices(backbone="no_such_net", findings=("A",)), "timm"),
        ("timm", Choices(backbone="vit_tiny_patch16_224", findings=("A",)), "class token"),
        ("timm", replace(TINY, backbone="resnet50.no_such"), "timm has no resnet50.no_such"),
        ("timm", replace(TINY, backbone="hf-hub:timm/x"), "hf-hub:timm/x is not a plain name"),
        ("timm", replace(TINY, backbone="local-dir:/etc"), "--backbone local-dir:/etc is not a"),
        ("timm", replace(TINY, normalisation=(0.5, (1, 1, 1))), "same channels"),
        ("timm", replace(TINY, normalisation=((0.5, 0.5, 0.5), 0.5)), "same channels"),
        *(
            ("timm", replace(TINY, normalisation=given), rf"do not fit: {name} must be from .*{of}")
            for given, name, of in (
                ((0.5, -1), "std", r"1e\+06, -1 is not"),
                ((0.5, 0.0), "std", "0 is not"),
                ((0.5, 1e-50), "std", "1e-50 is not"),  # 0 in float32
                ((0.5, 1e-40), "std", "1e-40 is not"),  # denormal in float32
                ((0.5, 5e-324), "std", "324 is not"),
                ((0.5, 1e39), "std", r"1e\+39 is not"),
                ((0.5, float("inf")), "std", "inf is not"),
                (((0.5,) * 3, (1, 1, float("nan"))), "std", "nan is not"),
                ((float("nan"), 1), "mean", "nan is not"),
                ((-float("inf"), 1), "mean", "-inf is not"),
                ((1e300, 1), "mean", r"1e\+300 is not"),
                (((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), "mean", "123.7 is not: .* by 255"),
            )
        ),
        ("timm", replace(TINY, sources=("nih", "nihh")), "'nihh' is no data set .*mean nih"),
        ("timm", replace(TINY, sources=("pad-chst",)), "'pad-chst' is no data set .*mean padchest"),
        ("timm", replace(TINY, sources=("our ward",)), "'our ward' is no data set .*docs/overlaps"),
        ("timm", replace(TINY, sources=("",)), "'' is no data set"),
        ("timm", replace(TINY, size=8), "--size 8 is not from 16 to 4096 px"),
        ("timm", replace(TINY, size=4097), "--size 4097 is not from 16 to 4096 px"),
        ("timm", replace(TINY, size=17, crops="centre"), "crops of 15 px are smaller than 16 px"),
    ],
)  # fmt: skip
def test_a_choice_that_does_not_fit_is_refused_with_what_is_allowed(
    tmp_path, form, choices, reason
):
    file = tmp_path / "weights"
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(BundleError, match=reason):
        import_checkpoint(file, form, tmp_path / "out", choices)


def test_weights_with_which_the_logits_are_not_finite_are_refused(tmp_path):
    network = randomised(timm.create_model("resnet10t", num_classes=3))
    state = {name: of.contiguous() for name, of in network.state_dict().items()}
    state["conv1.0.weight"] = state["conv1.0.weight"] * 1e38
    save_file(state, tmp_path / "weights")
    check_refused(tmp_path / "weights", "timm", TINY, "logits on an image of noise are not finite")


# pickles that run programs


class _Runs:
    """Is pickled as the call of a function."""

    def __init__(self, function: Callable, *given: object) -> None:
        self.call = function, given

    def __reduce__(self) -> tuple:
        return self.call


def hostile(canary: Path) -> dict[str, object]:
    touch = f"touch {canary}"
    network = nn.Sequential(nn.Linear(1, 1))
    network.attack = _Runs(os.system, touch)
    return {
        "system": _Runs(os.system, touch),
        "in a state": {"state_dict": {"a": _Runs(eval, f"open({str(canary)!r}, 'w')")}},
        "process": {"model": _Runs(subprocess.check_call, ["touch", str(canary)])},
        "attribute": {"model": network},
        "write": _Runs(Path.write_text, canary, "x"),
        "getattr": _Runs(getattr, nn.Module, "load"),
        "hub": _Runs(torch.hub.load_state_dict_from_url, "http://127.0.0.1:9/"),
    }


def test_a_hostile_pickle_is_refused_by_name_and_does_not_run(tmp_path):
    canary, result = tmp_path / "canary", tmp_path / "result"
    for name, content in hostile(canary).items():
        for old in (False, True):
            file = tmp_path / name
            torch.save(content, file, _use_new_zipfile_serialization=not old)
            with pytest.raises(pickle.UnpicklingError):
                torch.load(file, weights_only=True)
            with pytest.raises(unpickling.RefusedNameError):
                unpickling.convert(file, result, CLASSES)
            assert not canary.exists()
    file.write_bytes(pickle.dumps(_Runs(os.system, f"touch {canary}"), protocol=2))
    with pytest.raises(unpickling.RefusedNameError):
        unpickling.convert(file, result, CLASSES)
    assert not canary.exists()
    assert not result.exists()


def test_a_hostile_file_ends_the_import_with_the_name_that_it_asks_for(tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "checkpoint"
    torch.save(hostile(canary)["attribute"], file)
    check_refused(file, "jrzech", None, r"it names posix.system, which no file of this format")
    assert not canary.exists()


CONFINED = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import unpickling
unpickling._confine(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[2] + ".result"))
import os, socket, subprocess, torch
def tried(what):
    try:
        what()
    except (PermissionError, MemoryError, RuntimeError, OSError) as error:
        return type(error).__name__
    return "done"
print(*map(tried, (
    lambda: subprocess.run(["true"]),
    lambda: os.system("true"),
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: open(sys.argv[2] + ".other", "w"),
    lambda: os.open(sys.argv[2] + ".other", os.O_WRONLY | os.O_CREAT),
    lambda: torch.zeros(2**33, dtype=torch.uint8),
    lambda: open(sys.argv[2] + ".result", "w").close(),
)))
"""


@pytest.mark.slow
def test_the_process_that_converts_has_no_network_children_files_or_boundless_memory(tmp_path):
    file = tmp_path / "source"
    file.write_bytes(bytes(1000))
    folder = Path(unpickling.__file__).parent
    run = subprocess.run(
        [sys.executable, "-I", "-c", CONFINED, folder, file],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *refused, memory, result = run.stdout.split()
    assert refused == ["PermissionError"] * 5
    assert memory == ("RuntimeError" if sys.platform == "linux" else "done")
    assert result == "done"
    assert not Path(f"{file}.other").exists()


def test_the_hostile_pickles_of_these_tests_would_run(tmp_path):
    canary = tmp_path / "canary"
    file = tmp_path / "file"
    torch.save(hostile(canary)["attribute"], file)
    torch.load(file, weights_only=False)
    assert canary.exists()


def test_a_torchscript_program_is_refused(tmp_path):
    file = tmp_path / "program.pt"
    with pytest.warns(FutureWarning, match="script"):
        torch.jit.script(nn.Linear(2, 2)).save(str(file))
    check_refused(file, "jrzech", None, "TorchScript")


def test_only_the_command_and_a_training_can_import_a_checkpoint():
    """Neither the server nor a bundle that is loaded can reach what opens a pickle."""
    package = Path(chestxray.__file__).parent
    texts = {
        str(path.relative_to(package)): path.read_text("utf-8") for path in package.rglob("*.py")
    }

    def users(module: str) -> set[str]:
        line = re.compile(rf"^\s*(from|import) .*\b{module}\b", re.MULTILINE)
        return {name for name, text in texts.items() if line.search(text)}

    inside = {name for name in texts if name.startswith("model/importing/")}
    assert users("importing") - inside == {
        "cli/import_.py",
        "model/__init__.py",  # for type checkers
        "model/foundation.py",
        "model/pretrained.py",  # a package's file, of a known SHA-256
    }
    starts = {name for name, text in texts.items() if ".load_pretrained(" in text}
    assert starts == {"training/initial_weights.py"}
    learns = {name for name in users("foundation") if name.startswith(("training/", "cli/"))}
    assert users("foundation") - learns <= {"model/foundation.py", "model/__init__.py"}
