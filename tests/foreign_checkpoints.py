"""Checkpoints in the formats of other projects, with random weights, and their own forward passes.

torchvision's and torchxrayvision's files are made by their own classes. The reader of Keras's
layout here is a plain forward pass over the arrays of the file, in Keras's own order of axes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision import transforms

COLOURS = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
EPSILON = 1.001e-5


def in_colour(images: np.ndarray) -> Tensor:
    """Grey images, uint8 [B, S, S], as ToTensor gives them in RGB: [B, 3, S, S]."""
    return torch.from_numpy(images).float().div(255).unsqueeze(1).expand(-1, 3, -1, -1)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give all of a network's numbers some spread, those of batch normalisation too."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for of, low, high in (
                (module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 1.5),
            ):  # fmt: skip
                of.data.uniform_(low, high, generator=generator)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.03, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return network.eval()


def chexnet(seed: int = 0) -> nn.Module:
    """The network of arnoweng, zoogzog and jrzech: torchvision's, with a sigmoid at its end."""
    network = torchvision.models.densenet121(weights=None)
    network.classifier = nn.Sequential(nn.Linear(1024, 14), nn.Sigmoid())
    return randomised(network, seed)


def old_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of `DataParallel(DenseNet121)` by torchvision before 0.2.1, without counters."""
    return {
        "module.densenet121."
        + re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): of
        for name, of in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def old_checkpoint(path: Path, state: dict[str, Tensor]) -> Path:
    """A file of zoogzog, in the format that torch wrote before 1.6."""
    optimizer = {
        "state": {0: {"step": 7, "exp_avg": torch.ones(3)}},
        "param_groups": [{"lr": 1e-4}],
    }
    content = {"epoch": 9, "state_dict": state, "best_loss": 0.2, "optimizer": optimizer}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def whole_checkpoint(path: Path, network: nn.Module, *, old: bool) -> Path:
    """A file of jrzech, whose network is pickled as a whole."""
    content = {"model": network, "best_loss": np.float64(0.2), "epoch": 3, "LR": 0.01}
    content["rng_state"] = torch.get_rng_state()
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def ten_crops(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Mean probability of torchvision's ten crops of 224 px."""
    with torch.no_grad():
        crops = [network(COLOURS(crop)) for crop in transforms.TenCrop(224)(in_colour(images))]
    return torch.stack(crops).mean(0).numpy()


def last_relu(forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What a forward pass gives, and the output of the last ReLU in it."""
    found: list[Tensor] = []
    plain = torch.relu

    def keep(x: Tensor, inplace: bool = False) -> Tensor:  # noqa: ARG001
        found.append(plain(x))
        return found[-1]

    with mock.patch("torch.nn.functional.relu", keep):
        return forward(), found[-1]


def grad_cam(logit: Tensor, activation: Tensor) -> np.ndarray:
    """Selvaraju's map of one logit at an activation [1, C, h, w], times the number of cells."""
    (gradient,) = torch.autograd.grad(logit, activation, retain_graph=True)
    cells = activation[0, 0].numel()
    weights = gradient.mean((2, 3), keepdim=True) * cells
    return (weights * activation).sum(1).relu().detach().numpy()[0]


# Keras


def keras_weights(network: nn.Module) -> dict[str, np.ndarray]:
    """The datasets of Keras 2's weights of a DenseNet-121, from a network of torchvision."""
    found: dict[str, np.ndarray] = {}
    for name, of in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        module, kind = name.rsplit(".", 1)
        layer = keras_layer(module)
        if "bn" in layer.split("_")[-1]:
            weight = {"weight": "gamma", "running_mean": "moving_mean",
                      "running_var": "moving_variance", "bias": "beta"}[kind]  # fmt: skip
        else:
            weight = {"weight": "kernel", "bias": "bias"}[kind]
        value = of.numpy()
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        found[f"{layer}/{layer}/{weight}:0"] = np.ascontiguousarray(value)
    return found


def keras_layer(module: str) -> str:
    """Keras's name of a layer of torchvision's DenseNet."""
    if module.startswith("classifier"):
        return "predictions"
    fixed = {"features.conv0": "conv1/conv", "features.norm0": "conv1/bn", "features.norm5": "bn"}
    if module in fixed:
        return fixed[module]
    if given := re.match(r"features\.transition(\d)\.(norm|conv)", module):
        return f"pool{int(given[1]) + 1}_{'bn' if given[2] == 'norm' else 'conv'}"
    block, layer, kind = re.match(
        r"features\.denseblock(\d)\.denselayer(\d+)\.(\w+)", module
    ).groups()
    end = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}[kind]
    return f"conv{int(block) + 1}_block{layer}_{end}"


def keras_forward(weights: dict[str, np.ndarray], x: Tensor) -> tuple[Tensor, Tensor]:
    """Keras 2.1's DenseNet-121: logits [B, 14], and its last activation, after which no ReLU is."""

    def of(layer: str, weight: str) -> Tensor:
        return torch.from_numpy(weights[f"{layer}/{layer}/{weight}:0"])

    def conv(x: Tensor, layer: str, **how: int) -> Tensor:
        return nn.functional.conv2d(x, of(layer, "kernel").permute(3, 2, 0, 1), **how)

    def norm(x: Tensor, layer: str) -> Tensor:
        scale = of(layer, "gamma") / (of(layer, "moving_variance") + EPSILON).sqrt()
        shift = of(layer, "beta") - of(layer, "moving_mean") * scale
        return x * scale[:, None, None] + shift[:, None, None]

    x = norm(conv(nn.functional.pad(x, (3, 3, 3, 3)), "conv1/conv", stride=2), "conv1/bn").relu()
    x = nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 3, 2)
    for block, layers in enumerate((6, 12, 24, 16), start=2):
        for layer in range(1, layers + 1):
            name = f"conv{block}_block{layer}"
            y = conv(norm(x, f"{name}_0_bn").relu(), f"{name}_1_conv")
            y = conv(norm(y, f"{name}_1_bn").relu(), f"{name}_2_conv", padding=1)
            x = torch.cat([x, y], 1)
        if block < 5:
            x = conv(norm(x, f"pool{block}_bn").relu(), f"pool{block}_conv")
            x = nn.functional.avg_pool2d(x, 2)
    last = norm(x, "bn")
    return last.mean((2, 3)) @ of("predictions", "kernel") + of("predictions", "bias"), last


# torchxrayvision, in a process of its own


TORCHXRAYVISION = """
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
import foreign_checkpoints as made
folder, name = sys.argv[2], sys.argv[3]
images = np.load(f"{folder}/images.npy")
of = xrv.models.model_urls[name]
file = f"{folder}/{of['weights_url'].split('/')[-1]}"
if name.startswith("resnet"):
    import torchvision
    network = torchvision.models.resnet50(num_classes=18, weights=None)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    made.randomised(network)
    with torch.no_grad():
        network.conv1.weight /= 500
        for place, layer in network.named_modules():
            if place.endswith("bn3"):
                layer.weight *= 0.2
    torch.save(network.state_dict(), file)
    network = xrv.models.ResNet(weights=name, cache_dir=folder)
    kept = []
    network.model.layer4.register_forward_hook(lambda module, given, output: kept.append(output))
else:
    network = made.randomised(xrv.models.DenseNet())
    with torch.no_grad():
        network.features.conv0.weight /= 500
    torch.save(network, file, _use_new_zipfile_serialization=False)
    network = xrv.models.DenseNet(weights=name, cache_dir=folder)
x = torch.from_numpy(xrv.datasets.normalize(images, 255))[:, None]
normalised = network(x).detach().numpy()
network.op_threshs = None
if name.startswith("resnet"):
    logits, activation = network(x), kept[-1]
else:
    logits, activation = made.last_relu(lambda: network(x))
places = [0, 7, 16]
maps = np.stack([made.grad_cam(logits[0, k], activation) for k in places])
p = logits.sigmoid().detach().numpy()
np.savez(f"{folder}/answer.npz", p=p, maps=maps, places=places, op=normalised)
"""
